"""Flexible workers: who takes which phase, as the load shifts."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.contract import Phase
from tandem_worker.gateway.roles import DWELL_S, Roles, Seen, decide

TICK_S = 0.5
NAMES = ("a", "b", "c", "d")
Load = Callable[[str, Phase], Seen]


def prompts(name: str, role: Phase) -> Seen:
    """Long prompts pile up where prompts are taken."""
    return Seen(name=name, prompts_s=6.0) if role == "prefill" else Seen(name=name)


def answers(name: str, role: Phase) -> Seen:
    """Long answers pile up where answers are taken."""
    return Seen(name=name, decode_share=1.5, kv_share=0.5) if role == "decode" else Seen(name=name)


def idle(name: str, role: Phase) -> Seen:
    return Seen(name=name)


def after(state: Roles, load: Load, *, seconds: float, start_s: float, names: Sequence[str] = NAMES) -> Roles:
    for tick in range(1, round(seconds / TICK_S) + 1):
        workers = [load(name, state.of.get(name, "decode")) for name in names]
        state = decide(state, workers, start_s + tick * TICK_S)
    return state


def readers(state: Roles) -> int:
    return sum(phase == "prefill" for phase in state.of.values())


def test_prompts_that_pile_up_get_all_workers_but_one_within_seconds_and_give_them_back_to_answers():
    state = after(Roles(), prompts, seconds=10, start_s=0)
    assert readers(state) == 3
    assert readers(after(state, answers, seconds=10, start_s=10)) == 1


def test_nobody_moves_while_nothing_is_to_do():
    first = after(Roles(), idle, seconds=2, start_s=0)
    assert readers(first) == 1
    assert after(first, idle, seconds=60, start_s=2).of == first.of


def test_an_even_load_does_not_make_workers_go_to_and_fro():
    def even(name: str, role: Phase) -> Seen:
        busy = Seen(name=name, prompts_s=1.0)
        return busy if role == "prefill" else Seen(name=name, decode_share=1.5)

    state = after(Roles(), even, seconds=10, start_s=0)
    seen = {tuple(after(state, even, seconds=s, start_s=10).of.items()) for s in range(1, 40)}
    assert len(seen) == 1


def test_moves_keep_their_distance_unless_the_load_is_extreme():
    """A load that is worth one more reader at a time moves one worker, then none for a while."""
    names = [f"w{number}" for number in range(8)]
    state = Roles(of={name: "prefill" if name in names[:3] else "decode" for name in names}, readers=3)

    def heavier(name: str, role: Phase) -> Seen:
        return Seen(name=name, prompts_s=2.0) if role == "prefill" else Seen(name=name, decode_share=0.4)

    state = decide(state, [heavier(name, state.of[name]) for name in names], 100.0)
    assert (readers(state), state.moved_s) == (4, 100.0)
    within = decide(state, [heavier(name, state.of[name]) for name in names], 100.0 + DWELL_S / 2)
    assert within.of == state.of


def test_a_worker_keeps_to_answers_while_the_others_have_no_room_for_kv():
    def full(name: str, role: Phase) -> Seen:
        return Seen(name=name, prompts_s=9.0) if role == "prefill" else Seen(name=name, kv_share=0.95)

    state = Roles(of={"a": "prefill", "b": "decode", "c": "decode", "d": "decode"}, readers=1)
    assert readers(after(state, full, seconds=20, start_s=0)) == 1


def test_gateways_that_say_nothing_to_each_other_differ_by_no_more_than_their_last_moves():
    """Each looks at times of its own, and knows its workers in another order."""
    one, other = Roles(), Roles()
    fewer, more = set[str](), set[str]()
    for tick in range(1, 60):
        heavy = prompts if tick < 30 else answers
        one = after(one, heavy, seconds=TICK_S, start_s=tick * TICK_S)
        other = after(other, heavy, seconds=TICK_S, start_s=(tick + 0.5) * TICK_S, names=NAMES[::-1])
        sides = ({name for name in NAMES if state.of[name] == "prefill"} for state in (one, other))
        fewer, more = sorted(sides, key=len)
        assert fewer <= more
    assert fewer == more == {"a"}


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_the_side_that_lost_its_last_worker_gets_another_at_once(role: Phase):
    state = after(Roles(), idle, seconds=2, start_s=0)
    left = [name for name in NAMES if state.of[name] != role]
    assert role in after(state, idle, seconds=TICK_S, start_s=2, names=left).of.values() or len(left) == 1


def test_a_worker_that_is_left_alone_writes_answers_and_a_newcomer_changes_no_number():
    pair = Roles(of={"a": "prefill", "b": "decode"}, readers=1)
    assert decide(pair, [Seen(name="a")], 1.0).of == {"a": "decode"}
    assert readers(decide(pair, [Seen(name=name) for name in "abc"], 1.0)) == 1


@given(
    st.lists(st.tuples(st.integers(0, 15), st.floats(0, 30), st.floats(0, 3), st.floats(0, 1)), max_size=60),
)
def test_both_phases_have_a_worker_whatever_comes_and_goes(steps: list[tuple[int, float, float, float]]):
    state = Roles()
    for number, (there, prompts_s, share, kv) in enumerate(steps):
        names = [name for bit, name in enumerate(NAMES) if there >> bit & 1]
        workers = [Seen(name=n, prompts_s=prompts_s, decode_share=share, kv_share=kv) for n in names]
        before, state = state, decide(state, workers, number * TICK_S)
        assert set(state.of) == set(names)
        if len(names) > 1:
            assert set(state.of.values()) == {"prefill", "decode"}
        if len(names) > 1 and set(before.of) == set(names) and set(before.of.values()) == {"prefill", "decode"}:
            assert state.of == before.of or state.moved_s == number * TICK_S
