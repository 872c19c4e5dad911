"""Pairing that knows the caches: pieces of prompts, who holds them, who is chosen, what is not worth a hand-off."""

import json
from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.gateway import prefix
from tandem_worker.gateway.decider import REQUESTS_MIN, Decisions
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.handoff import Begin, Exchange, Prefilled, Terms, step
from tandem_worker.gateway.pair import Ask, choose
from tandem_worker.gateway.prefix import PIECE_BYTES, History, Prompt, prompt_of
from tests.gateway.fleets import fleet_of, worker

SYSTEM = {"role": "system", "content": "You are a careful assistant. " * 60}
Said = list[dict[str, str]]


def asked(messages: Said, **fields: object) -> Prompt:
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    return prompt_of(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def turns(user: str, count: int) -> Said:
    said = [SYSTEM]
    for number in range(count):
        said.append({"role": "user", "content": f"{user} asks question {number}. " * 40})
        said.append({"role": "assistant", "content": f"{user} is told answer {number}. " * 40})
    return said[:-1]


def gateway(prefills: int = 4, decodes: int = 2) -> Fleet:
    readers = [worker(f"p{n}", "prefill") for n in range(prefills)]
    return fleet_of(*readers, *(worker(f"d{n}", "decode") for n in range(decodes)))


def begin(fleet: Fleet, said: Said, now_s: float) -> tuple[Exchange, Fleet]:
    terms = Terms(disaggregate=True, reason="", deadline_s=1e9, attempts_max=1, prompt=asked(said))
    return step(Exchange(terms), Begin(), now_s, fleet)[0], fleet


def finish(state: Exchange, fleet: Fleet, now_s: float) -> str:
    """The prompt is read; by whom."""
    state, _ = step(state, Prefilled(200, has_parameters=True), now_s, fleet)
    assert state.route is not None and state.route.prefill is not None
    return state.route.prefill


def serve(fleet: Fleet, said: Said, now_s: float) -> str:
    """Who reads the prompt, in a second."""
    return finish(*begin(fleet, said, now_s), now_s + 1.0)


def chosen(fleet: Fleet, prompt: Prompt) -> str | None:
    route = choose(fleet, Ask("g1", disaggregate=True, prompt=prompt))
    assert route is not None
    return route.prefill


# pieces


def test_a_conversation_that_goes_on_begins_with_the_pieces_that_it_had():
    before, after = asked(turns("ann", 2)), asked(turns("ann", 3))
    assert after.pieces[: len(before.pieces)] == before.pieces and len(after.pieces) > len(before.pieces) > 4


@pytest.mark.parametrize("change", [{"tools": [{"type": "function"}]}, {"cache_salt": "x"}, {"model": "other"}])
def test_whatever_changes_what_the_engine_caches_changes_every_piece(change: dict[str, object]):
    assert not set(asked(turns("ann", 2)).pieces) & set(asked(turns("ann", 2), **change).pieces)


def test_where_engines_cache_nothing_a_prompt_is_as_long_and_nobody_holds_any_of_it():
    fields = msgspec.json.decode(json.dumps({"messages": turns("a", 3)}), type=dict[str, msgspec.Raw])
    assert prompt_of(fields, cached=False) == Prompt(prompt_of(fields).bytes)


def test_sampling_changes_no_piece():
    assert asked(turns("ann", 2), temperature=0.7, max_tokens=5) == asked(turns("ann", 2))


# what is remembered


def test_the_end_of_a_prompt_is_forgotten_before_its_beginning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prefix, "WORKER_PIECES_MAX", 8)
    history, long = History(), Prompt(12 * PIECE_BYTES, tuple(range(12)))
    history.remember("w", long)
    assert (len(history), history.held_bytes("w", long)) == (8, 8 * PIECE_BYTES)
    history.remember("w", Prompt(4 * PIECE_BYTES, (100, 101, 102, 103)))
    assert history.held_bytes("w", long) == 4 * PIECE_BYTES


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5), st.integers(1, 9)), max_size=40))
def test_history_stays_within_its_bounds_and_knows_only_beginnings(reads: Iterable[tuple[str, int, int]]):
    history = History()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "PIECES_KEPT_MAX", 24)
        for worker, prompt, length in reads:
            history.remember(worker, Prompt(length * PIECE_BYTES, tuple(prompt * 100 + n for n in range(length))))
            assert len(history) <= 24 * 2  # each worker's part shrinks when it is next used
            assert history.held_bytes(worker, Prompt(9 * PIECE_BYTES, tuple(prompt * 100 + n for n in range(9))))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=40),
    st.integers(0, 4000),
    st.integers(1, 4),
)
def test_no_more_is_remembered_of_a_worker_than_this_gateways_part_of_its_room(
    reads: list[tuple[int, int]], kv_tokens: int, gateways: int
):
    fleet = gateway(prefills=1)
    fleet.gateways = gateways
    fleet.loaded("p0", 0.0, kv_tokens or None)
    for prompt, length in reads:
        pieces = tuple(prompt * 100 + n for n in range(length))
        fleet.remember("p0", "prefill", Prompt(length * PIECE_BYTES, pieces), 0.0)
    distinct = sum({prompt: max(n for p, n in reads if p == prompt) for prompt, _ in reads}.values())
    room = kv_tokens * prefix.BYTES_PER_TOKEN // gateways // PIECE_BYTES
    assert len(fleet.history) <= (room if kv_tokens else distinct)


def test_a_worker_that_was_not_well_may_have_started_anew_and_holds_nothing():
    fleet, prompt = gateway(), asked(turns("ann", 2))
    first = serve(fleet, turns("ann", 2), 0.0)
    fleet.probed(first, good=False, draining=False, asked_s=2.0, now_s=2.0)
    fleet.probed(first, good=True, draining=False, asked_s=3.0, now_s=3.0)
    assert fleet.history.held_bytes(first, prompt) == 0


# the choice


def test_a_conversation_stays_where_its_beginning_is_cached():
    fleet = gateway()
    first = serve(fleet, turns("ann", 1), 0.0)
    assert [serve(fleet, turns("ann", n), 10.0 * n) for n in (2, 3, 4)] == [first] * 3


def test_a_queue_that_takes_longer_than_reading_anew_sends_it_elsewhere():
    fleet = gateway(prefills=2)
    home = serve(fleet, turns("ann", 3), 0.0)
    other = {"p0": "p1", "p1": "p0"}[home]
    again = asked(turns("ann", 4))
    fleet.begin(home, "prefill", again.bytes // 2, 2.0)
    assert chosen(fleet, again) == home
    fleet.begin(home, "prefill", again.bytes, 2.0)
    assert chosen(fleet, again) == other


def test_a_worker_that_reads_slowly_gets_fewer_prompts():
    fleet = gateway(prefills=2)
    for name, read_s in (("p0", 20.0), ("p1", 80.0)):
        fleet.begin(name, "prefill", 160_000, 0.0)
        fleet.end(name, "prefill", 160_000, read_s, finished=True)
    names: list[str | None] = []
    for number in range(10):
        names.append(chosen(fleet, Prompt(8000)))
        fleet.begin(names[-1] or "", "prefill", 8000, 100.0 + number * 1e-3)
    assert names.count("p0") == 7


def test_a_worker_that_was_slow_once_is_tried_again():
    """Its first prompt took a minute; nobody would know that it is well now if it never got another one."""
    fleet = gateway(prefills=2)
    for name, read_s in (("p0", 1.0), ("p1", 60.0)):
        fleet.begin(name, "prefill", 8000, 0.0)
        fleet.end(name, "prefill", 8000, read_s, finished=True)
    names: list[str | None] = []
    for number in range(20):
        now_s = 60.0 * (number + 1)
        fleet.probed("p1", good=True, draining=False, asked_s=now_s, now_s=now_s)
        names.append(chosen(fleet, Prompt(8000)))
        fleet.begin(names[-1] or "", "prefill", 8000, now_s)
        fleet.end(names[-1] or "", "prefill", 8000, now_s + 1.0, finished=True)
    assert names[0] == "p0" and "p1" in names


def tell(fleet: Fleet, found: float) -> None:
    """Every prefill worker says how much of a million tokens it has had in its cache."""
    for name in ("p0", "p1"):
        fleet.read(name, 0, 0, 0.0)
        fleet.read(name, round(1e6 * found), round(1e6 * (1 - found)), 0.0)


@pytest.mark.parametrize(("found", "stays"), [(0.0, False), (0.5, True)])
def test_a_prompt_goes_where_others_have_likely_sent_its_beginning_if_engines_find_what_they_send(
    found: float, stays: bool
):
    """Past a queue of half the prompt; where engines find nothing, to the idle worker."""
    fleet, prompt = gateway(prefills=2), asked(turns("ann", 3))
    home = chosen(fleet, prompt)
    assert home is not None
    tell(fleet, found)
    fleet.begin(home, "prefill", prompt.bytes // 2, 0.0)
    assert (chosen(fleet, prompt) == home) == stays


def test_no_belief_outweighs_a_queue_that_is_longer_than_the_prompt():
    fleet, prompt = gateway(prefills=2), asked(turns("ann", 3))
    home = chosen(fleet, prompt)
    tell(fleet, 1.0)
    fleet.begin(home or "", "prefill", prompt.bytes * 5 // 4, 0.0)
    assert chosen(fleet, prompt) != home


def test_gateways_that_know_nothing_of_each_other_send_a_conversation_to_one_worker():
    """Three replicas, conversations whose turns come to any of them; only what each saw itself is known to it."""
    replicas = [gateway(prefills=8) for _ in range(3)]
    homes: dict[int, list[str]] = {}
    for turn in (1, 2, 3):
        for at_s, users in ((100 * turn, range(24)), (100 * turn + 1, range(24, 48))):
            # Eight prompts are under way at once at each gateway, a load that all of its workers share.
            begun = [(user, *begin(replicas[(user + turn) % 3], turns(f"user {user}", turn), at_s)) for user in users]
            for user, state, fleet in begun:
                homes.setdefault(user, []).append(finish(state, fleet, at_s + 0.9))
    pairs = [pair for where in homes.values() for pair in pairwise(where)]
    kept = sum(one == next_one for one, next_one in pairs) / len(pairs)
    used = {home for where in homes.values() for home in where}
    assert kept > 0.6 and len(used) == 8, (kept, homes)  # by chance: one in eight


def test_decode_goes_where_memory_is_left():
    fleet = gateway()
    fleet.loaded("d0", 0.95)
    fleet.loaded("d1", 0.30)
    route = choose(fleet, Ask("g1", disaggregate=True, prompt=asked(turns("ann", 1))))
    assert route is not None and route.decode == "d1"


def test_answers_of_prompts_that_were_read_at_the_same_time_are_spread_over_the_decode_workers():
    """All were sent before any was read, when every decode worker had as much room as the others."""
    fleet = gateway(decodes=4)
    begun = [begin(fleet, turns(f"user {number}", 1), 0.0)[0] for number in range(8)]
    answering: list[str] = []
    for state in begun:
        after, _ = step(state, Prefilled(200, has_parameters=True), 1.0, fleet)
        assert after.route is not None
        answering.append(after.route.decode)
    assert sorted(answering) == sorted(2 * ["d0", "d1", "d2", "d3"])


# what is not worth a hand-off


@pytest.mark.parametrize(
    ("tokens_min", "prefill", "reason"), [(0, True, ""), (100, True, ""), (10_000, False, "short-prompt")]
)
def test_a_short_prompt_goes_straight_to_decode(tokens_min: int, prefill: bool, reason: str):
    ask = Ask("g1", disaggregate=True, prompt=asked(turns("ann", 2)), hand_off_tokens_min=tokens_min)
    route = choose(gateway(), ask)
    assert route is not None
    assert (route.prefill is not None, route.reason) == (prefill, reason)


def test_a_prompt_that_is_mostly_cached_where_it_was_answered_goes_straight_there():
    fleet = gateway(decodes=3)
    state, _ = begin(fleet, turns("ann", 4), 0.0)
    finish(state, fleet, 1.0)
    assert state.route is not None
    again = Ask("g1", disaggregate=True, prompt=asked([*turns("ann", 4), SYSTEM]), hand_off_tokens_min=600)
    route = choose(fleet, again)
    assert route is not None
    assert (route.decode, route.prefill, route.reason) == (state.route.decode, None, "cached-prompt")


def test_a_threshold_that_decides_nothing_is_told_once_in_a_generation():
    decisions = Decisions()

    def all_one_way(generation: str, handed_off: bool) -> list[str]:
        every = [
            decisions.count(generation, handed_off=handed_off, reason="" if handed_off else "short-prompt")
            for _ in range(2 * REQUESTS_MIN)
        ]
        return [told for told in every if told]

    (never,) = all_one_way("g1", False)
    (always,) = all_one_way("g2", True)
    assert never.startswith(f"generation g1: none of {REQUESTS_MIN} requests was handed off")
    assert always.startswith(f"generation g2: all of {REQUESTS_MIN} requests were handed off")


def test_a_threshold_that_decides_is_not_told_of_nor_are_requests_that_could_not_be_handed_off():
    decisions = Decisions()
    for number in range(3 * REQUESTS_MIN):
        assert decisions.count("g1", handed_off=False, reason="n") is None
        handed_off = number % 100 == 0
        assert decisions.count("g1", handed_off=handed_off, reason="" if handed_off else "short-prompt") is None
