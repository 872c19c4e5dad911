"""Carries out what `handoff` decides for one request: talks to engines, writes to the client.

Deadlines and silences are found by the server's ticker, which ends the running connection with a
reason; so there is one kind of failure to handle, in one place.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from tandem_worker.dialects import vllm
from tandem_worker.dialects.table import HandOff
from tandem_worker.dialects.vllm_stream import IdRelay
from tandem_worker.gateway import handoff
from tandem_worker.gateway.errors import Refusal, error_event
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.handoff import Exchange, Loss, Stage, Terms
from tandem_worker.gateway.metrics import Metrics
from tandem_worker.gateway.request import ClientRequest, value
from tandem_worker.gateway.resume import continuation, why_not
from tandem_worker.gateway.silence import Limits, Silence, judge
from tandem_worker.gateway.stream import OpaqueRelay, Relay
from tandem_worker.gateway.upstream import Upstream, UpstreamError, Wire

if TYPE_CHECKING:
    import msgspec

log = logging.getLogger("tandem.gateway")

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
EVENT_STREAM = "text/event-stream"
LAST_WORDS_S = 2.0
"""How long after its deadline a request may take to tell the client so."""
IDS_TO_DECODE = 8
"""Enough ids to see whether the last one ends inside a character: none is longer than four bytes."""


class Client(Protocol):
    """The client's side of an exchange, as the server provides it."""

    async def begin(self, headers: dict[str, str]) -> None:
        """Send the response headers of an event stream."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the stream; waits while the client does not take it."""
        ...

    def push(self, data: bytes) -> bool:
        """Send a part of the stream without waiting; False when the client takes it too slowly."""
        ...

    async def drain(self) -> None:
        """Wait until the client has taken most of what was pushed."""
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
    limits: Limits
    dialect: HandOff = vllm
    resume_tokens_max: int = 0
    """0: no stream is resumed."""
    context_tokens_max: int = 0
    """The engines' context; 0: not known."""
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
        self._dialect = shared.dialect
        self._fields = self._dialect.clean(request)
        self._leg = request
        """What engines are asked for: the client's request, or the continuation of its broken stream."""
        self._resumable = shared.resume_tokens_max > 0 and not why_not(request, shared.context_tokens_max)
        self._request_id = request_id
        self._arrived_s = shared.now()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._relay = self._new_relay()
        self._parameters: msgspec.Raw | None = None
        self._held: tuple[int, str, bytes] | None = None
        """An answer that was read whole: an engine's refusal, or what the prefill engine finished by itself."""
        self._late = False
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the request to its end."""
        event: handoff.Event | None = handoff.Begin()
        self._task = asyncio.current_task()
        try:
            while event is not None:
                event = await self._act(self._step(event))
        finally:
            if self.state.stage is not Stage.OVER:
                self._step(handoff.ClientGone())
                self.outcome = "client_gone"
            self._drop_wire()

    def look(self, now_s: float, *, judge_silence: bool) -> None:
        """End what has gone on for too long: the whole request, or an engine's silence."""
        wire = self.wire
        if now_s >= self.state.terms.deadline_s:
            self._late = True
            if wire is not None:
                wire.fail(Loss.STALL, "the request's deadline has passed")
            if self._task is not None and now_s >= self.state.terms.deadline_s + LAST_WORDS_S:
                self._task.cancel()  # the client does not even take the error
            return
        at = handoff.working(self.state)
        if wire is None or at is None or wire.stuck_behind_client or not judge_silence:
            return
        worker = self._shared.fleet.get(at[0])
        silence = Silence(
            phase=at[1],
            streaming=self._request.stream,
            begun=wire.headers_done and self._relay.tokens > 0,
            silent_s=now_s - wire.heard_s,
            unwell_s=now_s - worker.unwell_since_s if worker is not None and worker.unwell_since_s else 0.0,
        )
        if why := judge(silence, self._shared.limits):
            wire.fail(Loss.STALL, why)

    def _new_relay(self) -> Relay:
        request = self._request
        options = value(request.fields, "stream_options")
        usage_asked = isinstance(options, dict) and bool(cast(dict[str, object], options).get("include_usage"))
        if self._resumable:
            return IdRelay(
                chat=request.endpoint == "chat", tokens_max=self._shared.resume_tokens_max, usage_asked=usage_asked
            )
        choices = value(request.fields, "n")
        return OpaqueRelay(
            request.endpoint, choices=choices if isinstance(choices, int) else 1, usage_asked=usage_asked
        )

    def _step(self, event: handoff.Event) -> tuple[handoff.Action, ...]:
        at = handoff.working(self.state)
        if isinstance(event, handoff.Lost) and at is not None:
            self._shared.metrics.lost(at[1], event.loss.value)
        self.state, actions = handoff.step(self.state, event, self._shared.now(), self._shared.fleet)
        for action in actions:
            if isinstance(action, handoff.Tally):
                self._shared.metrics.count(action.what)
        return actions

    async def _act(self, actions: tuple[handoff.Action, ...]) -> handoff.Event | None:
        """Carry out a step; returns what came of it, None when the request is over."""
        event: handoff.Event | None = None
        for action in actions:
            match action:
                case handoff.Tally():
                    pass  # counted when it was decided
                case handoff.Park():
                    event = await self._park(action.until_s)
                case handoff.RunPrefill():
                    event = await self._guard(self._prefill(action.worker))
                case handoff.RunDecode():
                    event = await self._guard(self._decode(action.worker, handed_off=action.handed_off))
                case handoff.Deliver():
                    event = await self._guard(self._deliver())
                case handoff.CompleteTail():
                    await self._client.write(self._relay.tail())
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
        await self._take_up(worker)
        wire = await self._post(worker, self._dialect.prefill_body(self._leg, self._fields))
        status = await wire.headers()
        body = await wire.read_all()
        content_type = wire.content_type
        self._drop_wire()
        if status != 200:
            self._held = (status, content_type, body)
            return handoff.Prefilled(status, has_parameters=False)
        try:
            if answer := self._dialect.complete_answer(body, stream=self._request.stream):
                self._held = (status, EVENT_STREAM if self._request.stream else content_type, answer)
                return handoff.Prefilled(status, has_parameters=False, complete=True)
            self._parameters = self._dialect.transfer_parameters(body)
        except ValueError as error:
            raise UpstreamError(Loss.GARBAGE, str(error)) from error
        return handoff.Prefilled(status, has_parameters=self._parameters is not None)

    async def _decode(self, worker: str, *, handed_off: bool) -> handoff.Event:
        if not handed_off:
            await self._take_up(worker)
        parameters = self._parameters if handed_off else None
        self._parameters = None
        body = self._dialect.decode_body(self._fields, parameters, with_token_ids=isinstance(self._relay, IdRelay))
        wire = await self._post(worker, body)
        status = self._dialect.decode_status(await wire.headers(), handed_off=handed_off)
        if status != 200:
            self._held = (status, wire.content_type, await wire.read_all())
            self._drop_wire()
        return handoff.DecodeAnswered(status)

    async def _take_up(self, worker: str) -> None:
        """Prepare an attempt: a fresh start while the client has nothing, else the rest of its stream."""
        relay = self._relay
        if not self.state.sent:
            if self.state.attempts > 1:
                self._relay = self._new_relay()
            return
        assert isinstance(relay, IdRelay)
        while relay.history.last_count > 1 and await self._ends_inside_character(worker, relay):
            relay.history.drop_last()
        relay.continue_elsewhere()
        self._leg = continuation(self._request, relay.history, self._shared.context_tokens_max)
        self._fields = self._leg.fields

    async def _ends_inside_character(self, worker: str, relay: IdRelay) -> bool:
        """Whether the last id began a character: an engine primed with such a prompt would repeat all its text."""
        ids = relay.history.last_ids(IDS_TO_DECODE)
        body: dict[str, object] = {"tokens": ids}
        if "model" in self._fields:
            body["model"] = self._fields["model"]
        wire = await self._post(worker, vllm.encode(body), path="/detokenize")
        status, answer = await wire.headers(), await wire.read_all()
        self._drop_wire()
        if status != 200:
            raise UpstreamError(Loss.ERROR, f"/detokenize answered {status}")
        return vllm.detokenized(answer).endswith("\ufffd")

    async def _deliver(self) -> handoff.Event | None:
        wire = self.wire
        if wire is None:
            assert self._held is not None
            status, content_type, body = self._held
            self.outcome = "completed" if status == 200 else "refused"
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
        relay, client = self._relay, self._client
        while not self.state.sent and (data := await wire.read()):
            if out := relay.feed(data):
                self._last_s = self._first_s = self._shared.now()
                await client.begin(self._headers())
                self._step(handoff.Sent())
                await client.write(out)
            self._check(relay)

        def sink(data: bytes) -> bool:
            self._last_s = wire.heard_s
            return client.push(relay.feed(data)) and relay.failure is None

        while not await wire.pump(sink):
            self._check(relay)
            await client.drain()
        self._check(relay)
        if relay.offer() is not handoff.Offer.COMPLETE:
            raise UpstreamError(Loss.RESET, "the stream ended before its end mark")
        self._drop_wire()
        self.outcome = "completed"
        return handoff.Finished()

    def _check(self, relay: Relay) -> None:
        if relay.failure is not None:
            raise UpstreamError(relay.failure, "the stream ended with an error, or with what is no event")

    async def _fail(self, action: handoff.Fail) -> None:
        refusal = action.refusal
        if action.in_stream:
            self._shared.metrics.count("typed_errors")
            self.outcome = "typed_error"
            await self._client.write(error_event(refusal, self._request.endpoint))
            return
        self.outcome = "rejected" if refusal.status == 429 else "failed"
        await self._client.refuse(refusal, self._headers())

    async def _post(self, name: str, body: bytes, path: str = "") -> Wire:
        worker = self._shared.fleet.get(name)
        if worker is None:
            raise UpstreamError(Loss.CONNECT, f"{name} has left")
        record = worker.record
        extra = f"x-request-id: {self._request_id}-{self.state.attempts}\r\n".encode("latin-1")
        path = path or PATHS[self._leg.endpoint]
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
