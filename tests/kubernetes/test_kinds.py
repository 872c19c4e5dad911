"""The table of kinds against the SDK's own classes."""

from operator import attrgetter

import pulumi_kubernetes as k8s
import pytest

import pulumi
from pulumi_tandem.kubernetes.kinds import TYPED


@pytest.mark.parametrize(("api", "kind"), TYPED)
def test_each_kind_is_a_resource_of_the_sdk_that_sets_this_version_and_kind(api: str, kind: str) -> None:
    made = attrgetter(TYPED[api, kind])(k8s)
    assert issubclass(made, pulumi.CustomResource)
    group, _, version = api.rpartition("/")
    assert made.pulumi_type == f"kubernetes:{group or 'core'}/{version}:{kind}"
