"""What a simulation found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pulumi_tandem.simulate.fabric import Fabric
from pulumi_tandem.simulate.record import OUTCOMES, Look, Record
from pulumi_tandem.simulate.scenario import Scenario

if TYPE_CHECKING:
    import numpy as np

SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """What the given share of values does not exceed; 0 where there are no values."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOutcome:
    """A pool over the whole run."""

    name: str
    gpu_hours: float
    busy: float
    """Share of the time of ready workers in which they computed, while requests came."""
    line_busy: float
    """Share of the workers' time in which their lines carried keys and values, until the last request was over."""
    waiting_max: int
    """Most requests that waited in its engines at the end of a window."""
    ready_min: int
    ready_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Requests that came in one stretch of time, and the service at its end."""

    start_s: float
    requests: int
    ttft_p95_s: float
    tpot_p95_s: float
    good: float
    """Share of its requests that were answered within the objectives; 1 where there were none."""
    look: Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Latencies, rates and what was lost. Requests that came while the service warmed up do not count."""

    requests: int
    answered: int
    turned_away: int
    """429: the door's queue was full."""
    failed: int
    """Out of attempts, or no worker was ready."""
    too_long: int
    """Prompt and answer fit into no worker's memory."""
    unanswered: int
    """Neither answered nor lost when nothing could happen any more."""
    retried: int
    resumed: int
    deaths: int
    ttft_s: Percentiles
    tpot_s: Percentiles
    """Of each answer: mean time per token after the first."""
    gap_s: Percentiles
    """Between two tokens of a stream, over all tokens of the run."""
    e2e_s: Percentiles
    output_tokens_per_s: float
    """Of answers that ended while requests came and counted; so for the next."""
    requests_per_s: float
    good: float | None
    """Share of all requests that were answered within every objective; None without objectives."""
    good_requests_per_s: float | None
    prefix_hit: float
    """Share of all tokens of prompts that the worker which read them had already, the warm-up included."""
    kv_moved_bytes: float
    events: int
    """Of the simulation, those included that were overtaken by others."""
    simulated_s: float
    """Until the last request was over."""
    pools: tuple[PoolOutcome, ...]
    windows: tuple[Window, ...]


def outcome(scenario: Scenario, record: Record, fabric: Fabric, *, gaps: Percentiles) -> Outcome:
    """Adds a record up."""
    import numpy as np  # noqa: PLC0415 (see traffic)

    arrival, first, end = (np.array(each) for each in (record.arrival_s, record.first_s, record.end_s))
    what = np.frombuffer(record.outcome, dtype=np.uint8)
    output = np.array(scenario.traffic.output_tokens)
    until_s = min(scenario.traffic.duration_s, record.ended_s)
    counts = (arrival >= scenario.warm_up_s) & ~np.isnan(arrival)
    done = counts & (what == OUTCOMES.index("answered"))
    ttft, tpot = first - arrival, (end - first) / np.maximum(output - 1, 1)
    good = done & _within(scenario, ttft, tpot, end - arrival)
    in_time = done & (end <= until_s)
    counted_s = max(until_s - scenario.warm_up_s, 1e-9)
    number = {name: int((counts & (what == code)).sum()) for code, name in enumerate(OUTCOMES)}
    share = float(good.sum() / max(1, counts.sum()))
    return Outcome(
        requests=int(counts.sum()),
        **number,
        retried=record.retried,
        resumed=record.resumed,
        deaths=record.deaths,
        ttft_s=_percentiles(ttft[done]),
        tpot_s=_percentiles(tpot[done & (output > 1)]),
        gap_s=gaps,
        e2e_s=_percentiles((end - arrival)[done]),
        output_tokens_per_s=float(output[in_time].sum() / counted_s),
        requests_per_s=float(in_time.sum() / counted_s),
        good=share if scenario.objectives else None,
        good_requests_per_s=float((good & in_time).sum() / counted_s) if scenario.objectives else None,
        prefix_hit=record.prefix_hit,
        kv_moved_bytes=fabric.moved_bytes,
        events=record.events,
        simulated_s=record.ended_s,
        pools=_pools(scenario, record, fabric, until_s),
        windows=_windows(record, arrival, ttft, tpot, good),
    )


def percentiles_of(values: tuple[float, ...], mean: float) -> Percentiles:
    """Percentiles that were counted elsewhere, in the order of `SHARES`."""
    p50, p90, p95, p99 = values
    return Percentiles(mean=mean, p50=p50, p90=p90, p95=p95, p99=p99)


def _percentiles(values: "np.ndarray") -> Percentiles:
    import numpy as np  # noqa: PLC0415

    if not len(values):
        return Percentiles(mean=0.0, p50=0.0, p90=0.0, p95=0.0, p99=0.0)
    return percentiles_of(tuple(float(each) for each in np.quantile(values, SHARES)), float(values.mean()))


def _within(scenario: Scenario, ttft: "np.ndarray", tpot: "np.ndarray", e2e: "np.ndarray") -> "np.ndarray":
    import numpy as np  # noqa: PLC0415

    wanted = scenario.objectives
    if wanted is None:
        return np.ones(len(ttft), dtype=bool)
    kept = (ttft * 1e3 <= wanted.ttft_ms) & (tpot * 1e3 <= wanted.tpot_ms)
    return kept if wanted.e2e_ms is None else kept & (e2e * 1e3 <= wanted.e2e_ms)


def _pools(scenario: Scenario, record: Record, fabric: Fabric, until_s: float) -> tuple[PoolOutcome, ...]:
    found: list[PoolOutcome] = []
    for number, pool in enumerate(scenario.pools):
        looks = [look.pools[number] for look in record.looks if look.at_s <= until_s] or [
            look.pools[number] for look in record.looks
        ]
        start = sum(count for _, count in pool.workers)
        found.append(
            PoolOutcome(
                name=pool.name,
                gpu_hours=record.gpu_s[number] / 3600.0,
                busy=sum(look.busy * look.ready for look in looks) / max(1, sum(look.ready for look in looks)),
                line_busy=fabric.carried_s.get(number, 0.0) / max(record.worker_s[number], 1e-9),
                waiting_max=max((look.waiting for look in looks), default=0),
                ready_min=min((look.ready for look in looks), default=start),
                ready_max=max((look.ready for look in looks), default=start),
            )
        )
    return tuple(found)


def _windows(
    record: Record, arrival: "np.ndarray", ttft: "np.ndarray", tpot: "np.ndarray", good: "np.ndarray"
) -> tuple[Window, ...]:
    import numpy as np  # noqa: PLC0415

    of = np.floor(arrival / record.window_s)
    windows: list[Window] = []
    for number, look in enumerate(record.looks):
        inside = of == number
        answered = inside & ~np.isnan(ttft)
        count = int(inside.sum())
        windows.append(
            Window(
                start_s=number * record.window_s,
                requests=count,
                ttft_p95_s=_percentiles(ttft[answered]).p95,
                tpot_p95_s=_percentiles(tpot[answered]).p95,
                good=float(good[inside].sum() / count) if count else 1.0,
                look=look,
            )
        )
    return tuple(windows)
