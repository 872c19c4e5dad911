"""The pieces of `benchmarks.scale` on few nodes: KWOK's pods get addresses, and a gateway knows who is there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.scale.discovery import measure_discovery
from benchmarks.scale.factory import FAKE, Factory, factory
from tests.cluster.api import CORE, Api
from tests.cluster.bringup import run_tool


@pytest.fixture(scope="module")
def kwok(api: Api) -> Iterator[Api]:
    """An API server beside which KWOK runs."""
    assert run_tool("tools/bootstrap.py", "--only", "kwok") == 0
    assert run_tool("-m", "cluster", "up", "--with", "kwok") == 0
    yield api
    assert run_tool("-m", "cluster", "down", "--with", "kwok") == 0


@pytest.fixture
def small(kwok: Api) -> Iterator[Factory]:
    with factory(kwok, nodes=4, services=2, tell=print) as made:
        yield made
    assert kwok.ask("GET", f"{CORE}/nodes?labelSelector={FAKE}")["items"] == []
    assert kwok.call("GET", f"{CORE}/namespaces/{made.namespace.name}")[0] == 404


def test_a_gateway_knows_every_worker_on_nodes_that_do_not_exist(
    small: Factory, cluster_kubeconfig: str, tmp_path: Path
) -> None:
    nodes = {pod["spec"]["nodeName"] for pod in small.pods()}
    assert {name.partition("-")[0] for name in nodes} == {"fake"}
    (found,) = measure_discovery(
        small, kubeconfig=Path(cluster_kubeconfig), folder=tmp_path, sizes=(6,), tell=print, idle_s=0.5
    )
    assert found.workers == 6
    assert 0 < found.listens_s <= found.known_s
    assert found.memory_mib > 0
    assert found.joined_ms > 0
    assert found.left_ms > 0
