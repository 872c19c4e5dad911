"""NetworkPolicies enforced: those of the component let its service work, and nobody else in.

The tests are one story: each begins where the one before has left the stack.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from steps.programs import POLICIES
from tests.cluster.api import CORE, Namespace, until
from tests.cluster.bringup import added, built
from tests.cluster.service import InCluster, Stacks
from tests.cluster.test_cluster import pausing

FIRST: dict[str, Any] = {}
CLOSED: dict[str, Any] = {
    "service": {"served_names": ["SmolLM2-135M-Instruct", "second"]},
    "fault": "kv ports closed",
}
SIDE_CHANNEL_PORT = 5600


@pytest.fixture(scope="module")
def service(stacks: Stacks) -> Iterator[InCluster]:
    built(POLICIES.name)
    with added("policies"), stacks() as made:
        yield made


def reaches(namespace: Namespace, name: str, address: str, port: int, **labels: str) -> bool:
    """Whether a pod with these labels gets a connection."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 5)"
    spec = {**pausing(0), "restartPolicy": "Never"}
    spec["containers"][0] |= {"image": "tandem.local/gateway:test", "command": ["python", "-c", code]}
    namespace.create(CORE, "pods", {"metadata": {"name": name, "labels": labels}, "spec": spec})
    phase = until(lambda: (found := namespace.get(CORE, f"pods/{name}")["status"]["phase"]) in ENDED and found)
    return phase == "Succeeded"


ENDED = ("Succeeded", "Failed")


def test_the_policies_let_the_service_be_proved_and_serve(service: InCluster) -> None:
    up = service.up(**FIRST)
    assert up.returncode == 0, up.stdout
    assert service.ask().path == "disaggregated"


@pytest.mark.parametrize("port", [8000, 8001, SIDE_CHANNEL_PORT])
def test_a_pod_of_nobody_reaches_no_port_of_a_worker(service: InCluster, port: int) -> None:
    (worker,) = service.namespace.pods(pool="prefill")
    address = worker["status"]["podIP"]
    own = {"app.kubernetes.io/component": "worker", "app.kubernetes.io/name": "chat"}
    assert not reaches(service.namespace, f"stranger-{port}", address, port, app="stranger")
    assert reaches(service.namespace, f"worker-{port}", address, port, **own, **{"tandem.serving/service": "chat"})


def test_a_policy_that_closes_the_ports_of_kv_fails_the_proof_and_is_named(service: InCluster) -> None:
    serving = service.state["active_generation"]
    up = service.up(**CLOSED)
    assert up.returncode != 0
    assert f"port {SIDE_CHANNEL_PORT}" in up.stdout, up.stdout
    assert "NetworkPolicy" in up.stdout
    assert service.state["active_generation"] == serving
    assert service.generations() == {serving}
    assert service.ask().path == "disaggregated"
