"""`kubectl drain` under load: the pods of a node move to another one, and no request is lost.

The tests are one story: the second begins where the first has left the pods.
"""

import asyncio
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from steps.frame import Place
from steps.programs import KUBECTL
from tests.cluster.api import CORE, is_ready, until
from tests.cluster.bringup import added, built
from tests.cluster.service import InCluster, Stacks
from tests.serving.load import Answer, steady, undisturbed

FIRST_NODE, SECOND_NODE = "tandem", "tandem-second"
TWO_OF_EACH: dict[str, Any] = {"pool": {"workers": 2}}
WHOLE = Counter({"prefill": 2, "decode": 2, "gateway": 2})


@pytest.fixture(scope="module")
def kubectl(cluster_kubeconfig: str) -> Callable[..., str]:
    """Runs the real one, and gives what it prints."""
    built(KUBECTL.name)
    program = (str(KUBECTL.binary(Place.here())), "--kubeconfig", cluster_kubeconfig)

    def run(*words: str) -> str:
        done = subprocess.run((*program, *words), text=True, check=False, capture_output=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def service(stacks: Stacks) -> Iterator[InCluster]:
    """A service whose pods are spread over two nodes."""
    with added("second-node"), stacks(**TWO_OF_EACH) as made:
        yield made


@pytest.fixture(scope="module")
def expected(service: InCluster) -> dict[str, Answer]:
    return asyncio.run(undisturbed(service.url))


def ready_on(service: InCluster, node: str) -> Counter[str]:
    """How many ready pods of each kind a node has."""
    pods = service.namespace.get(CORE, "pods?labelSelector=tandem.serving/service=chat")["items"]
    return Counter(kind(pod) for pod in pods if pod["spec"].get("nodeName") == node and is_ready(pod))


def kind(pod: Any) -> str:
    labels = pod["metadata"]["labels"]
    return labels.get("tandem.serving/pool") or labels["app.kubernetes.io/component"]


def drained(service: InCluster, kubectl: Callable[..., str], expected: dict[str, Answer], node: str) -> str:
    """Drain a node of the service's pods under load, and take it into use again; what kubectl told of it."""
    words = ("--pod-selector=tandem.serving/service=chat", "--delete-emptydir-data", "--timeout=150s")
    (other,) = {FIRST_NODE, SECOND_NODE} - {node}

    async def run() -> str:
        async with steady(service.url, expected) as load:
            await load.answered(5)
            told = await asyncio.to_thread(kubectl, "drain", node, *words)
            await asyncio.to_thread(until, lambda: ready_on(service, other) == WHOLE)
            await load.answered(20)
            await asyncio.to_thread(kubectl, "uncordon", node)
            await load.answered(20)
            return told

    try:
        return asyncio.run(run())
    finally:
        kubectl("uncordon", node)


def test_pods_of_each_kind_are_spread_over_the_nodes(service: InCluster) -> None:
    one_of_each = Counter(dict.fromkeys(WHOLE, 1))
    assert ready_on(service, FIRST_NODE) == ready_on(service, SECOND_NODE) == one_of_each


def test_a_drained_node_costs_no_request(
    service: InCluster, kubectl: Callable[..., str], expected: dict[str, Answer]
) -> None:
    told = drained(service, kubectl, expected, SECOND_NODE)
    assert told.count("evicted") >= 3, told
    assert not ready_on(service, SECOND_NODE)


def test_a_drained_node_that_has_all_pods_keeps_to_the_budgets_and_costs_no_request(
    service: InCluster, kubectl: Callable[..., str], expected: dict[str, Answer]
) -> None:
    told = drained(service, kubectl, expected, FIRST_NODE)
    assert "would violate the pod's disruption budget" in told, told
    assert not ready_on(service, FIRST_NODE)
