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
from tests.cluster.scaling import ASKED, CLIENTS, LARGE, POOLS, QUIET_WAIT_S, SMALL, answers, scaled, sizes, unchanged
from tests.cluster.service import InCluster, Stacks
from tests.manifest.test_manifests import SHAPES, made
from tests.serving.load import steady

SCALED = scaled("ScaledObject")
NEXT: dict[str, Any] = {**SCALED, "service": {"served_names": ["SmolLM2-135M-Instruct", "second"]}}


@pytest.fixture(scope="module")
def service(stacks: Stacks) -> Iterator[InCluster]:
    built(KEDA.name)
    with added("keda"), stacks(**SCALED) as made:
        yield made


SERVICES: dict[str, Callable[[], tandem.Service]] = {
    "separate": SHAPES["scaled"],
    "flexible": lambda: llama_flexible({"autoscalers": (tandem.Autoscaler(workers_max=6),)}),
}


@pytest.mark.parametrize("shape", SERVICES)
def test_an_api_server_that_knows_keda_takes_every_autoscaler(shape: str, service: InCluster) -> None:
    place = service.namespace
    setting = Setting(images=Images(worker="worker:1", gateway="gateway:1"), namespace=place.name)
    objects = [child.manifest for child in made(SERVICES[shape](), setting).children]
    scalers = [one for one in objects if one["kind"] == "ScaledObject"]
    assert scalers
    for one in scalers:
        query = "scaledobjects?dryRun=All&fieldValidation=Strict"
        status, answer = place.call("POST", f"apis/{one['apiVersion']}", query, one)
        assert status == 201, answer


def test_both_pools_grow_under_load_and_the_next_generation_begins_as_large_and_shrinks_when_it_is_quiet(
    service: InCluster,
) -> None:
    assert sizes(service) == SMALL
    expected = answers(service)

    async def run() -> None:
        async with steady(service.url, expected, clients=CLIENTS, asked=ASKED) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == LARGE)
            await unchanged(service, SCALED)
            up = await asyncio.to_thread(service.up, **NEXT)
            assert up.returncode == 0, up.stdout
            await load.answered(10)
        async with steady(service.url, expected, clients=1, asked=ASKED) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == SMALL, QUIET_WAIT_S)
            await load.answered(3)

    asyncio.run(run())
    proved = {name for pair in service.outputs()["evidence"]["pairs"] for name in (pair["prefill"], pair["decode"])}
    for pool in POOLS:
        assert sum(f"-{pool}-" in name for name in proved) == 2, "the next generation was proved with fewer workers"
