"""HTTP/1.1 to engines and agents: a small keep-alive client on httptools (llhttp).

One exchange at a time per connection, request bodies of known size, answers read as bytes. A
general client spends more time per streamed chunk than the rest of the gateway together.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from tandem_worker.gateway.handoff import Loss

CONNECT_TIMEOUT_S = 3.0
IDLE_S = 3.0
"""How long an unused connection is kept; below the 5 s after which uvicorn closes it (vLLM 0.32's default)."""
BUFFER_BYTES_MAX = 256 * 1024
"""Unread answer bytes at which the engine is no longer read from."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Largest answer that is read whole."""
HEADER_BYTES_MAX = 64 * 1024


class UpstreamError(Exception):
    """An engine failed while it was asked; `loss` says how."""

    def __init__(self, loss: Loss, message: str) -> None:
        super().__init__(message)
        self.loss = loss


class Wire(asyncio.Protocol):
    """One connection, and the answer that is being read from it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: tuple[str, int]) -> None:
        self.peer = peer
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._header_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        """Takes what has come of the body, once per read of the socket; False: it wants no more for now."""
        self._paused = False
        self._reusable = False
        self.failure: UpstreamError | None = None
        self.headers_done = False
        self.complete = False
        self.content_type = ""
        self.status = 0
        self.heard_s = 0.0
        """When the engine was last heard, or asked; the loop's time."""
        self.idle_since_s = 0.0

    # What the transport reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is up."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        self.heard_s = self._loop.time()
        if not self.headers_done:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(Loss.GARBAGE, f"not an HTTP answer: {error}")
        else:
            if not self.headers_done and self._header_bytes > HEADER_BYTES_MAX:
                self.fail(Loss.GARBAGE, "the answer's headers have no end")
        if self._sink is not None and self._chunks and not self._sink(self._take_buffered()):
            self._sink = None
            self._pause()
        elif self._buffered > BUFFER_BYTES_MAX:
            self._pause()
        if self._sink is None or self.complete or self.failure is not None:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; fatal unless the answer was whole."""
        self._transport = None
        if not self.complete and self.failure is None:
            self.failure = UpstreamError(Loss.RESET, str(exc) if exc else "the connection was closed before its end")
        self._wake()

    # What the parser reports.

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if name.lower() == b"content-type":
            self.content_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The headers are whole; those of a 1xx answer do not count."""
        self.status = self._parser.get_status_code()
        self.headers_done = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self.headers_done:
            self.complete = True
            self._reusable = self._parser.should_keep_alive()

    # What the gateway does with it.

    @property
    def open(self) -> bool:
        """Whether the connection can carry another request."""
        return self._transport is not None and not self._transport.is_closing() and self.failure is None

    @property
    def reusable(self) -> bool:
        """Whether the finished exchange left the connection fit for another one.

        One that is not read from would carry a request and never bring its answer, nor the news that its peer is gone.
        """
        return self.complete and self._reusable and not self._chunks and not self._paused and self.open

    def send(self, request: bytes) -> None:
        """Start an exchange."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self.headers_done = self.complete = self._reusable = False
        self._header_bytes = 0
        self.content_type = ""
        self.heard_s = self._loop.time()
        self._transport.write(request)

    async def headers(self) -> int:
        """Wait for the answer's headers; returns its status. Raises: UpstreamError."""
        while not self.headers_done:
            if self.failure is not None:
                raise self.failure
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """What has come of the body, waiting for at least one byte; empty at its end. Raises: UpstreamError."""
        while not self._chunks:
            if self.complete:
                return b""
            if self.failure is not None:
                raise self.failure
            await self._wait()
        data = self._take_buffered()
        self._resume()
        return data

    async def pump(self, sink: Callable[[bytes], bool]) -> bool:
        """Hand the body to `sink` as it comes, from within the event loop's read and without waking a task.

        Returns True at the body's end, False when the sink wanted no more. Raises: UpstreamError.
        """
        if self._chunks and not sink(self._take_buffered()):
            return False
        self._sink = sink
        self._resume()
        try:
            while self._sink is not None and not self.complete:
                if self.failure is not None:
                    raise self.failure
                await self._wait()
        finally:
            wanted_more, self._sink = self._sink is not None, None
        return wanted_more and self.complete

    async def read_all(self) -> bytes:
        """The whole body. Raises: UpstreamError, of garbage when it is larger than any answer can be."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > ANSWER_BYTES_MAX:
                raise UpstreamError(Loss.GARBAGE, f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def stuck_behind_client(self) -> bool:
        """Whether the engine is not read from because the client does not take what has come."""
        return self._paused or bool(self._chunks)

    def fail(self, loss: Loss, message: str) -> None:
        """End the exchange from this side; a reader gets `loss`."""
        if self.failure is None and not self.complete:
            self.failure = UpstreamError(loss, message)
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close the connection without ceremony; the engine drops what it was doing for it."""
        if self._transport is not None:
            self._transport.abort()

    def _take_buffered(self) -> bytes:
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        return data

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            # Time spent waiting for the client must not count as the engine's silence.
            self.heard_s = self._loop.time()
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Upstream:
    """Connections to all engines and agents, kept for a while between exchanges."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle: dict[tuple[str, int], deque[Wire]] = {}

    async def post(self, address: str, port: int, path: str, body: bytes, *, extra: bytes = b"") -> Wire:
        """Send a POST; returns once it is on its way. `extra`: whole header lines. Raises: UpstreamError."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {address}:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
        ).encode("latin-1")
        return await self._send(address, port, b"".join((head, extra, b"\r\n", body)))

    async def get(self, address: str, port: int, path: str) -> Wire:
        """Send a GET. Raises: UpstreamError."""
        head = f"GET {path} HTTP/1.1\r\nhost: {address}:{port}\r\naccept: */*\r\n\r\n"
        return await self._send(address, port, head.encode("latin-1"))

    def release(self, wire: Wire) -> None:
        """Give a connection back: kept when its exchange ended well, closed otherwise."""
        if not wire.reusable:
            wire.abort()
            return
        wire.idle_since_s = self._loop.time()
        self._idle.setdefault(wire.peer, deque()).append(wire)

    def drop_idle(self) -> None:
        """Close connections that have not been used for a while."""
        limit_s = self._loop.time() - IDLE_S
        for key in list(self._idle):
            wires = self._idle[key]
            while wires and (wires[0].idle_since_s < limit_s or not wires[0].open):
                wires.popleft().abort()
            if not wires:
                del self._idle[key]

    def close(self) -> None:
        """Close every unused connection."""
        for wires in self._idle.values():
            for wire in wires:
                wire.abort()
        self._idle.clear()

    async def _send(self, address: str, port: int, request: bytes) -> Wire:
        wire = self._take(address, port) or await self._connect(address, port)
        wire.send(request)
        return wire

    def _take(self, address: str, port: int) -> Wire | None:
        wires = self._idle.get((address, port))
        limit_s = self._loop.time() - IDLE_S
        while wires:
            wire = wires.pop()
            if wire.open and wire.idle_since_s >= limit_s:
                return wire
            wire.abort()
        return None

    async def _connect(self, address: str, port: int) -> Wire:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, wire = await self._loop.create_connection(lambda: Wire(self._loop, (address, port)), address, port)
        except TimeoutError as error:
            raise UpstreamError(Loss.CONNECT, f"no connection to {address}:{port} in {CONNECT_TIMEOUT_S} s") from error
        except OSError as error:
            raise UpstreamError(Loss.CONNECT, f"no connection to {address}:{port}: {error}") from error
        return wire
