"""Taking a client's body off the wire, once."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from tandem_worker.gateway.errors import Refusal, invalid
from tandem_worker.gateway.request import Fields, fields_of

BODY_TIMEOUT_S = 60.0
"""How long a client may take to send a request's body."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A body that has come whole."""

    size_bytes: int
    fields: Fields


SENT = web.RequestKey("sent", Sent)
"""Where a request keeps its body when somebody had to look into it to know whose it is."""


def too_large(limit_bytes: int) -> Refusal:
    """The body is not read to its end."""
    return invalid(f"the request body is larger than {limit_bytes} bytes", status=413)


async def receive(request: web.BaseRequest, limit_bytes: int) -> Sent | Refusal:
    """The body, or why it cannot be had."""
    if request.content_length is not None and request.content_length > limit_bytes:
        return too_large(limit_bytes)
    if request.headers.get("expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    if request.content.is_eof() or request.content.at_eof():
        body = request.content.read_nowait()
    else:
        parts = await _parts(request, limit_bytes)
        if isinstance(parts, Refusal):
            return parts
        body = bytes(parts)
    if len(body) > limit_bytes:
        return too_large(limit_bytes)
    fields = fields_of(body)
    return fields if isinstance(fields, Refusal) else Sent(len(body), fields)


async def _parts(request: web.BaseRequest, limit_bytes: int) -> bytearray | Refusal:
    """What comes, until it is all or too much."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                body += part
                if len(body) > limit_bytes:
                    break
    except web.RequestPayloadError as error:
        return invalid(f"the request body could not be read: {error}")
    except TimeoutError:
        return invalid(f"the request body did not come within {BODY_TIMEOUT_S:g} s", status=408)
    return body
