"""One door in front of two services of a real cluster: both models answer through it, and roll-outs stay apart."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.api import CORE
from tests.cluster.service import InCluster, Stacks, ask
from tests.serving.load import steady, undisturbed

DISCOVERY = "apis/discovery.k8s.io/v1"
BOTH: dict[str, Any] = {"front": {"served_names": ["code"]}}
RENAMED: dict[str, Any] = {"front": {"served_names": ["code", "code-2"]}}


@pytest.fixture(scope="module")
def service(stacks: Stacks) -> Iterator[InCluster]:
    with stacks(**BOTH) as made:
        yield made


def front(service: InCluster) -> str:
    return f"http://{service.namespace.get(CORE, 'services/models-front')['spec']['clusterIP']}"


def test_every_model_answers_at_one_door(service: InCluster) -> None:
    for model in ("SmolLM2-135M-Instruct", "code"):
        reply = ask(front(service), model)
        assert (reply.status, reply.body["model"]) == (200, model)
    reply = ask(front(service), "other")
    assert (reply.status, reply.body["error"]["code"]) == (404, "model_not_found")
    assert "SmolLM2-135M-Instruct, code" in reply.body["error"]["message"]


def test_the_fronts_pods_are_counted_among_the_gateways_of_each_service(service: InCluster) -> None:
    for name in ("chat", "code"):
        labels = f"tandem.serving/service={name},app.kubernetes.io/component=gateway"
        slices = service.namespace.get(DISCOVERY, f"endpointslices?labelSelector={labels}")["items"]
        ready = {host for one in slices for endpoint in one["endpoints"] for host in endpoint["addresses"]}
        assert len(ready) == 4  # two of its own, two of the front


def test_a_roll_out_of_one_service_disturbs_no_request_for_the_other(service: InCluster) -> None:
    async def loaded() -> None:
        expected = await undisturbed(front(service))
        async with steady(front(service), expected) as load:
            await load.answered(20)
            up = await asyncio.to_thread(service.up, **RENAMED)
            assert up.returncode == 0, up.stdout
            await load.answered(20)

    asyncio.run(loaded())
    assert ask(front(service), "code-2").status == 200
