"""Which streams may be resumed, and that a resumed one equals the unbroken run, however it breaks."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_worker.dialects import vllm
from tandem_worker.dialects.vllm_stream import IdRelay
from tandem_worker.gateway.handoff import Loss, Offer
from tandem_worker.gateway.request import ClientRequest, fields_of, understood
from tandem_worker.gateway.resume import RULES, History, continuation, why_not
from tests.simulation.engines import ends_inside_character, job_of, pieces

RECORDED = Path(__file__).parents[1] / "fakes" / "recorded"
TEXT_PART = {"type": "text", "text": "a"}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:"}}
CONTEXT = 100_000
USER = {"role": "user", "content": "tell me"}

ALLOWED: dict[str, list[Any]] = {
    "messages": [[USER], [{"role": "user", "content": [TEXT_PART]}], [{"role": "assistant", "content": None}, USER]],
    "prompt": ["text", [1, 2, 3]],
    "stream_options": [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": False}],
    "n": [None, 1],
    "best_of": [None, 1],
    "use_beam_search": [None, False],
    "echo": [None, False],
    "suffix": [None],
    "stop": [None, []],
    "logprobs": [None, False],
    "top_logprobs": [None, 0],
    "prompt_logprobs": [None],
    "presence_penalty": [None, 0, 0.0],
    "frequency_penalty": [None, 0, 0.0],
    "repetition_penalty": [None, 1, 1.0],
    "bad_words": [None, []],
    "response_format": [None, {"type": "text"}],
    "structured_outputs": [None],
    "return_token_ids": [None, False],
}
FORBIDDEN: dict[str, list[Any]] = {
    "messages": [
        [{"role": "user", "content": [TEXT_PART, IMAGE_PART]}],
        [{"role": "user", "content": {"type": "text"}}],
    ],
    "prompt": [["a"], [[1], [2]], None, [True]],
    "stream_options": [{"continuous_usage_stats": True}, {"other": 1}, []],
    "n": [2],
    "best_of": [2],
    "use_beam_search": [True],
    "echo": [True],
    "suffix": ["b"],
    "stop": ["a", ["a"]],
    "logprobs": [True, 0, 1],
    "top_logprobs": [3],
    "prompt_logprobs": [0, 1],
    "presence_penalty": [0.1, -1],
    "frequency_penalty": [0.1],
    "repetition_penalty": [1.1],
    "bad_words": [["a"]],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}],
    "structured_outputs": [{"regex": "a"}],
    "return_token_ids": [True],
}


def read(body: dict[str, Any]) -> ClientRequest:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    fields = fields_of(json.dumps(body).encode())
    assert isinstance(fields, dict)
    request = understood(path, fields, ("fake",))
    assert isinstance(request, ClientRequest)
    return request


def stream_of(**fields: Any) -> ClientRequest:
    prompt = {} if {"messages", "prompt"} & set(fields) else {"prompt": "a"}
    return read({"model": "fake", "stream": True} | prompt | fields)


def test_every_rule_with_a_condition_is_tested():
    conditional = {name for name, rule in RULES.items() if rule.allows is not RULES["model"].allows}
    assert set(ALLOWED) == set(FORBIDDEN)
    assert conditional <= set(ALLOWED)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ALLOWED.items() for value in values])
def test_field_leaves_a_stream_resumable(name: str, value: Any):
    assert why_not(stream_of(**{name: value}), CONTEXT) == ""


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FORBIDDEN.items() for value in values])
def test_field_forbids_a_resume(name: str, value: Any):
    assert why_not(stream_of(**{name: value}), CONTEXT) == name


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tools": [{}]}, "tools"),
        ({"tools": [{}], "tool_choice": "auto"}, "tools"),
        ({"tools": [{}], "tool_choice": "none"}, ""),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"seed": 1, "temperature": 0}, ""),
        ({"seed": 1, "temperature": 0.7}, "seed"),
        ({"seed": 1}, "seed"),
        ({"seed": None, "temperature": 0.7}, ""),
        ({"stream": False}, "stream"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    ],
)
def test_fields_that_depend_on_others_and_unknown_ones(fields: dict[str, Any], why: str):
    assert why_not(stream_of(messages=[USER], **fields), CONTEXT) == why


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"messages": [USER]}, CONTEXT - 3 - 2),
        ({"messages": [USER], "max_tokens": 9}, 7),
        ({"messages": [USER], "max_tokens": 9, "max_completion_tokens": 5}, 3),
        ({"prompt": "a"}, 14),
        ({"prompt": "a", "max_tokens": 2}, 1),
    ],
)
def test_continuation_names_what_is_left(fields: dict[str, Any], left: int):
    history = History(tokens_max=100)
    history.begin(b"1,2,3")
    history.add(b"4", with_text=True)
    history.add(b"5", with_text=True)
    history.add(b"6", with_text=False)
    history.drop_pending()
    leg = continuation(stream_of(**fields), history, CONTEXT)
    body = {name: json.loads(bytes(raw)) for name, raw in leg.fields.items()}
    assert (body["prompt"], body["max_tokens"]) == ([1, 2, 3, 4, 5], left)


def test_stream_without_a_limit_needs_a_known_context():
    assert why_not(stream_of(messages=[USER]), 0) == "max_tokens"
    assert why_not(stream_of(messages=[USER], max_tokens=5), 0) == ""
    assert why_not(stream_of(prompt="a"), 0) == ""


def unbroken(request: ClientRequest) -> list[Any]:
    """The client's events of a run that nothing breaks."""
    relay = relay_for(request)
    return spoken(b"".join(relay.feed(piece) for piece in engine(request, relay, random.Random(1))))


def relay_for(request: ClientRequest) -> IdRelay:
    usage = "stream_options" in request.fields
    return IdRelay(chat=request.endpoint == "chat", tokens_max=10_000, usage_asked=usage)


def engine(leg: ClientRequest, _relay: IdRelay, rng: random.Random) -> Any:
    body = vllm.decode_body(leg.fields, None, with_token_ids=True)
    return pieces(job_of(body, chat=leg.endpoint == "chat"), "r", rng)


def spoken(stream: bytes) -> list[Any]:
    """Text, ends and usage, whatever the chunks were."""
    text, rest = "", []
    for event in stream.decode().split("\n\n")[:-1]:
        data = event.removeprefix("data: ")
        if data == "[DONE]":
            rest.append(data)
            continue
        chunk = json.loads(data)
        for choice in chunk["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            rest += [choice["finish_reason"]] if choice["finish_reason"] else []
        rest += [chunk["usage"]] if chunk.get("usage") else []
    return [text, *rest]


@settings(max_examples=300, deadline=None)
@given(
    chat=st.booleans(),
    usage=st.booleans(),
    words=st.integers(1, 30),
    tokens_max=st.integers(1, 60),
    tokens_min=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_stream_broken_anywhere_and_often_equals_the_unbroken_one(
    chat: bool, usage: bool, words: int, tokens_max: int, tokens_min: int, seed: int
):
    said = "the quick brown fox " * words
    body: dict[str, Any] = {"model": "fake", "stream": True, "max_tokens": tokens_max, "min_tokens": tokens_min}
    body |= {"messages": [{"role": "user", "content": said}]} if chat else {"prompt": said}
    if usage:
        body["stream_options"] = {"include_usage": True}
    request, rng = read(body), random.Random(seed)
    wanted = unbroken(request)
    relay, leg, got = relay_for(request), request, b""
    while relay.offer() is not Offer.COMPLETE:
        for piece in engine(leg, relay, rng):
            if rng.random() < 0.2:
                got += relay.feed(piece[: rng.randrange(len(piece))])  # the break is inside an event
                break
            got += relay.feed(piece)
        if relay.offer() is Offer.TAIL:
            got += relay.tail()
            break
        if not got:
            relay, leg = relay_for(request), request
        elif relay.offer() is Offer.RESUMABLE:
            while relay.history.last_count > 1 and ends_inside_character(relay.history.last_ids(8)):
                relay.history.drop_last()
            relay.continue_elsewhere()
            leg = continuation(request, relay.history, CONTEXT)
    assert spoken(got) == wanted


def test_history_beyond_its_bound_is_let_go():
    history = History(tokens_max=5)
    history.begin(b"1,2,3")
    history.add(b"4", with_text=True)
    assert not history.closed
    history.add(b"5", with_text=False)
    history.add(b"6", with_text=True)
    assert history.closed == "too-long"
    assert not history.output and not history.prompt


def test_tool_calls_and_reasoning_close_a_stream():
    relay = IdRelay(chat=True, tokens_max=100, usage_asked=False)
    head = b'data: {"id":"a","object":"o","created":1,"model":"m","choices":['
    relay.feed(
        head + b'{"index":0,"delta":{"role":"assistant","content":""}}],"prompt_token_ids":[1],"prompt_text":null}\n\n'
    )
    relay.feed(head + b'{"index":0,"delta":{"content":"x"},"finish_reason":null,"token_ids":[2]}]}\n\n')
    assert relay.offer() is Offer.RESUMABLE
    relay.feed(head + b'{"index":0,"delta":{"reasoning":"x"},"finish_reason":null,"token_ids":[3]}]}\n\n')
    assert relay.offer() is Offer.LOST


def test_text_that_looks_like_ids_is_text():
    relay = IdRelay(chat=False, tokens_max=100, usage_asked=False)
    text = json.dumps('","token_ids":[9],"finish_reason":"stop"')
    head = 'data: {"id":"a","object":"o","created":1,"model":"m","choices":[{"index":0,"text":'
    tail = ',"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":[1],"token_ids":[5]}]}\n\n'
    out = relay.feed((head + text + tail).encode())
    assert json.loads(out.removeprefix(b"data: "))["choices"][0]["text"] == json.loads(text)
    assert bytes(relay.history.output) == b"5"
    assert relay.offer() is Offer.RESUMABLE


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\n\n", b"data: {}\n\n", b'data: {"id":"a","token_ids":[1,x]}\n\n', b"<html>\n\n"]
)
def test_garbage_is_not_passed_on(garbage: bytes):
    relay = IdRelay(chat=False, tokens_max=100, usage_asked=False)
    assert relay.feed(garbage) == b""
    assert relay.failure is Loss.GARBAGE


@pytest.mark.parametrize("name", ["chat-stream-ids-usage", "text-stream-ids-usage"])
def test_real_engines_chunks_lose_nothing_but_their_ids(name: str):
    """Recorded from vLLM 0.32.0: what is left is what the client would have got without asking for ids."""
    _, head, *events = (RECORDED / f"{name}.jsonl").read_text().splitlines()
    assert json.loads(head)["status"] == 200
    chunks = [chunk for chunk in map(json.loads, (event for event in events if event != "[DONE]")) if chunk != "[DONE]"]
    relay = IdRelay(chat=name.startswith("chat"), tokens_max=1000, usage_asked=True)
    out = b""
    for chunk in chunks:
        out += relay.feed(b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n")
    wanted: list[Any] = []
    for chunk in chunks:
        plain = chunk | ({"prompt_token_ids": None} if "prompt_token_ids" in chunk else {})
        ids = {"token_ids": None, "prompt_token_ids": None}
        plain["choices"] = [c | {k: v for k, v in ids.items() if k in c} for c in chunk["choices"]]
        wanted.append(plain)
    assert [json.loads(event.removeprefix(b"data: ")) for event in out.split(b"\n\n")[:-1]] == wanted
    made = [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or []]
    assert bytes(relay.history.output) == b",".join(str(token).encode() for token in made)
    assert relay.history.prompt_count == chunks[-1]["usage"]["prompt_tokens"]
