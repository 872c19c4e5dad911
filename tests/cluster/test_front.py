"""One door in front of two services of a real cluster: both models answer through it, and roll-outs stay apart."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.api import CORE, Namespace
from tests.cluster.service import STACK, InCluster
from tests.serving.load import steady, undisturbed

DISCOVERY = "apis/discovery.k8s.io/v1"
BOTH: dict[str, Any] = {"front": {"served_names": ["code"]}}
RENAMED: dict[str, Any] = {"front": {"served_names": ["code", "code-2"]}}


@pytest.fixture(scope="module")
def service(
    cluster_kubeconfig: str, namespace: Callable[..., Namespace], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InCluster]:
    made = InCluster(tmp_path_factory.mktemp("front") / "project", cluster_kubeconfig, namespace())
    up = made.up(**BOTH)
    assert up.returncode == 0, up.stdout
    yield made
    made.run("destroy", "--stack", STACK, "--yes", "--skip-preview", **BOTH)


def front(service: InCluster) -> str:
    return f"http://{service.namespace.get(CORE, 'services/models-front')['spec']['clusterIP']}"


def ask(service: InCluster, model: str) -> tuple[int, Any]:
    body = {"model": model, "prompt": "Hello", "max_tokens": 4}
    request = urllib.request.Request(
        f"{front(service)}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_every_model_answers_at_one_door(service: InCluster) -> None:
    for model in ("SmolLM2-135M-Instruct", "code"):
        status, answer = ask(service, model)
        assert (status, answer["model"]) == (200, model)
    status, answer = ask(service, "other")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "SmolLM2-135M-Instruct, code" in answer["error"]["message"]


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
    assert ask(service, "code-2")[0] == 200
