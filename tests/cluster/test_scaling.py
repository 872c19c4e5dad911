"""KEDA moves both pools of a service by what its gateways tell, and no request is lost on the way up or down.

The tests are one story: each begins where the one before has left the stack.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.manifest import Images, Setting
from steps.programs import KEDA
from tests.builders import llama_flexible
from tests.cluster.api import until
from tests.cluster.bringup import added, built
from tests.cluster.service import STACK, InCluster, Stacks
from tests.manifest.test_manifests import SHAPES, made
from tests.serving.load import Answer, kinds, steady, undisturbed

POOLS = ("prefill", "decode")
TOKENS = 20
QUIET_WAIT_S = 300.0
"""How busy readers are is known of the last two minutes, and then a minute must have been quiet."""
CLIENTS = 24
"""One worker reads 2.5 prompts a second, and one writes 4 answers: prefill is short at first, and then decode."""
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
def service(stacks: Stacks) -> Iterator[InCluster]:
    built(KEDA.name)
    with added("keda"), stacks(**SCALED) as made:
        yield made


@pytest.fixture(scope="module")
def expected(service: InCluster) -> dict[str, Answer]:
    return asyncio.run(undisturbed(service.url, kinds(TOKENS)))


SERVICES: dict[str, Callable[[], tandem.Service]] = {
    "separate": SHAPES["scaled"],
    "flexible": lambda: llama_flexible({"autoscalers": (tandem.Autoscaler(workers_max=6),)}),
}


@pytest.mark.parametrize("shape", SERVICES)
def test_an_api_server_that_knows_keda_takes_every_autoscaler(shape: str, service: InCluster) -> None:
    place = service.namespace
    setting = Setting(images=Images(worker="worker:1", gateway="gateway:1"), namespace=place.name)
    objects = [child.manifest for child in made(SERVICES[shape](), setting).children]
    scaled = [one for one in objects if one["kind"] == "ScaledObject"]
    assert scaled
    for one in scaled:
        query = "scaledobjects?dryRun=All&fieldValidation=Strict"
        status, answer = place.call("POST", f"apis/{one['apiVersion']}", query, one)
        assert status == 201, answer


def sizes(service: InCluster) -> dict[str, int]:
    """Ready workers of each pool."""
    return {pool: len(service.workers(pool)) for pool in POOLS}


def test_both_pools_grow_under_load_and_the_next_generation_begins_as_large_and_shrinks_when_it_is_quiet(
    service: InCluster, expected: dict[str, Answer]
) -> None:
    assert sizes(service) == {"prefill": 1, "decode": 1}

    async def run() -> None:
        async with steady(service.url, expected, clients=CLIENTS, asked=kinds(TOKENS)) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == {"prefill": 2, "decode": 2})
            preview = await asyncio.to_thread(service.run, "preview", "--stack", STACK, "--expect-no-changes", **SCALED)
            assert preview.returncode == 0, preview.stdout
            up = await asyncio.to_thread(service.up, **NEXT)
            assert up.returncode == 0, up.stdout
            await load.answered(10)
        async with steady(service.url, expected, clients=1, asked=kinds(TOKENS)) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == {"prefill": 1, "decode": 1}, QUIET_WAIT_S)
            await load.answered(3)

    asyncio.run(run())
    proved = {name for pair in service.outputs()["evidence"]["pairs"] for name in (pair["prefill"], pair["decode"])}
    for pool in POOLS:
        assert sum(f"-{pool}-" in name for name in proved) == 2, "the next generation was proved with fewer workers"
