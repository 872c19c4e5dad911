"""The hand-off of TensorRT-LLM through a gateway, against a fake that keeps the rules of its wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tensorrt import WORDS, TensorRtFleet
from tests.gateway.door import Door, door

pytestmark = pytest.mark.asyncio

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "tell me"}], "max_tokens": 5}
COMPLETION = {"model": "fake", "prompt": "once upon", "max_tokens": 5}
TEXT = "".join(WORDS[:5])


@asynccontextmanager
async def served(folder: Path, *, prefill: int = 1, decode: int = 1) -> AsyncIterator[tuple[TensorRtFleet, Door]]:
    """A fleet behind a gateway as lowering sets it up for this engine; no rule of the wire may break."""
    fleet = TensorRtFleet(folder, prefill, decode)
    async with fleet, door(folder, fleet, resume=False, survivors_serve_both=False) as gate:
        yield fleet, gate
        assert not [broken for name in fleet.workers for broken in fleet.server(name).violations]


def handed(fleet: TensorRtFleet, name: str) -> list[dict[str, Any]]:
    """The disaggregated_params of every request that a server has seen."""
    return [body.get("disaggregated_params", {}) for body in fleet.server(name).seen]


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
async def test_a_request_is_read_by_one_server_and_written_by_the_other(tmp_path: Path, path: str, body: Any):
    async with served(tmp_path) as (fleet, gate):
        status, headers, answer = await gate.post(path, body)
        choice = answer["choices"][0]
        assert (status, headers["x-tandem-path"]) == (200, "disaggregated")
        assert choice.get("text", choice.get("message", {}).get("content")) == TEXT
        (context,), (generation,) = handed(fleet, "prefill-0"), handed(fleet, "decode-0")
        assert context["request_type"] == "context_only"
        assert context["disagg_request_id"] >= 1 << 42
        assert generation["request_type"] == "generation_only"
        assert generation["ctx_request_id"] == context["disagg_request_id"]


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
async def test_a_stream_comes_from_the_generation_server_with_its_usage(tmp_path: Path, path: str, body: Any):
    async with served(tmp_path) as (_, gate):
        wanted = body | {"stream": True, "stream_options": {"include_usage": True}}
        _, (*events, done) = await gate.events(path, wanted)
        said = [choice for event in events for choice in event["choices"]]
        assert "".join(choice.get("text") or choice["delta"]["content"] for choice in said) == TEXT
        assert events[-1]["usage"]["completion_tokens"] == 5
        assert done == "[DONE]"


async def test_a_client_cannot_name_where_kv_lies(tmp_path: Path):
    stolen = {"request_type": "generation_only", "ctx_request_id": 7, "encoded_opaque_state": "evil"}
    async with served(tmp_path) as (fleet, gate):
        for more in ({}, {"n": 2}):
            body = CHAT | {"disaggregated_params": stolen, "prompt_token_ids": [9], "conversation_params": {}} | more
            assert (await gate.post("/v1/chat/completions", body))[0] == 200
        seen = fleet.server("prefill-0").seen + fleet.server("decode-0").seen
        assert len(seen) == 3
        assert not any("evil" in str(body) or [9] in body.values() or "conversation_params" in body for body in seen)


async def test_a_failed_generation_is_a_hand_off_anew_under_another_id(tmp_path: Path):
    async with served(tmp_path, decode=2) as (fleet, gate):
        for name in ("decode-0", "decode-1"):
            fleet.server(name).fail_next.append("executor")
        status, _, answer = await gate.post("/v1/completions", COMPLETION)
        assert (status, answer["choices"][0]["text"]) == (200, TEXT)
        numbers = [each["disagg_request_id"] for each in handed(fleet, "prefill-0")]
        assert len(set(numbers)) == len(numbers) == 3


async def test_a_client_hears_what_the_context_server_refuses(tmp_path: Path):
    async with served(tmp_path) as (fleet, gate):
        status, _, answer = await gate.post("/v1/completions", COMPLETION | {"max_tokens": 0})
        assert (status, answer["object"]) == (400, "error")
        assert not fleet.server("decode-0").seen


async def test_a_context_answer_without_parameters_is_tried_elsewhere(tmp_path: Path):
    async with served(tmp_path, prefill=2) as (fleet, gate):
        fleet.server("prefill-0").fail_next.append("bare")
        fleet.server("prefill-1").fail_next.append("bare")
        assert (await gate.post("/v1/completions", COMPLETION))[0] == 200
        assert len(fleet.server("decode-0").seen) == 1


async def test_a_broken_stream_ends_with_a_typed_error(tmp_path: Path):
    async with served(tmp_path, decode=2) as (fleet, gate):
        for name in ("decode-0", "decode-1"):
            fleet.server(name).fail_next.append("cut")
        _, (*begun, last) = await gate.events("/v1/completions", COMPLETION | {"stream": True})
        assert begun
        assert last["error"]["code"] == "engine_lost"


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
async def test_an_answer_of_one_token_needs_no_generation_server(tmp_path: Path, path: str, body: Any):
    async with served(tmp_path) as (fleet, gate):
        fleet.server("prefill-0").ends_at_first = True
        _, _, answer = await gate.post(path, body)
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert "prompt_token_ids" not in answer
        assert "disaggregated_params" not in answer["choices"][0]
        _, (event, done) = await gate.events(path, body | {"stream": True})
        said = event["choices"][0]
        assert said.get("text") or said["delta"]["content"] == WORDS[0]
        assert done == "[DONE]"
        assert not fleet.server("decode-0").seen


async def test_requests_that_split_up_run_whole_on_the_generation_server(tmp_path: Path):
    async with served(tmp_path) as (fleet, gate):
        _, headers, _ = await gate.post("/v1/completions", COMPLETION | {"n": 2})
        assert headers["x-tandem-reason"] == "n"
        assert handed(fleet, "decode-0") == [{}]
        assert not fleet.server("prefill-0").seen


async def test_no_context_server_decodes_in_a_generation_servers_stead(tmp_path: Path):
    async with served(tmp_path) as (fleet, gate):
        fleet.kill("decode-0")
        await gate.until_view(lambda view: [worker["ready"] for worker in view["workers"]].count(True) == 1)
        asked = asyncio.create_task(gate.post("/v1/completions", COMPLETION, x_request_id="a"))
        await gate.until_view(lambda view: view["queue"]["running"] == 1)
        await fleet.revive("decode-0")
        status, headers, _ = await asked
        assert (status, headers["x-tandem-path"]) == (200, "disaggregated")
        assert not [each for each in handed(fleet, "prefill-0") if each.get("request_type") != "context_only"]
