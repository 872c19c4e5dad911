"""What a gateway in Kubernetes knows, from an API server that answers, goes away, and talks nonsense."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tandem_worker.apiserver import ApiError, ApiServer, Conflict
from tandem_worker.contract import CONTRACT_VERSION, ServiceState
from tandem_worker.gateway.cluster import RETRY_S, ClusterSource
from tandem_worker.gateway.upstream import Upstream
from tests.fakes.kubernetes_api import FakeKubernetes, Handler, answers, cut_within, kubernetes
from tests.gateway.door import until

pytestmark = pytest.mark.asyncio
WHO = {
    "name": "chat-decode-a-1",
    "service": "chat",
    "pool": "decode",
    "phase": "decode",
    "phases": ["decode"],
    "dialect": "vllm-nixl-pull",
    "generation": "a",
    "pair_key": "k",
}


@dataclass(slots=True)
class Watching:
    """A source that follows a fake API server."""

    fake: FakeKubernetes
    api: ApiServer
    source: ClusterSource
    token: Path
    follows: asyncio.Task[None]

    def activate(self, generation: str, contract: int = CONTRACT_VERSION) -> None:
        state = ServiceState(service="chat", active_generation=generation, contract=contract)
        self.say(state.model_dump_json())

    def say(self, text: str) -> None:
        self.fake.put("configmaps", "chat-state", data={"service.json": text})

    async def until_serving(self, generation: str) -> None:
        await until(lambda: self.source.read()[1] == generation)

    def names(self) -> list[str]:
        return [worker.name for worker in self.source.read()[0]]


@asynccontextmanager
async def watching(tmp_path: Path) -> AsyncIterator[Watching]:
    token = tmp_path / "token"
    token.write_text("first\n")
    loop = asyncio.get_running_loop()
    upstream = Upstream(loop)
    async with kubernetes() as fake, ApiServer(fake.url, "ns", token_file=token) as api:
        source = ClusterSource(api, "chat", loop.time)
        one = Watching(fake, api, source, token, asyncio.create_task(source.run(upstream)))
        one.activate("a")
        try:
            await one.until_serving("a")
            yield one
            assert not one.follows.done()
        finally:
            one.follows.cancel()
            await asyncio.gather(one.follows, return_exceptions=True)
            upstream.close()


FAULTS: dict[str, Handler] = {
    "refused": answers('{"message": "no"}', status=403),
    "broken": answers('{"message": "down"}', status=503),
    "a proxy's page": answers("<html>", "text/html"),
    "no JSON": answers('{"type": "MODI'),
    "cut": cut_within,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_the_last_picture_stays_while_the_api_server_fails_and_is_renewed_after(
    fault: Handler, tmp_path: Path
) -> None:
    async with watching(tmp_path) as one:
        lists = one.fake.lists
        one.fake.list_fault = one.fake.watch_fault = fault
        one.fake.end_watches()
        await until(lambda: one.fake.lists >= lists + 2)
        assert one.source.read()[1] == "a"
        one.activate("b")
        one.fake.list_fault = one.fake.watch_fault = None
        await one.until_serving("b")


async def test_an_account_token_that_is_missing_for_a_moment_is_read_again_and_a_renewed_one_used(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path) as one:
        one.token.unlink()
        with pytest.raises(ApiError, match="token"):
            await one.api.get("/api/v1/namespaces/ns/configmaps")
        one.fake.end_watches()
        one.activate("b")
        one.token.write_text("second\n")
        await one.until_serving("b")
        await until(lambda: one.fake.tokens[-1] == "Bearer second")


async def test_a_version_that_is_gone_is_listed_again(tmp_path: Path) -> None:
    async with watching(tmp_path) as one:
        one.fake.watch_fault = answers('{"type": "ERROR", "object": {"code": 410, "message": "too old"}}\n')
        one.fake.end_watches()
        lists = one.fake.lists
        await until(lambda: one.fake.lists > lists)
        one.activate("b")
        await one.until_serving("b")


@pytest.mark.parametrize("fault", [answers(""), FAULTS["refused"]], ids=["ended at once", "refused"])
async def test_watches_that_fail_at_once_are_tried_ever_more_slowly(fault: Handler, tmp_path: Path) -> None:
    pauses: list[float] = []
    last_s = asyncio.get_running_loop().time()

    async def timed(request: web.Request) -> web.StreamResponse:
        nonlocal last_s
        if "configmaps" in request.path:
            now_s = asyncio.get_running_loop().time()
            pauses.append(now_s - last_s)
            last_s = now_s
        return await fault(request)

    async with watching(tmp_path) as one:
        one.fake.watch_fault = timed
        one.fake.end_watches()
        await until(lambda: len(pauses) >= 4)
    # A pause is never shorter than it is meant; how much longer says something of the machine only.
    assert all(pause >= meant * 0.99 for pause, meant in zip(pauses[1:], RETRY_S, strict=False))


@pytest.mark.parametrize("kind", ["of a later contract", "no JSON"])
async def test_a_state_that_is_not_understood_is_told_once_and_the_last_good_one_serves(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path) as one:
        if kind == "no JSON":
            one.say("{")
        else:
            one.activate("b", CONTRACT_VERSION + 1)
        await until(lambda: (one.source.read(), caplog.records)[1])
        for _ in range(3):
            assert one.source.read()[1] == "a"
        assert len([line for line in caplog.messages if "ignoring the service's state" in line]) == 1
        one.activate("c")
        await one.until_serving("c")


async def test_a_state_of_the_contract_before_is_read(tmp_path: Path) -> None:
    """Version 1, which knew no proved generations and no token: gateways come before the prover that writes anew."""
    async with watching(tmp_path) as one:
        one.say('{"contract":1,"service":"chat","active_generation":"b"}')
        await one.until_serving("b")


async def test_a_state_that_somebody_else_has_written_is_a_conflict(tmp_path: Path) -> None:
    async with watching(tmp_path) as one:
        with pytest.raises(Conflict, match="modified"):
            await one.api.patch("/api/v1/namespaces/ns/configmaps/chat-state", {"data": {}})


async def test_a_worker_comes_leaves_and_its_address_given_to_another_pod_is_another_worker(tmp_path: Path) -> None:
    async with watching(tmp_path) as one, agent() as (who, port):
        put_worker(one.fake, port, pod="uid-1")
        await until(lambda: one.names() == ["chat-decode-a-1"])
        put_worker(one.fake, port, pod="uid-1", terminating=True)
        await until(lambda: one.source.read()[0][0].draining)
        who["name"] = "chat-decode-a-2"
        put_worker(one.fake, port, pod="uid-2")
        await until(lambda: one.names() == ["chat-decode-a-2"])
        one.fake.delete("endpointslices", "chat-decode-a-xyz")
        await until(lambda: one.names() == [])


async def test_services_of_both_families_tell_of_every_worker_and_gateway_twice_and_each_is_counted_once(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path) as one, agent() as (_, port):
        for host in ("::ffff:127.0.0.1", "127.0.0.1"):  # the same agent answers at both
            put_pod(one.fake, "worker", {"http": port, "agent": port}, host)
            put_pod(one.fake, "gateway", {"scale": 8081}, host)
        await until(lambda: one.names() == ["chat-decode-a-1"])
        await until(lambda: one.source.peers == [("127.0.0.1", 8081)])
        assert one.source.gateways == 1


def put_pod(fake: FakeKubernetes, component: str, ports: dict[str, int], host: str) -> None:
    fake.put(
        "endpointslices",
        f"chat-{component}-{host}",
        labels={"app.kubernetes.io/component": component, "tandem.serving/service": "chat"},
        ports=[{"name": name, "port": port} for name, port in ports.items()],
        endpoints=[{"addresses": [host], "targetRef": {"uid": component}, "conditions": {"ready": True}}],
    )


def put_worker(fake: FakeKubernetes, port: int, *, pod: str, terminating: bool = False) -> None:
    endpoint = {"addresses": ["127.0.0.1"], "targetRef": {"uid": pod}, "conditions": {"terminating": terminating}}
    fake.put(
        "endpointslices",
        "chat-decode-a-xyz",
        labels={"app.kubernetes.io/component": "worker", "tandem.serving/service": "chat"},
        ports=[{"name": "http", "port": port}, {"name": "agent", "port": port}],
        endpoints=[endpoint],
    )


@asynccontextmanager
async def agent() -> AsyncIterator[tuple[dict[str, Any], int]]:
    """An agent that says of itself what is in the mapping."""
    who: dict[str, Any] = dict(WHO)

    async def factors(_: web.Request) -> web.Response:
        return web.json_response(who)

    app = web.Application()
    app.router.add_get("/factors", factors)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield who, runner.addresses[0][1]
    finally:
        await runner.cleanup()
