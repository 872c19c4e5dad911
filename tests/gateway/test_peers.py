"""Gateways that tell autoscalers of each other's load, over real sockets."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tandem_worker.contract import GatewaySpec
from tandem_worker.gateway.keys import Keys
from tandem_worker.gateway.main import EXIT_USAGE
from tandem_worker.gateway.peers import Peers
from tandem_worker.gateway.scale import Figures, Work
from tandem_worker.gateway.upstream import Upstream
from tests.fakes.agent import FakeFleet
from tests.gateway.door import PROOF, door, until
from tests.gateway.test_scale import TARGETS, one, spec

pytestmark = pytest.mark.asyncio


@dataclass
class Doors:
    """The doors of one service's gateways, each of which knows where all are."""

    ports: list[int] = field(default_factory=list[int])
    places: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Where they believe that each other are."""
    asked: list[str] = field(default_factory=list[str])

    async def scale(self, number: int = 0) -> dict[str, float]:
        return await scale_at(f"http://127.0.0.1:{self.ports[number]}")


async def scale_at(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/scale") as answer:
        assert answer.status == 200
        return (await answer.json())["services"]["chat"]


@asynccontextmanager
async def doors(*known: Figures, terms: GatewaySpec) -> AsyncIterator[Doors]:
    loop = asyncio.get_running_loop()
    found, upstream, runners = Doors(), Upstream(loop), list[web.ServerRunner]()
    for figures in known:

        def own(figures: Figures = figures) -> Figures:
            found.asked.append(figures.gateway)
            return figures

        runner = web.ServerRunner(web.Server(Peers(terms, own, lambda: found.places, upstream).handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.ports.append(runner.addresses[0][1])
        found.places.append(("127.0.0.1", found.ports[-1]))
        runners.append(runner)
    try:
        yield found
    finally:
        upstream.close()
        for runner in runners:
            await runner.cleanup()


def busy(name: str) -> Figures:
    return one(name, prefill=Work(pending=300, done=500, busy_s=10))


async def test_every_gateway_tells_the_figures_of_all() -> None:
    async with doors(busy("a"), busy("b"), one("c"), terms=spec()) as gateways:
        answers = [await gateways.scale(number) for number in range(3)]
    assert [answer["gateways"] for answer in answers] == [3, 3, 3]
    assert [answer["prefill_backlog_s"] for answer in answers] == [pytest.approx(6)] * 3


async def test_peers_that_are_gone_or_silent_or_not_understood_are_left_out_in_time() -> None:
    async def nonsense(_: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>")

    strange = web.ServerRunner(web.Server(nonsense))
    await strange.setup()
    await web.TCPSite(strange, "127.0.0.1", 0).start()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        async with doors(busy("a"), busy("b"), terms=spec()) as gateways:
            gateways.places += [silent.getsockname()[:2], gone.getsockname()[:2], strange.addresses[0][:2]]
            answer = await gateways.scale()
    await strange.cleanup()
    assert answer["gateways"] == 2
    assert answer["prefill_backlog_s"] == pytest.approx(6)


async def test_a_gateway_that_no_slice_names_yet_tells_its_own() -> None:
    async with doors(busy("a"), terms=spec()) as gateways:
        gateways.places.clear()
        assert (await gateways.scale())["gateways"] == 1


async def test_many_triggers_ask_each_gateway_once() -> None:
    async with doors(busy("a"), busy("b"), terms=spec()) as gateways:
        await asyncio.gather(*(gateways.scale() for _ in range(20)))
        assert gateways.asked.count("b") == 1


async def test_a_gateway_under_load_says_so_to_whoever_has_no_key(tmp_path: Path) -> None:
    async with FakeFleet(tmp_path, prefill=1, decode=1) as fleet:
        keys = Keys(("a-key",), PROOF)
        async with door(tmp_path, fleet, keys=keys, scaling=TARGETS.model_dump()) as gateway:
            assert (await scale_at(gateway.scale_url))["decode_slot_usage"] == 0
            fleet.engine("decode-0").fail("gate")
            body = {"model": fleet.served_names[0], "prompt": "Hello", "max_tokens": 2}
            asking = asyncio.create_task(gateway.post("/v1/completions", body, x_api_key="a-key"))
            await until(lambda: fleet.engine("decode-0").faults.waiting)
            # An answer serves for half a second.
            while not (usage := (await scale_at(gateway.scale_url))["decode_slot_usage"]):  # noqa: ASYNC110 - asked over HTTP, as KEDA does
                await asyncio.sleep(0.05)
            assert usage == pytest.approx(1 / TARGETS.answers_max)
            async with gateway.session.get(f"{gateway.url}/metrics", headers={"x-api-key": "a-key"}) as answer:
                told = f'tandem_gateway_scale{{figure="decode_slot_usage",tandem_service="{fleet.service}"}} {usage}'
                assert told in await answer.text()
            fleet.engine("decode-0").release()
            assert (await asking)[0] == 200


async def test_a_gateway_that_has_no_figures_says_so_at_once(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_text(spec().model_copy(update={"scaling": None}).model_dump_json())
    words = ("--spec", str(file), "--fleet-dir", str(tmp_path), "--listen", "127.0.0.1:0")
    words += ("--scale-listen", "127.0.0.1:0")
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tandem_worker", "gateway", *words), stderr=asyncio.subprocess.PIPE
    )
    _, told = await gateway.communicate()
    assert gateway.returncode == EXIT_USAGE
    assert told.decode() == (
        "tandem-worker gateway: --scale-listen '127.0.0.1:0': the gateway spec has no `scaling`, "
        "so there are no figures to serve\n"
    )
