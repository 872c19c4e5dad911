"""The gateway's API over real sockets: paths, keys, proofs, limits, generations, drain."""

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_worker.gateway.drain import GOODBYE_S
from tandem_worker.gateway.keys import Keys
from tests.fakes.agent import FakeFleet
from tests.gateway.door import PROOF, door, until

pytestmark = pytest.mark.asyncio

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "tell me"}], "max_tokens": 12}
COMPLETION = {"model": "fake", "prompt": "once upon", "max_tokens": 12}


async def test_official_client_works(tmp_path: Path):
    async with FakeFleet(tmp_path, served_names=("fake", "fake-large")) as fleet, door(tmp_path, fleet) as gate:
        async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key="any", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["fake", "fake-large"]
            whole = await client.chat.completions.create(
                model="fake-large", messages=[{"role": "user", "content": "hello"}], max_tokens=9
            )
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 9
            stream = await client.chat.completions.create(
                model="fake-large", messages=[{"role": "user", "content": "hello"}], max_tokens=9, stream=True
            )
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert said == whole.choices[0].message.content
            text = await client.completions.create(model="fake", prompt="hello", max_tokens=3, n=2)
            assert len(text.choices) == 2
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.completions.create(model="other", prompt="hello")
            with pytest.raises(openai.BadRequestError, match="context length"):
                await client.completions.create(model="fake", prompt="hello", max_tokens=10**6)
        assert not fleet.violations


async def test_clients_transfer_parameters_never_reach_an_engine(tmp_path: Path):
    stolen = {"do_remote_prefill": True, "remote_engine_id": "other", "remote_block_ids": [[1]]}
    body = json.dumps(COMPLETION | {"kv_transfer_params": stolen, "vllm_xargs": {"kv_transfer_params": "x", "a": 1}})
    body = body[:-1] + ',"kv_transfer_params":{"do_remote_prefill":true},"request_id":"mine","max_tokens":5}'
    headers = {
        "content-type": "application/json",
        "authorization": "Bearer secret",
        "x-prefiller-host-port": "10.0.0.1:1",
        "x-data-parallel-rank": "3",
    }
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        async with gate.session.post(f"{gate.url}/v1/completions", data=body, headers=headers) as answer:
            assert (await answer.json())["usage"]["completion_tokens"] == 5
        async with gate.session.post(
            f"{gate.url}/v1/completions", data=body[:-1] + ',"n":2}', headers=headers
        ) as answer:
            assert answer.headers["x-tandem-reason"] == "n"
        seen = [request for engine in fleet.engines for request in engine.seen()]
        assert len(seen) == 3
        for request in seen:
            assert "other" not in json.dumps(request.body)
            assert "request_id" not in request.body
            assert request.body["vllm_xargs"] == {"a": 1}
            assert not {"authorization", "x-prefiller-host-port", "x-data-parallel-rank"} & set(request.headers)
        assert not fleet.violations


async def test_request_id_is_kept_and_unique_for_engines(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        for _ in range(2):
            _, headers, _ = await gate.post("/v1/completions", COMPLETION, x_request_id="job-7")
            assert headers["x-request-id"] == "job-7"
        ids = [request.headers["x-request-id"] for request in fleet.engine("decode-0").seen()]
        assert len(set(ids)) == 2
        assert all(name.startswith("job-7-") for name in ids)
        prefills = [request.headers["x-request-id"] for request in fleet.engine("prefill-0").seen()]
        assert prefills == ids


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/completions", b"{", 400, "invalid_request"),
        ("/v1/completions", b"[]", 400, "invalid_request"),
        ("/v1/completions", b"", 400, "invalid_request"),
        ("/v1/completions", b'{"model":7}', 400, "invalid_request"),
        ("/v1/completions", b'{"model":"other"}', 404, "model_not_found"),
        ("/v1/responses", b'{"model":"fake","input":"a","previous_response_id":"r"}', 400, "unsupported_parameter"),
        ("/v1/responses", b'{"model":"fake","input":"a","background":true}', 400, "unsupported_parameter"),
        ("/v1/responses", b'{"model":"fake","input":"a","store":true}', 400, "unsupported_parameter"),
        ("/v1/embeddings", b"{}", 501, "not_implemented"),
        ("/pooling", b"{}", 501, "not_implemented"),
        ("/v1/nothing", b"{}", 404, "not_found"),
        ("/v1/models", b"{}", 405, "method_not_allowed"),
        ("/v1/completions", b"x" * 5000, 413, "invalid_request"),
    ],
)
async def test_wrong_request_is_refused_in_openai_shape(tmp_path: Path, path: str, body: bytes, status: int, code: str):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, body_bytes_max=4096) as gate:
        async with gate.session.post(gate.url + path, data=body) as answer:
            assert answer.status == status
            error = (await answer.json())["error"]
            assert error["code"] == code
            assert set(error) == {"message", "type", "param", "code"}
        assert not any(engine.seen() for engine in fleet.engines)


async def test_keys_open_the_door(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, keys=Keys(("key-1", "key-2"), PROOF)) as gate:
        for path in ("/v1/models", "/metrics", "/fleet"):
            async with gate.session.get(gate.url + path) as answer:
                assert answer.status == 401
                assert (await answer.json())["error"]["code"] == "invalid_api_key"
            async with gate.session.get(gate.url + path, headers={"authorization": "Bearer key-2"}) as answer:
                assert answer.status == 200
        for path in ("/live", "/health"):
            async with gate.session.get(gate.url + path) as answer:
                assert answer.status == 200
        status, _, _ = await gate.post("/v1/completions", COMPLETION, authorization="Bearer key-3")
        assert status == 401
        status, _, _ = await gate.post("/v1/completions", COMPLETION, x_api_key="key-1")
        assert status == 200
        status, _, _ = await gate.post("/v1/completions", COMPLETION, authorization="Bearer kéy")
        assert status == 401


async def test_proof_addresses_workers_and_generations(tmp_path: Path):
    async with FakeFleet(tmp_path, prefill=2, decode=2) as fleet, door(tmp_path, fleet) as gate:
        await fleet.add("prefill-new", "prefill", "g2")
        await fleet.add("decode-new", "decode", "g2")
        await gate.until_ready()
        proof = {"x_tandem_proof": PROOF}
        status, headers, _ = await gate.post("/v1/completions", COMPLETION, x_tandem_generation="g2", **proof)
        assert (status, headers["x-tandem-prefill"], headers["x-tandem-generation"]) == (200, "prefill-new", "g2")
        named = {"x_tandem_prefill": "prefill-1", "x_tandem_decode": "decode-0"}
        for _ in range(3):
            _, headers, _ = await gate.post("/v1/completions", COMPLETION, **named, **proof)
            assert (headers["x-tandem-prefill"], headers["x-tandem-decode"]) == ("prefill-1", "decode-0")
        alone = {"x_tandem_path": "aggregated", "x_tandem_decode": "prefill-1"}
        _, headers, _ = await gate.post("/v1/completions", COMPLETION, **alone, **proof)
        assert (headers["x-tandem-path"], headers["x-tandem-decode"]) == ("aggregated", "prefill-1")
        swapped = {"x_tandem_prefill": "decode-0", "x_tandem_decode": "prefill-1"}
        _, headers, _ = await gate.post("/v1/completions", COMPLETION, **swapped, **proof)
        assert (headers["x-tandem-prefill"], headers["x-tandem-decode"]) == ("decode-0", "prefill-1")
        fleet.engine("decode-0").fail("status", status=500)
        status, _, _ = await gate.post("/v1/completions", COMPLETION, **named, **proof)
        assert status == 502
        mixed = {"x_tandem_prefill": "prefill-new", "x_tandem_decode": "decode-0", "x_tandem_generation": "g2"}
        status, _, answer = await gate.post("/v1/completions", COMPLETION, **mixed, **proof)
        assert (status, answer["error"]["code"]) == (503, "no_worker")
        status, _, answer = await gate.post("/v1/completions", COMPLETION, **named, x_tandem_proof="guess")
        assert (status, answer["error"]["code"]) == (403, "proof_token_required")
        status, _, _ = await gate.post("/v1/completions", COMPLETION, **named)
        assert status == 403
        assert all("x-tandem" not in str(seen.headers) for engine in fleet.engines for seen in engine.seen())


async def test_generation_changes_at_once_and_running_streams_finish(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        await fleet.add("prefill-new", "prefill", "g2")
        await fleet.add("decode-new", "decode", "g2")
        await gate.until_ready()
        fleet.engine("decode-0").fail("stall", after_tokens=4)
        running = asyncio.create_task(gate.events("/v1/completions", COMPLETION | {"stream": True}))
        await until(lambda: fleet.engine("decode-0").faults.waiting)
        fleet.activate("g2")
        await gate.until_view(lambda view: view["active_generation"] == "g2")
        _, headers, _ = await gate.post("/v1/completions", COMPLETION)
        assert (headers["x-tandem-decode"], headers["x-tandem-generation"]) == ("decode-new", "g2")
        for name in ("prefill-0", "decode-0"):
            fleet.agent(name).draining = True
        fleet.engine("decode-0").release()
        headers, events = await running
        assert events[-1] == "[DONE]"
        assert headers["x-tandem-generation"] == "g1"


async def test_a_new_model_name_is_known_when_its_generation_serves(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, served_names=("renamed",)) as gate:
        for phase in ("prefill", "decode"):
            await fleet.add(f"{phase}-new", phase, "g2", names=("renamed",))
        await gate.until_ready()
        proof = {"x_tandem_proof": PROOF, "x_tandem_generation": "g2"}
        for name, headers, status in (("fake", {}, 200), ("renamed", {}, 404), ("renamed", proof, 200)):
            assert (await gate.post("/v1/completions", COMPLETION | {"model": name}, **headers))[0] == status
        fleet.activate("g2")
        await gate.until_view(lambda view: view["active_generation"] == "g2")
        for name, status in (("renamed", 200), ("fake", 404)):
            assert (await gate.post("/v1/completions", COMPLETION | {"model": name}))[0] == status
        async with gate.session.get(f"{gate.url}/v1/models") as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["renamed"]


async def test_half_written_files_keep_the_last_fleet(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.write_raw("workers/decode-0.json", b'{"contract":1,"name":"dec')
        fleet.write_raw("workers/stranger.json", b"\xff\x00 nothing")
        fleet.write_raw("service.json", b"")
        await fleet.add("decode-1", "decode", "g1")
        await gate.until_ready("decode-0", "decode-1", "prefill-0")
        view = await gate.fleet_view()
        assert view["active_generation"] == "g1"
        assert {worker["name"] for worker in view["workers"]} == {"decode-0", "decode-1", "prefill-0"}


async def test_full_service_turns_away_before_any_work(tmp_path: Path):
    limits = {"requests_running_max": 1, "requests_waiting_max": 1}
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, keys=None, **limits) as gate:
        fleet.engine("prefill-0").fail("gate")
        first = asyncio.create_task(gate.post("/v1/completions", COMPLETION))
        await gate.until_view(lambda view: view["queue"]["running"] == 1)
        second = asyncio.create_task(gate.post("/v1/completions", COMPLETION))
        await gate.until_view(lambda view: view["queue"]["waiting"] == 1)
        async with gate.session.post(f"{gate.url}/v1/completions", json=COMPLETION) as answer:
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert (await answer.json())["error"]["code"] == "queue_full"
        fleet.engine("prefill-0").release()
        assert (await first)[0] == (await second)[0] == 200
        assert (await gate.counts())["rejected"] == 1


async def test_health_follows_the_fleet(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        for name in ("prefill-0", "decode-0"):
            fleet.agent(name).ready = False
        await gate.until_view(lambda view: not view["ready"])
        async with gate.session.get(f"{gate.url}/health") as answer:
            assert answer.status == 503


async def test_drain_finishes_what_runs_and_closes_the_door(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("stall", after_tokens=4)
        running = asyncio.create_task(gate.events("/v1/completions", COMPLETION | {"stream": True}))
        await until(lambda: fleet.engine("decode-0").faults.waiting)
        gate.stop.set()
        host, port = gate.url.removeprefix("http://").split(":")
        await until(lambda: not _connects(host, int(port)))
        assert not gate.served.done()
        fleet.engine("decode-0").release()
        assert (await running)[1][-1] == "[DONE]"
        await gate.served


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_keeps_asking_is_told_that_its_connection_ends(tmp_path: Path, stream: bool):
    """Its next request may be on the way already: a connection that is closed then looks like a server that died."""
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        assert (await gate.post("/v1/completions", COMPLETION))[0] == 200
        gate.stop.set()
        host, port = gate.url.removeprefix("http://").split(":")
        await until(lambda: not _connects(host, int(port)))
        body = COMPLETION | {"stream": stream}
        async with gate.session.post(f"{gate.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
            assert await answer.read()
        await gate.served


async def test_a_connection_whose_answer_could_not_say_that_it_ends_takes_one_more_request(tmp_path: Path):
    """It was begun before the gateway left, and has lasted longer than a goodbye: as most answers of a model do."""
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").fail("stall", after_tokens=4)
        running = asyncio.create_task(gate.events("/v1/completions", COMPLETION | {"stream": True}))
        await until(lambda: fleet.engine("decode-0").faults.waiting)
        gate.stop.set()
        loop = asyncio.get_running_loop()
        said_s = loop.time() + GOODBYE_S + 0.5
        await until(lambda: loop.time() > said_s)
        fleet.engine("decode-0").release()
        headers, _ = await running
        assert headers.get("connection") != "close"
        async with gate.session.post(f"{gate.url}/v1/completions", json=COMPLETION) as answer:
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
            assert await answer.read()
        await gate.served


async def test_drain_gives_up_after_its_time(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, drain_timeout_s=0.2) as gate:
        fleet.engine("decode-0").fail("half_open")
        running = asyncio.create_task(gate.post("/v1/completions", COMPLETION))
        await until(lambda: fleet.engine("decode-0").faults.waiting)
        gate.stop.set()
        await gate.served
        running.cancel()


def _connects(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.mark.parametrize("split_bytes", [1, 7, 4096])
async def test_characters_and_events_may_be_cut_anywhere(tmp_path: Path, split_bytes: int):
    async with FakeFleet(tmp_path, engine_options={"split_bytes": split_bytes}) as fleet, door(tmp_path, fleet) as gate:
        _, events = await gate.events("/v1/chat/completions", CHAT | {"stream": True, "max_tokens": 60})
        _, _, whole = await gate.post("/v1/chat/completions", CHAT | {"max_tokens": 60})
        said = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
        assert said == whole["choices"][0]["message"]["content"]


async def test_very_long_stream_needs_no_more_memory(tmp_path: Path):
    body = json.dumps(COMPLETION | {"stream": True, "max_tokens": 100_000}).encode()
    process = psutil.Process(os.getpid())
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        await gate.post("/v1/completions", COMPLETION)
        before = process.memory_info().rss
        events, parts, most, tail = 0, 0, before, b""
        async with gate.session.post(f"{gate.url}/v1/completions", data=body) as answer:
            async for part in answer.content.iter_any():
                events += part.count(b"\n\n")
                tail = (tail + part)[-40:]
                parts += 1
                if parts % 100 == 0:
                    most = max(most, process.memory_info().rss)
        assert tail.endswith(b"data: [DONE]\n\n")
        assert events > 10_000
        assert most - before < 64 * 1024 * 1024


async def test_slow_client_holds_its_engine_back(tmp_path: Path):
    """Backpressure: an unread stream fills bounded buffers, then the engine is no longer read."""
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, stall_timeout_s=0.3) as gate:
        body = json.dumps(COMPLETION | {"stream": True, "max_tokens": 25_000}).encode()
        host, port = gate.url.removeprefix("http://").split(":")
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # 6 MB of answer find no room in the kernel
        small.connect((host, int(port)))
        reader, writer = await asyncio.open_connection(sock=small, limit=65536)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readexactly(512)
        await asyncio.sleep(1.0)  # longer than the stall limit: this silence is the client's
        data = b""
        while part := await reader.read(65536):
            data = (data + part)[-40:]
        assert b"[DONE]" in data
        assert (await gate.counts())["resumed"] == 0
        writer.close()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_other_apis_are_handed_off_too(tmp_path: Path, path: str, stream: bool):
    body: dict[str, Any] = {"model": "fake", "max_tokens": 8, "messages": [{"role": "user", "content": "tell me"}]}
    if path == "/v1/responses":
        body = {"model": "fake", "max_output_tokens": 8, "input": "tell me"}
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        async with gate.session.post(gate.url + path, json=body | {"stream": stream}) as answer:
            assert answer.status == 200
            assert answer.headers["x-tandem-path"] == "disaggregated"
            assert await answer.read()
        assert [seen.phase for engine in fleet.engines for seen in engine.seen()] == ["prefill", "decode"]
        assert not fleet.violations
        assert fleet.held == 0


async def test_tokenizer_is_asked_elsewhere_when_a_worker_fails(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        fleet.engine("decode-0").kill()
        await gate.post("/tokenize", {"model": "fake", "prompt": "hello"})
        status, _, answer = await gate.post("/tokenize", {"model": "fake", "prompt": "hello"})
        assert status == 200
        status, _, text = await gate.post("/detokenize", {"model": "fake", "tokens": answer["tokens"]})
        assert text["prompt"] == "hello"


async def test_one_pool_serves_whole_requests(tmp_path: Path):
    async with FakeFleet(tmp_path, prefill=0, decode=2) as fleet, door(tmp_path, fleet, disaggregated=False) as gate:
        names = set()
        for _ in range(4):
            status, headers, _ = await gate.post("/v1/chat/completions", CHAT)
            assert (status, headers["x-tandem-path"]) == (200, "aggregated")
            names.add(headers["x-tandem-decode"])
        assert names == {"decode-0", "decode-1"}
        assert (await gate.counts())["fallback"] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = "model prompt messages stream n max_tokens stop tools tool_choice stream_options kv_transfer_params input"
NAMES = st.sampled_from(FIELDS.split())
PATHS = st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize"])
BODIES = st.binary(max_size=60) | st.dictionaries(NAMES | st.text(max_size=6), JSON, max_size=6).map(
    lambda fields: json.dumps({"model": "fake"} | fields).encode()
)


async def test_any_body_gets_a_proper_answer(tmp_path: Path):
    """Whatever is sent: an answer within seconds, JSON in OpenAI's shape when it is an error, never a 500 of ours."""
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet, request_timeout_s=10.0) as gate:
        loop = asyncio.get_running_loop()

        async def send(path: str, body: bytes) -> tuple[int, bytes]:
            async with asyncio.timeout(20), gate.session.post(gate.url + path, data=body) as answer:
                return answer.status, await answer.read()

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(PATHS, BODIES)
        def check(path: str, body: bytes) -> None:
            status, answer = asyncio.run_coroutine_threadsafe(send(path, body), loop).result()
            if status >= 400:
                error = json.loads(answer)["error"]
                assert isinstance(error["message"], str)
                assert error.get("code") != "internal_error"

        await asyncio.to_thread(check)
        status, _, _ = await gate.post("/v1/completions", COMPLETION)
        assert status == 200
        assert (await gate.fleet_view())["queue"] == {"running": 0, "waiting": 0}


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["no-http", "tls", "two-lengths", "bad-chunk", "negative-length", "huge-header"],
)
async def test_malformed_http_is_answered_or_cut(tmp_path: Path, raw: bytes):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        host, port = gate.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        async with asyncio.timeout(10):
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
        assert answer == b"" or answer.split(b" ")[1].startswith(b"4")
        if answer:
            assert b'{"error":{' in answer
        assert not any(engine.seen() for engine in fleet.engines)
        writer.close()


async def test_metrics_are_prometheus_text(tmp_path: Path):
    async with FakeFleet(tmp_path) as fleet, door(tmp_path, fleet) as gate:
        await gate.post("/v1/completions", COMPLETION)
        async with gate.session.get(f"{gate.url}/metrics") as answer:
            text = await answer.text()
        assert "tandem_gateway_completed_total 1.0" in text
        assert (
            'tandem_gateway_answers_total{endpoint="completions",outcome="completed",path="disaggregated"} 1.0' in text
        )
        assert 'tandem_gateway_backlog_seconds{phase="prefill"}' in text
        assert "tandem_gateway_ttft_seconds_count 1.0" in text
