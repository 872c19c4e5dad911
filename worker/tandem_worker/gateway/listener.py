"""aiohttp's low-level server with this gateway's limits and error shape."""

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from tandem_worker.gateway.errors import Refusal, error_body, invalid

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader
    from aiohttp.web_request import BaseRequest

CONNECTIONS_MAX = 8192
"""Open client connections; more are told 503 and closed. Well above any queue limit, below usual descriptor limits."""
FIRST_REQUEST_S = 30.0
"""How long a fresh connection may take to send the headers of its first request."""
KEEP_ALIVE_S = 75.0
"""How long an unused connection is kept; above the usual 60 s of load balancers in front."""

_FULL = Refusal(503, "service_unavailable", "too_many_connections", "too many open connections", retry_after_s=1)


class Listener(web.Server):
    """Accepts connections for one handler."""

    def __init__(self, handle: "Callable[[BaseRequest], Awaitable[web.StreamResponse]]") -> None:
        super().__init__(handle, request_factory=self._request, handler_cancellation=True, access_log=None)
        self._loop = asyncio.get_running_loop()
        self.is_leaving = False
        """Whether every answer from now on says that its connection ends with it."""

    def __call__(self) -> RequestHandler:
        """The protocol of a new connection."""
        no_log = cast("logging.Logger", None)  # aiohttp takes None, its types do not say so
        return _Connection(self, loop=self._loop, access_log=no_log, keepalive_timeout=KEEP_ALIVE_S)

    def _request(
        self,
        message: "RawRequestMessage",
        payload: "StreamReader",
        protocol: RequestHandler,
        writer: "AbstractStreamWriter",
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        if self.is_leaving:
            message = message._replace(should_close=True)
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)


class _Connection(RequestHandler):
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._manager is not None
        if len(self._manager.connections) > CONNECTIONS_MAX:
            body = error_body(_FULL)
            head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
            assert isinstance(transport, asyncio.Transport)
            transport.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            transport.close()
            return
        self._patience = self._loop.call_later(FIRST_REQUEST_S, self._tire)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _tire(self) -> None:
        if not self._request_count and self.transport is not None:
            self.transport.close()

    def handle_error(
        self,
        request: "BaseRequest",
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Errors that aiohttp finds: malformed HTTP (4xx), or a fault of ours (500)."""
        if request.writer.output_size > 0:
            msg = "the answer has begun; the connection is cut"
            raise ConnectionError(msg)
        if status >= 500:
            self.log_exception("fault of the gateway", exc_info=exc)
            refusal = Refusal(status, "internal_error", "internal_error", "the gateway failed on this request")
        else:
            why = (message or "malformed").strip().split("\n")[0][:200]
            refusal = invalid(f"not an HTTP request that can be served: {why}", status=status)
        answer = web.Response(status=status, body=error_body(refusal), content_type="application/json")
        answer.force_close()
        return answer
