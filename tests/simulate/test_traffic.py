"""The load of a simulation is what was asked for."""

from itertools import pairwise
from statistics import mean, stdev

import pytest

from pulumi_tandem.declare import Lengths
from pulumi_tandem.simulate import Arrivals, Conversations, Surge, TraceError, Traffic, from_rows, generate

LENGTHS = {"prompt_tokens": Lengths(mean=1000, variation=0.5), "output_tokens": Lengths(mean=200)}


def drawn(arrivals: Arrivals, *, duration_s: float = 1000.0, seed: int = 5, **changed: object) -> Traffic:
    return generate(arrivals, **{**LENGTHS, "duration_s": duration_s, "seed": seed, **changed})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("variation", [0.0, 1.0, 3.0])
def test_gaps_between_arrivals_have_the_rate_and_the_variation(variation: float):
    at_s = drawn(Arrivals(requests_per_s=20.0, variation=variation)).arrival_s
    gaps = [later - earlier for earlier, later in pairwise(at_s)]
    assert mean(gaps) == pytest.approx(1 / 20, rel=0.1)
    assert stdev(gaps) / mean(gaps) == pytest.approx(variation, abs=0.15 * max(variation, 0.01))


def test_a_surge_multiplies_the_rate_while_it_lasts():
    at_s = drawn(Arrivals(requests_per_s=20.0, surges=(Surge(start_s=200, end_s=400, factor=3.0),))).arrival_s
    during = sum(200 <= each < 400 for each in at_s)
    assert during / 200 == pytest.approx(60, rel=0.1)
    assert (len(at_s) - during) / 800 == pytest.approx(20, rel=0.1)


def test_lengths_have_the_mean_and_the_variation_that_are_asked_for():
    traffic = drawn(Arrivals(requests_per_s=20.0))
    assert mean(traffic.prompt_tokens) == pytest.approx(1000, rel=0.03)
    assert stdev(traffic.prompt_tokens) == pytest.approx(500, rel=0.1)
    assert mean(traffic.output_tokens) == pytest.approx(200, rel=0.05)


def test_the_seed_decides_everything():
    arrivals = Arrivals(requests_per_s=5.0)
    assert drawn(arrivals) == drawn(arrivals)
    assert drawn(arrivals) != drawn(arrivals, seed=6)


def test_a_turn_holds_all_that_was_said_before():
    traffic = drawn(Arrivals(requests_per_s=1.0), conversations=Conversations(turns=3, pause_s=5.0), duration_s=200.0)
    of_one = [
        (prompt, output)
        for prompt, output, session in zip(traffic.prompt_tokens, traffic.output_tokens, traffic.session, strict=True)
        if session == 0
    ]
    assert len(of_one) == 3
    for (prompt, output), (later, _) in pairwise(of_one):
        assert later > prompt + output


def test_no_request_is_longer_than_the_context():
    traffic = drawn(Arrivals(requests_per_s=20.0), context_tokens=1100)
    both = [prompt + output for prompt, output in zip(traffic.prompt_tokens, traffic.output_tokens, strict=True)]
    assert max(both) <= 1100
    assert min(traffic.prompt_tokens) >= 1


def test_a_trace_is_read_in_order_of_arrival():
    rows = [
        {"arrival_s": "102.5", "prompt_tokens": "10", "output_tokens": "3", "session": "b"},
        {"arrival_s": 100.0, "prompt_tokens": 20, "output_tokens": 4, "session": "a", "cached_tokens": 50},
    ]
    traffic = from_rows(rows)
    assert traffic.arrival_s == [0.0, 2.5]
    assert traffic.prompt_tokens == [20, 10]
    assert traffic.cached_tokens == [20, 0]
    assert len(set(traffic.session)) == 2
    assert len(from_rows(rows, duration_s=1.0)) == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"arrival_s": 0, "prompt_tokens": 5}, "row 2 has no output_tokens"),
        ({"arrival_s": "soon", "prompt_tokens": 5, "output_tokens": 5}, "row 2: arrival_s is 'soon'; write a number"),
        (
            {"arrival_s": 0, "prompt_tokens": 0, "output_tokens": 5},
            "row 2: prompt_tokens is 0; write a number of at least 1",
        ),
        ({"arrival_s": -1, "prompt_tokens": 5, "output_tokens": 5}, "row 2: arrival_s is -1"),
        ({"arrival_s": "nan", "prompt_tokens": 5, "output_tokens": 5}, "row 2: arrival_s is 'nan'"),
    ],
)
def test_a_wrong_row_is_told_by_its_number(row: dict[str, object], told: str):
    right = {"arrival_s": 0, "prompt_tokens": 5, "output_tokens": 5}
    with pytest.raises(TraceError) as caught:
        from_rows([right, row])
    assert str(caught.value).startswith(told)


def test_an_empty_trace_is_told():
    with pytest.raises(TraceError, match="the trace has no rows"):
        from_rows([])
