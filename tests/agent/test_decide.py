"""The agent's decisions, one situation at a time and over random histories."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.agent.decide import (
    DEAD_HEALTH_S,
    STALL_S,
    TEARDOWN_S,
    Action,
    Decision,
    DrainAsked,
    EngineEnded,
    Event,
    Exit,
    Healthy,
    Limits,
    Load,
    Stage,
    State,
    StopAsked,
    Tick,
    Unwell,
    WorkDone,
    decide,
    next_deadline_s,
    wants_load,
)

LIMITS = Limits(start_timeout_s=100.0, settle_s=2.0, drain_timeout_s=30.0, stop_timeout_s=5.0)
STOP_WORKER = (Action.END_TREE, Action.LEAVE)


def starting(at_s: float = 0.0) -> State:
    return State(LIMITS, Stage.STARTING, at_s)


def ready(at_s: float = 10.0) -> State:
    return decide(starting(), Healthy(), at_s)[0]


def draining(at_s: float = 20.0) -> State:
    return decide(ready(), DrainAsked(), at_s)[0]


def load(running: int, taken_s: float, *, waiting: int = 0, steps: int = 1) -> Load:
    return Load(running, waiting, steps, taken_s)


def after(state: State, *events: tuple[float, Event]) -> Decision:
    """The decision on the last of these events."""
    actions: tuple[Action, ...] = ()
    for now_s, event in events:
        state, actions = decide(state, event, now_s)
    return state, actions


def test_is_ready_after_the_first_good_health_check() -> None:
    """The first good answer ends the start and its duration is kept."""
    state = ready(42.0)

    assert state.not_ready_because is None
    assert state.start_seconds == 42.0


def test_gives_up_a_start_that_takes_too_long() -> None:
    """A start that outlasts its limit ends with 66 and leaves no process."""
    assert next_deadline_s(starting()) == 100.0
    state, actions = decide(starting(), Tick(), 100.0)

    assert actions == STOP_WORKER
    assert (state.exit, state.reason) == (Exit.START_FAILED, "the engine was not ready within 100 s")


def test_tells_a_death_while_starting_from_one_while_serving() -> None:
    """The exit code says when the engine died."""
    young, _ = decide(starting(), EngineEnded("exited with code 1"), 5.0)
    old, actions = decide(ready(), EngineEnded("was ended by SIGKILL"), 50.0)

    assert (young.exit, young.reason) == (Exit.START_FAILED, "the engine exited with code 1 while it was starting")
    assert (old.exit, old.reason) == (Exit.ENGINE_DIED, "the engine was ended by SIGKILL while it was serving")
    assert actions == STOP_WORKER


def test_leaves_the_ready_set_while_the_engine_is_silent() -> None:
    """A silent engine is not ready, and ready again when it answers."""
    silent, _ = decide(ready(), Unwell("no answer"), 20.0)
    again, actions = decide(silent, Healthy(), 600.0)

    assert silent.not_ready_because == "no answer"
    assert again.not_ready_because is None
    assert actions == ()


def test_counts_an_engine_that_keeps_reporting_itself_dead_as_dead() -> None:
    """503 for some seconds is death; silence never is, since a stopped process may go on."""
    refusing, none = after(ready(), (20.0, Unwell("503", refusing=True)))
    dead, actions = decide(refusing, Unwell("503", refusing=True), 20.0 + DEAD_HEALTH_S)
    silent, nothing = after(ready(), (20.0, Unwell("silent")), (9_999.0, Unwell("silent")))

    assert none == ()
    assert next_deadline_s(refusing) == 20.0 + DEAD_HEALTH_S
    assert (dead.exit, actions) == (Exit.ENGINE_DIED, STOP_WORKER)
    assert (silent.stage, nothing) == (Stage.READY, ())


def test_sees_running_requests_that_make_no_step() -> None:
    """An engine core that stopped is found by its counters, though its API server answers."""
    state, _ = after(ready(), (11.0, load(2, 11.0, steps=7)), (12.0, load(2, 12.0, steps=7)))
    stalled, _ = after(state, (11.0 + STALL_S, load(2, 11.0 + STALL_S, steps=7)))
    still, _ = decide(stalled, Healthy(), 12.0 + STALL_S)
    moving, _ = after(still, (14.0 + STALL_S, load(2, 14.0 + STALL_S, steps=8)), (14.5 + STALL_S, Healthy()))

    assert state.not_ready_because is None
    assert stalled.not_ready_because == "2 requests are running and no model step was made for 15 s"
    assert still.not_ready_because == stalled.not_ready_because
    assert moving.not_ready_because is None


def test_does_not_take_idleness_for_a_stall() -> None:
    """Without requests the counters may rest for ever."""
    state, _ = after(ready(), (11.0, load(0, 11.0)), (9_999.0, load(0, 9_999.0)), (10_000.0, load(1, 10_000.0)))

    assert state.not_ready_because is None


def test_drains_at_once_and_waits_for_the_gateways_to_notice() -> None:
    """An idle engine is not stopped before the settling time, nor on a reading from within it."""
    state = draining(20.0)
    early, nothing = after(state, (21.0, load(0, 21.0)), (22.5, load(0, 21.9)))
    stopping, actions = decide(early, load(0, 22.0), 22.6)

    assert state.not_ready_because == "the worker is draining"
    assert (early.stage, nothing) == (Stage.DRAINING, ())
    assert (stopping.stage, actions) == (Stage.STOPPING, (Action.TERMINATE_ENGINE,))


def test_waits_for_running_and_waiting_requests() -> None:
    """Requests inside the engine, in its queue too, hold the drain open."""
    state, nothing = after(draining(20.0), (23.0, load(1, 23.0)), (24.0, load(0, 24.0, waiting=1)))

    assert (state.stage, nothing) == (Stage.DRAINING, ())


def test_leaves_with_zero_once_the_engine_has_stopped() -> None:
    """A drain that worked ends with 0, and what is left of the tree is ended too."""
    state, actions = after(draining(20.0), (23.0, load(0, 23.0)), (24.0, EngineEnded("exited with code 0")))

    assert actions == STOP_WORKER
    assert (state.exit, state.reason) == (Exit.DRAINED, "")


def test_gives_kv_leases_what_is_left_of_the_drain() -> None:
    """The engine waits for KV that others still read: it is not killed before the drain's time is up."""
    stopping, _ = after(draining(20.0), (23.0, load(0, 23.0)))
    killed, actions = decide(stopping, Tick(), 50.0)

    assert next_deadline_s(stopping) == 50.0
    assert decide(stopping, Tick(), 49.9) == (stopping, ())
    assert (killed.exit, actions) == (Exit.DRAIN_TIMED_OUT, STOP_WORKER)
    assert killed.reason == "the engine was still running 27 s after SIGTERM and was killed"


def test_does_not_wait_for_an_engine_that_only_tears_itself_down() -> None:
    """Once nothing is left to serve or to be read, the rest of the tree is ended soon, and that is a clean drain."""
    stopping, _ = after(draining(20.0), (23.0, load(0, 23.0)), (24.0, WorkDone()))
    ended, actions = decide(stopping, Tick(), 24.0 + TEARDOWN_S)

    assert next_deadline_s(stopping) == 24.0 + TEARDOWN_S
    assert (ended.exit, ended.reason, actions) == (Exit.DRAINED, "", STOP_WORKER)


def test_lets_cut_off_requests_have_their_last_words() -> None:
    """After a drain ran out of time, the engine gets its whole time to stop, whatever its core says."""
    state, _ = after(draining(20.0), (50.0, load(3, 50.0)))

    assert decide(state, WorkDone(), 51.0) == (state, ())
    assert decide(draining(), WorkDone(), 21.0) == (draining(), ())


def test_stops_the_engine_when_the_drain_runs_out_of_time() -> None:
    """Requests that do not end are cut off with SIGTERM, then SIGKILL, and the exit code says so."""
    state, actions = after(draining(20.0), (50.0, load(3, 50.0)))
    killed, kill = decide(state, Tick(), 55.0)

    assert (state.stage, actions) == (Stage.STOPPING, (Action.TERMINATE_ENGINE,))
    assert next_deadline_s(state) == 55.0
    assert (killed.exit, kill) == (Exit.DRAIN_TIMED_OUT, STOP_WORKER)
    assert killed.reason == "requests were still running 30 s after the drain began"


def test_needs_no_drain_before_anything_was_served() -> None:
    """A worker that is told to leave while it starts leaves at once and well."""
    state, actions = decide(starting(), DrainAsked(), 5.0)

    assert (state.exit, actions) == (Exit.DRAINED, STOP_WORKER)


def test_stops_now_when_told_a_second_time() -> None:
    """Who asks twice does not want to wait, and the exit code says that the drain was cut short."""
    state, actions = decide(draining(), StopAsked(), 21.0)

    assert (state.exit, state.reason) == (Exit.DRAIN_TIMED_OUT, "told to stop before the drain was done")
    assert actions == STOP_WORKER


def test_calls_a_death_during_the_drain_a_death() -> None:
    """Requests were lost, so this is no clean drain."""
    state, _ = decide(draining(), EngineEnded("was ended by SIGSEGV"), 21.0)

    assert state.exit is Exit.ENGINE_DIED


EVENTS = st.one_of(
    st.just(Healthy()),
    st.builds(Unwell, st.just("silent"), st.booleans()),
    st.builds(Load, st.integers(0, 2), st.integers(0, 2), st.integers(0, 5), st.floats(0, 300)),
    st.just(EngineEnded("exited")),
    st.just(DrainAsked()),
    st.just(StopAsked()),
    st.just(WorkDone()),
    st.just(Tick()),
)
ORDER = [Stage.STARTING, Stage.READY, Stage.DRAINING, Stage.STOPPING, Stage.EXITED]


@given(st.lists(st.tuples(st.floats(0, 20), EVENTS), max_size=60))
def test_only_ever_goes_forward(history: list[tuple[float, Event]]) -> None:
    """No history revives a worker, terminates its engine twice, or leaves without ending the tree."""
    state, now_s = starting(), 0.0
    done: list[Action] = []
    for step_s, event in history:
        now_s += step_s
        before = state
        state, actions = decide(state, event, now_s)
        done += actions

        assert ORDER.index(state.stage) >= ORDER.index(before.stage)
        assert before.stage is not Stage.EXITED or (state, actions) == (before, ())
        assert state.stage is Stage.READY or state.not_ready_because is not None

    assert done.count(Action.TERMINATE_ENGINE) <= 1
    assert (Action.LEAVE in done) == (state.stage is Stage.EXITED)
    assert done[-2:] == [*STOP_WORKER] or Action.LEAVE not in done


@given(st.lists(st.tuples(st.floats(0, 20), EVENTS), max_size=60))
def test_always_ends_once_told_to(history: list[tuple[float, Event]]) -> None:
    """After a drain was asked for, deadlines alone end the worker, whatever happened before."""
    state, now_s = starting(), 0.0
    for step_s, event in history:
        now_s += step_s
        state, _ = decide(state, event, now_s)
    state, _ = decide(state, DrainAsked(), now_s)
    for _ in ORDER:
        if (deadline_s := next_deadline_s(state)) is not None:
            state, _ = decide(state, Tick(), max(now_s, deadline_s))

    assert state.stage is Stage.EXITED


def following() -> State:
    return State(replace(LIMITS, follower=True), Stage.READY, 10.0)


def test_a_follower_that_drains_waits_for_its_leader_to_end_the_engine():
    state, actions = decide(following(), DrainAsked(), 20.0)
    assert (state.stage, actions) == (Stage.DRAINING, ())
    assert not wants_load(state)
    state, actions = decide(state, EngineEnded("ended"), 25.0)
    assert (state.exit, actions) == (Exit.DRAINED, STOP_WORKER)


def test_a_follower_dies_with_its_engine():
    state, _ = decide(following(), EngineEnded("ended"), 20.0)
    assert (state.stage, state.exit) == (Stage.EXITED, Exit.ENGINE_DIED)


def test_a_follower_does_not_outlive_its_drain():
    state, _ = after(following(), (20.0, DrainAsked()), (20.0 + LIMITS.drain_timeout_s, Tick()))
    assert (state.stage, state.exit) == (Stage.STOPPING, Exit.DRAIN_TIMED_OUT)
