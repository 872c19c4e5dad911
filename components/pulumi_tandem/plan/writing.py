"""Writing answers: how many requests a worker may run at once, and how many arrivals that serves.

Both kinds of worker speak of a batch by its mean. With independent arrivals the number that runs is Poisson around it,
so that objectives are held against the batch that the share `quantile` of moments does not exceed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import Protocol

from pulumi_tandem.declare import Workload
from pulumi_tandem.estimate import EngineSetup, Interval, Latency, aggregated, decode_step_s

BATCHES = (
    *range(1, 9),
    *(step * scale for scale in (2, 4, 8, 16, 32, 64, 128) for step in range(5, 9)),
)
"""Mean numbers of running requests that are tried as a worker's most: 1 to 8, then four steps to each doubling."""


class Writer(Protocol):
    """A worker that writes answers."""

    @property
    def sequences_max(self) -> int:
        """Most requests that it may run at any moment."""
        ...

    def tpot_s(self, running: float) -> Interval:
        """Time per output token with so many running requests."""
        ...

    def requests_per_s(self, running: float) -> float:
        """Arrivals that keep so many running, by Little's law."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A decode worker: every pass gives each request one more token."""

    setup: EngineSetup
    workload: Workload
    sequences_max: int

    def tpot_s(self, running: float) -> Interval:
        """The time of one step."""
        context = context_tokens(self.workload)
        return decode_step_s(self.setup, sequences=max(1.0, running), context_tokens=context)

    def requests_per_s(self, running: float) -> float:
        """A request stays for all of its output tokens."""
        return running / (self.workload.outputs.mean * self.tpot_s(running).mid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An aggregated worker: it reads prompts in the passes in which it writes."""

    setup: EngineSetup
    workload: Workload
    sequences_max: int

    def tpot_s(self, running: float) -> Interval:
        """The time of one step, with the share of reading that falls on it."""
        latency = self._latency(max(1, ceil(running)))
        return latency.tpot_s * (1.0 + self._cached_s(running) / latency.tpot_s.mid)

    def requests_per_s(self, running: float) -> float:
        """What a closed loop of so many clients gets through."""
        output = self.workload.outputs.mean
        clients = max(1, ceil(running))
        busy_s = clients * output / self._latency(clients).tokens_per_s.mid + output * self._cached_s(running)
        return running / busy_s

    def stretch(self, running: float, read_s: float) -> float:
        """How much longer a prompt takes to read, as each of its passes carries the others' tokens too."""
        chunks = ceil(self._read_tokens / self.setup.batch_tokens)
        return 1.0 + chunks * (self.step_s(running).mid - self.step_s(1.0).mid) / read_s

    def step_s(self, running: float) -> Interval:
        """One step without any reading."""
        context = context_tokens(self.workload)
        return decode_step_s(self.setup, sequences=max(1.0, running), context_tokens=context)

    @property
    def _read_tokens(self) -> float:
        return self.workload.prompts.mean * (1.0 - self.workload.prefix_hit)

    def _latency(self, clients: int) -> Latency:
        output = max(2, round(self.workload.outputs.mean))
        return aggregated(
            self.setup, concurrency=clients, prompt_tokens=max(1, round(self._read_tokens)), output_tokens=output
        )

    def _cached_s(self, running: float) -> float:
        """Per step, looking back at the part of the prompts that was found in the cache."""
        if not self.workload.prefix_hit:
            return 0.0
        output = self.workload.outputs.mean
        whole = self.step_s(running).mid
        read = decode_step_s(self.setup, sequences=max(1.0, running), context_tokens=self._read_tokens + output / 2).mid
        return max(0.0, whole - read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A size of the running batch that keeps the objective for TPOT."""

    mean: float
    most: float
    """What the share `quantile` of moments does not exceed."""
    requests_per_s: float
    tpot_s: float


def batches(writer: Writer, *, quantile: float, tpot_s_max: float) -> Iterator[Batch]:
    """Every batch that fits the memory and keeps the objective."""
    for mean in BATCHES:
        most = at_most(mean, quantile)
        if most > writer.sequences_max:
            return
        tpot_s = writer.tpot_s(most).mid
        if tpot_s > tpot_s_max:
            return
        yield Batch(mean=mean, most=most, requests_per_s=writer.requests_per_s(mean), tpot_s=tpot_s)


def running(writer: Writer, *, requests_per_s: float, most: float) -> float | None:
    """Mean batch that so many arrivals make; None where it grows beyond `most`."""
    low, high = 0.0, most
    if writer.requests_per_s(high) < requests_per_s:
        return None
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if writer.requests_per_s(middle) < requests_per_s else (low, middle)
    return high


def at_most(mean: float, quantile: float) -> float:
    """Running requests that the share `quantile` of moments does not exceed, Poisson around `mean`."""
    return mean + max(0.0, NormalDist().inv_cdf(quantile)) * sqrt(mean)


def context_tokens(workload: Workload) -> float:
    """Tokens that a running request has on average; long answers are met more often than short ones."""
    output = workload.outputs
    return workload.prompts.mean + output.mean * (1.0 + output.variation**2) / 2
