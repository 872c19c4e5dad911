"""TensorRT-LLM's wire protocol of a hand-off between a context and a generation server. Not run on hardware.

The context server is asked with `request_type: context_only`; its answer carries `disaggregated_params` (first
tokens, where its KV lies, drafts) and the prompt's ids, which go to the generation server with the client's own
request and `request_type: generation_only`. Everything else in them is passed on as it came.

- The two name a transfer by `disagg_request_id`. Every hand-off gets one of its own, a retry too: the KV that an
  id stands for is gone once it has been read, or after `kv_transfer_timeout_ms`.
- The server answers what its executor could not do with 400, as it does a client's mistake (`openai_chat`:
  `except Exception: create_error_response`). A generation server's 400 to a request that the context server took
  is therefore a failed hand-off.
- A request that ends with its first token needs no generation server: the context server's answer is the whole.
- No token ids are on the wire of a stream, so a broken stream cannot be taken up elsewhere.

Source: TensorRT-LLM's repository, serve/openai_disagg_service.py, serve/openai_protocol.py (DisaggregatedParams),
serve/openai_server.py and llmapi/disagg_utils.py; the wheel of 1.2.1 is on no registry that could be read.
"""

import secrets
from typing import cast

import msgspec

from tandem_worker.gateway.request import ClientRequest, Fields, value
from tandem_worker.gateway.stream import DONE

INTERNAL_FIELDS = ("disaggregated_params", "prompt_token_ids", "conversation_params")
"""Fields that only the gateway may set: the opaque state names an address that the generation server connects to."""

GLOBAL_ID_MIN = 1 << 42
"""Smallest id that no server gives out by itself (MIN_GLOBAL_ID in llmapi/disagg_utils.py)."""
_GLOBAL_ID_END = 1 << 63

_FALSE = msgspec.Raw(b"false")
_GENERATION_ONLY = msgspec.Raw(b'"generation_only"')
_PENDING = frozenset({"length", "not_finished"})
"""Reasons after which the generation server has work (`_need_gen`)."""

_SPLITS_UP: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("n", (None, 1), "n"),
    ("best_of", (None, 1), "best_of"),
    ("use_beam_search", (None, False), "beam-search"),
    ("echo", (None, False), "echo"),
    ("logprobs", (None, False), "logprobs"),
    ("top_logprobs", (None, 0), "logprobs"),
    ("prompt_logprobs", (None,), "prompt-logprobs"),
)
"""Fields, the values at which a hand-off is safe, and what clients are told otherwise.

Log-probabilities of the first token are made by the context server, and 1.2 hands none over."""

_HANDED_OFF = frozenset({"chat", "completions"})

encode = msgspec.json.Encoder().encode


class _Choice(msgspec.Struct):
    disaggregated_params: Fields | None = None
    finish_reason: str | None = None
    message: dict[str, msgspec.Raw] = {}
    text: msgspec.Raw = msgspec.Raw(b'""')


class _ContextAnswer(msgspec.Struct):
    choices: list[_Choice] = []
    prompt_token_ids: msgspec.Raw = msgspec.Raw(b"null")


_ANSWER = msgspec.json.Decoder(_ContextAnswer)
_FIELDS = msgspec.json.Decoder(Fields)


def clean(request: ClientRequest) -> Fields:
    """The client's fields without those that only the gateway may set."""
    return {name: raw for name, raw in request.fields.items() if name not in INTERNAL_FIELDS}


def why_whole(request: ClientRequest) -> str:
    """Why a request cannot be handed off and runs whole on the generation server; empty when it can."""
    if request.endpoint not in _HANDED_OFF:
        return request.endpoint
    fields = request.fields
    for name, plain, reason in _SPLITS_UP:
        if name in fields and value(fields, name) not in plain:
            return reason
    prompt = value(fields, "prompt")
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in cast(list[object], prompt)):
        return "several-prompts"
    return ""


def prefill_body(request: ClientRequest, fields: Fields) -> bytes:  # noqa: ARG001 - as HandOff has it
    """The request as the context server gets it: no stream, and a hand-off of its own."""
    body = dict(fields)
    body.pop("stream_options", None)
    body["stream"] = _FALSE
    number = GLOBAL_ID_MIN + secrets.randbelow(_GLOBAL_ID_END - GLOBAL_ID_MIN)
    body["disaggregated_params"] = msgspec.Raw(encode({"request_type": "context_only", "disagg_request_id": number}))
    return encode(body)


def transfer_parameters(answer: bytes) -> msgspec.Raw | None:
    """What the generation server needs of the context server's answer, None when that gave nothing.

    Raises: ValueError when the answer is not one of a context server.
    """
    found = _read(answer)
    handed = found.choices[0].disaggregated_params if found.choices else None
    if not handed or bytes(found.prompt_token_ids) == b"null":
        return None
    handed["request_type"] = _GENERATION_ONLY
    return msgspec.Raw(encode({"disaggregated_params": handed, "prompt_token_ids": found.prompt_token_ids}))


def decode_body(fields: Fields, parameters: msgspec.Raw | None, *, with_token_ids: bool) -> bytes:
    """The request as the generation server gets it: its prompt is the ids that the context server read.

    `parameters`: those of the context server, or None for a request that runs whole.
    """
    assert not with_token_ids, "TensorRT-LLM's streams have no token ids"
    body = dict(fields)
    if parameters is not None:
        handed = _FIELDS.decode(parameters)
        body["disaggregated_params"] = handed["disaggregated_params"]
        body["prompt" if "prompt" in body else "prompt_token_ids"] = handed["prompt_token_ids"]
    return encode(body)


def complete_answer(answer: bytes, *, stream: bool) -> bytes | None:
    """The client's answer, where the request ended with its first token; None when there is more to generate."""
    found = _read(answer)
    if not found.choices or found.choices[0].finish_reason in _PENDING or found.choices[0].finish_reason is None:
        return None
    whole = _FIELDS.decode(answer)
    whole.pop("prompt_token_ids", None)
    choice = msgspec.json.decode(whole["choices"], type=list[Fields])[0]
    choice.pop("disaggregated_params", None)
    if not stream:
        whole["choices"] = msgspec.Raw(encode([choice]))
        return encode(whole)
    if "message" in choice:
        choice["delta"] = choice.pop("message")
        whole["object"] = msgspec.Raw(b'"chat.completion.chunk"')
    whole["choices"] = msgspec.Raw(encode([choice]))
    return b"data: " + encode(whole) + b"\n\n" + DONE + b"\n\n"


def decode_status(status: int, *, handed_off: bool) -> int:
    """What a generation server's status means: its 400 to a handed-off request is a failure of its own."""
    return 500 if handed_off and status == 400 else status


def _read(answer: bytes) -> _ContextAnswer:
    try:
        return _ANSWER.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"the context server's answer is not what it should be: {error}"
        raise ValueError(msg) from error
