"""Which phase each flexible worker takes new requests of, as the load shifts from prompts to answers and back.

What a phase has to do is counted in workers: how many of them it keeps busy now, and how many more it would take to
work off what waits for it in `PATIENCE_S`. The workers are split so that both phases are loaded alike; where that is
so already, or near enough, nobody moves.

A role is for new requests only. A worker that turns to prompts writes the answers that it has to their end, and is
loaded by both meanwhile; nothing is restarted, moved or lost.

Those who read are the first by name, however busy each is. So gateways that see a share of the load each, and say
nothing to each other, differ by no more than the workers that one of them has moved before the others.
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
    readers: int = 0
    """How many take prompts: the first by name."""
    prefill_work: float = 0.0
    """Workers that reading prompts would keep busy, smoothed; so for the next."""
    decode_work: float = 0.0
    seen_s: float | None = None
    moved_s: float = -inf


def decide(state: Roles, workers: Sequence[Seen], now_s: float) -> Roles:
    """Who takes which phase from now on; called every second or more often.

    There is one worker at least on each side where there are two or more; one alone writes answers.
    """
    workers = sorted(workers, key=lambda worker: worker.name)
    state = _smoothed(state, workers, now_s)
    readers = max(min(state.readers or 1, len(workers) - 1), 0)
    if len(workers) > 2:  # a pair has no one to spare
        readers += _step(state, readers, workers, now_s)
    of: dict[str, Phase] = {
        worker.name: "prefill" if rank < readers else "decode" for rank, worker in enumerate(workers)
    }
    return replace(state, of=of, readers=readers, moved_s=state.moved_s if readers == state.readers else now_s)


def _step(state: Roles, readers: int, workers: Sequence[Seen], now_s: float) -> int:
    """How many more are to read prompts."""
    count = len(workers)
    best = min(range(1, count), key=lambda number: (_load(state, number, count), abs(number - readers)))
    gain = _load(state, readers, count) / max(_load(state, best, count), 1e-9)
    worth = gain >= GAIN_MIN and _load(state, readers, count) >= LOAD_MIN
    if not worth or (gain < EXTREME and now_s - state.moved_s < DWELL_S):
        return 0
    step = best - readers
    if gain < EXTREME:
        step = max(-1, min(step, 1))
    while step > 0 and _is_full(workers[readers + step :]):
        step -= 1
    return step


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


def _is_full(staying: Sequence[Seen]) -> bool:
    return sum(worker.kv_share for worker in staying) > KV_SHARE_MAX * len(staying)
