"""vLLM's wire protocol of a pull hand-off through NIXL, request side.

A prefill engine is asked for one token and told that another engine will read its KV blocks; its
answer carries the transfer parameters, which go to the decode engine verbatim with the client's own
request. Source: vLLM 0.32.0, `kv_connector/v1/nixl/pull_scheduler.py` and `entrypoints/openai`.
"""

from typing import cast

import msgspec

from tandem_worker.gateway.request import ClientRequest, Fields, value

INTERNAL_FIELDS = ("kv_transfer_params", "ec_transfer_params", "request_id")
"""Fields that only the gateway may set: with them a client could name blocks and requests of others."""

_REMOTE_DECODE = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
)
_ONE = msgspec.Raw(b"1")
_FALSE = msgspec.Raw(b"false")
_NOT_FOR_PREFILL = ("stream_options", "return_token_ids", "stream_interval", "thinking_token_budget")

_SPLITS_UP: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("n", (None, 1), "n"),
    ("best_of", (None, 1), "best_of"),
    ("use_beam_search", (None, False), "beam-search"),
    ("echo", (None, False), "echo"),
    ("prompt_logprobs", (None,), "prompt-logprobs"),
    ("prompt_embeds", (None,), "prompt-embeds"),
)
"""Fields, the values at which a hand-off is safe, and what clients are told otherwise."""

encode = msgspec.json.Encoder().encode


class _PrefillAnswer(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


class _Detokenized(msgspec.Struct):
    prompt: str = ""


_DETOKENIZED = msgspec.json.Decoder(_Detokenized)
_ANSWER = msgspec.json.Decoder(_PrefillAnswer)


def clean(request: ClientRequest) -> Fields:
    """The client's fields without those that only the gateway may set."""
    fields = {name: raw for name, raw in request.fields.items() if name not in INTERNAL_FIELDS}
    if "vllm_xargs" in fields:
        # The engine merges these into the same place that the transfer parameters go to.
        extra = value(fields, "vllm_xargs")
        if isinstance(extra, dict):
            kept = {k: v for k, v in cast(dict[str, object], extra).items() if k not in INTERNAL_FIELDS}
            fields["vllm_xargs"] = msgspec.Raw(encode(kept))
    if request.endpoint == "responses":
        fields["store"] = _FALSE
    return fields


def why_whole(request: ClientRequest) -> str:
    """Why a request cannot be handed off and runs whole on one worker; empty when it can.

    The prefill engine frees the blocks of a request once they have been read, so a request that
    becomes several inside the decode engine would read blocks that are no longer its own.
    """
    fields = request.fields
    for name, plain, reason in _SPLITS_UP:
        if name in fields and value(fields, name) not in plain:
            return reason
    if request.endpoint == "completions" and _several_prompts(fields):
        return "several-prompts"
    if request.endpoint == "responses" and value(fields, "tools"):
        # The engine may call tools itself and prompt again, several times in one request.
        return "responses-tools"
    return ""


def prefill_body(request: ClientRequest, fields: Fields) -> bytes:
    """The request as the prefill engine gets it: one token, no stream, blocks kept for a reader."""
    body = dict(fields)
    for name in _NOT_FOR_PREFILL:
        body.pop(name, None)
    if request.endpoint == "responses":
        body["max_output_tokens"] = _ONE
    else:
        body["max_tokens"] = _ONE
        if "max_completion_tokens" in body:
            body["max_completion_tokens"] = _ONE
    if value(body, "min_tokens"):
        body["min_tokens"] = _ONE
    body["stream"] = _FALSE
    body["kv_transfer_params"] = _REMOTE_DECODE
    return encode(body)


def transfer_parameters(answer: bytes) -> msgspec.Raw | None:
    """The transfer parameters in a prefill engine's answer, None when it gave none.

    Raises: ValueError when the answer is not JSON.
    """
    try:
        found = _ANSWER.decode(answer).kv_transfer_params
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"the prefill engine's answer is not a JSON object: {error}"
        raise ValueError(msg) from error
    return None if bytes(found) == b"null" else msgspec.Raw(bytes(found))


def complete_answer(answer: bytes, *, stream: bool) -> bytes | None:  # noqa: ARG001 - as HandOff has it
    """None: the decode engine writes every answer, one of a single token too."""
    return None


def decode_status(status: int, *, handed_off: bool) -> int:  # noqa: ARG001 - as HandOff has it
    """As it is: vLLM answers a client's mistake with 4xx and its own with 5xx."""
    return status


def decode_body(fields: Fields, parameters: msgspec.Raw | None, *, with_token_ids: bool) -> bytes:
    """The request as the engine that writes the answer gets it.

    `parameters`: those of the prefill engine, or None for a request that runs whole.
    """
    body = dict(fields)
    if parameters is not None:
        body["kv_transfer_params"] = parameters
    if with_token_ids:
        body["return_token_ids"] = msgspec.Raw(b"true")
    return encode(body)


def _several_prompts(fields: Fields) -> bool:
    prompt = value(fields, "prompt")
    return isinstance(prompt, list) and not all(isinstance(token, int) for token in cast(list[object], prompt))


def detokenized(answer: bytes) -> str:
    """The text in the answer of `/detokenize`; empty when there is none."""
    try:
        return _DETOKENIZED.decode(answer).prompt
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
