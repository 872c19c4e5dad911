"""KEDA moves both pools of a service by what its gateways tell, and no request is lost on the way up or down.

The tests are one story: each begins where the one before has left the stack.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from steps import keda
from tests.cluster.api import APPS, Namespace, until
from tests.cluster.bringup import built, run_tool
from tests.cluster.service import STACK, InCluster
from tests.serving.load import Answer, steady, undisturbed

POOLS = ("prefill", "decode")
TOKENS = 40
CLIENTS = 24
"""With two seconds of reading for every five, and four seconds of writing in eight places, one worker each is short."""
SCALED: dict[str, Any] = {
    "prefill": {
        "autoscalers": [{"workers_max": 2}],
        "extra_args": ["--fake-prefill-ms", "400", "--fake-one-prefill"],
    },
    "decode": {"autoscalers": [{"workers_max": 2}], "extra_args": ["--fake-step-ms", "100"]},
    "impatient": POOLS,
}
NEXT: dict[str, Any] = {**SCALED, "service": {"served_names": ["SmolLM2-135M-Instruct", "second"]}}


@pytest.fixture(scope="module")
def service(
    cluster_kubeconfig: str, namespace: Callable[..., Namespace], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InCluster]:
    built(keda.STEP.name)
    assert run_tool("-m", "cluster", "up", "--with", "keda") == 0
    made = InCluster(tmp_path_factory.mktemp("scaling") / "project", cluster_kubeconfig, namespace())
    up = made.up(**SCALED)
    assert up.returncode == 0, up.stdout
    yield made
    made.run("destroy", "--stack", STACK, "--yes", "--skip-preview", **NEXT)


@pytest.fixture(scope="module")
def expected(service: InCluster) -> dict[str, Answer]:
    return asyncio.run(undisturbed(service.url, TOKENS))


def sizes(service: InCluster) -> dict[str, int]:
    """Ready workers of each pool."""
    return {pool: len(service.workers(pool)) for pool in POOLS}


def wanted(service: InCluster) -> dict[str, int]:
    """Workers that each pool of the serving generation is to have."""
    generation = service.state["active_generation"]
    return {
        pool: service.namespace.get(APPS, f"deployments/chat-{pool}-{generation}")["spec"]["replicas"] for pool in POOLS
    }


def test_both_pools_grow_under_load_and_the_next_generation_begins_as_large_and_shrinks_when_it_is_quiet(
    service: InCluster, expected: dict[str, Answer]
) -> None:
    assert sizes(service) == {"prefill": 1, "decode": 1}

    async def run() -> None:
        async with steady(service.url, expected, clients=CLIENTS, max_tokens=TOKENS) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == {"prefill": 2, "decode": 2})
            preview = await asyncio.to_thread(service.run, "preview", "--stack", STACK, "--expect-no-changes", **SCALED)
            assert preview.returncode == 0, preview.stdout
            up = await asyncio.to_thread(service.up, **NEXT)
            assert up.returncode == 0, up.stdout
            await load.answered(10)
        async with steady(service.url, expected, clients=1, max_tokens=TOKENS) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == {"prefill": 1, "decode": 1})
            await load.answered(3)

    asyncio.run(run())
    evidence = service.outputs()["evidence"]
    for pool in POOLS:
        assert len({pair[pool] for pair in evidence["pairs"]}) == 2, "the next generation was proved with fewer workers"
