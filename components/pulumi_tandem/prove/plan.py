"""Which requests prove a generation: every worker is used in each phase that it may take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Literal

from tandem_worker.contract import Phase

Kind = Literal["first", "question", "long"]
"""The first request of a pair also connects its engines, so it is judged but not timed, and sent again if it fails: an
engine that is busy for five seconds just then misses the handshake (vLLM 0.32, nixl/base_worker.py). The question gives
the answer and the latencies; the long prompt moves enough KV to say something of bandwidth."""

QUESTION = "What is the capital of France?"
FILLER = "The quick brown fox jumps over the lazy dog. "
FILLER_TOKENS = 10
"""About the tokens of one FILLER in any current vocabulary; only the order of magnitude matters."""
LONG_PROMPT_TOKENS_MAX = 512
OUTPUT_TOKENS = 24


@dataclass(frozen=True)
class Candidate:
    """One worker of the generation to be proven."""

    name: str
    phase: Phase
    phases: tuple[Phase, ...]
    agent_url: str
    kv_ports: Mapping[str, int] = field(default_factory=dict[str, int])
    """First port of each run over which its KV moves; none where nothing can stand between workers."""


@dataclass(frozen=True)
class Probe:
    """One prompt that is answered twice: over the pair, and whole on the decode worker as the reference."""

    prefill: Candidate | None
    """None for an aggregated service."""
    decode: Candidate
    prompt: str
    salt: str
    """Keeps prefix caches from knowing the prompt: what they know, nobody has to move."""
    kind: Kind


def plan_probes(
    workers: tuple[Candidate, ...],
    *,
    disaggregated: bool,
    salt: str,
    context_tokens: int,
) -> tuple[Probe, ...]:
    """The probes, in the order in which they are sent.

    Args:
        workers: all workers of the generation.
        disaggregated: whether requests go over pairs.
        salt: makes prompts that no prefix cache has seen, or else nothing would have to move.
        context_tokens: the longest prompt and answer that the workers take.
    """
    flexible = all(w.phase == "decode" and "prefill" in w.phases for w in workers)
    if not disaggregated or (flexible and len(workers) == 1):
        return tuple(_probe(None, worker, f"{salt}-{i}", "question", 0) for i, worker in enumerate(workers))
    if flexible:
        # Flexible workers have no side of their own: each reads for the next one.
        ring = list(zip(workers, [*workers[1:], workers[0]], strict=True))
        return _over(ring, salt, context_tokens)
    forward = _pairs([w for w in workers if w.phase == "prefill"], [w for w in workers if w.phase == "decode"])
    backward = _pairs(
        [w for w in workers if w.phase == "decode" and "prefill" in w.phases],
        [w for w in workers if w.phase == "prefill" and "decode" in w.phases],
    )
    return _over(forward + backward, salt, context_tokens)


def _over(pairs: list[tuple[Candidate, Candidate]], salt: str, context_tokens: int) -> tuple[Probe, ...]:
    return tuple(
        _probe(prefill, decode, f"{salt}-{kind}-{i}", kind, context_tokens)
        for i, (prefill, decode) in enumerate(pairs)
        for kind in ("first", "question", "long")
    )


def _pairs(prefills: list[Candidate], decodes: list[Candidate]) -> list[tuple[Candidate, Candidate]]:
    if not prefills or not decodes:
        return []
    count = max(len(prefills), len(decodes))
    return list(zip(islice(cycle(prefills), count), islice(cycle(decodes), count), strict=True))


def _probe(prefill: Candidate | None, decode: Candidate, salt: str, kind: Kind, context_tokens: int) -> Probe:
    room_tokens = min(LONG_PROMPT_TOKENS_MAX, context_tokens // 2) if kind == "long" else 0
    filler = FILLER * (room_tokens // FILLER_TOKENS)
    return Probe(prefill, decode, f"{filler}{QUESTION}", salt, kind)
