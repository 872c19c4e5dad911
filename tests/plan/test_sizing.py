"""How many workers are enough, where it can be reasoned by hand."""

from dataclasses import dataclass

import pytest

from pulumi_tandem.estimate import Interval
from pulumi_tandem.plan.reading import BUSY_MAX, Reading, ttft_s, workers_for
from pulumi_tandem.plan.writing import at_most, batches, running


def exactly(seconds: float) -> Interval:
    return Interval(seconds, seconds, seconds)


def prompts(seconds: float, *, variation: float = 0.0, quantile: float = 0.5) -> Reading:
    each = exactly(seconds)
    return Reading(engine_s=each, mean_s=each, long_s=each, variation=variation, quantile=quantile)


@dataclass(frozen=True)
class LinearWriter:
    """A token takes 10 ms and 1 ms more for each running request; an answer has 100 tokens."""

    sequences_max: int = 1000

    def tpot_s(self, running: float) -> Interval:
        return exactly(0.010 + 0.001 * running)

    def requests_per_s(self, running: float) -> float:
        return running / (100 * self.tpot_s(running).mid)


def test_workers_are_never_busier_than_the_margin_allows():
    # 10 prompts/s of 0.2 s keep two workers busy all the time; at 80 % that is 2.5, so three.
    assert BUSY_MAX == 0.8
    assert workers_for(prompts(0.2), requests_per_s=10, after_s=0, ttft_s_max=100) == 3


def test_a_tight_objective_takes_workers_that_are_mostly_idle():
    # One worker at 0.5 prompts/s of 1 s is half busy: the mean wait (M/D/1) is 0.5 s, so TTFT is at least 1.5 s.
    one = ttft_s(prompts(1.0), workers=1, requests_per_s=0.5, after_s=exactly(0))
    assert one.mid == pytest.approx(1.5, abs=0.01)
    assert workers_for(prompts(1.0), requests_per_s=0.5, after_s=0, ttft_s_max=2.0) == 1
    assert workers_for(prompts(1.0), requests_per_s=0.5, after_s=0, ttft_s_max=1.2) == 2


def test_no_number_of_workers_makes_one_prompt_faster():
    assert workers_for(prompts(1.0), requests_per_s=0.001, after_s=0.2, ttft_s_max=1.1) is None


def test_a_queue_that_grows_has_no_time_to_the_first_token():
    assert ttft_s(prompts(1.0), workers=2, requests_per_s=2.0, after_s=exactly(0)).mid == float("inf")


def test_batches_stop_at_the_objective_for_tpot():
    # At the median the batch is its mean; 10 ms + 1 ms each stays within 42 ms up to 32.
    found = list(batches(LinearWriter(), quantile=0.5, tpot_s_max=0.042))
    assert found[-1].mean == 32
    # 32 requests that take 100 * 42 ms each: 7.6 a second
    assert found[-1].requests_per_s == pytest.approx(32 / 4.2)


def test_at_a_quantile_the_batch_leaves_room_for_crowds():
    # 16 running on average are 16 + 1.645 * 4 = 22.6 in the worst twentieth of moments: 32.6 ms
    assert at_most(16, 0.95) == pytest.approx(22.58, abs=0.01)
    assert list(batches(LinearWriter(), quantile=0.95, tpot_s_max=0.033))[-1].mean == 16


def test_batches_stop_where_memory_does():
    assert list(batches(LinearWriter(sequences_max=7), quantile=0.5, tpot_s_max=1.0))[-1].mean == 7


def test_the_running_batch_follows_littles_law():
    # r requests/s run r * 100 * (10 ms + 1 ms * b) at once: b = r / (1 - 0.1 r); 5 a second make 10.
    assert running(LinearWriter(), requests_per_s=5.0, most=1000) == pytest.approx(10.0, abs=1e-3)


def test_a_load_beyond_the_memory_has_no_batch():
    assert running(LinearWriter(), requests_per_s=5.0, most=9) is None
