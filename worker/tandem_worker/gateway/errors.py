"""Errors as clients of the OpenAI API know them.

One shape for every refusal: `{"error": {"message", "type", "param", "code"}}`, as JSON before
a stream has begun and as one SSE event, not followed by `[DONE]`, after.
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


def error_body(refusal: Refusal) -> bytes:
    """The JSON body of an error answer."""
    return msgspec.json.encode(_shape(refusal))


def error_event(refusal: Refusal) -> bytes:
    """The error as the last event of a stream that had already begun."""
    return b"data: " + msgspec.json.encode(_shape(refusal)) + b"\n\n"


def invalid(message: str, param: str | None = None, status: int = 400) -> Refusal:
    """The client's request is wrong."""
    return Refusal(status, "invalid_request_error", "invalid_request", message, param)


def _shape(refusal: Refusal) -> dict[str, dict[str, str | None]]:
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
    }
