"""The agent's HTTP, in process, over a view that the test controls."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from tandem_worker.agent.decide import Limits, Stage, State, Told
from tandem_worker.agent.endpoints import View, application, may_drain
from tandem_worker.agent.transport import Transport
from tandem_worker.dialects.vllm_metrics import EngineNumbers
from tests.agent.place import worker_spec

READY = State(Limits(1.0, 1.0, 1.0, 1.0), Stage.READY, 0.0, start_seconds=41.5)
NUMBERS = EngineNumbers(
    requests_running=3,
    requests_waiting=1,
    kv_share=0.25,
    kv_transfers_count=4,
    kv_bytes=2_000_000_000,
    kv_seconds=0.5,
    kv_failures_count=1,
    kv_expired_count=2,
    prompt_tokens={"local_compute": 10, "external_kv_transfer": 90},
    generated_tokens=7,
    steps_count=9,
)


@dataclass
class World:
    """What the view shows."""

    state: State = READY
    numbers: EngineNumbers | None = NUMBERS
    transports: list[Transport] = field(default_factory=lambda: [Transport("tcp", "log")])
    drains: int = 0
    launched: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])

    def view(self) -> View:
        async def numbers() -> EngineNumbers | None:
            return self.numbers

        def drain() -> None:
            self.drains += 1

        spec = worker_spec(kv_gb_per_s_min=0.25)
        return View(
            "w0",
            spec,
            "token",
            state=lambda: self.state,
            numbers=numbers,
            transports=lambda: self.transports,
            drain=drain,
            launched=self.launched.get,
        )


T = TypeVar("T")
Client = TestClient[web.Request, web.Application]


def talk(world: World, to: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        async with TestClient(TestServer(application(world.view()))) as client:
            return await to(client)

    return asyncio.run(run())


def get(world: World, path: str) -> tuple[int, str]:
    async def ask(client: Client) -> tuple[int, str]:
        answer = await client.get(path)
        return answer.status, await answer.text()

    return talk(world, ask)


def samples(world: World) -> dict[str, float]:
    """Every sample of /metrics by name and labels."""
    families = text_string_to_metric_families(get(world, "/metrics")[1])
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_tells_every_number_under_its_fixed_name() -> None:
    """The names are an interface: the prover and the dashboards read them."""
    assert samples(World()) == {
        "tandem_engine_up": 1.0,
        "tandem_requests_running": 3.0,
        "tandem_requests_waiting": 1.0,
        "tandem_kv_share": 0.25,
        "tandem_kv_transfers_total": 4.0,
        "tandem_kv_bytes_total": 2e9,
        "tandem_kv_seconds_total": 0.5,
        "tandem_kv_failures_total": 1.0,
        "tandem_kv_expired_total": 2.0,
        "tandem_prompt_tokens_total{source=local_compute}": 10.0,
        "tandem_prompt_tokens_total{source=external_kv_transfer}": 90.0,
        "tandem_generated_tokens_total": 7.0,
        "tandem_kv_gigabytes_per_second": 4.0,
        "tandem_kv_floor_gigabytes_per_second": 0.25,
        "tandem_kv_transport_info{evidence=log}{transport=tcp}": 1.0,
        "tandem_start_seconds": 41.5,
    }


def test_leaves_out_what_it_does_not_know() -> None:
    """A silent engine gives no zeros that look like measurements."""
    silent = World(state=replace(READY, start_seconds=None), numbers=None, transports=[])

    assert samples(silent) == {"tandem_engine_up": 0.0, "tandem_kv_floor_gigabytes_per_second": 0.25}


def test_has_no_bandwidth_before_the_first_transfer() -> None:
    """No transfer is not a bandwidth of zero, which would look like a breach of the floor."""
    assert "tandem_kv_gigabytes_per_second" not in samples(World(numbers=EngineNumbers()))


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        pytest.param(READY, 200, "null", id="ready"),
        pytest.param(replace(READY, unwell="silent"), 503, '"silent"', id="unwell"),
        pytest.param(replace(READY, stage=Stage.STARTING), 503, '"the engine is starting"', id="starting"),
        pytest.param(replace(READY, stage=Stage.DRAINING), 503, '"the worker is draining"', id="draining"),
    ],
)
def test_says_why_it_is_not_ready(state: State, status: int, reason: str) -> None:
    """The status is for the gateway, the reason for people."""
    answer = get(World(state=state), "/ready")

    assert answer[0] == status
    assert f'"reason": {reason}' in answer[1]


def test_says_what_gateways_pair_by() -> None:
    """The names are an interface: gateways read them, and those of another version too."""
    told = Told(kv_share=0.25, kv_tokens=46_592, prompt_tokens_cached=128, prompt_tokens_read=512)
    body = json.loads(get(World(state=replace(READY, told=told)), "/ready")[1])
    assert body == {
        "ready": True,
        "stage": "ready",
        "reason": None,
        "kv_share": 0.25,
        "kv_tokens": 46_592,
        "prompt_tokens_cached": 128,
        "prompt_tokens_read": 512,
    }


def test_lives_whatever_the_engine_does() -> None:
    """/live is about the agent alone."""
    assert get(World(state=replace(READY, stage=Stage.DRAINING), numbers=None), "/live")[0] == 200


def test_drains_for_its_own_host() -> None:
    """A pod may ask itself to drain without a token."""
    world = World()

    async def ask(client: Client) -> int:
        return (await client.post("/drain")).status

    assert talk(world, ask) == 202
    assert world.drains == 1


@pytest.mark.parametrize(
    ("peer", "header", "allowed"),
    [
        pytest.param("127.0.0.1", None, True, id="loopback"),
        pytest.param("::1", None, True, id="loopback 6"),
        pytest.param("::ffff:127.0.0.1", None, True, id="mapped loopback"),
        pytest.param("10.0.0.7", None, False, id="stranger"),
        pytest.param("::ffff:10.0.0.7", None, False, id="mapped stranger"),
        pytest.param("fe80::1%eth0", None, False, id="link-local"),
        pytest.param("10.0.0.7", "Bearer token", True, id="token"),
        pytest.param("10.0.0.7", "Bearer tokem", False, id="wrong token"),
        pytest.param("10.0.0.7", "Bearer t\u00f6ken", False, id="not ascii"),
        pytest.param("10.0.0.7", "token", False, id="no scheme"),
    ],
)
def test_lets_only_those_drain_who_may(peer: str, header: str | None, *, allowed: bool) -> None:
    """Loopback or the token, and nothing else."""
    headers = {} if header is None else {"authorization": header}

    assert may_drain(peer, make_mocked_request("POST", "/drain", headers=headers).headers, "token") is allowed


def test_asks_for_no_token_that_does_not_exist() -> None:
    """Without a token file, an empty token opens nothing."""
    assert not may_drain("10.0.0.7", {"authorization": "Bearer "}, None)
    assert not may_drain("10.0.0.7", {"authorization": "Bearer None"}, None)


def test_refuses_large_requests_and_other_methods() -> None:
    """Nobody drains by mistake."""
    world = World()

    async def ask(client: Client) -> int:
        return (await client.get("/drain")).status

    assert talk(world, ask) == 405
    assert world.drains == 0


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [("/launch/1", 200, '"ess"'), ("/launch/2", 404, "machine 2"), ("/launch/..%2fx", 404, "")],
)
def test_shows_another_machine_what_mpirun_wants_of_it_and_takes_no_commands(
    path: str, status: int, words: str
) -> None:
    world = World(launched={1: ("-mca", "ess", "env")})
    answered, body = get(world, path)
    assert (answered, words in body) == (status, True)

    async def post(client: Client) -> int:
        return (await client.post("/launch/1", json=["-mca", "ess", "env"])).status

    assert talk(world, post) == 405
