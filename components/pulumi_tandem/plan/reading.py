"""Reading prompts: how long the first token takes with so many workers, and how many workers are enough."""

from dataclasses import dataclass
from math import ceil, floor, hypot, inf

from pulumi_tandem.declare import Workload
from pulumi_tandem.estimate import EngineSetup, Interval, prefill_s, wait_s
from pulumi_tandem.estimate.queueing import mean_wait_s

WORKERS_MAX = 65_536
"""More workers than anybody runs; where they are not enough, no number is."""
BUSY_MAX = 0.8
"""Most of their time that workers may read: a quarter more load, or prompts that take a quarter longer than the middle
of the estimate says, do not yet make a queue that only grows. aiconfigurator 0.12 plans prefill for 0.9."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What prompts take of one engine."""

    engine_s: Interval
    """Its time per prompt: short prompts share a pass."""
    mean_s: Interval
    """From a mean prompt's start to its end."""
    long_s: Interval
    """The same of a prompt whose length the share `quantile` of prompts does not exceed."""
    variation: float
    """Of that time from prompt to prompt."""
    quantile: float

    def stretched(self, factor: float) -> "Reading":
        """The same on an engine that does something else in between."""
        return Reading(
            engine_s=self.engine_s * factor,
            mean_s=self.mean_s * factor,
            long_s=self.long_s * factor,
            variation=self.variation,
            quantile=self.quantile,
        )


def reading(setup: EngineSetup, workload: Workload, *, quantile: float) -> Reading:
    """What the workload's prompts take of an engine of that setup."""
    lengths, missed = workload.prompts, 1.0 - workload.prefix_hit
    together = max(1, floor(setup.batch_tokens / (lengths.mean * missed)))
    longest = min(max(lengths.mean, lengths.at(quantile)), setup.shape.positions_max)
    mean_s = _alone_s(setup, lengths.mean, workload)
    shared_s = prefill_s(setup, round(together * lengths.mean * missed)) * (1.0 / together)
    return Reading(
        engine_s=shared_s if together > 1 else mean_s,
        mean_s=mean_s,
        long_s=_alone_s(setup, longest, workload) if lengths.variation else mean_s,
        variation=lengths.variation,
        quantile=quantile,
    )


def ttft_s(prompts: Reading, *, workers: int, requests_per_s: float, after_s: Interval) -> Interval:
    """Time to the first token at the reading's quantile; infinite where the queue only grows.

    Workers take prompts from one queue, in order. `after_s` is what follows: transfer, first step of decode. Wait and
    length are taken as independent: how far their quantiles lie above their means adds up in squares.
    """
    parts = (prompts.engine_s, prompts.mean_s, prompts.long_s, after_s)
    low, mid, high = (
        _ttft_s(_Times(*times), prompts, workers=workers, requests_per_s=requests_per_s)
        for times in zip(*((part.low, part.mid, part.high) for part in parts), strict=True)
    )
    return Interval(low, mid, high)


def workers_for(prompts: Reading, *, requests_per_s: float, after_s: float, ttft_s_max: float) -> int | None:
    """Fewest workers with which the middle of the estimate keeps the time to the first token; None: no number does."""
    times = _Times(prompts.engine_s.mid, prompts.mean_s.mid, prompts.long_s.mid, after_s)

    def enough(workers: int) -> bool:
        return _ttft_s(times, prompts, workers=workers, requests_per_s=requests_per_s) <= ttft_s_max

    if times.long_s + after_s > ttft_s_max:
        return None
    low = high = max(1, ceil(requests_per_s * times.engine_s / BUSY_MAX))
    while not enough(high):
        low, high = high + 1, 2 * high
        if low > WORKERS_MAX:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class _Times:
    """A reading at one end of its intervals, and what follows it."""

    engine_s: float
    mean_s: float
    long_s: float
    after_s: float


def _ttft_s(times: _Times, prompts: Reading, *, workers: int, requests_per_s: float) -> float:
    service_s, variation = times.engine_s, prompts.variation
    mean_s = mean_wait_s(service_s=service_s, arrivals_per_s=requests_per_s, workers=workers, variation=variation)
    if mean_s == inf:
        return inf
    tail_s = wait_s(
        service_s=service_s,
        arrivals_per_s=requests_per_s,
        workers=workers,
        variation=variation,
        quantile=prompts.quantile,
    )
    above_s = hypot(max(0.0, tail_s - mean_s), times.long_s - times.mean_s)
    return mean_s + times.mean_s + times.after_s + above_s


def _alone_s(setup: EngineSetup, tokens: float, workload: Workload) -> Interval:
    return prefill_s(setup, ceil(tokens), cached_tokens=int(tokens * workload.prefix_hit))
