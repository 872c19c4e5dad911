"""How much a gateway believes to be cached that it did not send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.gateway.backlog import HALF_LIFE_S
from tandem_worker.gateway.hearsay import BELIEVED_MAX, Hearsay

COUNTS = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))


def heard(known: float, found: float) -> Hearsay:
    """Prompts of which so much was known, and an engine that found so much of all that it got."""
    hearsay = Hearsay()
    hearsay.sent(round(1e6 * known), 10**6, 0.0)
    hearsay.heard("p0", 0, 0, 0.0)
    hearsay.heard("p0", round(1e6 * found), round(1e6 * (1 - found)), 1.0)
    return hearsay


@given(st.lists(st.tuples(st.sampled_from("ab"), COUNTS, COUNTS, st.floats(0, 100)), max_size=30))
def test_belief_stays_within_its_bounds_whatever_is_told(
    told: list[tuple[str, tuple[int, int], tuple[int, int], float]],
):
    hearsay, now_s = Hearsay(), 0.0
    for worker, (known, more), counted, passed_s in told:
        now_s += passed_s
        hearsay.sent(known, known + more, now_s)
        hearsay.heard(worker, *counted, now_s)
        assert 0.0 <= hearsay.share <= BELIEVED_MAX


@given(known=st.floats(0, 1), less=st.floats(0, 1))
def test_nothing_is_believed_while_engines_find_no_more_than_was_known(known: float, less: float):
    assert heard(known, known * less).share == pytest.approx(0.0, abs=1e-5)


def test_the_more_engines_find_beyond_what_was_known_the_more_is_believed():
    shares = [heard(0.4, found).share for found in (0.4, 0.45, 0.5, 0.55, 0.9)]
    assert shares == sorted(set(shares)) and shares[-1] == BELIEVED_MAX


def test_an_engine_that_started_anew_is_counted_from_its_next_reading_on():
    hearsay = heard(0.4, 0.5)
    before = hearsay.share
    hearsay.heard("p0", 0, 10, 1.0)
    assert hearsay.share == before
    hearsay.heard("p0", 10**6, 10, 1.0)
    assert hearsay.share > before


def test_what_engines_found_long_ago_does_not_count_against_what_they_find_now():
    hearsay, late_s = heard(0.0, 0.5), 10 * HALF_LIFE_S
    hearsay.sent(0, 10**6, late_s)
    hearsay.heard("p0", 500_000, 1_500_000, late_s)
    assert hearsay.share < 0.01
