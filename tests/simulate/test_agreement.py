"""Simulation and formula say the same where both apply; the bounds are stated with each."""

from statistics import fmean, pstdev
from typing import NamedTuple

import pytest

from benchmarks.simulation.pair import Row, rows
from pulumi_tandem import catalog
from pulumi_tandem.declare import Lengths
from pulumi_tandem.estimate import EngineSetup, aggregated, decode_step_s, prefill_s
from pulumi_tandem.estimate.constants import constants
from pulumi_tandem.estimate.queueing import mean_wait_s, wait_s
from pulumi_tandem.simulate import Arrivals, FrontDoor, WorkerModel, constant, generate, simulate
from pulumi_tandem.simulate.declared import pass_times
from tests.simulate.scene import OPEN, alone, pool, requests, worker

SERVICE_S = 0.2
REQUESTS = 25_000
"""Enough for chance to move a mean wait by a few per cent only."""
SETUP = EngineSetup(gpu=catalog.gpu("H100"), shape=catalog.model("Llama-3.1-8B-Instruct").architecture)


class Queued(NamedTuple):
    """One queue in front of all workers, as simulated and as the formula says for what chance really drew."""

    mean_s: float
    formula_mean_s: float
    p95_s: float
    formula_p95_s: float


def queued(*, workers: int, load: float, variation: float) -> Queued:
    one_at_a_time = worker(pass_s=lambda prompt, *_: SERVICE_S * prompt / 10_000, sequences=1, batch_tokens=10**8)
    traffic = generate(
        Arrivals(requests_per_s=load * workers / SERVICE_S),
        prompt_tokens=Lengths(mean=10_000, variation=variation),
        output_tokens=Lengths(mean=1, variation=0),
        duration_s=REQUESTS * SERVICE_S / load / workers,
        seed=3,
    )
    door = FrontDoor(requests_running_max=workers, requests_waiting_max=10**9)
    found = simulate(alone(traffic, decode=pool("serve", workers, model=one_at_a_time), door=door), window_s=60.0)
    read_s = [SERVICE_S * tokens / 10_000 for tokens in traffic.prompt_tokens]
    queue = {
        "service_s": fmean(read_s),
        "arrivals_per_s": len(traffic) / traffic.duration_s,
        "workers": workers,
        "variation": pstdev(read_s) / fmean(read_s),
    }
    return Queued(
        mean_s=found.ttft_s.mean - fmean(read_s),
        formula_mean_s=mean_wait_s(**queue),
        p95_s=found.ttft_s.p95 - SERVICE_S,
        formula_p95_s=wait_s(**queue, quantile=0.95),
    )


@pytest.mark.parametrize(("workers", "load"), [(1, 0.7), (4, 0.8), (32, 0.9)])
def test_equal_requests_wait_as_an_m_d_c_queue_says(workers: int, load: float):
    """Within 20 % of the mean wait and of its 95th percentile, and 5 % and 10 % of a service time."""
    found = queued(workers=workers, load=load, variation=0.0)
    assert found.mean_s == pytest.approx(found.formula_mean_s, rel=0.20, abs=0.05 * SERVICE_S)
    assert found.p95_s == pytest.approx(found.formula_p95_s, rel=0.20, abs=0.10 * SERVICE_S)


@pytest.mark.parametrize(("workers", "load"), [(1, 0.7), (4, 0.8), (32, 0.9)])
def test_requests_of_all_lengths_wait_as_an_m_g_c_queue_says(workers: int, load: float):
    """Within 20 % of the mean wait and 5 % of a service time: lengths are log-normal, as chats have them."""
    found = queued(workers=workers, load=load, variation=1.0)
    assert found.mean_s == pytest.approx(found.formula_mean_s, rel=0.20, abs=0.05 * SERVICE_S)


def engine() -> WorkerModel:
    return WorkerModel(name="H100", pass_s=pass_times(SETUP), kv_tokens=400_000, sequences=256)


@pytest.mark.parametrize("prompt_tokens", [300, 8_192, 20_000])
def test_one_prompt_takes_what_the_estimate_says(prompt_tokens: int):
    """Within 2 %."""
    door = FrontDoor(requests_running_max=1, requests_waiting_max=0, request_s=constants(SETUP).request_ms * 1e-3)
    found = simulate(alone(requests((0.0, prompt_tokens, 1)), decode=pool("serve", model=engine()), door=door))
    assert found.ttft_s.mean == pytest.approx(prefill_s(SETUP, prompt_tokens).mid, rel=0.02)


@pytest.mark.parametrize("sequences", [1, 16, 200])
def test_a_fixed_batch_decodes_as_the_estimate_says(sequences: int):
    """Within 2 %."""
    traffic = constant(sequences, prompt_tokens=100, output_tokens=1000)
    many = WorkerModel(name="H100", pass_s=engine().pass_s, kv_tokens=10**6, batch_tokens=10**6)
    found = simulate(alone(traffic, decode=pool("serve", model=many), clients=sequences))
    formula = decode_step_s(SETUP, sequences=sequences, context_tokens=100 + 1000 / 2).mid
    assert found.tpot_s.p50 == pytest.approx(formula, rel=0.02)


@pytest.mark.parametrize(
    ("clients", "prompt_tokens", "output_tokens"), [(1, 1000, 200), (16, 1000, 200), (64, 2000, 300)]
)
def test_a_closed_loop_on_one_engine_is_as_the_estimate_says(clients: int, prompt_tokens: int, output_tokens: int):
    """Within 20 %, for TPOT and throughput.

    The formula spreads reading evenly over tokens and is fitted to measurements, in which some of it overlaps.
    """
    traffic = constant(12 * clients, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    found = simulate(alone(traffic, decode=pool("serve", model=engine()), clients=clients, door=OPEN))
    formula = aggregated(SETUP, concurrency=clients, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    assert found.tpot_s.mean == pytest.approx(formula.tpot_s.mid, rel=0.2)
    tokens_per_s = found.answered * output_tokens / found.simulated_s
    assert tokens_per_s == pytest.approx(formula.tokens_per_s.mid, rel=0.2)


# --- the measured pair ----------------------------------------------------------------------------

BOUNDS = {"ttft_p50_s": 0.10, "gap_p50_ms": 0.10, "gap_p95_ms": 0.10, "gap_p99_ms": 0.20, "tokens_per_s": 0.10}
"""How far the heavy load may be off, beyond the range that was measured."""


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str], Row]:
    return {(row.load, row.way): row for row in rows()}


@pytest.mark.parametrize("way", ["aggregated", "disaggregated"])
@pytest.mark.parametrize("figure", BOUNDS)
def test_the_heavy_load_of_the_measured_pair_is_predicted_from_the_light_one(
    measured: dict[tuple[str, str], Row], way: str, figure: str
):
    assert abs(measured["heavy", way].error(figure)) <= BOUNDS[figure]


def test_disaggregation_shortens_the_tail_of_gaps_as_it_was_measured(measured: dict[tuple[str, str], Row]):
    """Measured: 1,324 to 1,390 ms against 82 to 84."""
    aggregated_ms, pair_ms = (measured["heavy", way].simulated["gap_p99_ms"] for way in ("aggregated", "disaggregated"))
    assert aggregated_ms > 10 * pair_ms
