"""A load generator that costs little: raw asyncio, httptools for the framing, events counted, not parsed."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from tests.fakes import tokens

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send, and the answer that is right for it."""

    raw: bytes
    stream: bool
    prompt: tuple[int, ...]
    tokens_max: int


@dataclass(slots=True)
class Outcome:
    """What came back for one call."""

    ttft_s: float = 0.0
    """From the first byte sent to the first event, or to the whole answer."""
    chunks: int = 0
    failure: str | None = None
    """Why the client would call it failed; None: a complete and right answer."""


@dataclass(slots=True)
class Load:
    """How much is sent at once, and for how long at most."""

    calls: list[Call]
    at_once: int
    time_max_s: float
    verify: bool = False
    """Keeps every answer and compares its text with the one that the model must give."""
    on_done: Callable[[int], None] | None = None
    """Called with the number of finished calls."""


@dataclass(slots=True)
class Sample:
    """The result of one load."""

    outcomes: list[Outcome]
    seconds: float
    failures: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def completed(self) -> int:
        """Calls with a right answer."""
        return sum(o.failure is None for o in self.outcomes)

    @property
    def chunks(self) -> int:
        """Streamed events in all."""
        return sum(o.chunks for o in self.outcomes)

    def ttft_s(self, quantile: float) -> float:
        """TTFT of the calls that succeeded; 0 when none did."""
        seen = sorted(o.ttft_s for o in self.outcomes if o.failure is None)
        return seen[min(int(quantile * len(seen)), len(seen) - 1)] if seen else 0.0


def chat_call(host: str, number: int, *, stream: bool, tokens_max: int, words: int) -> Call:
    """A chat request with a prompt of about `words` words, all different in their beginning."""
    content = f"{number} " + " ".join(["the quick brown fox and the lazy dog"] * (words // 8))
    body: dict[str, object] = {"model": "fake", "messages": [{"role": "user", "content": content}]}
    body |= {"max_tokens": tokens_max, "temperature": 0, "stream": stream}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    head += f"x-request-id: bench-{number}\r\ncontent-length: {len(data)}\r\n\r\n"
    prompt = tokens.encode(f"<|user|>{content}\n\n<|assistant|>")
    return Call(head.encode() + data, stream, tuple(prompt), tokens_max)


class _Client(asyncio.Protocol):
    """One kept connection; one call at a time."""

    def __init__(self, *, keep_body: bool) -> None:
        self._keep_body = keep_body
        self.transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._call: Call | None = None
        self._done: asyncio.Future[None] | None = None
        self._outcome = Outcome()
        self._sent_s = 0.0
        self._tail = b""
        self.status = 0
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._finish(f"connection cut{f' ({exc})' if exc else ''}")

    def data_received(self, data: bytes) -> None:
        if self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                self._finish("not HTTP")

    def on_headers_complete(self) -> None:
        if self._parser is not None:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self._outcome.chunks:
            self._outcome.ttft_s = time.perf_counter() - self._sent_s
        if self._call is not None and self._call.stream:
            joined = self._tail + body
            self._outcome.chunks += joined.count(b"\n\n")
            self._tail = b"\n" if joined.endswith(b"\n") and not joined.endswith(b"\n\n") else b""
        else:
            self._outcome.chunks += 1
        if not self._keep_body:
            del self.body[:-1]
        self.body.append(body)

    def on_message_complete(self) -> None:
        self._finish(None if self.status == 200 else f"status {self.status}")

    def _finish(self, failure: str | None) -> None:
        if self._done is not None and not self._done.done():
            self._outcome.failure = failure
            self._done.set_result(None)

    async def send(self, call: Call) -> Outcome:
        """Sends the call and waits for its end."""
        self._parser, self._call, self._outcome = httptools.HttpResponseParser(self), call, Outcome()
        self.body, self._tail, self.status = [], b"", 0
        self._done = asyncio.get_running_loop().create_future()
        self._sent_s = time.perf_counter()
        if self.transport is None:
            self._outcome.failure = "connection cut"
            return self._outcome
        self.transport.write(call.raw)
        await self._done
        return self._outcome


def _judge(call: Call, body: bytes) -> str | None:
    """Why a complete answer under status 200 is wrong; None when it is right."""
    model = tokens.Generation(call.prompt)
    expected = "".join(model.step()[1] for _ in range(call.tokens_max))
    if not call.stream:
        got = json.loads(body)["choices"][0]["message"]["content"]
        return None if got == expected else "wrong text"
    got = ""
    done = False
    for line in body.split(b"\n\n"):
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            done = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            return "error event"
        got += "".join(c["delta"].get("content") or "" for c in event["choices"])
    if not done:
        return "no [DONE]"
    return None if got == expected else "wrong text"


async def run(load: Load, addresses: list[tuple[str, int]]) -> Sample:
    """Sends all calls over `at_once` connections that are spread over the addresses."""
    calls = iter(load.calls)
    outcomes: list[Outcome] = []
    started = time.perf_counter()
    deadline = asyncio.get_running_loop().time() + load.time_max_s

    async def one_connection(address: tuple[str, int]) -> None:
        client: _Client | None = None
        for call in calls:
            client, outcome = await _one_call(load, call, client, address, deadline)
            outcomes.append(outcome)
            if load.on_done is not None:
                load.on_done(len(outcomes))
        if client is not None and client.transport is not None:
            client.transport.close()

    await asyncio.gather(*(one_connection(addresses[i % len(addresses)]) for i in range(load.at_once)))
    failures = Counter(o.failure for o in outcomes if o.failure is not None)
    return Sample(outcomes, time.perf_counter() - started, dict(failures))


async def _one_call(
    load: Load, call: Call, client: _Client | None, address: tuple[str, int], deadline: float
) -> tuple[_Client | None, Outcome]:
    """The connection to go on with, None after a failure, and what came of the call."""
    try:
        async with asyncio.timeout_at(deadline):
            if client is None or client.transport is None:
                client = await _connect(address, keep_body=load.verify)
            outcome = await client.send(call)
    except (OSError, TimeoutError) as error:
        if client is not None and client.transport is not None:
            client.transport.abort()
        return None, Outcome(failure="timeout" if isinstance(error, TimeoutError) else "no connection")
    if outcome.failure is None:
        outcome.failure = _check(load, call, client)
    return client, outcome


def _check(load: Load, call: Call, client: _Client) -> str | None:
    body = b"".join(client.body)
    if load.verify:
        return _judge(call, body)
    return None if not call.stream or b"[DONE]" in body else "no [DONE]"


async def _connect(address: tuple[str, int], *, keep_body: bool) -> _Client:
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: _Client(keep_body=keep_body), *address)
    return client
