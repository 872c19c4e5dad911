"""What a proof measured: a stack output, so plain values with units in their names."""

from pydantic import BaseModel, ConfigDict


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PairEvidence(_Value):
    """One hand-off that was tried: who prefilled, who decoded, what moved."""

    prefill: str
    decode: str
    prompt_tokens: int
    output_tokens: int
    kv_bytes: int
    """Bytes that the decode worker's own counters say it received for these requests."""
    kv_gb_per_s: float
    """Those bytes over the transfer time that the engine reports, in 10^9 bytes per second."""
    ttft_ms: float
    """From the request's start at the client to its first token, hand-off included."""
    tpot_ms: float
    """Mean time from one token to the next, after the first."""
    transport: str
    """As the receiving side's KV library names it; `unknown` where it does not say."""
    same_tokens: int
    """How many tokens equal the aggregated answer before the first that differs (or the end)."""


class Evidence(_Value):
    """What is known of a generation that was let serve."""

    service: str
    generation: str
    path: str
    """disaggregated or aggregated."""
    question: str
    answer: str
    transport: str
    kv_bytes: int
    kv_gb_per_s: float
    ttft_ms: float
    tpot_ms: float
    pairs: tuple[PairEvidence, ...] = ()
    notes: tuple[str, ...] = ()
    """What is not wrong, but worth knowing."""
