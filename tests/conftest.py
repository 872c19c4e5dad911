"""What holds for every rung of the ladder: a test's folder says what it needs."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.cluster.bringup import api, cluster_kubeconfig, namespace
from tests.cluster.service import stacks
from tests.serving.service import serving

__all__ = ["api", "cluster_kubeconfig", "namespace", "serving", "stacks"]  # one of each for every test that wants it

settings.register_profile("tandem", deadline=None)  # a slow example says something of the machine, not of the code
settings.load_profile("tandem")

CLUSTER_TIMEOUT_S = 1800
NEEDS = {
    "agent/test_run.py": "processes",
    "agent/test_tree.py": "processes",
    "gateway/test_cluster.py": "processes",
    "gateway/test_faults.py": "processes",
    "gateway/test_front.py": "processes",
    "gateway/test_front_door.py": "processes",
    "gateway/test_peers.py": "processes",
    "fakes/test_engine.py": "processes",
    "weights/test_sources.py": "processes",
    "examples/test_cluster_stacks.py": "processes",
    "local": "processes",
    "engine": "engine",
    "standin/test_refusals.py": "engine",
    "standin/test_conformance.py": "cluster",
    "serving": "serving",
    "faults": "faults",
    "cluster": "cluster",
}
"""Folder or file to marker; `make test` runs the rungs in this order, after the tests that need nothing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks by folder, so that no test can be on the wrong rung for want of a line."""
    root = Path(__file__).parent
    for item in items:
        for place, marker in NEEDS.items():
            if item.path.is_relative_to(root / place):
                item.add_marker(marker)
                if marker == "cluster":
                    # The first one waits for the cluster, and on a bare machine for Kubernetes to be compiled.
                    item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT_S))
