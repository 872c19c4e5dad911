"""Which phase each flexible worker takes new requests of, as the load shifts from prompts to answers and back.

What a phase has to do is counted in workers: how many of them it keeps busy now, and how many more it would take to
work off what waits for it in `PATIENCE_S`. The workers are split so that both phases are loaded alike; where that is
so already, or near enough, nobody moves.

A role is for new requests only. A worker that turns to prompts writes the answers that it has to their end, and is
loaded by both meanwhile; nothing is restarted, moved or lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf

from tandem_worker.contract import Phase

PATIENCE_S = 2.0
"""Within so long what waits should be worked off: prompts that wait for longer are worth more workers."""
SMOOTH_S = 2.0
"""Time constant of what phases have to do: a single long prompt is no shift of the load."""
DWELL_S = 2.0
"""Shortest time between two moves. What a worker that changes sides still has to do takes about as long to fade."""
GAIN_MIN = 1.25
"""A move must lower the load of the phase that has more by this factor: without it, workers would go to and fro."""
LOAD_MIN = 0.5
"""Below this load of the busier phase nobody moves: there is nothing to gain that a client would notice."""
EXTREME = 2.5
"""A gain from which on as many workers move at once as are needed, dwell or not."""
KV_SHARE_MAX = 0.9
"""No worker leaves decode while those that stay have less room for KV than this leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One ready worker that may take either phase."""

    name: str
    prompts_s: float = 0.0
    """How long the prompts take that it has to read."""
    decode_share: float = 0.0
    """Answers that it writes, over those that it can write at once; above 1 some wait."""
    kv_share: float = 0.0
    """Share of its memory for KV that is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who takes what, and what is remembered to decide about it."""

    of: Mapping[str, Phase] = field(default_factory=dict[str, Phase])
    """The phase of each worker by its name."""
    prefill_work: float = 0.0
    """Workers that reading prompts would keep busy, smoothed; so for the next."""
    decode_work: float = 0.0
    seen_s: float | None = None
    moved_s: float = -inf


def decide(state: Roles, workers: Sequence[Seen], now_s: float) -> Roles:
    """Who takes which phase from now on; called every second or more often.

    Newcomers write answers, and those that are not among `workers` are forgotten. There is one worker at least on each
    side where there are two or more.
    """
    of: dict[str, Phase] = {worker.name: state.of.get(worker.name, "decode") for worker in workers}
    state = _smoothed(replace(state, of=of), workers, now_s)
    for phase in ("prefill", "decode"):
        if len(of) > 1 and phase not in of.values():
            return _moved(state, _leaving(state, workers, phase)[:1], phase, now_s)
    readers = sum(phase == "prefill" for phase in of.values())
    if len(of) < 3 or not 0 < readers < len(of):  # a pair has no one to spare
        return state
    best = min(range(1, len(of)), key=lambda count: (_load(state, count, len(of)), abs(count - readers)))
    gain = _load(state, readers, len(of)) / max(_load(state, best, len(of)), 1e-9)
    worth = gain >= GAIN_MIN and _load(state, readers, len(of)) >= LOAD_MIN
    if not worth or (gain < EXTREME and now_s - state.moved_s < DWELL_S):
        return state
    phase: Phase = "prefill" if best > readers else "decode"
    leaving = _leaving(state, workers, phase)
    count = abs(best - readers) if gain >= EXTREME else 1
    while phase == "prefill" and count and _is_full(leaving[count:]):
        count -= 1
    return _moved(state, leaving[:count], phase, now_s) if count else state


def _smoothed(state: Roles, workers: Iterable[Seen], now_s: float) -> Roles:
    reading = sum((each.prompts_s > 0) + each.prompts_s / PATIENCE_S for each in workers)
    writing = sum(max(each.decode_share, each.kv_share) for each in workers)
    if state.seen_s is None:
        return replace(state, prefill_work=reading, decode_work=writing, seen_s=now_s)
    part = 1.0 - exp(-max(0.0, now_s - state.seen_s) / SMOOTH_S)
    return replace(
        state,
        prefill_work=state.prefill_work + part * (reading - state.prefill_work),
        decode_work=state.decode_work + part * (writing - state.decode_work),
        seen_s=now_s,
    )


def _load(state: Roles, readers: int, workers: int) -> float:
    """Of the phase that has more, with so many workers reading: 1 keeps each just busy."""
    return max(state.prefill_work / readers, state.decode_work / (workers - readers))


def _leaving(state: Roles, workers: Iterable[Seen], phase: Phase) -> list[Seen]:
    """Those who could take the phase, first who has least of what they would leave."""
    others = (worker for worker in workers if state.of[worker.name] != phase)
    if phase == "prefill":
        return sorted(others, key=lambda worker: (worker.decode_share, worker.kv_share))
    return sorted(others, key=lambda worker: worker.prompts_s)


def _is_full(staying: Sequence[Seen]) -> bool:
    return sum(worker.kv_share for worker in staying) > KV_SHARE_MAX * len(staying)


def _moved(state: Roles, workers: Iterable[Seen], phase: Phase, now_s: float) -> Roles:
    return replace(state, of={**state.of, **{worker.name: phase for worker in workers}}, moved_s=now_s)
