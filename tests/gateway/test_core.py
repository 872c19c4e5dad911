"""The gateway's pure parts, one by one: queue, fleet, silences, backlog, drain, requests."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.contract import Phase
from tandem_worker.dialects import vllm
from tandem_worker.gateway.admit import Admission, Queue, share
from tandem_worker.gateway.backlog import Meter
from tandem_worker.gateway.drain import GOODBYE_S, Drain, Leaving
from tandem_worker.gateway.errors import Refusal, error_body, error_event
from tandem_worker.gateway.handoff import (
    Loss,
    Offer,
)
from tandem_worker.gateway.request import ClientRequest, fields_of, understood
from tandem_worker.gateway.silence import Limits, Silence, judge
from tandem_worker.gateway.stream import OpaqueRelay
from tests.gateway.fleets import D0, P0, fleet_of

RECORDED = Path(__file__).parents[1] / "fakes" / "recorded"


# the queue


@given(st.integers(1, 4), st.integers(0, 4), st.lists(st.sampled_from(["arrive", "leave", "give up"]), max_size=60))
def test_queue_keeps_its_bounds_and_its_order(running_max: int, waiting_max: int, events: list[str]):
    queue = Queue(running_max, waiting_max)
    waiting: list[int] = []
    running = 0
    for number, event in enumerate(events):
        if event == "arrive":
            verdict = queue.arrive(number)
            assert (verdict is Admission.TURN_AWAY) == (running == running_max and len(waiting) == waiting_max)
            running += verdict is Admission.RUN
            waiting += [number] if verdict is Admission.WAIT else []
        elif event == "leave" and running:
            admitted = queue.leave(1.0)
            assert admitted == waiting[:1]
            running += len(admitted) - 1
            waiting = waiting[len(admitted) :]
        elif event == "give up" and waiting:
            assert queue.give_up(waiting.pop(len(waiting) // 2))
        assert (queue.running, list(queue.waiting)) == (running, waiting)
        assert running <= running_max and len(waiting) <= waiting_max
        assert 1 <= queue.retry_after_s() <= 30


@given(limit=st.integers(0, 1000), gateways=st.integers(1, 50))
def test_gateways_share_a_limit_and_none_is_left_without_a_place(limit: int, gateways: int):
    part = share(limit, gateways)
    assert limit <= part * gateways < limit + gateways
    assert (part > 0) == (limit > 0)


def test_a_gateway_that_is_left_alone_lets_those_in_who_wait():
    queue = Queue(share(2, 2), share(4, 2))
    assert queue.arrive(1) is Admission.RUN
    assert queue.arrive(2) is Admission.WAIT
    assert queue.resize(2, 4) == [2]
    assert queue.resize(1, 2) == []
    assert queue.running == 2
    assert queue.leave(1.0) == []


def test_proof_takes_a_place_beyond_the_limit():
    queue = Queue(1, 0)
    assert queue.arrive(1) is Admission.RUN
    assert queue.arrive(2, privileged=True) is Admission.RUN
    assert queue.arrive(3) is Admission.TURN_AWAY
    assert queue.leave(1.0) == []


# the fleet


def test_suspect_worker_is_back_with_the_next_good_answer_to_a_later_question():
    fleet = fleet_of(P0, D0)
    fleet.suspect("d0", now_s=10.0)
    fleet.probed("d0", good=True, draining=False, asked_s=9.9, now_s=10.1)
    assert not fleet.workers["d0"].ready
    fleet.probed("d0", good=True, draining=False, asked_s=10.2, now_s=10.3)
    assert fleet.workers["d0"].ready


def test_worker_that_keeps_failing_while_its_agent_is_happy_stays_out_longer():
    fleet = fleet_of(D0)
    out_s: list[float] = []
    now_s = 0.0
    for _ in range(6):
        fleet.suspect("d0", now_s)
        since_s = now_s
        while not fleet.workers["d0"].ready:
            now_s += 0.5
            fleet.probed("d0", good=True, draining=False, asked_s=now_s, now_s=now_s)
        out_s.append(now_s - since_s)
    assert out_s == sorted(out_s)
    assert out_s[0] == 0.5 and out_s[-1] >= 8.0
    fleet.worked("d0")
    fleet.suspect("d0", now_s)
    fleet.probed("d0", good=True, draining=False, asked_s=now_s, now_s=now_s)
    assert fleet.workers["d0"].ready


def test_many_requests_that_die_with_a_worker_are_one_failure():
    fleet = fleet_of(D0)
    for _ in range(50):
        fleet.suspect("d0", now_s=1.0)
    assert fleet.workers["d0"].failures == 1


def test_draining_worker_is_not_unwell_and_takes_nothing_new():
    fleet = fleet_of(P0, D0)
    fleet.probed("d0", good=False, draining=True, asked_s=1.0, now_s=1.0)
    assert not fleet.workers["d0"].ready
    assert fleet.workers["d0"].unwell_since_s is None
    fleet.probed("p0", good=False, draining=False, asked_s=1.0, now_s=1.0)
    assert fleet.workers["p0"].unwell_since_s == 1.0


def test_changed_record_is_another_process_but_a_draining_mark_is_not():
    fleet = fleet_of(D0)
    assert not fleet.observe([D0], "g1")
    assert fleet.observe([D0.model_copy(update={"draining": True})], "g1")
    assert fleet.workers["d0"].answering
    assert fleet.observe([D0.model_copy(update={"http_port": 9})], "g1")
    assert not fleet.workers["d0"].answering


# silences, backlog, drain


@pytest.mark.parametrize(
    ("phase", "streaming", "begun", "silent_s", "unwell_s", "gone"),
    [
        ("prefill", True, False, 9.0, 0.0, False),
        ("prefill", True, False, 10.0, 0.0, True),
        ("decode", True, False, 9.0, 0.0, False),
        ("decode", True, False, 10.0, 0.0, True),
        ("decode", True, True, 2.0, 0.0, True),
        ("decode", True, True, 1.9, 0.0, False),
        ("decode", False, False, 500.0, 0.0, False),
        ("decode", False, False, 1.0, 1.0, True),
        ("prefill", False, False, 1.0, 0.5, False),
        ("decode", True, True, 0.5, 60.0, False),
    ],
)
def test_silence(phase: Phase, streaming: bool, begun: bool, silent_s: float, unwell_s: float, gone: bool):
    limits = Limits(prefill_timeout_s=10.0, stall_timeout_s=2.0)
    assert bool(judge(Silence(phase, streaming, begun, silent_s, unwell_s), limits)) == gone


def test_backlog_is_pending_work_over_the_measured_rate():
    meter = Meter()
    assert meter.seconds(0.0) == 0.0
    for second in range(10):
        meter.begin(100.0, float(second))
        meter.end(100.0, second + 1.0, finished=True)
    meter.begin(500.0, 10.0)
    assert meter.seconds(10.0) == pytest.approx(5.0, rel=0.15)


def test_goodbye_takes_as_long_as_somebody_is_there_and_never_longer_than_the_drain():
    drain = Drain(began_s=5.0, timeout_s=10.0)
    assert drain.look(0, 1, 5.0 + GOODBYE_S - 0.1) is Leaving.WAIT
    assert drain.look(0, 1, 5.0 + GOODBYE_S) is Leaving.DONE
    assert drain.look(0, 0, 5.0) is Leaving.DONE
    assert Drain(began_s=5.0, timeout_s=0.5).look(0, 1, 5.6) is Leaving.DONE


def test_a_connection_whose_request_had_begun_before_is_left_open_for_a_while_after_its_answer():
    drain = Drain(began_s=5.0, timeout_s=30.0)
    assert drain.look(1, 1, 20.0) is Leaving.WAIT
    assert drain.look(0, 1, 20.0 + GOODBYE_S - 0.1) is Leaving.WAIT
    assert drain.look(0, 1, 20.0 + GOODBYE_S) is Leaving.DONE


def test_drain_waits_for_what_is_under_way_but_not_for_ever():
    drain = Drain(began_s=5.0, timeout_s=10.0)
    assert drain.look(3, 3, 14.9) is Leaving.WAIT
    assert drain.look(3, 3, 15.0) is Leaving.TIMED_OUT


# requests and their bodies


def read(body: object, path: str = "/v1/completions") -> ClientRequest:
    fields = fields_of(json.dumps(body).encode())
    assert isinstance(fields, dict)
    request = understood(path, fields, ("m",))
    assert isinstance(request, ClientRequest), request
    return request


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/v1/completions", {"prompt": "a"}, ""),
        ("/v1/completions", {"prompt": [1, 2]}, ""),
        ("/v1/completions", {"prompt": "a", "n": 1, "best_of": 1, "echo": False}, ""),
        ("/v1/completions", {"prompt": ["a", "b"]}, "several-prompts"),
        ("/v1/completions", {"prompt": [[1], [2]]}, "several-prompts"),
        ("/v1/completions", {"prompt": "a", "n": 2}, "n"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "a", "use_beam_search": True}, "beam-search"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "a", "prompt_logprobs": 0}, "prompt-logprobs"),
        ("/v1/completions", {"prompt_embeds": "AA"}, "prompt-embeds"),
        ("/v1/chat/completions", {"messages": [], "tools": [1]}, ""),
        ("/v1/responses", {"input": "a", "tools": [1]}, "responses-tools"),
        ("/v1/messages", {"messages": [], "max_tokens": 9}, ""),
    ],
)
def test_why_a_request_runs_whole(path: str, body: object, why: str):
    assert vllm.why_whole(read(body, path)) == why


def test_prefill_asks_for_one_token_and_keeps_the_rest():
    body = {"messages": [{"role": "user", "content": "é\u0000"}], "max_completion_tokens": 9, "min_tokens": 4}
    request = read(
        body | {"stream": True, "stream_options": {"include_usage": True}, "top_p": 0.5}, "/v1/chat/completions"
    )
    sent = json.loads(vllm.prefill_body(request, vllm.clean(request)))
    parameters = sent.pop("kv_transfer_params")
    assert sent == {
        "messages": body["messages"],
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "min_tokens": 1,
        "stream": False,
        "top_p": 0.5,
    }
    assert (parameters["do_remote_decode"], parameters["do_remote_prefill"]) == (True, False)


def test_parameters_go_to_the_decode_engine_verbatim():
    raw = b'{"remote_block_ids":[[1,2]], "x" :  1.0e5,"do_remote_prefill":true}'
    found = vllm.transfer_parameters(b'{"id":"a","choices":[],"kv_transfer_params":' + raw + b"}")
    assert found is not None
    assert raw in vllm.decode_body(read({"prompt": "a"}).fields, found, with_token_ids=False)
    assert vllm.transfer_parameters(b'{"kv_transfer_params":null}') is None
    assert vllm.transfer_parameters(b"{}") is None
    with pytest.raises(ValueError, match="not a JSON object"):
        vllm.transfer_parameters(b"<html>")


@given(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=5))
def test_what_is_not_ours_passes_untouched(body: dict[str, object]):
    body = {name: value for name, value in body.items() if name not in ("model", *vllm.INTERNAL_FIELDS)}
    request = read(body)
    assert json.loads(vllm.decode_body(vllm.clean(request), None, with_token_ids=False)) == body


def test_errors_have_one_shape():
    refusal = Refusal(429, "overloaded", "queue_full", "full", retry_after_s=3)
    shape = {"error": {"message": "full", "type": "overloaded", "param": None, "code": "queue_full"}}
    assert json.loads(error_body(refusal)) == shape
    assert json.loads(error_event(refusal).removeprefix(b"data: ")) == shape


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (429, "rate_limit_error"), (502, "api_error")]
)
def test_errors_of_messages_are_anthropics(status: int, kind: str):
    refusal = Refusal(status, "ours", "our_code", "why")
    shape = {"type": "error", "error": {"type": kind, "message": "why"}}
    assert json.loads(error_body(refusal, "messages")) == shape
    head, _, data = error_event(refusal, "messages").partition(b"\n")
    assert head == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == shape


# streams that are only passed on


@given(st.integers(1, 40))
def test_opaque_stream_is_passed_on_however_it_is_cut(size: int):
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":%b}]}\n\n'
    stream = chunk % b"null" + chunk % b"null" + chunk % b'"stop"' + b"data: [DONE]\n\n"
    relay = OpaqueRelay("chat")
    out = b"".join(relay.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    assert out == stream
    assert relay.offer() is Offer.COMPLETE


@given(st.integers(1, 200))
def test_opaque_stream_knows_what_is_missing(size: int):
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":%b}]}\n\n'
    relay = OpaqueRelay("completions")
    for part in (chunk % b"null", chunk % b'"stop"'):
        assert relay.offer() is Offer.LOST
        for at in range(0, len(part), size):
            relay.feed(part[at : at + size])
    assert relay.offer() is Offer.TAIL
    assert relay.tail() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("endpoint", ["chat", "completions", "messages", "responses"])
def test_an_answer_that_speaks_of_end_marks_has_not_ended(endpoint: str):
    spoken = json.dumps("data: [DONE] event: message_stop\n event: response.completed\n event: error\n").encode()
    relay = OpaqueRelay(endpoint)
    for _ in range(9):
        relay.feed(b'event: delta\ndata: {"text":%b}\n\n' % spoken)
    assert relay.failure is None
    assert relay.offer() is Offer.LOST


@pytest.mark.parametrize(
    ("endpoint", "text"), [("messages", b"content_block_delta"), ("responses", b"output_text.delta")]
)
def test_other_streams_are_held_until_their_first_text(endpoint: str, text: bytes):
    """Cut anywhere before it, a real engine's stream can be repeated: the client has nothing of it yet."""
    recorded = RECORDED.joinpath(f"{endpoint}-stream.jsonl").read_text().splitlines()[2:]
    events = [f"event: {json.loads(line)['type']}\ndata: {line}\n\n".encode() for line in recorded]
    relay = OpaqueRelay(endpoint)
    first = next(out for out in map(relay.feed, events) if out)
    assert first.count(text) == 2  # the name of the event and its type
    relay = OpaqueRelay(endpoint)
    assert b"".join(map(relay.feed, events)) == b"".join(events)
    assert relay.offer() is Offer.COMPLETE


def test_engines_error_is_not_shown_while_the_client_has_nothing():
    relay = OpaqueRelay("chat")
    assert (
        relay.feed(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\ndata: {"error": {"code": 500}}\n\n') == b""
    )
    assert relay.failure is Loss.ERROR
