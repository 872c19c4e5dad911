r"""The agent's decisions: (state, event, now_s) -> (state, actions); no clock, no processes, no sockets.

    STARTING --healthy--> READY --drain--> DRAINING --idle or out of time--> STOPPING --> EXITED
        \------- start timeout, engine death: straight to EXITED, never a restart -------/

Whoever calls this asks `next_deadline_s` when to send the next `Tick` at the latest. The platform
restarts workers; this machine only says with which exit code and why.
"""

from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import assert_never

from tandem_worker.contract import WorkerSpec

DEAD_HEALTH_S = 5.0
"""An engine that answers its health check with 503 this long has lost its core: vLLM says 503 for
nothing else (EngineDeadError), and may linger for some seconds before its API server ends. One where
nobody listens any more has lost its server: under `mpirun` the rest of TensorRT-LLM outlives it."""

STALL_S = 15.0
"""Running requests without a model step for this long mean a stopped core. A step is one chunk of
prefill at most, which takes seconds on a slow CPU, so this cannot be much shorter."""

TEARDOWN_S = 2.0
"""What an engine gets to end its own processes once it has nothing left to do for anybody. vLLM 0.32
with NIXL takes 15 s, since its worker does not end before it is killed."""


class Exit(IntEnum):
    """The agent's exit codes."""

    DRAINED = 0
    BAD_SPEC = 64
    PREFLIGHT_FAILED = 65
    START_FAILED = 66
    ENGINE_DIED = 67
    DRAIN_TIMED_OUT = 68


class Stage(Enum):
    """Where a worker is in its life; it only ever goes forward."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    EXITED = "exited"


@dataclass(frozen=True)
class Limits:
    """Times of the declaration that the decisions depend on."""

    start_timeout_s: float
    settle_s: float
    drain_timeout_s: float
    stop_timeout_s: float
    follower: bool = False
    """Whether the engine's HTTP server, and so all that is known of its requests, is on another machine: the engine
    ends when that one does."""


@dataclass(frozen=True)
class Told:
    """What gateways hear of an engine with its readiness, as its metrics last had it; None: it says nothing of that."""

    kv_share: float | None = None
    """Share of the memory for KV that is taken."""
    kv_tokens: int | None = None
    """Tokens that the memory for KV has room for."""
    prompt_tokens_cached: int | None = None
    """Tokens of prompts that were in its own cache, since it started."""
    prompt_tokens_read: int | None = None
    """Those that it has computed."""


@dataclass(frozen=True)
class State:
    """Everything that a decision depends on besides the event and the time."""

    limits: Limits
    stage: Stage
    since_s: float
    """When the stage began."""
    unwell: str | None = None
    """Why the engine cannot take requests at the moment, though it has not ended; None when it can."""
    refusing_since_s: float | None = None
    """Since when the engine has answered its health check with an error, or nobody has listened."""
    steps: tuple[int, float] = (-1, 0.0)
    """The last count of model steps, and when it last moved, or could not be expected to."""
    stalled: str | None = None
    """Why the engine counts as stalled though it answers; None when it makes steps or has nothing to do."""
    told: Told = Told()
    start_seconds: float | None = None
    """From the agent's start of the engine to its first good health check."""
    kill_at_s: float = 0.0
    """STOPPING: when the tree is killed."""
    work_is_done: bool = False
    """STOPPING: the engine has said that no request and no KV lease is left."""
    exit: Exit = Exit.DRAINED
    reason: str = ""

    @property
    def not_ready_because(self) -> str | None:
        """None when the worker may take requests."""
        match self.stage:
            case Stage.READY:
                return self.unwell or self.stalled
            case Stage.STARTING:
                return "the engine is starting"
            case Stage.DRAINING | Stage.STOPPING | Stage.EXITED:
                return f"the worker is {self.stage.value}"


@dataclass(frozen=True)
class Healthy:
    """The engine answered its health check with 200 and no process of it is stopped."""


@dataclass(frozen=True)
class Unwell:
    """The engine does not answer, or a process of it is stopped."""

    why: str
    refusing: bool = False
    """Whether it answers with an error, or nobody listens any more."""


@dataclass(frozen=True)
class Load:
    """A reading of the engine's own metrics."""

    running: int
    waiting: int
    steps: int
    taken_s: float
    """When it was asked for, so that an answer from before the settling time does not end a drain."""
    told: Told = Told()


@dataclass(frozen=True)
class EngineEnded:
    """The engine's main process has ended."""

    how: str


@dataclass(frozen=True)
class WorkDone:
    """The engine, told to stop, says that no request and no KV lease is left; only its own teardown is."""


@dataclass(frozen=True)
class DrainAsked:
    """SIGTERM, or POST /drain; asking again changes nothing."""


@dataclass(frozen=True)
class StopAsked:
    """A second signal: whoever sent it waits no longer."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Healthy | Unwell | Load | EngineEnded | WorkDone | DrainAsked | StopAsked | Tick


class Action(Enum):
    """What the shell does, in the order given."""

    TERMINATE_ENGINE = "SIGTERM to the engine's main process, which then waits for KV leases"
    END_TREE = "SIGKILL to everything that is left, and clean up its shared memory"
    LEAVE = "end the agent with the state's exit code and reason"


Decision = tuple[State, tuple[Action, ...]]


def begin(spec: WorkerSpec, now_s: float, *, follower: bool = False) -> State:
    """The state right after the engine was started."""
    limits = Limits(spec.start_timeout_s, spec.settle_s, spec.drain_timeout_s, spec.stop_timeout_s, follower)
    return State(limits, Stage.STARTING, now_s)


def next_deadline_s(state: State) -> float | None:
    """When time alone next decides something; None when only an event can."""
    limits = state.limits
    match state.stage:
        case Stage.STARTING:
            return state.since_s + limits.start_timeout_s
        case Stage.READY:
            return None if state.refusing_since_s is None else state.refusing_since_s + DEAD_HEALTH_S
        case Stage.DRAINING:
            return state.since_s + limits.drain_timeout_s
        case Stage.STOPPING:
            return state.kill_at_s
        case Stage.EXITED:
            return None


def wants_load(state: State) -> bool:
    """Whether a reading of the engine's metrics could change anything now."""
    return state.stage in (Stage.READY, Stage.DRAINING) and not state.limits.follower


def decide(state: State, event: Event, now_s: float) -> Decision:
    """All events go through here; an exited state ignores them."""
    if state.stage is Stage.EXITED:
        return state, ()
    match event:
        case EngineEnded():
            return _on_engine_ended(state, event, now_s)
        case WorkDone():
            return _on_work_done(state, now_s)
        case DrainAsked():
            return _on_drain_asked(state, now_s)
        case StopAsked():
            return _on_stop_asked(state, now_s)
        case Healthy() | Unwell():
            return _on_time(_with_health(state, event, now_s), now_s)
        case Load():
            return _on_load(state, event, now_s)
        case Tick():
            return _on_time(state, now_s)
        case _:
            assert_never(event)


def _on_engine_ended(state: State, event: EngineEnded, now_s: float) -> Decision:
    match state.stage:
        case Stage.STARTING:
            return _exit(state, Exit.START_FAILED, f"the engine {event.how} while it was starting", now_s)
        case Stage.READY:
            return _exit(state, Exit.ENGINE_DIED, f"the engine {event.how} while it was serving", now_s)
        case Stage.DRAINING if state.limits.follower:
            return _exit(state, Exit.DRAINED, "", now_s)
        case Stage.DRAINING:
            return _exit(state, Exit.ENGINE_DIED, f"the engine {event.how} before its requests were done", now_s)
        case Stage.STOPPING | Stage.EXITED:
            return _exit(state, state.exit, state.reason, now_s)


def _on_work_done(state: State, now_s: float) -> Decision:
    # Where requests were cut off by SIGTERM, the API server may still be writing their last words.
    if state.stage is not Stage.STOPPING or state.exit is not Exit.DRAINED:
        return state, ()
    return replace(state, work_is_done=True, kill_at_s=min(state.kill_at_s, now_s + TEARDOWN_S)), ()


def _on_drain_asked(state: State, now_s: float) -> Decision:
    match state.stage:
        case Stage.STARTING:  # nothing was served yet, so nothing is lost
            return _exit(state, Exit.DRAINED, "", now_s)
        case Stage.READY:
            return replace(state, stage=Stage.DRAINING, since_s=now_s), ()
        case Stage.DRAINING | Stage.STOPPING | Stage.EXITED:
            return state, ()


def _on_stop_asked(state: State, now_s: float) -> Decision:
    match state.stage:
        case Stage.STARTING:
            return _exit(state, Exit.DRAINED, "", now_s)
        case Stage.STOPPING if state.exit is not Exit.DRAINED:
            return _exit(state, state.exit, state.reason, now_s)
        case _:
            return _exit(state, Exit.DRAIN_TIMED_OUT, "told to stop before the drain was done", now_s)


def _with_health(state: State, event: Healthy | Unwell, now_s: float) -> State:
    if isinstance(event, Unwell):
        since_s = now_s if state.refusing_since_s is None else state.refusing_since_s
        # Steps cannot be counted meanwhile, so a stall is judged anew afterwards.
        steps = (state.steps[0], now_s)
        return replace(state, unwell=event.why, steps=steps, refusing_since_s=since_s if event.refusing else None)
    if state.stage is Stage.STARTING:
        return State(state.limits, Stage.READY, now_s, steps=(-1, now_s), start_seconds=now_s - state.since_s)
    return replace(state, unwell=None, refusing_since_s=None)


def _on_load(state: State, event: Load, now_s: float) -> Decision:
    if not wants_load(state):
        return _on_time(state, now_s)
    moved = event.steps != state.steps[0] or event.running == 0
    moved_s = now_s if moved else state.steps[1]
    still_s = now_s - moved_s
    why = f"{event.running} requests are running and no model step was made for {still_s:.0f} s"
    state = replace(
        state,
        steps=(event.steps, moved_s),
        stalled=why if still_s >= STALL_S else None,
        told=event.told,
    )
    idle = event.running == 0 and event.waiting == 0
    settled = event.taken_s >= state.since_s + state.limits.settle_s
    if state.stage is Stage.DRAINING and idle and settled:
        # The engine itself waits for KV that others still have to read, so it gets what is left of the drain.
        drain_end_s = state.since_s + state.limits.drain_timeout_s
        return _stop(state, Exit.DRAINED, "", now_s, max(drain_end_s, now_s + state.limits.stop_timeout_s))
    return _on_time(state, now_s)


def _on_time(state: State, now_s: float) -> Decision:
    deadline_s = next_deadline_s(state)
    if deadline_s is None or now_s < deadline_s:
        return state, ()
    limits = state.limits
    match state.stage:
        case Stage.STARTING:
            why = f"the engine was not ready within {limits.start_timeout_s:g} s"
            return _exit(state, Exit.START_FAILED, why, now_s)
        case Stage.READY:
            why = f"the engine has been dead for {DEAD_HEALTH_S:g} s: {state.unwell}"
            return _exit(state, Exit.ENGINE_DIED, why, now_s)
        case Stage.DRAINING:
            why = f"requests were still running {limits.drain_timeout_s:g} s after the drain began"
            return _stop(state, Exit.DRAIN_TIMED_OUT, why, now_s, now_s + limits.stop_timeout_s)
        case Stage.STOPPING if state.exit is Exit.DRAINED and not state.work_is_done:
            why = f"the engine was still running {now_s - state.since_s:.0f} s after SIGTERM and was killed"
            return _exit(state, Exit.DRAIN_TIMED_OUT, why, now_s)
        case Stage.STOPPING | Stage.EXITED:
            return _exit(state, state.exit, state.reason, now_s)


def _stop(state: State, code: Exit, reason: str, now_s: float, kill_at_s: float) -> Decision:
    stopping = replace(state, stage=Stage.STOPPING, since_s=now_s, kill_at_s=kill_at_s, exit=code, reason=reason)
    return stopping, (Action.TERMINATE_ENGINE,)


def _exit(state: State, code: Exit, reason: str, now_s: float) -> Decision:
    exited = replace(state, stage=Stage.EXITED, since_s=now_s, exit=code, reason=reason)
    return exited, (Action.END_TREE, Action.LEAVE)
