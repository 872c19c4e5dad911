"""The life of one request as a state machine: prefill, hand-off, decode, retry, resume, error.

`step(state, event, now_s, fleet)` answers the next state and what to do; nothing here waits, sends
or reads a clock. The fleet is the part of the state that requests share, and is brought up to date
in place: who is busy, who failed. The rules kept here:

- Transfer parameters are used once. A failed decode is never tried again with them: the blocks may
  hold another request's data by then, so the whole hand-off is repeated.
- While the client has received nothing, any failure is answered by a whole retry elsewhere. After
  that a stream is resumed when its history allows it, and ends with a typed error event otherwise.
- What the engine says about the request itself (4xx) goes to the client untouched.
"""

from enum import Enum, auto

from msgspec import Struct
from msgspec.structs import replace

from tandem_worker.contract import Phase
from tandem_worker.gateway.errors import Refusal
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.pair import Ask, Pinned, Route, choose, redirect
from tandem_worker.gateway.prefix import Prompt

PATIENCE_S = 15.0
"""How long a request waits, in all, for a worker to become ready while the fleet has workers."""

NOBODY_TAKES_UP = "the engine that wrote this answer is gone, and no worker of its generation is ready to go on"
RETRY_AFTER_S = 2
"""What a client is told when no worker can take its request now."""


class Stage(Enum):
    """Where a request stands."""

    NEW = auto()
    PARKED = auto()
    PREFILL = auto()
    DECODE = auto()
    STREAMING = auto()
    OVER = auto()


class Loss(Enum):
    """How an engine failed a request; the value is the word in logs and metrics."""

    CONNECT = "connect"
    RESET = "reset"
    STALL = "stall"
    GARBAGE = "garbage"
    ERROR = "engine-error"
    OVERLOADED = "overloaded"
    NO_PARAMETERS = "no-transfer-parameters"


SPEAKS_AGAINST_WORKER = frozenset({Loss.CONNECT, Loss.RESET, Loss.STALL, Loss.GARBAGE})
"""Losses after which other requests should keep away too, until the worker's agent answers well again."""


class Offer(Enum):
    """What the client's stream can be after its engine is gone."""

    COMPLETE = auto()
    """Everything has been sent."""
    TAIL = auto()
    """The answer is finished; only its end marks are missing and they are known."""
    RESUMABLE = auto()
    LOST = auto()


class Terms(Struct, frozen=True):
    """What a request is allowed; fixed for its life."""

    disaggregate: bool
    reason: str
    deadline_s: float
    attempts_max: int
    prompt: Prompt = Prompt()
    hand_off_tokens_min: int = 0
    survivors_serve_both: bool = True
    generation: str | None = None
    """The generation that a proof addressed; None: the active one."""
    pinned: Pinned | None = None


class Exchange(Struct, frozen=True):
    """The state of one request."""

    terms: Terms
    stage: Stage = Stage.NEW
    generation: str | None = None
    """The generation of the running attempt; a stream that has begun never leaves it."""
    route: Route | None = None
    attempts: int = 0
    sent: bool = False
    """Whether the client has received a part of the answer."""
    blamed: tuple[str, ...] = ()
    loss: Loss | None = None
    parked_since_s: float | None = None


# What happened.


class Begin(Struct, frozen=True):
    """The request was admitted."""


class FleetChanged(Struct, frozen=True):
    """A parked request may look again."""


class Prefilled(Struct, frozen=True):
    """The prefill engine answered."""

    status: int
    has_parameters: bool
    complete: bool = False
    """Whether its answer is all that the client asked for."""


class DecodeAnswered(Struct, frozen=True):
    """The decode engine (or the only one) sent its response headers."""

    status: int


class Sent(Struct, frozen=True):
    """The first part of the answer went to the client."""


class Finished(Struct, frozen=True):
    """The engine's whole answer went to the client."""


class Lost(Struct, frozen=True):
    """The engine that was working on the request failed."""

    loss: Loss
    offer: Offer = Offer.LOST


class DeadlinePassed(Struct, frozen=True):
    """The request has taken longer than it may."""


class ClientGone(Struct, frozen=True):
    """The client has hung up; whatever runs for it is stopped."""


Event = Begin | FleetChanged | Prefilled | DecodeAnswered | Sent | Finished | Lost | DeadlinePassed | ClientGone

# What to do.


class RunPrefill(Struct, frozen=True):
    """Send the prefill half to `worker`."""

    worker: str


class RunDecode(Struct, frozen=True):
    """Send the decode half, or the whole request when `handed_off` is False, to `worker`."""

    worker: str
    handed_off: bool


class Park(Struct, frozen=True):
    """Wait for the fleet to change, at the longest until `until_s`."""

    until_s: float


class Deliver(Struct, frozen=True):
    """Hand the engine's answer to the client: relay a 2xx, pass anything else untouched."""


class CompleteTail(Struct, frozen=True):
    """Send the end marks that the engine did not get to send; the answer is complete."""


class Fail(Struct, frozen=True):
    """Refuse the request: an error answer, or an error event where the stream has begun."""

    refusal: Refusal
    in_stream: bool


class Tally(Struct, frozen=True):
    """Count one: `retried`, `resumed`, `fallback`, `timeouts`, `client_gone`."""

    what: str


Action = RunPrefill | RunDecode | Park | Deliver | CompleteTail | Fail | Tally
Step = tuple[Exchange, tuple[Action, ...]]


def step(state: Exchange, event: Event, now_s: float, fleet: Fleet) -> Step:
    """The next state of a request and what to do now; every action list is in order."""
    if state.stage is Stage.OVER:
        return state, ()
    after, actions = _next(state, event, now_s, fleet)
    left, taken = working(state), working(after)
    if left != taken or state.attempts != after.attempts:
        if left is not None:
            finished = isinstance(event, Prefilled | Finished)
            fleet.end(*left, _unread_bytes(state), now_s, finished=finished)
        if taken is not None:
            fleet.begin(*taken, _unread_bytes(after), now_s)
            fleet.remember(*taken, after.terms.prompt, now_s)
    return after, actions


def _unread_bytes(state: Exchange) -> int:
    return state.route.unread_bytes if state.route is not None else 0


def _next(state: Exchange, event: Event, now_s: float, fleet: Fleet) -> Step:
    match event:
        case DeadlinePassed():
            return _fail(state, _too_late(), Tally("timeouts"))
        case ClientGone():
            return replace(state, stage=Stage.OVER), (Tally("client_gone"),)
        case Begin() | FleetChanged():
            return _attempt(state, now_s, fleet)
        case Prefilled():
            return _prefilled(state, event, now_s, fleet)
        case DecodeAnswered():
            return _decode_answered(state, event, now_s, fleet)
        case Sent():
            return replace(state, stage=Stage.STREAMING, sent=True), ()
        case Finished():
            assert state.route is not None
            fleet.worked(state.route.decode)
            return replace(state, stage=Stage.OVER), ()
        case Lost():
            return _lost(state, event, now_s, fleet)


def working(state: Exchange) -> tuple[str, Phase] | None:
    """The worker and phase that the request is being worked on in, None while it is not."""
    if state.route is None:
        return None
    if state.stage is Stage.PREFILL and state.route.prefill is not None:
        return state.route.prefill, "prefill"
    if state.stage in (Stage.DECODE, Stage.STREAMING):
        return state.route.decode, "decode"
    return None


def _attempt(state: Exchange, now_s: float, fleet: Fleet) -> Step:
    if now_s >= state.terms.deadline_s:
        return _fail(state, _too_late(), Tally("timeouts"))
    if state.attempts >= state.terms.attempts_max:
        return _give_up(state)
    generation, route = _route(state, fleet)
    if state.loss is Loss.OVERLOADED and (route is None or route.blame or route.fallback):
        return _give_up(state)
    if route is None:
        return _park(state, generation, now_s, fleet)
    tallies: list[Action] = []
    if state.attempts:
        tallies.append(Tally("resumed" if state.sent else "retried"))
    if route.fallback:
        tallies.append(Tally("fallback"))
    state = replace(state, generation=generation, route=route, attempts=state.attempts + 1)
    if route.prefill is not None:
        return replace(state, stage=Stage.PREFILL), (*tallies, RunPrefill(route.prefill))
    return replace(state, stage=Stage.DECODE), (*tallies, RunDecode(route.decode, handed_off=False))


def _route(state: Exchange, fleet: Fleet) -> tuple[str | None, Route | None]:
    """Where the next attempt goes. Only a request of which nothing was sent may change its generation."""
    wanted = state.terms.generation or state.generation or fleet.active
    route = choose(fleet, _ask(state, wanted))
    movable = not state.sent and state.terms.generation is None
    if route is None and movable and wanted != fleet.active:
        return fleet.active, choose(fleet, _ask(state, fleet.active))
    return wanted, route


def _ask(state: Exchange, generation: str | None) -> Ask:
    terms = state.terms
    return Ask(
        generation,
        terms.disaggregate,
        terms.reason,
        terms.survivors_serve_both,
        state.blamed,
        terms.pinned,
        terms.prompt,
        terms.hand_off_tokens_min,
    )


def _park(state: Exchange, generation: str | None, now_s: float, fleet: Fleet) -> Step:
    since_s = now_s if state.parked_since_s is None else state.parked_since_s
    until_s = min(since_s + PATIENCE_S, state.terms.deadline_s)
    if state.terms.pinned is not None or not fleet.has(generation) or now_s >= until_s:
        message = "no worker is ready to serve this request; it can be sent again"
        if state.terms.pinned is not None:
            message = "a worker that the proof named is not ready, or the named ones cannot be paired"
        if state.sent:
            return _fail(state, _engine_lost(NOBODY_TAKES_UP))
        return _fail(state, Refusal(503, "service_unavailable", "no_worker", message, retry_after_s=RETRY_AFTER_S))
    return replace(state, stage=Stage.PARKED, parked_since_s=since_s), (Park(until_s),)


def _prefilled(state: Exchange, event: Prefilled, now_s: float, fleet: Fleet) -> Step:
    assert state.route is not None
    assert state.route.prefill is not None
    loss = _judge(event.status)
    if loss is None and 400 <= event.status < 500:
        return _refused_by_engine(state)
    if loss is None and event.complete:
        fleet.worked(state.route.prefill)
        return replace(state, stage=Stage.OVER), (Deliver(),)
    if loss is None and not event.has_parameters:
        loss = Loss.NO_PARAMETERS
    if loss is not None:
        return _lost(state, Lost(loss, Offer.RESUMABLE), now_s, fleet)
    fleet.worked(state.route.prefill)
    # The prefill took its time, and any decode worker can read the blocks.
    route = redirect(fleet, _ask(state, state.generation), state.route)
    return replace(state, stage=Stage.DECODE, route=route), (RunDecode(route.decode, handed_off=True),)


def _decode_answered(state: Exchange, event: DecodeAnswered, now_s: float, fleet: Fleet) -> Step:
    loss = _judge(event.status)
    if loss is not None:
        return _lost(state, Lost(loss, Offer.RESUMABLE), now_s, fleet)
    if event.status >= 400:
        return _refused_by_engine(state)
    return state, (Deliver(),)


def _refused_by_engine(state: Exchange) -> Step:
    """4xx: the request is at fault, so the client hears it; a continuation's refusal is ours to explain."""
    if state.sent:
        return _fail(state, _engine_lost("the rest of the answer could not be taken up on another worker"))
    return replace(state, stage=Stage.OVER), (Deliver(),)


def _judge(status: int) -> Loss | None:
    if status == 503:
        return Loss.OVERLOADED
    if status >= 500:
        return Loss.ERROR
    return None if 200 <= status < 300 or status >= 400 else Loss.GARBAGE


# An attempt that fails with a status has sent nothing itself: a stream it was to take up can still be taken up.


def _lost(state: Exchange, event: Lost, now_s: float, fleet: Fleet) -> Step:
    at = working(state)
    assert at is not None, f"nothing to lose in stage {state.stage}"
    worker = at[0]
    if event.loss in SPEAKS_AGAINST_WORKER:
        fleet.suspect(worker, now_s)
    elif event.loss in (Loss.ERROR, Loss.NO_PARAMETERS):
        fleet.erred(worker, now_s)
    state = replace(state, loss=event.loss, blamed=(*state.blamed, worker))
    if not state.sent or event.offer is Offer.RESUMABLE:
        return _attempt(state, now_s, fleet)
    if event.offer is Offer.LOST:
        return _fail(state, _engine_lost("the engine that wrote this answer is gone"))
    return replace(state, stage=Stage.OVER), (CompleteTail(),) if event.offer is Offer.TAIL else ()


def _give_up(state: Exchange) -> Step:
    if state.loss is Loss.OVERLOADED:
        message = "every worker that could serve this request has a full queue; it can be sent again"
        return _fail(state, Refusal(429, "overloaded", "engine_queue_full", message, retry_after_s=RETRY_AFTER_S))
    why = state.loss.value if state.loss is not None else "unknown"
    tried = f"{state.attempts} attempt" + ("s" if state.attempts != 1 else "")
    return _fail(state, _engine_lost(f"no engine could finish this request ({tried}, last failure: {why})"))


def _fail(state: Exchange, refusal: Refusal, *before: Action) -> Step:
    return replace(state, stage=Stage.OVER), (*before, Fail(refusal, in_stream=state.sent))


def _engine_lost(message: str) -> Refusal:
    return Refusal(502, "engine_lost", "engine_lost", message)


def _too_late() -> Refusal:
    return Refusal(504, "timeout", "deadline_exceeded", "the request took longer than the service allows")
