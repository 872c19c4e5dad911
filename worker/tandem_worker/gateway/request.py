"""Reading a client's request: what it asks for, what of it may pass, how it may be served.

The body is split into its top-level fields, each kept as the bytes the client sent
(`msgspec.Raw`), so that values pass through untouched and only the few that decide are parsed.
Of a duplicate field the last one counts, here as in the engines, and only that one goes on.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import msgspec

from tandem_worker.gateway.errors import Refusal, invalid

Fields = dict[str, msgspec.Raw]

GENERATING = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
"""Paths that generate tokens, with the short name of each."""

ANY_WORKER = frozenset({"/tokenize", "/detokenize"})
"""Paths that any ready worker answers and that may be repeated freely."""

NOT_SERVED = frozenset(
    {
        "/v1/embeddings",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/v1/score",
        "/score",
        "/pooling",
        "/classify",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/images/generations",
    }
)
"""Paths that clients know from other servers; a generating service has no model for them."""

_FIELDS = msgspec.json.Decoder(Fields)


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A request that may be served."""

    endpoint: str
    """`chat`, `completions`, `responses`, `messages`, or `any` for what any worker answers."""
    fields: Fields
    stream: bool


def fields_of(body: bytes) -> Fields | Refusal:
    """The body's top-level fields."""
    try:
        return _FIELDS.decode(body)
    except msgspec.ValidationError:
        return invalid("the request body must be a JSON object")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return invalid(f"the request body is not valid JSON: {error}")


def understood(path: str, fields: Fields, served_names: Collection[str]) -> ClientRequest | Refusal:
    """The client's request, or why it cannot be served at all."""
    refusal = wrong_model(fields, served_names)
    if refusal is None and path == "/v1/responses":
        refusal = _keeps_state(fields)
    if refusal is not None:
        return refusal
    endpoint = GENERATING.get(path, "any")
    return ClientRequest(endpoint, fields, value(fields, "stream") is True)


def value(fields: Fields, name: str) -> object:
    """A field's value, None when it is absent or null. Raises nothing: broken values read as None."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return cast(object, msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def wrong_model(fields: Fields, served_names: Collection[str]) -> Refusal | None:
    """Why the model that is asked for is not served; None where it is, and where none is named."""
    model = value(fields, "model")
    if model is None and (fields.get("model") is None or bytes(fields["model"]) == b"null"):
        return None
    if not isinstance(model, str):
        return invalid("`model` must be a string", "model")
    if model in served_names:
        return None
    message = f"the model {model[:200]!r} does not exist; this service serves {', '.join(served_names)}"
    return Refusal(404, "invalid_request_error", "model_not_found", message, "model")


def _keeps_state(fields: Fields) -> Refusal | None:
    for name in ("previous_response_id", "background", "store", "conversation"):
        if value(fields, name) not in (None, False):
            message = (
                f"`{name}` asks the server to keep state between requests, which this service does not; "
                "send the whole input each time"
            )
            return Refusal(400, "invalid_request_error", "unsupported_parameter", message, name)
    return None
