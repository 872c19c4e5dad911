"""Carries out what `handoff` decides for one request: talks to engines, writes to the client.

Deadlines and silences are found by the server's ticker, which ends the running connection with a
reason; so there is one kind of failure to handle, in one place.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from tandem_worker.dialects import vllm
from tandem_worker.gateway import handoff
from tandem_worker.gateway.errors import Refusal, error_event
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.handoff import Exchange, Loss, Stage, Terms
from tandem_worker.gateway.metrics import Metrics
from tandem_worker.gateway.request import ClientRequest
from tandem_worker.gateway.stream import DONE, EngineErrorEvent, OpaqueRelay, Relay
from tandem_worker.gateway.upstream import Upstream, UpstreamError, Wire

log = logging.getLogger("tandem.gateway")

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
EVENT_STREAM = "text/event-stream"


class Client(Protocol):
    """The client's side of an exchange, as the server provides it."""

    async def begin(self, headers: dict[str, str]) -> None:
        """Send the response headers of an event stream."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the stream; waits while the client does not take it."""
        ...

    async def answer(self, status: int, content_type: str, headers: dict[str, str], body: bytes) -> None:
        """Send a whole answer."""
        ...

    async def refuse(self, refusal: Refusal, headers: dict[str, str]) -> None:
        """Send an error answer."""
        ...


class Signal:
    """Wakes everyone who waits for the fleet to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next firing, or after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass


@dataclass(slots=True)
class Shared:
    """What all exchanges of a gateway use together."""

    fleet: Fleet
    upstream: Upstream
    metrics: Metrics
    now: Callable[[], float]
    fleet_changed: Signal = field(default_factory=Signal)


class Serving:
    """One admitted request on its way."""

    def __init__(self, shared: Shared, client: Client, request: ClientRequest, terms: Terms, request_id: str) -> None:
        self.state = Exchange(terms)
        self.outcome = "failed"
        self.wire: Wire | None = None
        """The connection that is being waited on or read from."""
        self._shared = shared
        self._client = client
        self._request = request
        self._fields = vllm.clean(request)
        self._request_id = request_id
        self._arrived_s = shared.now()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._relay: Relay = OpaqueRelay(DONE if request.endpoint in ("chat", "completions") else None)
        self._parameters: msgspec.Raw | None = None
        self._refused: tuple[int, str, bytes] | None = None
        self._late = False

    async def run(self) -> None:
        """Serve the request to its end."""
        event: handoff.Event | None = handoff.Begin()
        try:
            while event is not None:
                event = await self._act(self._step(event))
        finally:
            if self.state.stage is not Stage.OVER:
                self._step(handoff.ClientGone())
                self.outcome = "client_gone"
            self._drop_wire()

    def expire(self) -> None:
        """The deadline has passed: whatever runs is ended."""
        self._late = True
        if self.wire is not None:
            self.wire.fail(Loss.STALL, "the request's deadline has passed")

    def _step(self, event: handoff.Event) -> tuple[handoff.Action, ...]:
        at = handoff.working(self.state)
        if isinstance(event, handoff.Lost) and at is not None:
            self._shared.metrics.lost(at[1], event.loss.value)
        self.state, actions = handoff.step(self.state, event, self._shared.now(), self._shared.fleet)
        return actions

    async def _act(self, actions: tuple[handoff.Action, ...]) -> handoff.Event | None:
        """Carry out a step; returns what came of it, None when the request is over."""
        event: handoff.Event | None = None
        for action in actions:
            match action:
                case handoff.Tally():
                    self._shared.metrics.count(action.what)
                case handoff.Park():
                    event = await self._park(action.until_s)
                case handoff.RunPrefill():
                    event = await self._guard(self._prefill(action.worker))
                case handoff.RunDecode():
                    event = await self._guard(self._decode(action.worker, handed_off=action.handed_off))
                case handoff.Deliver():
                    event = await self._guard(self._deliver())
                case handoff.CompleteTail():
                    self.outcome = "completed"
                case handoff.Fail():
                    await self._fail(action)
        return event

    async def _guard(self, work: Awaitable[handoff.Event | None]) -> handoff.Event | None:
        try:
            return await work
        except UpstreamError as error:
            self._drop_wire()
            if self._late:
                return handoff.DeadlinePassed()
            log.info("request %s: %s: %s", self._request_id, error.loss.value, error)
            return handoff.Lost(error.loss, self._relay.offer())

    async def _park(self, until_s: float) -> handoff.Event:
        await self._shared.fleet_changed.wait(until_s - self._shared.now())
        return handoff.FleetChanged()

    async def _prefill(self, worker: str) -> handoff.Event:
        wire = await self._post(worker, vllm.prefill_body(self._request, self._fields))
        status = await wire.headers()
        body = await wire.read_all()
        content_type = wire.content_type
        self._drop_wire()
        if status != 200:
            self._refused = (status, content_type, body)
            return handoff.Prefilled(status, has_parameters=False)
        try:
            self._parameters = vllm.transfer_parameters(body)
        except ValueError as error:
            raise UpstreamError(Loss.GARBAGE, str(error)) from error
        return handoff.Prefilled(status, has_parameters=self._parameters is not None)

    async def _decode(self, worker: str, *, handed_off: bool) -> handoff.Event:
        parameters = self._parameters if handed_off else None
        self._parameters = None
        wire = await self._post(worker, vllm.decode_body(self._fields, parameters, with_token_ids=False))
        status = await wire.headers()
        if status != 200:
            self._refused = (status, wire.content_type, await wire.read_all())
            self._drop_wire()
        return handoff.DecodeAnswered(status)

    async def _deliver(self) -> handoff.Event | None:
        wire = self.wire
        if wire is None:
            assert self._refused is not None
            status, content_type, body = self._refused
            self.outcome = "refused"
            await self._client.answer(status, content_type, self._headers(), body)
            return None
        if self._request.stream and wire.content_type.startswith(EVENT_STREAM):
            return await self._stream(wire)
        body = await wire.read_all()
        content_type = wire.content_type
        self._drop_wire()
        self._first_s = self._shared.now()
        await self._client.answer(200, content_type, self._headers(), body)
        self.outcome = "completed"
        return handoff.Finished()

    async def _stream(self, wire: Wire) -> handoff.Event:
        relay, client, now = self._relay, self._client, self._shared.now
        while data := await wire.read():
            try:
                out = relay.feed(data)
            except EngineErrorEvent as error:
                raise UpstreamError(Loss.ERROR, "the engine ended the stream with an error") from error
            if not out:
                continue
            self._last_s = now()
            if not self.state.sent:
                if self._first_s is None:
                    self._first_s = self._last_s
                await client.begin(self._headers())
                self._step(handoff.Sent())
            await client.write(out)
        if relay.offer() is not handoff.Offer.COMPLETE:
            raise UpstreamError(Loss.RESET, "the stream ended before its end mark")
        self._drop_wire()
        self.outcome = "completed"
        return handoff.Finished()

    async def _fail(self, action: handoff.Fail) -> None:
        refusal = action.refusal
        if action.in_stream:
            self._shared.metrics.count("typed_errors")
            self.outcome = "typed_error"
            await self._client.write(error_event(refusal))
            return
        self.outcome = "rejected" if refusal.status == 429 else "failed"
        await self._client.refuse(refusal, self._headers())

    async def _post(self, name: str, body: bytes) -> Wire:
        worker = self._shared.fleet.get(name)
        if worker is None:
            raise UpstreamError(Loss.CONNECT, f"{name} has left")
        record = worker.record
        extra = f"x-request-id: {self._request_id}-{self.state.attempts}\r\n".encode("latin-1")
        path = PATHS[self._request.endpoint]
        self.wire = await self._shared.upstream.post(record.address, record.http_port, path, body, extra=extra)
        return self.wire

    def _drop_wire(self) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            self._shared.upstream.release(wire)

    def _headers(self) -> dict[str, str]:
        """What the client learns about the way its answer took."""
        route = self.state.route
        if route is None:
            return {}
        headers = {
            "x-tandem-path": "aggregated" if route.prefill is None else "disaggregated",
            "x-tandem-prefill": route.prefill or route.decode,
            "x-tandem-decode": route.decode,
            "x-tandem-generation": self.state.generation or "",
        }
        if route.reason:
            headers["x-tandem-reason"] = route.reason
        return headers

    @property
    def times(self) -> tuple[float, float | None] | None:
        """TTFT and mean gap between tokens in seconds, as far as there are any."""
        if self._first_s is None:
            return None
        gaps = self._relay.tokens - 1
        tpot_s = (self._last_s - self._first_s) / gaps if gaps > 0 else None
        return self._first_s - self._arrived_s, tpot_s
