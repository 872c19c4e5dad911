"""The fake engine keeps the wire, the rules of the KV hand-off, and its faults do what they say."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes import tokens
from tests.fakes.agent import FakeFleet
from tests.fakes.engine import FakeEngine
from tests.fakes.faults import Fault

PREFILL = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None}
CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "what is a € in 漢字?"}]}

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(client: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with client.post(url, json=body) as answer:
        return answer.status, await answer.json()


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until it is so; the engine and its client share it."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def events(client: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> list[str]:
    """Data of every event; raises when the connection is cut."""
    async with client.post(url, json={**body, "stream": True}) as answer:
        text = await answer.text()
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


async def read_into(got: bytearray, client: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    """Keeps what has come even when the connection is cut."""
    async with client.post(url, json=body) as answer:
        async for piece in answer.content.iter_any():
            got += piece


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["choices"][0]["text"] for c in chunks if c["choices"])


def ids_of(chunks: list[dict[str, Any]]) -> list[int]:
    return [i for c in chunks for choice in c["choices"] for i in choice.get("token_ids") or []]


@pytest.mark.parametrize("cut", range(0, 60, 7))
async def test_a_stream_continued_from_its_ids_equals_the_unbroken_one(client: aiohttp.ClientSession, cut: int) -> None:
    """The k-th token depends on all before it and on nothing else."""
    async with FakeEngine() as first, FakeEngine() as second:
        body = {"prompt": "once upon", "max_tokens": 60, "return_token_ids": True}
        whole = parsed(await events(client, f"{first.url}/v1/completions", body))
        ids = ids_of(whole)
        while cut and tokens.unfinished(b"".join(tokens.BYTES[i] for i in ids[:cut])):
            cut -= 1
        rest = body | {"prompt": tokens.encode("once upon") + ids[:cut], "max_tokens": 60 - cut}
        continued = parsed(await events(client, f"{second.url}/v1/completions", rest))
        assert ids[:cut] + ids_of(continued) == ids
        assert tokens.decode(ids[:cut]) + text_of(continued) == text_of(whole)


async def test_one_wrong_id_changes_everything_after_it(client: aiohttp.ClientSession) -> None:
    """A gateway that loses or garbles an id cannot go unseen."""
    async with FakeEngine() as engine:
        url = f"{engine.url}/v1/completions"
        _, right = await post(client, url, {"prompt": [300, 301, 302], "max_tokens": 20})
        _, wrong = await post(client, url, {"prompt": [300, 301, 303], "max_tokens": 20})
        assert right["choices"][0]["text"] != wrong["choices"][0]["text"]


async def test_text_is_held_back_until_a_character_is_complete(client: aiohttp.ClientSession) -> None:
    """A token that opens a character has its id in a chunk and an empty text, as vLLM's detokenizer gives."""
    async with FakeEngine() as engine:
        body = {"prompt": "bytes", "max_tokens": 200, "return_token_ids": True}
        chunks = parsed(await events(client, f"{engine.url}/v1/completions", body))
    empty = [c for c in chunks if c["choices"][0]["text"] == ""]
    assert empty and all(c["choices"][0]["token_ids"] for c in empty)
    assert "\ufffd" not in text_of(chunks)


async def test_a_prompt_that_ends_inside_a_character_comes_back_whole(client: aiohttp.ClientSession) -> None:
    """tokenizers 0.23.3: a DecodeStream primed with such ids gives them all out with the first new text."""
    prompt = tokens.encode("cost: €")[:-1]
    async with FakeEngine() as engine:
        _, answer = await post(client, f"{engine.url}/v1/completions", {"prompt": prompt, "max_tokens": 2})
    assert answer["choices"][0]["text"].startswith("cost: ")


async def test_prompt_ids_are_where_vllm_puts_them(client: aiohttp.ClientSession) -> None:
    """Chat: top level of the first chunk. Completion: in the choice of the first chunk. Token ids: in every other."""
    async with FakeEngine() as engine:
        asked = {"max_tokens": 3, "return_token_ids": True}
        chat = parsed(await events(client, f"{engine.url}/v1/chat/completions", CHAT | asked))
        text = parsed(await events(client, f"{engine.url}/v1/completions", {"prompt": "a b"} | asked))
    assert chat[0]["prompt_token_ids"] and "token_ids" not in chat[0]["choices"][0]
    assert all("prompt_token_ids" not in c for c in chat[1:])
    assert text[0]["choices"][0]["prompt_token_ids"] == tokens.encode("a b")
    assert [c["choices"][0]["prompt_token_ids"] for c in text[1:]] == [None, None]
    assert [len(c["choices"][0]["token_ids"]) for c in text] == [1, 1, 1]


async def test_usage_comes_last_and_only_when_asked_for(client: aiohttp.ClientSession) -> None:
    """stream_options.include_usage adds one chunk without choices before [DONE]."""
    async with FakeEngine() as engine:
        url = f"{engine.url}/v1/chat/completions"
        without = await events(client, url, CHAT | {"max_tokens": 4})
        with_usage = await events(client, url, CHAT | {"max_tokens": 4, "stream_options": {"include_usage": True}})
    assert without[-1] == with_usage[-1] == "[DONE]"
    assert len(with_usage) == len(without) + 1
    usage = json.loads(with_usage[-2])
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 4


async def test_the_hand_off_moves_kv_once(client: aiohttp.ClientSession) -> None:
    """Prefill holds blocks, decode reads them, the answer equals the aggregated one, nothing is left."""
    async with FakeEngine() as prefill, FakeEngine() as decode:
        body = CHAT | {"max_tokens": 12}
        _, whole = await post(client, f"{prefill.url}/v1/chat/completions", body)
        first = body | {"max_tokens": 1, "kv_transfer_params": PREFILL}
        _, prefilled = await post(client, f"{prefill.url}/v1/chat/completions", first)
        assert prefill.held == 1
        handed = body | {"kv_transfer_params": prefilled["kv_transfer_params"]}
        _, answer = await post(client, f"{decode.url}/v1/chat/completions", handed)
        assert answer["choices"][0]["message"] == whole["choices"][0]["message"]
        assert (prefill.held, prefill.violations, decode.violations) == (0, [], [])
        assert decode.transfers.count == 1 and decode.transfers.bytes > 0
        assert decode.prompt_tokens_by_source["external_kv_transfer"] == answer["usage"]["prompt_tokens"]


async def test_a_second_read_is_a_violation_and_garbles_the_answer(client: aiohttp.ClientSession) -> None:
    """vllm#52234: on the real thing it is another prompt's KV under HTTP 200."""
    async with FakeEngine() as prefill, FakeEngine() as decode:
        body = CHAT | {"max_tokens": 12}
        first = body | {"max_tokens": 1, "kv_transfer_params": PREFILL}
        _, prefilled = await post(client, f"{prefill.url}/v1/chat/completions", first)
        handed = body | {"kv_transfer_params": prefilled["kv_transfer_params"]}
        _, once = await post(client, f"{decode.url}/v1/chat/completions", handed)
        status, twice = await post(client, f"{decode.url}/v1/chat/completions", handed)
        assert status == 200 and twice["choices"][0]["message"] != once["choices"][0]["message"]
        assert len(prefill.violations) == len(decode.violations) == 1


async def test_a_read_for_another_prompt_is_a_violation(client: aiohttp.ClientSession) -> None:
    """A gateway that mixes two hand-offs up is caught."""
    async with FakeEngine() as prefill, FakeEngine() as decode:
        first = CHAT | {"max_tokens": 1, "kv_transfer_params": PREFILL}
        _, prefilled = await post(client, f"{prefill.url}/v1/chat/completions", first)
        other = {"prompt": "something else", "kv_transfer_params": prefilled["kv_transfer_params"]}
        await post(client, f"{decode.url}/v1/completions", other)
        assert decode.violations and not prefill.violations


@pytest.mark.parametrize("stream", [False, True])
async def test_a_read_from_a_restarted_engine_fails_the_request(client: aiohttp.ClientSession, stream: bool) -> None:
    """kv_load_failure_policy=fail: HTTP 500, or an error event and [DONE] in a stream."""
    async with FakeEngine() as prefill, FakeEngine() as decode:
        first = CHAT | {"max_tokens": 1, "kv_transfer_params": PREFILL}
        _, prefilled = await post(client, f"{prefill.url}/v1/chat/completions", first)
        prefill.kill()
        await prefill.start()
        handed = CHAT | {"kv_transfer_params": prefilled["kv_transfer_params"]}
        url = f"{decode.url}/v1/chat/completions"
        if stream:
            lines = await events(client, url, handed)
            assert lines[-1] == "[DONE]" and "error" in json.loads(lines[-2])
        else:
            status, answer = await post(client, url, handed)
            assert status == 500 and answer["error"]["type"] == "InternalServerError"


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("before_headers", {}),
        ("before_headers", {"rst": True}),
        ("after_headers", {}),
        ("garbage", {}),
        ("mid_stream", {"after_tokens": 3}),
        ("cut_event", {"after_tokens": 3}),
        ("finish_then_die", {}),
        ("before_headers", {"whole_engine": True}),
    ],
)
async def test_a_cut_is_seen_by_the_client(client: aiohttp.ClientSession, kind: Any, more: dict[str, Any]) -> None:
    """Each cut breaks one request; the next is well, unless the engine died."""
    async with FakeEngine() as engine:
        engine.fail(kind, **more)
        url = f"{engine.url}/v1/chat/completions"
        with pytest.raises(aiohttp.ClientError):
            await events(client, url, CHAT | {"max_tokens": 9})
        assert engine.alive != more.get("whole_engine", False)
        if engine.alive:
            assert (await events(client, url, CHAT | {"max_tokens": 9}))[-1] == "[DONE]"


async def test_a_stream_cut_after_three_tokens_has_given_three(client: aiohttp.ClientSession) -> None:
    """`after_tokens` is exact, so that a test can place a cut."""
    async with FakeEngine() as engine:
        engine.fail("mid_stream", after_tokens=3)
        got = bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(got, client, f"{engine.url}/v1/completions", {"prompt": "a", "stream": True})
        assert got.count(b"data: ") == 3


async def test_a_stalled_stream_goes_on_after_the_release(client: aiohttp.ClientSession) -> None:
    """Silence without a clock: the gate opens it."""
    async with FakeEngine() as engine:
        engine.fail("stall", after_tokens=2)
        body = {"prompt": "a", "stream": True, "max_tokens": 5}
        async with client.post(f"{engine.url}/v1/completions", json=body) as answer:
            got = b""
            async for piece in answer.content.iter_any():
                got += piece
                if engine.faults.waiting:
                    assert got.count(b"data: ") == 2
                    engine.release()
        assert got.endswith(b"data: [DONE]\n\n") and got.count(b"data: ") == 6


async def test_a_half_open_engine_never_answers_and_knows_when_the_client_left(client: aiohttp.ClientSession) -> None:
    """The client's disconnect is what ends the request."""
    async with FakeEngine() as engine:
        engine.fail("half_open")
        call = asyncio.create_task(post(client, f"{engine.url}/v1/completions", {"prompt": "a"}))
        await until(lambda: engine.faults.waiting == 1)
        assert not call.done()
        call.cancel()
        await until(lambda: engine.faults.waiting == 0)


async def test_a_client_that_leaves_aborts_its_request(client: aiohttp.ClientSession) -> None:
    """vLLM stops generating for nobody; a gateway's cancel can be seen here."""
    async with FakeEngine(manual=True) as engine:
        async with client.post(f"{engine.url}/v1/completions", json={"prompt": "a", "stream": True}) as answer:
            await until(lambda: engine.running == 1)
            engine.step()
            await answer.content.readany()
        await until(lambda: engine.success["abort"] == 1)
        engine.step()
        assert engine.running == 0


async def test_faults_hit_only_what_they_match(client: aiohttp.ClientSession) -> None:
    """Phase, path and body decide."""
    async with FakeEngine() as engine:
        engine.fail("status", status=503, phase="prefill", contains="special")
        url = f"{engine.url}/v1/completions"
        hold = {"kv_transfer_params": PREFILL}
        assert (await post(client, url, {"prompt": "special"}))[0] == 200
        assert (await post(client, url, {"prompt": "plain"} | hold))[0] == 200
        assert (await post(client, url, {"prompt": "special"} | hold))[0] == 503
        assert (await post(client, url, {"prompt": "special"} | hold))[0] == 200
    with pytest.raises(ValueError, match="no such fault"):
        Fault("explode")  # type: ignore[arg-type]


async def test_a_prefill_without_params_answers_null(client: aiohttp.ClientSession) -> None:
    """vLLM answers null when the prefill did not end by length or stop; nothing is held then."""
    async with FakeEngine() as engine:
        engine.fail("null_kv")
        body = {"prompt": "a", "max_tokens": 1, "kv_transfer_params": PREFILL}
        _, answer = await post(client, f"{engine.url}/v1/completions", body)
        assert answer["kv_transfer_params"] is None and engine.held == 0


async def test_tools_stop_strings_and_several_choices(client: aiohttp.ClientSession) -> None:
    """A tool call in both shapes, a stop string cut out, n answers that differ."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    async with FakeEngine() as engine:
        url = f"{engine.url}/v1/chat/completions"
        _, called = await post(client, url, CHAT | {"tools": [tool], "max_tokens": 200})
        call = called["choices"][0]["message"]["tool_calls"][0]["function"]
        assert (
            called["choices"][0]["finish_reason"] == "tool_calls" and json.loads(call["arguments"])["of"] == "weather"
        )
        chunks = parsed(await events(client, url, CHAT | {"tools": [tool], "max_tokens": 200}))
        deltas = [c["choices"][0]["delta"]["tool_calls"][0]["function"] for c in chunks[1:]]
        assert deltas[0]["name"] == "weather" and "".join(d["arguments"] for d in deltas) == call["arguments"]
        _, plain = await post(client, f"{engine.url}/v1/completions", {"prompt": "go", "max_tokens": 40})
        words = plain["choices"][0]["text"].split()
        stop = {"prompt": "go", "max_tokens": 40, "stop": [f" {words[5]}"]}
        _, stopped = await post(client, f"{engine.url}/v1/completions", stop)
        assert (
            stopped["choices"][0]["finish_reason"] == "stop" and stopped["choices"][0]["stop_reason"] == f" {words[5]}"
        )
        assert plain["choices"][0]["text"].startswith(stopped["choices"][0]["text"])
        streamed = parsed(await events(client, f"{engine.url}/v1/completions", stop))
        assert text_of(streamed) == stopped["choices"][0]["text"]
        _, several = await post(client, url, CHAT | {"n": 3, "max_tokens": 8})
        assert len({c["message"]["content"] for c in several["choices"]}) == 3


async def test_refusals_have_vllms_shape(client: aiohttp.ClientSession) -> None:
    """Unknown model 404, too long 400, no JSON 400."""
    async with FakeEngine(context_max=50) as engine:
        url = f"{engine.url}/v1/completions"
        status, answer = await post(client, url, {"model": "other", "prompt": "a"})
        assert status == 404 and answer["error"]["param"] == "model" and answer["error"]["code"] == 404
        status, answer = await post(client, url, {"prompt": "a", "max_tokens": 100})
        assert status == 400 and "maximum context length is 50 tokens" in answer["error"]["message"]
        async with client.post(url, data=b"{") as raw:
            assert raw.status == 400


async def test_a_slow_reader_gets_merged_chunks(client: aiohttp.ClientSession) -> None:
    """The engine does not wait for a client; what piled up comes as one chunk with several ids."""
    count = 60_000
    async with FakeEngine() as engine:
        body = {"prompt": "a", "stream": True, "max_tokens": count, "return_token_ids": True}
        async with client.post(f"{engine.url}/v1/completions", json=body, read_bufsize=1024) as answer:
            await until(lambda: engine.generation_tokens == count)
            got = await answer.read()
    chunks = parsed([line.removeprefix("data: ") for line in got.decode().split("\n\n") if line])
    assert len(ids_of(chunks)) == count > len(chunks)


async def test_events_may_come_in_small_pieces(client: aiohttp.ClientSession) -> None:
    """`split_bytes` changes the writes and nothing else."""
    async with FakeEngine() as whole, FakeEngine(split_bytes=3) as split:
        body = {"prompt": "漢字", "max_tokens": 30}
        texts = [text_of(parsed(await events(client, f"{e.url}/v1/completions", body))) for e in (whole, split)]
        assert texts[0] == texts[1]


async def test_the_process_takes_vllms_flags_and_ends_on_sigterm(client: aiohttp.ClientSession) -> None:
    """A WorkerSpec's argv can point at it."""
    command = [sys.executable, "-m", "tests.fakes.engine", "--port", "0", "--served-model-name", "m", "alias"]
    command += ["--enforce-eager", "--kv-transfer-config", '{"kv_connector":"NixlConnector"}', "--max-model-len", "99"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    url = (await process.stderr.readline()).decode().split(" on ")[1].split()[0]
    async with client.get(f"{url}/v1/models") as answer:
        models = await answer.json()
    assert [m["id"] for m in models["data"]] == ["m", "alias"] and models["data"][0]["max_model_len"] == 99
    process.terminate()
    assert await process.wait() == 0


async def test_a_fleet_is_what_its_folder_says(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Records name live workers; a killed one answers nothing until it is revived."""
    async with FakeFleet(tmp_path, prefill=1, decode=2) as fleet:
        record = json.loads((tmp_path / "workers" / "decode-1.json").read_text())
        ready = f"http://{record['address']}:{record['agent_port']}/ready"
        async with client.get(ready) as answer:
            assert answer.status == 200
        fleet.kill("decode-1")
        with pytest.raises(aiohttp.ClientError):
            await client.get(ready)
        await fleet.revive("decode-1")
        fleet.engine("decode-1").healthy = False
        async with client.get(ready) as answer:
            assert answer.status == 503
        assert len(list((tmp_path / "workers").iterdir())) == 3


@pytest.mark.parametrize(
    ("path", "body", "last"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}, "message_stop"),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 6}, "response.completed"),
    ],
)
async def test_the_other_apis_hand_over_and_stream(
    client: aiohttp.ClientSession, path: str, body: dict[str, Any], last: str
) -> None:
    """Both take kv_transfer_params and give them back; their streams end without [DONE]."""
    async with FakeEngine() as prefill, FakeEngine() as decode:
        _, first = await post(client, prefill.url + path, body | {"kv_transfer_params": PREFILL})
        handed = body | {"kv_transfer_params": first["kv_transfer_params"]}
        lines = await events(client, decode.url + path, handed)
        assert lines[-1].startswith(f"event: {last}\n") and prefill.held == 0 and decode.transfers.count == 1
