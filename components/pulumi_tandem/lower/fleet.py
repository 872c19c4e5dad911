"""What lowering hands to a target: plain frozen values, ready to be written as JSON."""

from pydantic import BaseModel, ConfigDict

from tandem_worker.contract import GatewaySpec, Phase, WorkerSpec


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoweredPool(_Value):
    """Equal workers of one generation."""

    name: str
    """`prefill`, `decode`, `flexible` or `serve`."""
    phase: Phase
    phases: tuple[Phase, ...]
    workers: int
    spec: WorkerSpec


class ProofSpec(_Value):
    """What must be seen before a generation may serve."""

    transport: str
    """Transport that the declaration expects; no meaning for an aggregated service."""
    kv_gb_per_s_min: float
    """Floor of the measured KV bandwidth, in 10^9 bytes per second; 0: none."""
    keep_failed: bool
    """Whether workers whose proof failed keep running."""
    divergence_gap_nats_max: float
    """Where the answer first differs from the reference's, the largest gap between the reference's two best
    log-probabilities that still passes."""


class Fleet(_Value):
    """Everything about a service that does not depend on where it runs."""

    service: str
    generation: str
    """Eight hex digits; equal generations are equal workers."""
    pair_key: str
    disaggregated: bool
    in_place: bool
    """Whether the old workers stop before the new ones start; resources are then named without a generation."""
    pools: tuple[LoweredPool, ...]
    """`prefill` and `decode` in this order, or `flexible` or `serve` alone."""
    gateway: GatewaySpec
    proof: ProofSpec

    def pool(self, name: str) -> LoweredPool:
        """The pool of that name, which must be there."""
        return next(pool for pool in self.pools if pool.name == name)
