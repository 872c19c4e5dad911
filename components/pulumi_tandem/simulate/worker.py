"""What a simulated worker can do: the time of its passes, its memory, its share of the network."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

PassTime = Callable[[float, float, float, float], float]
"""Seconds of one pass of an engine: (prompt tokens, tokens that each of them looks back at on average, sequences that
get one more token, tokens that each of those looks back at on average)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerModel:
    """One engine on its GPUs. Engines of one pool may differ."""

    name: str
    """As tables show it: `H100 TP2`."""
    pass_s: PassTime
    kv_tokens: int
    """Tokens whose keys and values fit into its memory."""
    sequences: int = 256
    """Requests that it runs at once; more wait in the engine."""
    block_tokens: int = 1
    """Prompts are found in its prefix cache in whole blocks of so many tokens."""
    batch_tokens: int = 8_192
    """Most tokens of one pass; longer prompts are read in chunks of it."""
    gpus: int = 1
    start_s: float = 0.0
    """From the decision to start it until it takes requests; again after it died."""
    line_gb_per_s: float = inf
    """What its share of the network really carries, each way, in 10^9 bytes per second."""
    jitter: float = 0.0
    """Standard deviation of the logarithm of one pass's time, around what `pass_s` says."""

    def __post_init__(self) -> None:
        assert min(self.kv_tokens, self.sequences, self.batch_tokens) >= 1, f"{self} cannot take a request"
        assert self.batch_tokens >= self.sequences, f"a pass of {self.name} has no token for each of its sequences"
