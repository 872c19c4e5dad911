"""`pulumi up` against a real cluster whose namespace enforces `restricted`; the engines are the fake one, in its image.

The tests are one story: each begins where the one before has left the stack.
"""

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.api import BATCH, CORE, Namespace, until
from tests.cluster.service import STACK, InCluster, Stacks
from tests.serving.load import Answer, steady, undisturbed

FIRST: dict[str, Any] = {}
SECOND: dict[str, Any] = {"service": {"served_names": ["SmolLM2-135M-Instruct", "second"]}}
THIRD: dict[str, Any] = {"service": {"served_names": ["SmolLM2-135M-Instruct", "third"]}}
ALONE: dict[str, Any] = {"fault": "alone"}
KEYED: dict[str, Any] = {"service": {"served_names": ["SmolLM2-135M-Instruct", "fourth"]}, "keys_secret": "keys"}
TOO_FAST: dict[str, Any] = {"transfer": {"kv_gb_per_s_min": 1e9}}


@pytest.fixture(scope="module")
def service(stacks: Stacks) -> Iterator[InCluster]:
    with stacks() as made:
        yield made


@pytest.fixture(scope="module")
def expected(service: InCluster) -> dict[str, Answer]:
    """The answers while nothing is disturbed; the fake engine's are the same in every generation."""
    return asyncio.run(undisturbed(service.url))


def test_up_proves_before_it_serves(service: InCluster) -> None:
    up = service.up(**FIRST)
    assert up.returncode == 0, up.stdout
    outputs = service.outputs()
    evidence = outputs["evidence"]
    assert evidence["path"] == "disaggregated"
    assert evidence["kv_bytes"] > 0
    assert {pair["prefill"].split("-")[1] for pair in evidence["pairs"]} == {"prefill", "decode"}
    assert service.state["active_generation"] == outputs["generation"] == evidence["generation"]
    assert service.state["proof_token_sha256"] is None
    assert service.ask().path == "disaggregated"
    with urllib.request.urlopen(f"{service.url}/fleet") as fleet:
        assert {worker["zone"] for worker in json.load(fleet)["workers"]} == {"test-1a"}


def test_a_second_up_changes_nothing(service: InCluster) -> None:
    preview = service.run("preview", "--stack", STACK, "--expect-no-changes", **FIRST)
    assert preview.returncode == 0, preview.stdout


def test_a_proof_that_fails_leaves_the_old_generation_serving(service: InCluster) -> None:
    serving = service.outputs()["generation"]
    up = service.up(**TOO_FAST)
    assert up.returncode != 0
    assert "must not serve" in up.stdout, up.stdout
    assert "GB/s" in up.stdout
    assert service.state["active_generation"] == serving
    assert service.generations() == {serving}, "the failed generation's workers still run"
    assert service.ask().path == "disaggregated"


def test_a_proof_fails_where_kv_cannot_move(service: InCluster) -> None:
    serving = service.state["active_generation"]
    up = service.up(**ALONE)
    assert up.returncode != 0
    assert "must not serve" in up.stdout, up.stdout
    assert service.state["active_generation"] == serving
    assert service.generations() == {serving}, "the failed generation's workers still run"
    assert service.ask().path == "disaggregated"


def test_going_back_takes_the_failed_generation_away(service: InCluster) -> None:
    serving = service.state["active_generation"]
    up = service.up(**FIRST)
    assert up.returncode == 0, up.stdout
    names = [item["metadata"]["name"] for item in service.namespace.get(CORE, "configmaps")["items"]]
    assert not [name for name in names if "evidence" in name and serving not in name]
    assert service.state["active_generation"] == serving
    assert service.ask().path == "disaggregated"


def kill(namespace: Namespace, pod: str) -> None:
    namespace.call("DELETE", CORE, f"pods/{pod}?gracePeriodSeconds=0")


def evict(namespace: Namespace, pod: str) -> None:
    """As `kubectl drain` does, within the disruption budget."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.name}}
    status, answer = namespace.call("POST", CORE, f"pods/{pod}/eviction", body)
    assert status == 201, answer


@pytest.mark.parametrize("side", ["prefill", "decode"])
@pytest.mark.parametrize("end", [kill, evict], ids=["killed", "evicted"])
def test_a_worker_that_ends_under_load_costs_no_request(
    service: InCluster, expected: dict[str, Answer], end: Callable[[Namespace, str], None], side: str
) -> None:
    async def run() -> None:
        async with steady(service.url, expected) as load:
            await load.answered(5)
            (victim,) = service.workers(side)
            await asyncio.to_thread(end, service.namespace, victim)
            await load.answered(20)
            await asyncio.to_thread(until, lambda: set(service.workers(side)) - {victim})
            await load.answered(10)

    asyncio.run(run())


def test_a_roll_out_under_load_costs_no_request(service: InCluster, expected: dict[str, Answer]) -> None:
    before = service.state["active_generation"]

    async def run() -> None:
        async with steady(service.url, expected) as load:
            await load.answered(5)
            up = await asyncio.to_thread(service.up, **SECOND)
            assert up.returncode == 0, up.stdout
            await load.answered(10)

    asyncio.run(run())
    assert service.generations() == {service.state["active_generation"]} != {before}
    assert service.ask("second").status == 200


def test_a_gateway_that_is_deleted_breaks_its_own_streams_and_nothing_else(service: InCluster) -> None:
    first, *_ = service.namespace.get(CORE, "pods?labelSelector=app.kubernetes.io/component=gateway")["items"]
    service.namespace.call("DELETE", CORE, f"pods/{first['metadata']['name']}?gracePeriodSeconds=0")
    until(lambda: serves(service))
    for _ in range(10):
        assert service.ask().path == "disaggregated"


def serves(service: InCluster) -> bool:
    try:
        return service.ask().status == 200
    except OSError:
        return False


def proofs(service: InCluster) -> set[str]:
    """Pods that prove."""
    found = service.namespace.get(CORE, "pods?labelSelector=app.kubernetes.io/component=prover")["items"]
    return {pod["metadata"]["name"] for pod in found}


def test_an_up_that_was_killed_is_finished_by_the_next(service: InCluster) -> None:
    before = proofs(service)
    process = service.start("up", "--stack", STACK, "--yes", "--skip-preview", **THIRD)
    until(lambda: proofs(service) - before)  # the CLI then waits, and writes nothing that the kill could cut in two
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert service.ask().path == "disaggregated"
    service.run("cancel", "--stack", STACK, "--yes")  # its lock is its own, and it is dead
    up = service.up(**THIRD)
    assert up.returncode == 0, up.stdout
    assert service.ask("third").status == 200


def test_a_generation_behind_a_door_with_keys_is_proved(service: InCluster) -> None:
    service.namespace.create(CORE, "secrets", {"metadata": {"name": "keys"}, "stringData": {"keys": "a-key\n"}})
    up = service.up(**KEYED)
    assert up.returncode == 0, up.stdout
    assert service.ask("fourth").status == 401
    assert service.ask("fourth", authorization="Bearer a-key").path == "disaggregated"


def test_destroy_leaves_nothing(service: InCluster) -> None:
    destroyed = service.run("destroy", "--stack", STACK, "--yes", "--skip-preview", **KEYED)
    assert destroyed.returncode == 0, destroyed.stdout
    for group, plural in ((CORE, "pods"), (CORE, "services"), (BATCH, "jobs"), ("apis/apps/v1", "deployments")):
        until(lambda group=group, plural=plural: not service.namespace.get(group, plural)["items"])
    left = [item["metadata"]["name"] for item in service.namespace.get(CORE, "configmaps")["items"]]
    assert left == ["kube-root-ca.crt"]
