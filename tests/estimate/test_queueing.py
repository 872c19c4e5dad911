"""Waiting for a worker, against known results and a simulation of our own."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tandem.estimate import wait_s
from pulumi_tandem.estimate.queueing import erlang_c, mean_wait_s


@pytest.mark.parametrize(
    ("workers", "load", "busy"),
    [
        (1, 0.7, 0.7),  # one worker: as often as it is busy
        (2, 1.0, 1 / 3),  # M/M/2: 2 r^2 / (1 + r) with r = 1/2
        (10, 8.0, 0.409),  # tables of Erlang's C formula
        (100, 90.0, 0.2166),
    ],
)
def test_share_that_has_to_wait_is_erlangs(workers: int, load: float, busy: float):
    assert erlang_c(workers=workers, load=load) == pytest.approx(busy, rel=2e-3)


def test_nobody_waits_without_load_and_everybody_beyond_capacity():
    assert erlang_c(workers=3, load=0) == 0
    assert erlang_c(workers=3, load=3) == 1
    assert wait_s(service_s=1, arrivals_per_s=3, workers=3, variation=0, quantile=0.5) == float("inf")


@pytest.mark.parametrize("utilisation", [0.3, 0.7, 0.9])
def test_one_worker_with_equal_requests_waits_as_pollaczek_and_khinchine_say(utilisation: float):
    # M/D/1: rho / (2 (1 - rho)) service times, which is also DistServe's formula for prefill
    mean_s = mean_wait_s(service_s=2.0, arrivals_per_s=utilisation / 2.0, workers=1, variation=0)
    assert mean_s == pytest.approx(2.0 * utilisation / (2 * (1 - utilisation)))


def test_exponential_service_waits_twice_as_long_as_equal_service():
    equal, varied = (
        mean_wait_s(service_s=1, arrivals_per_s=3.2, workers=4, variation=variation) for variation in (0.0, 1.0)
    )
    assert varied == pytest.approx(2 * equal)


@pytest.mark.parametrize(("workers", "utilisation", "tolerance"), [(1, 0.7, 0.15), (2, 0.8, 0.15), (8, 0.9, 0.2)])
def test_percentiles_are_those_of_a_simulation(workers: int, utilisation: float, tolerance: float):
    waits = simulated_waits(workers=workers, utilisation=utilisation, requests=40_000)
    told = wait_s(service_s=1, arrivals_per_s=utilisation * workers, workers=workers, variation=0, quantile=0.95)
    assert 1 + told == pytest.approx(1 + waits[int(0.95 * len(waits))], rel=tolerance)


def simulated_waits(*, workers: int, utilisation: float, requests: int) -> list[float]:
    """Waits in order of size: Poisson arrivals, service of one second, first come first served."""
    chance = random.Random(1)
    free_at_s = [0.0] * workers
    now_s, waits = 0.0, list[float]()
    for _ in range(requests):
        now_s += chance.expovariate(utilisation * workers)
        first = min(range(workers), key=free_at_s.__getitem__)
        start_s = max(now_s, free_at_s[first])
        free_at_s[first] = start_s + 1.0
        waits.append(start_s - now_s)
    return sorted(waits)


@given(
    workers=st.integers(1, 200),
    utilisation=st.floats(0.05, 0.98),
    variation=st.floats(0, 2),
    quantile=st.floats(0, 0.99),
)
def test_more_workers_at_equal_use_never_wait_longer(
    workers: int, utilisation: float, variation: float, quantile: float
):
    few, many = (
        wait_s(
            service_s=1,
            arrivals_per_s=utilisation * number,
            workers=number,
            variation=variation,
            quantile=quantile,
        )
        for number in (workers, workers + 1)
    )
    assert many <= few * (1 + 1e-9)


@given(workers=st.integers(1, 50), variation=st.floats(0, 2))
def test_waits_grow_with_load_and_with_the_quantile(workers: int, variation: float):
    by_load = [
        wait_s(service_s=1, arrivals_per_s=rho * workers, workers=workers, variation=variation, quantile=0.9)
        for rho in (0.2, 0.5, 0.8, 0.95)
    ]
    by_quantile = [
        wait_s(service_s=1, arrivals_per_s=0.9 * workers, workers=workers, variation=variation, quantile=quantile)
        for quantile in (0.1, 0.5, 0.9, 0.99)
    ]
    for waits in (by_load, by_quantile):
        assert all(less <= more for less, more in pairwise(waits))
