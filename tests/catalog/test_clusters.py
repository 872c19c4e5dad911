"""Facts about clusters are dates and names that can be meant."""

from datetime import date

import pytest

from pulumi_tandem import catalog
from pulumi_tandem.declare import Capacity, NodePool

VERSIONS = [f"1.{minor}" for minor in range(28, 36)]


@pytest.mark.parametrize("version", VERSIONS)
def test_extended_support_follows_standard_support_by_a_year(version: str):
    release = catalog.eks_release(version)
    assert release is not None
    ends = [date.fromisoformat(day) for day in (release.standard_until, release.extended_until, release.as_of)]
    assert 360 <= (ends[1] - ends[0]).days <= 370


def test_later_versions_end_later_and_what_is_older_than_the_table_is_over():
    releases = [catalog.eks_release(version) for version in VERSIONS]
    ends = [release.extended_until for release in releases if release]
    assert ends == sorted(ends)
    older, newer = catalog.eks_release("1.21"), catalog.eks_release("1.99")
    assert older is not None
    assert older.is_over
    assert newer is None


def test_bad_images_are_bad_on_instances_that_exist():
    for bad in catalog.bad_amis():
        assert set(bad.instances) <= set(catalog.names("instances"))


@pytest.mark.parametrize(
    ("pool", "gpus_max"),
    [
        (NodePool(), None),
        (NodePool(gpus_max=8), 8),
        (NodePool(instance_type="p5.48xlarge", nodes=2), 16),
        (NodePool(instance_type="p5.48xlarge", nodes=2, managed_by="karpenter"), None),
        (NodePool(instance_type="p5.48xlarge", nodes_max=4, gpus_max=24), 24),
        (NodePool(gpus_per_node=4, nodes_max=4, capacity=Capacity(type="reservation", nodes=3)), 12),
        (NodePool(instance_type="p9.48xlarge", nodes=2), None),
    ],
)
def test_the_most_gpus_of_a_pool_are_bound_by_the_tightest(pool: NodePool, gpus_max: int | None):
    assert catalog.nodes(pool).gpus_max == gpus_max
