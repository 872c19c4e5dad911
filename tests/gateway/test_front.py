"""Several services behind one door, over real sockets: whose a request is, and that services do not meet."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tandem_worker.contract import GatewaySpec
from tandem_worker.gateway.hosted import Hosted
from tandem_worker.gateway.keys import Keys
from tandem_worker.gateway.main import EXIT_BROKEN, EXIT_USAGE, serve
from tandem_worker.gateway.upstream import Upstream
from tandem_worker.gateway.watch import FolderSource
from tests.fakes.agent import FakeFleet
from tests.gateway.door import parse_events, until
from tests.gateway.test_scale import TARGETS

pytestmark = pytest.mark.asyncio

SERVICES = {"chat": ("small", "small-v1"), "code": ("large",)}
API_KEY = "a-key"


@dataclass
class Front:
    """A running front, and the fleets behind it."""

    url: str
    session: aiohttp.ClientSession
    fleets: dict[str, FakeFleet]
    stop: asyncio.Event
    served: "asyncio.Task[int]"
    scale_url: str

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=_named(headers)) as answer:
            return answer.status, await (answer.json() if "json" in answer.content_type else answer.text())

    async def post(self, body: dict[str, Any], path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body, headers=_named(headers)) as answer:
            return answer.status, await answer.json()

    async def stream(self, model: str) -> list[Any]:
        """The events of a streamed answer."""
        async with self.session.post(f"{self.url}/v1/completions", json=asks(model) | {"stream": True}) as answer:
            return parse_events(await answer.text())

    async def view(self, service: str) -> dict[str, Any]:
        """The service, as the front shows it."""
        _, view = await self.get(f"/fleet?service={service}", authorization=f"Bearer {API_KEY}")
        return view

    async def until_ready(self, service: str) -> None:
        while not (await self.view(service))["ready"]:  # noqa: ASYNC110 - asked over HTTP, as operators do
            await asyncio.sleep(0.01)

    def asked(self, service: str) -> int:
        """Requests that came to any engine of a service."""
        return sum(len(engine.seen()) for engine in self.fleets[service].engines)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def asks(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "once upon", "max_tokens": 4}


def spec(service: str, **terms: Any) -> GatewaySpec:
    return GatewaySpec(service=service, served_names=SERVICES[service], dialect="vllm-nixl-pull", **terms)


@asynccontextmanager
async def front(folder: Path, keys: Keys | None = None, **terms: dict[str, Any]) -> AsyncIterator[Front]:
    """Two services of a prefill and a decode worker each; `terms` change the spec of a service."""
    async with (
        FakeFleet(folder / "chat", service="chat", served_names=SERVICES["chat"]) as chat,
        FakeFleet(folder / "code", service="code", served_names=SERVICES["code"]) as code,
        aiohttp.ClientSession() as session,
    ):
        fleets = {"chat": chat, "code": code}
        specs = [spec(name, **terms.get(name, {})) for name in fleets]
        digests = {name: sha256(f"proof of {name}".encode()).hexdigest() for name in fleets}
        hosted = [
            Hosted(
                one,
                Keys((keys or Keys()).api, proof_digest=lambda digest=digests[one.service]: digest),
                FolderSource(fleets[one.service].folder, one.service),
            )
            for one in specs
        ]
        stop, listener, scale = asyncio.Event(), listening(), None
        if any(one.scaling for one in specs):
            scale = listening()
        served = asyncio.create_task(serve(hosted, listener, stop, scale))
        running = Front(url_of(listener), session, fleets, stop, served, url_of(scale) if scale else "")
        for name in fleets:
            await running.until_ready(name)
        try:
            yield running
        finally:
            stop.set()
            await session.close()
            await served


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_request_goes_to_the_service_of_its_model(tmp_path: Path) -> None:
    async with front(tmp_path) as door, openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="any") as client:
        assert [model.id async for model in client.models.list()] == ["small", "small-v1", "large"]
        for model, service, other in (("large", "code", "chat"), ("small-v1", "chat", "code")):
            before = door.asked(other)
            answer = await client.completions.create(model=model, prompt="hello", max_tokens=3)
            assert answer.model == model
            assert door.asked(service)
            assert door.asked(other) == before
        assert (await door.stream("large"))[-1] == "[DONE]"
        assert [fleet.violations for fleet in door.fleets.values()] == [[], []]


async def test_any_path_that_names_a_model_finds_its_service(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        for engine in door.fleets["code"].engines:
            engine.context_max = 77
        for model, is_there in (("large", True), ("small", False)):
            _, answer = await door.post({"model": model, "prompt": "a b"}, "/tokenize")
            assert (answer["max_model_len"] == 77) is is_there
        assert (await door.post({"model": "other", "prompt": "a b"}, "/tokenize"))[0] == 404


async def test_an_unknown_model_is_refused_with_all_that_are_known(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        status, answer = await door.post(asks("other"))
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert answer["error"]["message"].endswith("serves small, small-v1, large")
        status, answer = await door.post(asks("other"), "/v1/messages")
        assert (status, answer["type"], answer["error"]["type"]) == (404, "error", "not_found_error")
        assert "small, small-v1, large" in answer["error"]["message"]
        assert door.asked("chat") + door.asked("code") == 0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"prompt": "a"}, 400, "`model` is missing; say which of small, small-v1, large is meant"),
        ({"model": None, "prompt": "a"}, 400, "`model` is missing"),
        ({"model": 7}, 400, "`model` must be a string"),
        ({"model": "small", "prompt": "a" * 600}, 413, "larger than 500 bytes"),
        ({"model": "large", "prompt": "a" * 2000}, 413, "larger than 1000 bytes"),
    ],
)
async def test_a_request_that_is_nobodys_is_refused(
    tmp_path: Path, body: dict[str, Any], status: int, says: str
) -> None:
    async with front(tmp_path, chat={"body_bytes_max": 500}, code={"body_bytes_max": 1000}) as door:
        got, answer = await door.post(body)
        assert got == status
        assert says in answer["error"]["message"]
        assert door.asked("chat") + door.asked("code") == 0


async def test_a_new_name_serves_when_its_generation_does(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        code = door.fleets["code"]
        await code.add("prefill-new", "prefill", "g2", names=("larger",))
        await code.add("decode-new", "decode", "g2", names=("larger",))
        assert (await door.post(asks("larger")))[0] == 404
        code.activate("g2")
        await until_models(door, ["small", "small-v1", "larger"])
        assert (await door.post(asks("larger")))[0] == 200
        assert (await door.post(asks("large")))[0] == 404


async def until_models(door: Front, names: list[str]) -> None:
    while [model["id"] for model in (await door.get("/v1/models"))[1]["data"]] != names:  # noqa: ASYNC110 - over HTTP
        await asyncio.sleep(0.01)


async def test_a_full_service_turns_nobody_of_the_other_away(tmp_path: Path) -> None:
    async with front(tmp_path, chat={"requests_running_max": 1, "requests_waiting_max": 0}) as door:
        engine = door.fleets["chat"].engine("decode-0")
        engine.fail("gate")
        running = asyncio.create_task(door.post(asks("small")))
        await until(lambda: engine.faults.waiting)
        assert (await door.post(asks("small")))[0] == 429
        assert (await door.post(asks("large")))[0] == 200
        engine.release()
        assert (await running)[0] == 200


async def test_a_service_without_workers_leaves_the_other_served(tmp_path: Path) -> None:
    async with front(tmp_path, chat={"attempts_max": 1, "request_timeout_s": 1}) as door:
        for name in ("prefill-0", "decode-0"):
            door.fleets["chat"].kill(name)
        while (await door.view("chat"))["ready"]:  # noqa: ASYNC110 - asked over HTTP, as operators do
            await asyncio.sleep(0.01)
        assert (await door.get("/health"))[0] == 200
        assert (await door.post(asks("large")))[0] == 200
        assert (await door.post(asks("small")))[0] >= 500
        for name in ("prefill-0", "decode-0"):
            door.fleets["code"].kill(name)
        while (await door.get("/health"))[0] == 200:  # noqa: ASYNC110 - asked over HTTP, as operators do
            await asyncio.sleep(0.01)


async def test_figures_of_services_are_told_apart(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        for _ in range(2):
            await door.post(asks("large"))
        _, text = await door.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        requests = {one.labels["tandem_service"]: one.value for one in families["tandem_gateway_requests"].samples}
        assert requests == {"chat": 0, "code": 2}
        assert text.count("# TYPE tandem_gateway_ttft_seconds ") == 1
        _, fleet = await door.get("/fleet")
        assert {name: view["counts"]["requests"] for name, view in fleet["services"].items()} == requests
        assert (await door.get("/fleet?service=code"))[1]["service"] == "code"


async def test_a_proof_opens_only_its_own_service(tmp_path: Path) -> None:
    async with front(tmp_path, Keys((API_KEY,))) as door:
        proof = {"x_tandem_proof": "proof of code"}
        assert (await door.post(asks("large")))[0] == 401
        assert (await door.get("/fleet"))[0] == 401
        assert (await door.post(asks("large"), x_tandem_decode="decode-0", **proof))[0] == 200
        assert (await door.post(asks("small"), x_tandem_decode="decode-0", **proof))[0] == 404
        status, fleet = await door.get("/fleet", **proof)
        assert (status, list(fleet["services"])) == (200, ["code"])
        assert fleet["services"]["code"]["proving"]
        assert (await door.post(asks("small"), authorization=f"Bearer {API_KEY}"))[0] == 200


async def test_autoscalers_learn_of_the_service_that_they_ask_for(tmp_path: Path) -> None:
    async with front(tmp_path, code={"scaling": TARGETS}, chat={"scaling": TARGETS}) as door:
        door.fleets["code"].engine("decode-0").fail("gate")
        running = asyncio.create_task(door.post(asks("large")))
        await until(lambda: door.fleets["code"].engine("decode-0").faults.waiting)
        pending = {}
        for service in SERVICES:
            async with door.session.get(f"{door.scale_url}/figures?service={service}") as answer:
                pending[service] = (await answer.json())["decode"]["pending"]
        assert pending == {"chat": 0, "code": 1}
        async with door.session.get(f"{door.scale_url}/figures") as answer:
            assert answer.status == 404
        door.fleets["code"].engine("decode-0").release()
        assert (await running)[0] == 200


async def test_leaving_waits_for_the_requests_of_every_service(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        decoders = [fleet.engine("decode-0") for fleet in door.fleets.values()]
        for engine in decoders:
            engine.fail("stall", after_tokens=2)
        running = [asyncio.create_task(door.stream(model)) for model in ("small", "large")]
        await until(lambda: all(engine.faults.waiting for engine in decoders))
        door.stop.set()
        decoders[0].release()
        assert (await running[0])[-1] == "[DONE]"
        assert not door.served.done()
        decoders[1].release()
        assert (await running[1])[-1] == "[DONE]"
        await door.served


@pytest.mark.parametrize(
    ("services", "folders", "says"),
    [
        (
            {"chat": ("small", "mine"), "code": ("mine",)},
            2,
            (
                "the services 'chat' and 'code' both serve the model 'mine', so a request for it would not say whose "
                "it is; give them different `served_names`"
            ),
        ),
        (
            {"chat": ("small",), "code": ("large",)},
            1,
            "there are 2 --spec and 1 --fleet-dir; give one for each, in the same order",
        ),
    ],
)
async def test_services_that_cannot_share_a_door_are_refused_at_the_start(
    tmp_path: Path, services: dict[str, tuple[str, ...]], folders: int, says: str
) -> None:
    words: list[str] = []
    for name, names in services.items():
        file = tmp_path / f"{name}.json"
        file.write_text(spec(name).model_copy(update={"served_names": names}).model_dump_json())
        words += ["--spec", str(file)]
    words += ["--fleet-dir", str(tmp_path)] * folders
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tandem_worker", "gateway", *words, "--listen", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await gateway.communicate()
    assert gateway.returncode == EXIT_USAGE
    assert told.decode() == f"tandem-worker gateway: {says}\n"


class Blind(FolderSource):
    """Loses sight of its fleet once told, by a fault of its own."""

    def __init__(self, folder: Path, service: str, told: asyncio.Event) -> None:
        super().__init__(folder, service)
        self._told = told

    async def run(self, upstream: Upstream) -> None:
        del upstream
        await self._told.wait()
        raise RuntimeError("a fault of the gateway's own")


async def test_a_gateway_that_lost_sight_of_its_fleet_finishes_what_runs_and_leaves_with_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that the kubelet starts another one, instead of a door that serves an ever older picture."""
    async with FakeFleet(tmp_path, served_names=SERVICES["chat"]) as fleet, aiohttp.ClientSession() as session:
        told, listener = asyncio.Event(), listening()
        hosted = Hosted(spec("chat"), Keys(), Blind(fleet.folder, "chat", told))
        served = asyncio.create_task(serve([hosted], listener, asyncio.Event()))
        gate = Front(url_of(listener), session, {"chat": fleet}, asyncio.Event(), served, "")
        while (await gate.get("/health"))[0] != 200:  # noqa: ASYNC110 - asked over HTTP, as operators do
            await asyncio.sleep(0.01)
        fleet.engine("decode-0").fail("gate", phase="decode")
        running = asyncio.create_task(gate.post(asks("small")))
        await until(lambda: fleet.engine("decode-0").faults.waiting)
        told.set()
        await until(lambda: "a fault of the gateway's own" in caplog.text)
        fleet.engine("decode-0").release()
        assert (await running)[0] == 200
        await session.close()
        assert await served == EXIT_BROKEN
