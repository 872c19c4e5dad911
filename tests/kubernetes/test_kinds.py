"""The table of kinds against the SDK's own classes."""

from operator import attrgetter
from typing import Any

import pulumi_kubernetes as k8s
import pytest

import pulumi
from pulumi_tandem.kubernetes.kinds import TYPED


@pytest.mark.parametrize(("api", "kind"), TYPED)
def test_each_kind_is_a_resource_of_the_sdk_that_sets_this_version_and_kind(api: str, kind: str) -> None:
    made: Any = attrgetter(TYPED[api, kind])(k8s)
    group, _, version = api.rpartition("/")
    assert made.pulumi_type == f"kubernetes:{group or 'core'}/{version}:{kind}"
    assert issubclass(made, pulumi.CustomResource)
