"""The gateway over real sockets against engines that fail in every way: what the client gets, and what is counted."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.fakes.agent import FakeFleet
from tests.gateway.door import Door, door, until

pytestmark = pytest.mark.asyncio

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "tell me"}], "max_tokens": 40}
COMPLETION = {"model": "fake", "prompt": "once upon", "max_tokens": 40}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT),
    "completion": ("/v1/completions", COMPLETION),
    "chat-stream": ("/v1/chat/completions", CHAT | STREAM),
    "completion-stream": ("/v1/completions", COMPLETION | STREAM),
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def said(event: Any) -> bool:
    """Whether an event tells the client anything: text, an end, usage."""
    if event == "[DONE]" or not event["choices"]:
        return True
    choice = event["choices"][0]
    return bool(choice["finish_reason"] or choice.get("text") or choice.get("delta", {}).get("content"))


def essence(answer: Any) -> Any:
    """An answer without what differs from run to run: ids, times, and chunks that say nothing."""
    if isinstance(answer, list):
        return [essence(event) for event in answer if said(event)]
    if answer == "[DONE]":
        return answer
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


async def ask(gate: Door, kind: str, **more: Any) -> Any:
    path, body = REQUESTS[kind]
    if kind.endswith("stream"):
        return essence((await gate.events(path, body | more))[1])
    status, _, answer = await gate.post(path, body | more)
    assert status == 200, answer
    return essence(answer)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("worker", "fault"),
    [
        ("prefill-0", {"kind": "before_headers"}),
        ("prefill-0", {"kind": "before_headers", "rst": True}),
        ("prefill-0", {"kind": "after_headers"}),
        ("prefill-0", {"kind": "mid_stream"}),
        ("prefill-0", {"kind": "garbage"}),
        ("prefill-0", {"kind": "status", "status": 500}),
        ("prefill-0", {"kind": "null_kv"}),
        ("prefill-0", {"kind": "before_headers", "whole_engine": True}),
        ("decode-0", {"kind": "before_headers"}),
        ("decode-0", {"kind": "before_headers", "rst": True}),
        ("decode-0", {"kind": "after_headers"}),
        ("decode-0", {"kind": "garbage"}),
        ("decode-0", {"kind": "status", "status": 500}),
        ("decode-0", {"kind": "kv_load"}),
        ("decode-0", {"kind": "before_headers", "whole_engine": True}),
        ("decode-0", {"kind": "after_headers", "whole_engine": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(v) for v in value.values()),
)
async def test_failure_before_the_first_token_is_retried_whole(tmp_path: Path, kind: str, worker: str, fault: Any):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        undisturbed = await ask(gate, kind)
        fleet.engine(worker).fail(**fault)
        assert await ask(gate, kind) == undisturbed
        counts = await gate.counts()
        assert (counts["retried"], counts["resumed"], counts["typed_errors"], counts["failed"]) == (1, 0, 0, 0)
        assert counts["completed"] == 2
        assert not fleet.violations


@pytest.mark.parametrize("kind", ["chat-stream", "completion-stream"])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "mid_stream", "after_tokens": 1},
        {"kind": "mid_stream", "after_tokens": 17},
        {"kind": "mid_stream", "after_tokens": 39, "rst": True},
        {"kind": "mid_stream", "after_tokens": 20, "whole_engine": True},
        {"kind": "cut_event", "after_tokens": 11},
        {"kind": "stream_error", "after_tokens": 11},
        {"kind": "garbage", "after_tokens": 11},
        {"kind": "no_done", "after_tokens": 11},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
async def test_broken_stream_is_resumed_without_losing_or_repeating_a_token(tmp_path: Path, kind: str, fault: Any):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        undisturbed = await ask(gate, kind)
        fleet.engine("decode-0").fail(**fault)
        assert await ask(gate, kind) == undisturbed
        counts = await gate.counts()
        assert (counts["retried"], counts["resumed"], counts["typed_errors"]) == (0, 1, 0)
        assert not fleet.violations


async def test_resumed_stream_is_resumed_again(tmp_path: Path):
    async with FakeFleet(tmp_path, prefill=2, decode=2) as fleet, door(tmp_path, fleet, attempts_max=8) as gate:
        undisturbed = await ask(gate, "chat-stream")
        for engine in fleet.engines:
            engine.fail("mid_stream", phase="decode", after_tokens=7)
            engine.fail("mid_stream", phase="whole", after_tokens=7)
        assert await ask(gate, "chat-stream") == undisturbed
        assert (await gate.counts())["resumed"] == 6  # both decode workers in a pair, then all four alone


async def test_one_stream_keeps_its_id_and_head_when_resumed(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("mid_stream", after_tokens=9)
        _, events = await gate.events("/v1/chat/completions", CHAT | STREAM)
        heads = {(event["id"], event["created"], event["model"], event["object"]) for event in events[:-1]}
        assert len(heads) == 1
        assert all("token_ids" not in str(event) or event["choices"][0]["token_ids"] is None for event in events[1:-2])
        assert events[0]["prompt_token_ids"] is None


MESSAGE = {"model": "fake", "max_tokens": 20, "messages": [{"role": "user", "content": "tell me"}], "stream": True}
RESPONSE = {"model": "fake", "max_output_tokens": 20, "input": "tell me", "stream": True}
OTHER_STREAMS = {"/v1/messages": MESSAGE, "/v1/responses": RESPONSE}


@pytest.mark.parametrize("path", OTHER_STREAMS)
async def test_other_stream_that_breaks_ends_with_an_error_its_clients_know(tmp_path: Path, path: str):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("mid_stream", phase="decode", after_tokens=9)
        async with gate.session.post(gate.url + path, json=OTHER_STREAMS[path]) as answer:
            *_, head, data = (await answer.text()).strip().split("\n")
        assert head == "event: error"
        assert json.loads(data.removeprefix("data: "))["type"] == "error"
        counts = await gate.counts()
        assert (counts["typed_errors"], counts["completed"]) == (1, 0)


async def test_official_client_of_responses_raises_for_a_broken_stream(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("mid_stream", phase="decode", after_tokens=9)
        async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key="any", max_retries=0) as client:
            stream = await client.responses.create(model="fake", input="tell me", max_output_tokens=20, stream=True)
            with pytest.raises(openai.APIError, match="engine that wrote this answer is gone"):
                [event async for event in stream]


@pytest.mark.parametrize("kind", ["chat-stream", "completion-stream"])
async def test_break_after_the_last_token_needs_only_its_end_marks(tmp_path: Path, kind: str):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        undisturbed = await ask(gate, kind)
        fleet.engine("decode-0").fail("finish_then_die")
        answer = await ask(gate, kind)
        for events in (undisturbed, answer):
            for event in events[:-1]:
                event.pop("system_fingerprint", None)
        assert answer == undisturbed
        counts = await gate.counts()
        assert (counts["retried"], counts["resumed"], counts["completed"]) == (0, 0, 2)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": TOOLS, "tool_choice": "auto"},
        {"stop": ["zebra"]},
        {"presence_penalty": 0.5},
        {"seed": 7, "temperature": 0.8},
        {"n": 2},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_stream_off_the_list_ends_with_a_typed_error(tmp_path: Path, more: Any):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("mid_stream", after_tokens=9)
        body = CHAT | STREAM | more
        async with gate.session.post(f"{gate.url}/v1/chat/completions", json=body) as answer:
            text = (await answer.read()).decode()
        assert '"type":"engine_lost"' in text.rsplit("data: ", 1)[1]
        assert "[DONE]" not in text
        counts = await gate.counts()
        assert (counts["typed_errors"], counts["resumed"], counts["retried"]) == (1, 0, 0)


async def test_stream_off_the_list_is_retried_while_nothing_was_sent(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        more = {"tools": TOOLS, "tool_choice": "auto"}
        path, body = REQUESTS["chat-stream"]
        _, undisturbed = await gate.events(path, body | more)
        fleet.engine("decode-0").fail("kv_load")
        _, events = await gate.events(path, body | more)
        assert events[-1] == "[DONE]"
        assert len(events) == len(undisturbed)
        assert (await gate.counts())["retried"] == 1


@pytest.mark.parametrize("kind", REQUESTS)
async def test_full_engine_is_tried_elsewhere_then_429(tmp_path: Path, kind: str):
    async with FakeFleet(tmp_path, decode=2) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("status", status=503)
        assert await ask(gate, kind)
        for name in ("decode-0", "decode-1"):
            fleet.engine(name).fail("status", status=503, times=-1)
        path, body = REQUESTS[kind]
        async with gate.session.post(gate.url + path, json=body) as answer:
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert (await answer.json())["error"]["code"] == "engine_queue_full"


async def test_refusal_of_the_engine_passes_untouched(tmp_path: Path):
    async with FakeFleet(tmp_path, engine_options={"context_max": 100}) as fleet, door(tmp_path, fleet) as gate:
        status, _, answer = await gate.post("/v1/completions", COMPLETION | {"max_tokens": 1000})
        assert status == 400
        assert "maximum context length is 100" in answer["error"]["message"]
        status, _, answer = await gate.post("/v1/chat/completions", {"model": "fake", "messages": []})
        assert status == 400
        assert (await gate.counts())["refused"] == 2
        assert all(worker["ready"] for worker in (await gate.fleet_view())["workers"])


async def test_request_that_fails_everywhere_ends_after_its_attempts(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, attempts_max=3) as gate:
        for engine in fleet.engines:
            engine.fail("status", status=500, times=-1)
        status, _, answer = await gate.post("/v1/completions", COMPLETION)
        assert status == 502
        assert answer["error"]["type"] == "engine_lost"
        assert "3 attempts" in answer["error"]["message"]


@pytest.mark.parametrize("worker", ["prefill-0", "decode-0"])
async def test_silent_engine_counts_as_dead(tmp_path: Path, worker: str):
    async with (
        FakeFleet(tmp_path) as fleet,
        door(tmp_path, fleet, prefill_timeout_s=0.4, stall_timeout_s=0.4) as gate,
    ):
        undisturbed = await ask(gate, "chat-stream")
        fleet.engine(worker).fail("half_open")
        assert await ask(gate, "chat-stream") == undisturbed
        assert (await gate.counts())["retried"] == 1


async def test_stalled_stream_is_resumed(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, stall_timeout_s=0.4) as gate:
        undisturbed = await ask(gate, "completion-stream")
        fleet.engine("decode-0").fail("stall", after_tokens=12)
        assert await ask(gate, "completion-stream") == undisturbed
        assert (await gate.counts())["resumed"] == 1


async def test_agents_word_shortens_a_silence(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, stall_timeout_s=300.0) as gate:
        undisturbed = await ask(gate, "chat")
        fleet.engine("decode-0").fail("half_open")
        asked = asyncio.create_task(ask(gate, "chat"))
        await until(lambda: fleet.engine("decode-0").faults.waiting)
        fleet.engine("decode-0").healthy = False
        assert await asked == undisturbed


async def test_deadline_is_504_before_and_a_typed_error_after_the_first_token(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, request_timeout_s=0.4) as gate:
        fleet.engine("decode-0").fail("half_open")
        status, _, answer = await gate.post("/v1/completions", COMPLETION)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
        fleet.engine("decode-0").fail("stall", after_tokens=5)
        _, events = await gate.events("/v1/completions", COMPLETION | STREAM)
        assert events[-1]["error"]["code"] == "deadline_exceeded"
        counts = await gate.counts()
        assert (counts["timeouts"], counts["typed_errors"]) == (2, 1)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_client_that_hangs_up_stops_the_engine(tmp_path: Path, phase: str):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        engine = fleet.engine(f"{phase}-0")
        engine.fail("half_open")
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(0.3):
                await gate.post("/v1/completions", COMPLETION)
        await until(lambda: not engine.faults.waiting)
        await gate.until_idle()
        assert (await gate.counts())["client_gone"] == 1
        assert all(not w["running_prefill"] + w["running_decode"] for w in (await gate.fleet_view())["workers"])


async def test_dead_phase_is_served_by_survivors_until_it_is_back(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.kill("decode-0")
        status, headers, _ = await gate.post("/v1/completions", COMPLETION)
        assert (status, headers["x-tandem-path"], headers["x-tandem-decode"]) == (200, "aggregated", "prefill-0")
        assert headers["x-tandem-reason"] == "no-decode-ready"
        assert (await gate.counts())["fallback"] == 1
        await fleet.revive("decode-0")
        await gate.until_ready()
        _, headers, _ = await gate.post("/v1/completions", COMPLETION)
        assert headers["x-tandem-path"] == "disaggregated"


async def test_without_survivors_the_request_waits_for_the_phase(tmp_path: Path):
    async with (
        FakeFleet(tmp_path, survivors_serve_both=False) as fleet,
        door(tmp_path, fleet, survivors_serve_both=False) as gate,
    ):
        fleet.kill("decode-0")
        asked = asyncio.create_task(gate.post("/v1/completions", COMPLETION))
        await gate.until_view(lambda view: view["queue"]["running"] == 1)
        await fleet.revive("decode-0")
        status, headers, _ = await asked
        assert (status, headers["x-tandem-path"]) == (200, "disaggregated")
