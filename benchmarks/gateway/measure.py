"""What is measured of each front, and how the rounds are interleaved."""

import asyncio
import signal
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gateway import load
from benchmarks.gateway.fronts import HOST, Direct, Engine, Front, Router, Tandem

PROMPT_WORDS = 320
STREAM_STEP_MS = 5.0
"""Time between two tokens of a stream, as on a busy GPU; every chunk is a write of its own."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    handoffs: int
    streams: int
    stream_tokens: int
    burst_tokens: int
    first_tokens: int
    killed_calls: int


FULL = Size(5, handoffs=1500, streams=96, stream_tokens=256, burst_tokens=2048, first_tokens=200, killed_calls=400)
QUICK = Size(1, handoffs=500, streams=32, stream_tokens=128, burst_tokens=1024, first_tokens=100, killed_calls=160)
WARM_UP = Size(1, handoffs=300, streams=16, stream_tokens=64, burst_tokens=64, first_tokens=20, killed_calls=0)
LOAD_TIME_MAX_S = 30.0


@dataclass(slots=True)
class Round:
    """One front in one round."""

    front: str
    handoffs_per_cpu_s: float
    chunks_per_cpu_s: float
    """Paced: a token per stream and step, each a write of its own."""
    burst_chunks_per_cpu_s: float
    """The engines write as fast as they can; a read holds several chunks."""
    handoffs_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    failed: int


@dataclass(slots=True)
class Killed:
    """One front while one prefill and one decode engine are killed."""

    front: str
    calls: int
    failed: int
    failures: dict[str, int]
    violations: int


@dataclass(slots=True)
class Result:
    """All rounds and all kills of a run."""

    rounds: list[Round] = field(default_factory=list[Round])
    killed: list[Killed] = field(default_factory=list[Killed])

    def median(self, front: str, value: str) -> float:
        """Median of a value over the rounds of a front."""
        return statistics.median(getattr(r, value) for r in self.rounds if r.front == front)

    def ratios(self, value: str, over: str, under: str) -> list[float]:
        """Ratio of two fronts in each round."""
        above = [getattr(r, value) for r in self.rounds if r.front == over]
        below = [getattr(r, value) for r in self.rounds if r.front == under]
        return [a / b for a, b in zip(above, below, strict=True) if b]

    def differences(self, value: str, over: str, under: str) -> list[float]:
        """Difference of two fronts in each round."""
        above = [getattr(r, value) for r in self.rounds if r.front == over]
        below = [getattr(r, value) for r in self.rounds if r.front == under]
        return [a - b for a, b in zip(above, below, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """Every number of the run."""
        return asdict(self)


def _calls(count: int, *, stream: bool | None, tokens_max: int) -> list[load.Call]:
    """`count` calls; `stream` None: every other one streams."""
    return [
        load.chat_call(
            HOST, i, stream=i % 2 == 0 if stream is None else stream, tokens_max=tokens_max, words=PROMPT_WORDS
        )
        for i in range(count)
    ]


async def _costs(front: Front, load_: load.Load) -> tuple[load.Sample, float]:
    """The load's result and the CPU seconds that the front spent on it."""
    before = front.cpu_s
    sample = await load.run(load_, front.addresses)
    return sample, front.cpu_s - before


async def one_round(front: Front, engines: list[Engine], size: Size) -> Round:
    """Hand-offs, streams and time to first token of one front."""
    for engine in engines:
        await engine.pace(0.0)
    calls = _calls(size.first_tokens, stream=True, tokens_max=8)
    first = await load.run(load.Load(calls, at_once=1, time_max_s=LOAD_TIME_MAX_S), front.addresses)
    calls = _calls(size.handoffs, stream=False, tokens_max=4)
    handed, handed_cpu_s = await _costs(front, load.Load(calls, at_once=32, time_max_s=LOAD_TIME_MAX_S))
    calls = _calls(size.streams // 2, stream=True, tokens_max=size.burst_tokens)
    burst, burst_cpu_s = await _costs(front, load.Load(calls, at_once=16, time_max_s=LOAD_TIME_MAX_S))
    for engine in engines:
        await engine.pace(STREAM_STEP_MS)
    calls = _calls(size.streams, stream=True, tokens_max=size.stream_tokens)
    streamed, streamed_cpu_s = await _costs(front, load.Load(calls, at_once=32, time_max_s=LOAD_TIME_MAX_S))
    return Round(
        front=front.name,
        handoffs_per_cpu_s=handed.completed / handed_cpu_s if handed_cpu_s else 0.0,
        chunks_per_cpu_s=streamed.chunks / streamed_cpu_s if streamed_cpu_s else 0.0,
        burst_chunks_per_cpu_s=burst.chunks / burst_cpu_s if burst_cpu_s else 0.0,
        handoffs_per_s=handed.completed / handed.seconds,
        ttft_p50_ms=first.ttft_s(0.5) * 1e3,
        ttft_p99_ms=first.ttft_s(0.99) * 1e3,
        failed=sum(len(s.outcomes) - s.completed for s in (first, handed, burst, streamed)),
    )


async def kill_two(front: Front, engines: list[Engine], size: Size) -> Killed:
    """A steady load, half of it streams, during which one prefill and one decode engine die."""
    for engine in engines:
        await engine.pace(STREAM_STEP_MS)
    before = {e.name: await e.state() for e in engines}
    victims = {
        size.killed_calls // 4: next(e for e in engines if e.role == "prefill"),
        size.killed_calls // 2: next(e for e in engines if e.role == "decode"),
    }

    def on_done(count: int) -> None:
        if count in victims:
            victims[count].kill()

    calls = _calls(size.killed_calls, stream=None, tokens_max=100)
    wanted = load.Load(calls, at_once=16, time_max_s=LOAD_TIME_MAX_S, verify=True, on_done=on_done)
    sample = await load.run(wanted, front.addresses)
    after = {e.name: await e.state() for e in engines}
    violations = sum(len(state["violations"]) - len(before[n]["violations"]) for n, state in after.items() if state)
    for victim in victims.values():
        await victim.start()
    return Killed(front.name, len(calls), len(calls) - sample.completed, sample.failures, violations)


async def measure(size: Size, folder: Path, say: Callable[[str], None]) -> Result:
    """Starts everything, measures in interleaved rounds, ends everything."""
    engines = [Engine(f"{role}-{i}", role, folder) for role in ("prefill", "decode") for i in range(2)]
    fronts: list[Front] = [
        Direct("direct", folder, engines),
        Tandem("tandem", folder, engines),
        Router("vllm-router", folder, engines),
    ]
    result = Result()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # what was started is ended first
    try:
        await asyncio.gather(*(e.start() for e in engines))
        for front in fronts:
            await front.start()
        for front in fronts:
            await front.ready()
            await one_round(front, engines, WARM_UP)
        for number in range(size.rounds):
            order = fronts[number % 3 :] + fronts[: number % 3]
            for front in order:
                say(f"round {number + 1} of {size.rounds}: {front.name}")
                result.rounds.append(await one_round(front, engines, size))
        for front in fronts[1:]:
            say(f"killing one prefill and one decode engine: {front.name}")
            await front.ready()
            result.killed.append(await kill_two(front, engines, size))
    finally:
        for process in (*fronts, *engines):
            process.stop() if isinstance(process, Front) else process.kill()
    return result
