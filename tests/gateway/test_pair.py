"""Which workers a request goes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.gateway.handoff import (
    Begin,
    DecodeAnswered,
    Deliver,
    Event,
    Exchange,
    Prefilled,
    RunDecode,
    RunPrefill,
    Terms,
    step,
)
from tandem_worker.gateway.pair import KV_SHARE_ROOM, Ask, Pinned, Route, choose, redirect
from tests.gateway.fleets import D0, D1, HANDOFF, P0, P1, fleet_of, worker


def test_pair_is_of_one_generation_and_one_pair_key():
    other = worker("p9", "prefill", key="k9")
    assert choose(fleet_of(other, D0, worker("d9", "decode", generation="g0", key="k9")), HANDOFF) == Route(
        "p9", reason="pair-failed", fallback=True
    )
    assert choose(fleet_of(other, P0, D0), HANDOFF) == Route("d0", "p0")


def test_load_is_spread_over_equal_workers():
    fleet = fleet_of(P0, P1, D0, D1)
    pairs: set[tuple[str | None, str]] = set()
    for _ in range(4):
        route = choose(fleet, HANDOFF)
        assert route is not None and route.prefill is not None
        pairs.add((route.prefill, route.decode))
        fleet.begin(route.prefill, "prefill", 100, 0.0)
        fleet.end(route.prefill, "prefill", 100, 0.0, finished=True)
        fleet.begin(route.decode, "decode", 100, 0.0)
    assert {pair[0] for pair in pairs} == {"p0", "p1"}
    assert [fleet.workers[name].decodes for name in ("d0", "d1")] == [2, 2]


@pytest.mark.parametrize(
    ("ready", "reason"), [(["d0"], "no-prefill-ready"), (["p0"], "no-decode-ready"), ([], None)], ids=str
)
def test_survivor_serves_whole_requests(ready: list[str], reason: str | None):
    route = choose(fleet_of(P0, D0, ready=ready), HANDOFF)
    assert route == (reason and Route(ready[0], reason=reason, fallback=True))


def test_no_survivor_where_the_service_or_the_worker_forbids_it():
    fleet = fleet_of(P0, D0, ready=["d0"])
    assert choose(fleet, Ask("g1", disaggregate=True, survivors_serve_both=False)) is None
    alone = fleet_of(worker("p0", "prefill", both=False), worker("d0", "decode", both=False), ready=["d0"])
    assert choose(alone, HANDOFF) is None


def test_worker_that_failed_a_request_comes_last():
    fleet = fleet_of(P0, D0, D1)
    assert choose(fleet, Ask("g1", disaggregate=True, blamed=("d0",))) == Route("d1", "p0")
    both = choose(fleet, Ask("g1", disaggregate=True, blamed=("d0", "d1")))
    assert both == Route("p0", reason="pair-failed", fallback=True)
    everyone = choose(fleet, Ask("g1", disaggregate=True, blamed=("d0", "d1", "p0", "d1")))
    assert everyone == Route("p0", reason="pair-failed", fallback=True, blame=1)


@given(
    prefills=st.integers(1, 2),
    decodes=st.integers(1, 2),
    broken=st.sampled_from(["p0", "d0"]),
    reads_one_more=st.booleans(),
    busy=st.lists(st.sampled_from(["p0", "p1", "d0", "d1"]), max_size=6),
)
def test_one_broken_engine_whose_agent_has_not_noticed_fails_no_request(
    prefills: int, decodes: int, broken: str, reads_one_more: bool, busy: list[str]
):
    """It answers 500 to everything, and what it has read cannot be fetched from it any more."""
    fleet = fleet_of(*(P0, P1)[:prefills], *(D0, D1)[:decodes])
    for name in busy:
        fleet.begin(name, "decode", 1, 0.0)
    state = Exchange(Terms(disaggregate=True, reason="", deadline_s=60.0, attempts_max=4))
    event: Event = Begin()
    reads = reads_one_more
    while True:
        state, actions = step(state, event, 0.0, fleet)
        match actions[-1]:
            case RunPrefill(worker=name):
                well, reads = name != broken or reads, False
                event = Prefilled(200 if well else 500, has_parameters=well)
            case RunDecode(worker=name, handed_off=handed_off):
                fetched = not handed_off or (state.route is not None and state.route.prefill != broken)
                event = DecodeAnswered(200 if name != broken and fetched else 500)
            case last:
                assert last == Deliver(), last
                return


def test_pinned_workers_are_used_as_named_or_not_at_all():
    fleet = fleet_of(P0, P1, D0, D1, ready=["p0", "p1", "d0"])
    assert choose(fleet, Ask("g1", disaggregate=True, pinned=Pinned("p1", "d0"))) == Route("d0", "p1")
    assert choose(fleet, Ask("g1", disaggregate=True, pinned=Pinned("d0", "p1"))) == Route("p1", "d0")
    assert choose(fleet, Ask("g1", disaggregate=True, pinned=Pinned("p1", "d1"))) is None
    alone = Ask("g1", disaggregate=False, reason="proof", pinned=Pinned(None, "p1"))
    assert choose(fleet, alone) == Route("p1", reason="proof")


@given(near=st.floats(0, 1), far=st.floats(0, 1))
def test_kv_stays_in_the_zone_while_there_is_room(near: float, far: float):
    """A worker of another zone writes only where that one has no room and this one more."""
    reader = worker("p0", "prefill", zone="a")
    fleet = fleet_of(reader, worker("far", "decode", zone="b"), worker("near", "decode", zone="a"))
    fleet.loaded("near", near)
    fleet.loaded("far", far)

    route = choose(fleet, HANDOFF)

    assert route is not None
    if near <= KV_SHARE_ROOM or near < far - 0.01:
        assert route.decode == "near"
    elif near > far + 0.01:
        assert route.decode == "far"
    assert redirect(fleet, HANDOFF, route) == route


def test_who_failed_a_request_does_not_get_it_for_being_near():
    reader = worker("p0", "prefill", zone="a")
    fleet = fleet_of(reader, worker("far", "decode", zone="b"), worker("near", "decode", zone="a"))

    route = choose(fleet, Ask("g1", disaggregate=True, blamed=("near",)))

    assert route is not None
    assert route.decode == "far"


def test_an_answer_moves_within_the_zone_when_its_worker_is_gone_after_the_prefill():
    reader = worker("p0", "prefill", zone="a")
    fleet = fleet_of(reader, worker("far", "decode", zone="b"), worker("near", "decode", zone="a"))

    moved = redirect(fleet, HANDOFF, Route("gone", "p0"))

    assert moved.decode == "near"


def test_decode_half_moves_when_its_worker_is_gone_after_the_prefill():
    fleet = fleet_of(P0, D0, D1)
    fleet.suspect("d0", 1.0)
    assert redirect(fleet, HANDOFF, Route("d0", "p0")) == Route("d1", "p0")
    assert redirect(fleet, HANDOFF, Route("d1", "p0")) == Route("d1", "p0")
