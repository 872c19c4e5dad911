"""The prover at a front door, over sockets; the door, the workers' agents and their engines are one small server."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.prove.plan import Candidate
from pulumi_tandem.prove.run import Door, ProofFailedError, Subject, prove

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

SPEC = ProofSpec(transport="tcp", kv_gb_per_s_min=0, keep_failed=False, divergence_gap_nats_max=0.1)
BUSY = "engine_lost: the handshake was not answered"


@asynccontextmanager
async def door(*, refusals: int) -> AsyncIterator[str]:
    """A service whose pair refuses its first requests, and then answers and counts KV."""
    left, transfers = refusals, 0

    async def fleet(_: web.Request) -> web.Response:
        return web.json_response({"workers": [{"name": name, "ready": True} for name in ("p", "d")]})

    async def metrics(_: web.Request) -> web.Response:
        counted = f"tandem_kv_transfers_total {transfers}\ntandem_kv_bytes_total {transfers * 1000}\n"
        return web.Response(text=counted, content_type="text/plain")

    async def chat(request: web.Request) -> web.Response:
        nonlocal left, transfers
        over_pair = "x-tandem-prefill" in request.headers
        if over_pair and left:
            left -= 1
            return web.Response(status=502, text=BUSY)
        transfers += over_pair
        chunk = {"choices": [{"delta": {"content": "Paris"}}], "usage": {"prompt_tokens": 8}}
        path = "disaggregated" if over_pair else "aggregated"
        return web.Response(
            text=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n",
            headers={"x-tandem-path": path, "content-type": "text/event-stream"},
        )

    app = web.Application()
    app.add_routes([web.get("/fleet", fleet), web.get("/metrics", metrics), web.post("/v1/chat/completions", chat)])
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


def subject(url: str) -> Subject:
    workers = (Candidate("p", "prefill", ("prefill",), url), Candidate("d", "decode", ("decode",), url))
    return Subject(service="chat", generation="g", workers=workers, disaggregated=True, context_tokens=2048)


async def test_a_pair_that_misses_its_handshake_once_is_asked_again_and_the_evidence_says_so() -> None:
    async with door(refusals=1) as url:
        evidence = await prove(Door(url=url, token="t", model="m"), subject(url), SPEC, salt="s")
    (note,) = evidence.notes
    assert note.startswith("asked twice; the first time p to d: the gateway answered 502")
    assert BUSY in note


async def test_a_pair_that_fails_twice_is_not_proved() -> None:
    async with door(refusals=2) as url:
        with pytest.raises(ProofFailedError, match="the gateway answered 502"):
            await prove(Door(url=url, token="t", model="m"), subject(url), SPEC, salt="s")
