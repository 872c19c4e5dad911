"""A bare HTTP/1.1 server on asyncio and httptools, whose every byte a test may spoil.

uvicorn's behaviour is kept where a client can see it: keep-alive, chunked streams with one write per
event, a paused writer when the client reads slowly.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"} | {
    405: "Method Not Allowed",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


@dataclass(slots=True)
class Request:
    """One parsed request; header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One client connection; requests on it are answered one after another."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[Request] = []
        self._pieces: deque[bytes] = deque()
        self.paused = False
        self.on_resume: Callable[[], None] | None = None
        """Called when the client reads again after a pause."""

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        if self._server.frozen:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.on_resume is not None:
            self.on_resume()

    # httptools
    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        path = httptools.parse_url(self._url).path.decode()
        self._waiting.append(Request(method, path, self._headers, b"".join(self._body)))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer_all())

    async def _answer_all(self) -> None:
        while self._waiting:
            await self._server.answer(self._waiting.pop(0), self)
            self.on_resume = None
        self._task = None

    # answers
    @property
    def closed(self) -> bool:
        """Whether the client, or a fault, has ended the connection."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Sends raw bytes; nothing when the connection is gone."""
        if self._transport is None:
            return
        size = self._server.split_bytes
        if not size:
            self._transport.write(data)
            return
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._write_piece)
        self._pieces.extend(data[i : i + size] for i in range(0, len(data), size))

    def _write_piece(self) -> None:
        if self._transport is not None and self._pieces:
            self._transport.write(self._pieces.popleft())
        if self._pieces:
            asyncio.get_running_loop().call_soon(self._write_piece)

    def respond(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Sends one whole answer."""
        self.write(head(status, content_type, len(body)) + body)

    def begin_stream(self) -> None:
        """Sends the head of an event stream in chunked encoding."""
        self.write(STREAM_HEAD)

    def chunk(self, data: bytes) -> None:
        """Sends one chunk of a chunked answer."""
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        """Ends a chunked answer as HTTP wants it."""
        self.write(b"0\r\n\r\n")

    def freeze(self, frozen: bool) -> None:
        """Stops reading, or goes on: the peer sees a connection that stays open and silent."""
        if self._transport is not None:
            self._transport.pause_reading() if frozen else self._transport.resume_reading()

    def abort(self, *, reset: bool = False) -> None:
        """Ends the connection at once: closed as the kernel closes a killed process's, or with an RST."""
        if self._transport is None:
            return
        self._transport.write(b"".join(self._pieces))
        self._pieces.clear()
        peer = cast(socket.socket | None, self._transport.get_extra_info("socket"))
        if reset and peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def head(status: int, content_type: str, size: int) -> bytes:
    """The head of an answer with a known length."""
    reason = REASONS.get(status, "Unknown")
    lines = (
        f"HTTP/1.1 {status} {reason}",
        "server: uvicorn",
        f"content-length: {size}",
        f"content-type: {content_type}",
    )
    return "\r\n".join((*lines, "", "")).encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclass(slots=True, eq=False)
class Server:
    """A listener whose requests go to one coroutine."""

    answer: Callable[[Request, Connection], Awaitable[None]]
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port; the one that was taken is kept over a restart."""
    frozen: bool = False
    """Accepts and never reads, as a stopped process does."""
    split_bytes: int = 0
    """Writes in pieces of so many bytes, one per turn of the loop; 0: as it comes."""
    connections: set[Connection] = field(default_factory=set["Connection"])
    _listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; sets `port`."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=1024)
        self.port = cast(tuple[Any, int], self._listener.sockets[0].getsockname())[1]

    def kill(self) -> None:
        """Ends as a killed process: the port is closed, every connection is reset."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self.connections):
            connection.abort()

    def freeze(self, frozen: bool) -> None:
        """Half-open: connections are accepted and stay silent, until thawed."""
        self.frozen = frozen
        for connection in self.connections:
            connection.freeze(frozen)
