"""The simulated world: a clock, a fleet of failing engines, clients, and a driver of the pure core.

The driver does what `exchange` and `server` do over sockets, event by event; every choice that is
not the core's is a throw of the schedule's dice.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from tandem_worker.contract import FLEXIBLE_POOL, WorkerRecord
from tandem_worker.dialects import vllm
from tandem_worker.dialects.vllm_stream import IdRelay
from tandem_worker.gateway import handoff
from tandem_worker.gateway.admit import Admission, Queue
from tandem_worker.gateway.errors import Refusal
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.handoff import Exchange, Loss, Stage, Terms
from tandem_worker.gateway.prefix import prompt_of
from tandem_worker.gateway.request import ClientRequest, fields_of, understood
from tandem_worker.gateway.resume import continuation
from tandem_worker.gateway.silence import Limits, Silence, judge
from tests.fakes.tokens import fingerprint
from tests.gateway.fleets import worker
from tests.simulation.engines import SimEngine, ends_inside_character, job_of, pieces

LIMITS = Limits(prefill_timeout_s=4.0, stall_timeout_s=2.0)
PROBE_S = 0.5
TICK_S = 0.1


@dataclass(slots=True)
class Flight:
    """One request and all that the checkers want to know of it afterwards."""

    number: int
    request: ClientRequest
    state: Exchange
    resumable: bool
    arrived_s: float
    relay: IdRelay
    leg: ClientRequest
    received: bytearray = field(default_factory=bytearray)
    refusal: Refusal | None = None
    refused_in_stream: bool = False
    passed_status: int | None = None
    """Status of an engine's own refusal that went to the client."""
    gone: bool = False
    """Whether the client hung up."""
    ended: int = 0
    attempt: int = 0
    """Counts the driver's attempts, so that a late event of a dead one is known."""
    heard_s: float = 0.0
    parameter: str | None = None
    used: list[str] = field(default_factory=list[str])
    """Transfer parameters in the order they were sent to a decode engine."""
    streamed_in: list[str | None] = field(default_factory=list[str | None])
    """Generations that wrote to the client."""
    queued_s: float | None = None
    admitted_s: float | None = None


class World:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.fleet = Fleet()
        self.engines: dict[str, SimEngine] = {}
        self.flights: list[Flight] = []
        self.complaints: list[str] = []
        """Rules broken while the schedule ran."""
        self.both = self.rng.random() < 0.7
        self.queue = Queue(running_max=self.rng.choice((2, 4, 16)), waiting_max=self.rng.choice((0, 2, 8)))
        self.peak = (0, 0)
        self.admissions: list[int] = []
        self.arrivals_queued: list[int] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._parked: list[tuple[Flight, int]] = []
        self.flexible = self.both and self.rng.random() < 0.4
        self.hand_off_tokens_min = self.rng.choice((0, 0, 8, 10_000))
        self._fault_rate = self.rng.choice((0.0, 0.02, 0.1, 0.3))
        for phase in ("prefill", "decode"):
            for i in range(self.rng.choice((1, 1, 2, 3))):
                self._add(
                    f"{phase}-{i}-a", worker(f"{phase}-{i}-a", phase, generation="a", key="key-a", both=self.both)
                )
        self._active = "a"
        self._observe()
        self._probe()

    # the clock

    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        """Let something happen later."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now_s + delay_s, self._sequence, what))

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Run until nothing is left to wait for."""
        while self._events and not until() and self.now_s < limit_s:
            self.now_s, _, what = heapq.heappop(self._events)
            what()

    # the fleet

    def _add(self, name: str, its: WorkerRecord) -> None:
        if self.flexible:
            its = its.model_copy(update={"pool": FLEXIBLE_POOL})
        self.engines[name] = SimEngine(its)

    def _observe(self) -> None:
        if self.fleet.observe([engine.record for engine in self.engines.values()], self._active):
            self._wake()

    def _probe(self) -> None:
        for name, engine in self.engines.items():
            good, draining = engine.well, engine.draining and engine.alive
            if self.fleet.probed(name, good=good, draining=draining, asked_s=self.now_s, now_s=self.now_s):
                self._wake()
        if self.flexible and self.fleet.assign(decodes_max=2, now_s=self.now_s):
            self._wake()
        self.at(PROBE_S, self._probe)

    def kill(self, name: str) -> None:
        """An engine dies; the streams it wrote break."""
        engine = self.engines[name]
        engine.alive, engine.epoch = False, engine.epoch + 1
        engine.held.clear()
        self.at(self.rng.uniform(0.5, 6.0), lambda: self._revive(name))

    def _revive(self, name: str) -> None:
        if name in self.engines:
            self.engines[name].alive = True

    def freeze(self, name: str) -> None:
        """An engine is stopped, and goes on later."""
        self.engines[name].frozen = True
        self.at(self.rng.uniform(0.5, 8.0), lambda: self._thaw(name))

    def _thaw(self, name: str) -> None:
        if name in self.engines:
            self.engines[name].frozen = False

    def roll_out(self) -> None:
        """A new generation comes up, becomes active, and the old one drains and leaves."""
        old = [name for name, engine in self.engines.items() if engine.record.generation == "a"]
        for phase in ("prefill", "decode"):
            self._add(f"{phase}-0-b", worker(f"{phase}-0-b", phase, generation="b", key="key-b", both=self.both))
        self._observe()

        def activate() -> None:
            self._active = "b"
            self._observe()
            for name in old:
                self.engines[name].draining = True
            self.at(self.rng.uniform(1.0, 20.0), leave)

        def leave() -> None:
            for name in old:
                del self.engines[name]
            self._observe()

        self.at(self.rng.uniform(0.6, 2.0), activate)

    def mishap(self) -> None:
        """Now and then something breaks."""
        name = self.rng.choice(sorted(self.engines))
        dice = self.rng.random()
        if dice < self._fault_rate:
            self.kill(name)
        elif dice < 1.5 * self._fault_rate:
            self.freeze(name)
        self.at(self.rng.uniform(0.05, 0.6), self.mishap)

    # clients

    def arrive(self, body: bytes, path: str, *, resumable: bool, timeout_s: float, attempts_max: int) -> None:
        """A client's request."""
        fields = fields_of(body)
        assert isinstance(fields, dict)
        request = understood(path, fields, ("fake",))
        assert isinstance(request, ClientRequest)
        reason = vllm.why_whole(request)
        terms = Terms(
            disaggregate=not reason,
            reason=reason,
            deadline_s=self.now_s + timeout_s,
            attempts_max=attempts_max,
            prompt=prompt_of(request.fields),
            survivors_serve_both=self.both,
            hand_off_tokens_min=self.hand_off_tokens_min,
        )
        flight = Flight(
            number=len(self.flights),
            request=request,
            state=Exchange(terms),
            resumable=resumable,
            arrived_s=self.now_s,
            relay=self._relay(request, resumable=resumable),
            leg=request,
        )
        self.flights.append(flight)
        match self.queue.arrive(flight.number):
            case Admission.RUN:
                self._admit(flight)
            case Admission.WAIT:
                flight.queued_s = self.now_s
                self.arrivals_queued.append(flight.number)
                self.at(timeout_s, lambda: self._expire_waiting(flight))
            case Admission.TURN_AWAY:
                flight.refusal = Refusal(429, "overloaded", "queue_full", "full")
                flight.ended += 1
        self.peak = (max(self.peak[0], self.queue.running), max(self.peak[1], len(self.queue.waiting)))

    def _relay(self, request: ClientRequest, *, resumable: bool) -> IdRelay:
        usage = b"stream_options" in msgspec.json.encode(request.fields)
        tokens_max = 100_000 if resumable else 0
        return IdRelay(chat=request.endpoint == "chat", tokens_max=tokens_max, usage_asked=usage)

    def _expire_waiting(self, flight: Flight) -> None:
        if self.queue.give_up(flight.number):
            flight.refusal = Refusal(504, "timeout", "deadline_exceeded", "waited")
            flight.ended += 1

    def hang_up(self, flight: Flight) -> None:
        """The client goes away."""
        if flight.ended:
            return
        flight.gone = True
        if self.queue.give_up(flight.number):
            flight.ended += 1
        elif flight.admitted_s is not None:
            self._step(flight, handoff.ClientGone())

    def _admit(self, flight: Flight) -> None:
        flight.admitted_s = self.now_s
        self.admissions.append(flight.number)
        self._step(flight, handoff.Begin())
        self._tick(flight)

    def _tick(self, flight: Flight) -> None:
        """What the server's ticker does: deadlines and silences."""
        if flight.ended:
            return
        at = handoff.working(flight.state)
        if self.now_s >= flight.state.terms.deadline_s:
            self._step(flight, handoff.DeadlinePassed())
        elif at is not None:
            worker = self.fleet.get(at[0])
            since_s = worker.unwell_since_s if worker is not None else None
            silence = Silence(
                phase=at[1],
                streaming=True,
                begun=flight.relay.tokens > 0,
                silent_s=self.now_s - flight.heard_s,
                unwell_s=self.now_s - since_s if since_s else 0.0,
            )
            if judge(silence, LIMITS):
                self._lose(flight, Loss.STALL)
        self.at(TICK_S, lambda: self._tick(flight))

    # the driver

    def _step(self, flight: Flight, event: handoff.Event) -> None:
        flight.state, actions = handoff.step(flight.state, event, self.now_s, self.fleet)
        for action in actions:
            self._carry_out(flight, action)
        if flight.state.stage is Stage.OVER and not flight.ended:
            flight.ended += 1
            flight.attempt += 1
            for number in self.queue.leave(1.0):
                self._admit(self.flights[number])

    def _carry_out(self, flight: Flight, action: handoff.Action) -> None:
        match action:
            case handoff.RunPrefill():
                self._run_prefill(flight, action.worker)
            case handoff.RunDecode():
                self._run_decode(flight, action.worker, handed_off=action.handed_off)
            case handoff.Park():
                self._parked.append((flight, flight.attempt))
                attempt = flight.attempt
                self.at(action.until_s - self.now_s, lambda: self._unpark(flight, attempt))
            case handoff.CompleteTail():
                flight.received += flight.relay.tail()
            case handoff.Fail():
                flight.refusal, flight.refused_in_stream = action.refusal, action.in_stream
            case handoff.Deliver() | handoff.Tally():
                pass

    def _wake(self) -> None:
        parked, self._parked = self._parked, []
        for flight, attempt in parked:
            self.at(0.0, lambda flight=flight, attempt=attempt: self._unpark(flight, attempt))

    def _unpark(self, flight: Flight, attempt: int) -> None:
        if flight.attempt == attempt and flight.state.stage is Stage.PARKED:
            flight.attempt += 1
            self._step(flight, handoff.FleetChanged())

    def _take_up(self, flight: Flight) -> None:
        if not flight.state.sent:
            flight.relay = self._relay(flight.request, resumable=flight.resumable)
            return
        history = flight.relay.history
        while history.last_count > 1 and ends_inside_character(history.last_ids(8)):
            history.drop_last()
        flight.relay.continue_elsewhere()
        flight.leg = continuation(flight.request, history, context_tokens_max=100_000)

    def _begin(self, flight: Flight, name: str, *, chosen_now: bool) -> SimEngine | None:
        """Ask a worker; None when it is not there to be asked."""
        worker = self.fleet.get(name)
        if chosen_now and (worker is None or not worker.ready):
            self.complaints.append(f"request {flight.number} was sent to {name}, which is not ready")
        flight.attempt += 1
        flight.heard_s = self.now_s
        engine = self.engines.get(name)
        if engine is None or not engine.alive:
            attempt = flight.attempt
            self.at(0.01, lambda: self._lose_attempt(flight, attempt, Loss.CONNECT))
            return None
        return engine

    def _lose_attempt(self, flight: Flight, attempt: int, loss: Loss) -> None:
        if flight.attempt == attempt and not flight.ended:
            self._lose(flight, loss)

    def _lose(self, flight: Flight, loss: Loss) -> None:
        flight.attempt += 1
        self._step(flight, handoff.Lost(loss, flight.relay.offer()))

    def _bad_luck(self, *more: Loss) -> int | Loss | None:
        """How an engine that is well fails this request, if at all: a status, or a loss."""
        if self.rng.random() >= self._fault_rate:
            return None
        return self.rng.choice((500, 503, Loss.RESET, Loss.GARBAGE, Loss.STALL, *more))

    def _run_prefill(self, flight: Flight, name: str) -> None:
        self._take_up(flight)
        engine = self._begin(flight, name, chosen_now=True)
        if engine is None:
            return
        job = job_of(vllm.prefill_body(flight.leg, vllm.clean(flight.leg)), chat=flight.leg.endpoint == "chat")
        if not job.kv_hold or job.sequences[0].tokens_max != 1 or job.stream:
            self.complaints.append(f"request {flight.number}: not the request of a prefill")
        attempt, epoch, luck = flight.attempt, engine.epoch, self._bad_luck(Loss.NO_PARAMETERS)

        def answer() -> None:
            if flight.attempt != attempt or flight.ended:
                return
            if epoch != engine.epoch:
                self._lose(flight, Loss.RESET)
            elif engine.frozen:
                self.at(0.1, answer)
            elif luck is Loss.NO_PARAMETERS or isinstance(luck, int):
                status = luck if isinstance(luck, int) else 200
                self._step(flight, handoff.Prefilled(status, has_parameters=False))
            elif luck is None:
                flight.parameter = f"{name}/{epoch}/{flight.number}/{attempt}"
                engine.held[flight.parameter] = fingerprint(job.prompts[0])
                self._step(flight, handoff.Prefilled(200, has_parameters=True))
            elif luck is not Loss.STALL:  # a stall is silence, until the ticker has had enough of it
                self._lose(flight, luck)

        self.at(self.rng.uniform(0.01, 0.4), answer)

    def _run_decode(self, flight: Flight, name: str, *, handed_off: bool) -> None:
        if not handed_off:
            self._take_up(flight)
        parameter, flight.parameter = flight.parameter if handed_off else None, None
        if parameter is not None:
            flight.used.append(parameter)
        elif handed_off:
            self.complaints.append(f"request {flight.number}: a hand-off without parameters")
        engine = self._begin(flight, name, chosen_now=not handed_off)
        if engine is None:
            return
        raw = msgspec.Raw(b'{"do_remote_prefill":true}') if parameter else None
        body = vllm.decode_body(vllm.clean(flight.leg), raw, with_token_ids=True)
        job = job_of(body, chat=flight.leg.endpoint == "chat")
        luck: int | Loss | None = self._bad_luck()
        if parameter is not None and not self._read_blocks(parameter, fingerprint(job.prompts[0])):
            luck = 500
        stream = pieces(job, f"r{flight.number}-{flight.attempt}", self.rng)
        break_at = self.rng.randrange(12) if isinstance(luck, Loss) else None
        self._write(flight, engine, stream, luck, break_at)

    def _read_blocks(self, parameter: str, prompt: int) -> bool:
        """Whether the decode engine finds the prompt's blocks; finding another's is a broken rule."""
        name, epoch = parameter.split("/")[:2]
        source = self.engines.get(name)
        if source is None or not source.alive or source.frozen or str(source.epoch) != epoch:
            return False
        held = source.held.pop(parameter, None)
        if held != prompt:
            self.complaints.append(f"blocks read twice, or of another prompt: {parameter}")
        return held == prompt

    def _write(
        self,
        flight: Flight,
        engine: SimEngine,
        stream: Iterator[bytes],
        luck: int | Loss | None,
        break_at: int | None,
    ) -> None:
        attempt, epoch, count = flight.attempt, engine.epoch, 0

        def go_on() -> None:
            nonlocal count
            if flight.attempt != attempt or flight.ended:
                return
            if epoch != engine.epoch or engine.record.name not in self.engines:
                self._lose(flight, Loss.RESET)
                return
            if engine.frozen:
                self.at(0.1, go_on)
                return
            if count == 0:
                self._step(flight, handoff.DecodeAnswered(luck if isinstance(luck, int) else 200))
                if flight.attempt != attempt or flight.ended:
                    return
            if break_at is not None and count >= break_at:
                if luck is not Loss.STALL:
                    assert isinstance(luck, Loss)
                    self._lose(flight, luck)
                return
            count += 1
            self._deliver(flight, next(stream, b""), attempt, engine)
            if not flight.ended and flight.attempt == attempt:
                self.at(self.rng.uniform(0.001, 0.1), go_on)

        self.at(self.rng.uniform(0.005, 0.1), go_on)

    def _deliver(self, flight: Flight, data: bytes, attempt: int, engine: SimEngine) -> None:
        if not data:
            self._step(flight, handoff.Finished())
            return
        flight.heard_s = self.now_s
        cut = self.rng.randrange(len(data) + 1)
        for part in (data[:cut], data[cut:]):
            out = flight.relay.feed(part)
            if not out:
                continue
            if not flight.state.sent:
                self._step(flight, handoff.Sent())
            flight.received += out
            flight.streamed_in.append(engine.record.generation)
        if flight.relay.failure is not None:
            self.complaints.append(f"request {flight.number}: a good event was taken for a bad one")
