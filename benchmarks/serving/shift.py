"""Three real CPU engines and a load that shifts: `python -m benchmarks.serving.shift [--quick]`.

The same engines serve the same requests as every fixed split, as flexible workers and aggregated, in turn: only what
the gateway is told of them changes. tools/run names the engine's environment and the model.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import quantiles
from typing import Any

import aiohttp

import pulumi_tandem as tandem
from benchmarks.engines import Door, NotReadyError, from_environment, front, started
from benchmarks.serving.load import REQUEST_TIMEOUT_S, SENTENCE, WrongAnswerError
from benchmarks.serving.pair import MODEL, PATIENCE_S
from pulumi_tandem.check import accept
from pulumi_tandem.lower import lower
from tandem_worker.contract import GatewaySpec, WorkerRecord

WORKERS, SEQUENCES, CLIENTS, TURNS = 3, 8, 16, 2
MOVES = "tandem_gateway_role_moves_total"


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind, so many in a row."""

    sentences: int
    """Length of the prompt; one sentence is about ten tokens."""
    output_tokens: int
    requests: int


READING = Kind(sentences=100, output_tokens=8, requests=64)
WRITING = Kind(sentences=5, output_tokens=128, requests=64)


@dataclass(slots=True)
class Run:
    """What became of the load in one arrangement of the workers."""

    name: str
    seconds: float = 0.0
    tokens: int = 0
    ttft_s: list[float] = field(default_factory=list[float])
    moves: int = 0


def declare() -> tandem.Service:
    """Workers that share this machine's cores, one thread each. No prefix cache, so that no prompt is answered from it.

    The progress delay, and patience that lets a busy machine give bad times and not a failed run, are the pair's.
    """
    return tandem.Service(
        name="bench",
        model=tandem.Model(name=MODEL, path=from_environment("TANDEM_MODEL_DIR")),
        engine=tandem.Vllm(version="0.32.0", prefix_caching=False),
        flexible=tandem.Pool(
            gpu="cpu", workers=WORKERS, sequences=SEQUENCES, kv_cache_gib=0.5, env={"OMP_NUM_THREADS": "1"}
        ),
        context_tokens=2048,
        limits=tandem.Limits(prefill_timeout_s=PATIENCE_S, stall_timeout_s=PATIENCE_S),
    )


def arrangements(
    spec: GatewaySpec, records: Sequence[WorkerRecord]
) -> Iterator[tuple[str, GatewaySpec, list[WorkerRecord]]]:
    """Name, what a gateway is told of the service, and of its workers."""
    fixed = spec.model_copy(update={"decodes_max": 0})
    for readers in range(1, len(records)):
        sides = [
            record.model_copy(update={"pool": phase, "phase": phase})
            for number, record in enumerate(records)
            for phase in ["prefill" if number < readers else "decode"]
        ]
        yield f"{readers} prefill, {len(records) - readers} decode", fixed, sides
    yield "flexible", spec, list(records)
    whole = fixed.model_copy(update={"disaggregated": False})
    yield "aggregated", whole, [record.model_copy(update={"pool": "serve"}) for record in records]


async def measure(door: Door, name: str, kinds: Sequence[Kind]) -> Run:
    """Sends the load, each client its next request when the last one is answered."""
    run, salt = Run(name), secrets.token_hex(3)
    requests = enumerate(chain.from_iterable([kind] * kind.requests for kind in kinds))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:

        async def client() -> None:
            for number, kind in requests:
                prompt = f"{salt} {number} {SENTENCE * kind.sentences}"
                await _ask(session, door, prompt, kind.output_tokens, run)

        started_s = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        run.seconds = time.perf_counter() - started_s
        async with session.get(f"{door.url}/metrics") as answer:
            counted = [line for line in (await answer.text()).splitlines() if line.startswith(MOVES)]
    run.moves = round(sum(float(line.rsplit(" ", 1)[1]) for line in counted))
    return run


async def _ask(session: aiohttp.ClientSession, door: Door, prompt: str, tokens: int, run: Run) -> None:
    """One answer, streamed. Raises: WrongAnswerError."""
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    sent_s = time.perf_counter()
    usage: dict[str, Any] = {}
    first = True
    async with session.post(f"{door.url}/v1/completions", json=body) as answer:
        if answer.status != 200:
            raise WrongAnswerError(f"{answer.status}: {(await answer.text())[:300]}")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                if first:
                    run.ttft_s.append(time.perf_counter() - sent_s)
                    first = False
                usage = json.loads(line[6:]).get("usage") or usage
    if usage.get("completion_tokens") != tokens:
        raise WrongAnswerError(f"a stream of {tokens} tokens ended with usage {usage}")
    run.tokens += tokens


async def _measure(kinds: Sequence[Kind]) -> list[Run]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # the engines are ended first
    fleet = lower(accept(declare())[0])
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        async with started(fleet, folder, _say) as records:
            for number, (arrangement, spec, told) in enumerate(arrangements(fleet.gateway, records)):
                place = folder / str(number)
                place.mkdir()
                async with front(spec, told, place, _say) as door:
                    await measure(door, "warm-up", [Kind(sentences=20, output_tokens=4, requests=2 * CLIENTS)])
                    runs.append(await measure(door, arrangement, kinds))
                    _say(str(runs[-1].seconds))
    return runs


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def table(runs: Sequence[Run]) -> str:
    """A row for each arrangement."""
    rows = ["| workers | tokens/s | TTFT p50 / p90, s | moves |", "| --- | --- | --- | --- |"]
    for run in runs:
        tenths = quantiles(run.ttft_s, n=10)
        rows.append(
            f"| {run.name} | {run.tokens / run.seconds:.1f} | {tenths[4]:.1f} / {tenths[8]:.1f} | {run.moves} |"
        )
    return "\n".join(rows)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few requests: shows that it works, not how well")
    quick = parser.parse_args().quick
    kinds = [READING, WRITING] * (1 if quick else TURNS)
    if quick:
        kinds = [replace(kind, requests=CLIENTS) for kind in kinds]
    load_before = os.getloadavg()[0]
    try:
        runs = asyncio.run(_measure(kinds))
    except (NotReadyError, WrongAnswerError) as error:
        sys.stderr.write(f"benchmarks.serving.shift: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    sys.stdout.write(f"{table(runs)}\n{os.cpu_count()} cores; load average before the run {load_before:.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
