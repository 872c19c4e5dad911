"""A gateway in this process, in front of a fake fleet, for tests over real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tandem_worker.contract import GatewaySpec
from tandem_worker.gateway.hosted import Hosted
from tandem_worker.gateway.keys import Keys
from tandem_worker.gateway.main import serve
from tandem_worker.gateway.watch import FolderSource
from tests.fakes.agent import FakeFleet

PROOF = "proof-token"


@dataclass(slots=True)
class Door:
    """A running gateway and what tests do to it."""

    url: str
    session: aiohttp.ClientSession
    fleet: FakeFleet
    stop: asyncio.Event
    served: "asyncio.Task[int]"
    scale_url: str
    """Where autoscalers ask, if the spec has figures for them."""

    async def fleet_view(self) -> dict[str, Any]:
        """What `/fleet` says."""
        async with self.session.get(f"{self.url}/fleet", headers={"x-tandem-proof": PROOF}) as answer:
            return await answer.json()

    async def counts(self) -> dict[str, int]:
        """The counters of `/fleet`."""
        return (await self.fleet_view())["counts"]

    async def until_ready(self, *names: str) -> None:
        """Wait until these workers (all, when none is named) take requests."""
        wanted = set(names or self.fleet.workers)
        await self.until_view(lambda view: wanted <= {worker["name"] for worker in view["workers"] if worker["ready"]})

    async def until_idle(self) -> None:
        """Wait until no request is under way."""
        await self.until_view(lambda view: not view["queue"]["running"] + view["queue"]["waiting"])

    async def until_view(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until `/fleet` shows what is wanted."""
        while not holds(await self.fleet_view()):  # noqa: ASYNC110 - asked over HTTP, as operators do
            await asyncio.sleep(0.01)

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, str], Any]:
        """A whole answer: status, headers, JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.url}{path}", json=body, headers=named) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.loads(await answer.read())

    async def events(self, path: str, body: object, **headers: str) -> tuple[dict[str, str], list[Any]]:
        """A streamed answer: headers and events, `[DONE]` as that string."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.url}{path}", json=body, headers=named) as answer:
            text = (await answer.read()).decode()
            assert answer.status == 200, text
            return {k.lower(): v for k, v in answer.headers.items()}, parse_events(text)


async def until(holds: Callable[[], object]) -> None:
    """Wait until something is so."""
    while not holds():  # noqa: ASYNC110 - a fake has no event for everything a test may wait for
        await asyncio.sleep(0.005)


def parse_events(text: str) -> list[Any]:
    """The events of a stream, JSON parsed; `[DONE]` stays a string."""
    datas = [event.removeprefix("data: ") for event in text.split("\n\n") if event.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


@asynccontextmanager
async def door(folder: Path, fleet: FakeFleet, *, keys: Keys | None = None, **spec: Any) -> AsyncIterator[Door]:
    """A gateway in front of `fleet`, once every worker of it is ready."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    terms = {"service": fleet.service, "served_names": fleet.served_names, "dialect": fleet.dialect}
    terms |= {"context_tokens_max": 131_072} | spec
    stop = asyncio.Event()
    gateway_spec = GatewaySpec.model_validate(terms)
    scale = socket.create_server(("127.0.0.1", 0)) if gateway_spec.scaling else None
    scale_url = f"http://127.0.0.1:{scale.getsockname()[1]}" if scale else ""
    hosted = Hosted(gateway_spec, keys or Keys((), PROOF), FolderSource(folder, gateway_spec.service))
    served = asyncio.create_task(serve([hosted], listener, stop, scale))
    async with aiohttp.ClientSession() as session:
        running = Door(url, session, fleet, stop, served, scale_url)
        await running.until_ready()
        try:
            yield running
        finally:
            stop.set()
            await session.close()  # nobody is left to say goodbye to
            await served
