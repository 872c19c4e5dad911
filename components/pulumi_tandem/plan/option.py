"""A way to serve the load, and what it is expected to do."""

from dataclasses import dataclass
from typing import Literal

from pulumi_tandem.declare import PoolShape
from pulumi_tandem.estimate import Interval
from pulumi_tandem.plan.candidate import Candidate

Kind = Literal["disaggregated", "aggregated"]
Objective = Literal["ttft", "tpot", "e2e"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPool:
    """Workers of one shape and what they have to do."""

    name: str
    """`prefill`, `decode` or `serve`."""
    candidate: Candidate
    workers: int
    sequences: int
    """Most requests that a worker is to run at once."""
    running: float
    """Mean number of requests that one worker runs."""
    busy: float
    """Share of the load that its workers could take within the objectives; prefill: share of time that they read."""

    @property
    def gpus(self) -> int:
        """GPUs of all its workers."""
        return self.workers * self.candidate.gpus

    @property
    def shape(self) -> PoolShape:
        """What a pin holds of it."""
        pool, setup = self.candidate.pool, self.candidate.setup
        return PoolShape(
            gpu=pool.gpu.name,
            workers=self.workers,
            tensor_parallel=setup.tensor_parallel,
            pipeline_parallel=setup.pipeline_parallel,
            expert_parallel=setup.expert_parallel,
            sequences=self.sequences,
            batch_tokens=max(setup.batch_tokens, self.sequences),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Pools that serve the load, with what clients see at the objectives' quantile."""

    kind: Kind
    pools: tuple[PlannedPool, ...]
    """`prefill` and `decode`, or `serve`."""
    ttft_s: Interval
    tpot_s: Interval
    e2e_s: Interval
    """Of an answer of mean length."""
    transfer_s: Interval | None
    """None for an aggregated service."""
    kv_gb_per_s: float
    """Keys and values that move from prefill to decode, of the whole service."""
    link_gb_per_s: float
    """What the links between them carry at most; 0 for an aggregated service."""
    output_tokens_per_s: float
    """Of the declared load."""

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools)

    @property
    def usd_per_hour(self) -> float | None:
        """None where the price of a GPU is not known."""
        prices = [pool.candidate.usd_per_hour for pool in self.pools]
        known = [price for price in prices if price is not None]
        if len(known) < len(prices):
            return None
        return sum(pool.workers * price for pool, price in zip(self.pools, known, strict=True))

    @property
    def label(self) -> str:
        """`3 x H100 TP1 + 2 x H100 TP2`."""
        return " + ".join(f"{pool.workers} x {pool.candidate.label}" for pool in self.pools)

    def pool(self, name: str) -> PlannedPool:
        """The pool of that name, which must be there."""
        return next(pool for pool in self.pools if pool.name == name)
