"""Errors as clients know them.

One shape for every refusal: `{"error": {"message", "type", "param", "code"}}`, as JSON before
a stream has begun and as one SSE event, not followed by `[DONE]`, after. Clients of `/v1/messages`
get Anthropic's shape, streams of `/v1/responses` the event that its clients look for.
"""

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets no answer of an engine."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    """Seconds after which the same request may be worth sending again."""


def error_body(refusal: Refusal, endpoint: str = "") -> bytes:
    """The JSON body of an error answer, as clients of the endpoint know it."""
    return msgspec.json.encode(_anthropic(refusal) if endpoint == "messages" else _openai(refusal))


def error_event(refusal: Refusal, endpoint: str = "") -> bytes:
    """The error as the last event of a stream that had already begun."""
    if endpoint == "messages":
        return b"event: error\ndata: " + msgspec.json.encode(_anthropic(refusal)) + b"\n\n"
    if endpoint == "responses":
        told = {"type": "error", "code": refusal.code, "message": refusal.message, "param": refusal.param}
        return b"event: error\ndata: " + msgspec.json.encode({**told, **_openai(refusal)}) + b"\n\n"
    return b"data: " + msgspec.json.encode(_openai(refusal)) + b"\n\n"


def invalid(message: str, param: str | None = None, status: int = 400) -> Refusal:
    """The client's request is wrong."""
    return Refusal(status, "invalid_request_error", "invalid_request", message, param)


def _openai(refusal: Refusal) -> dict[str, dict[str, str | None]]:
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Type of an error by its status, in Anthropic's words; what is not here is the request's fault."""


def _anthropic(refusal: Refusal) -> dict[str, object]:
    kind = _ANTHROPIC_TYPES.get(refusal.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}
