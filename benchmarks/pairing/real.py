"""The gateway and vllm-router before the same real engines, in turn: two that prefill and one that decodes."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

import pulumi_tandem as tandem
from benchmarks.engines import ADDRESS, Door, counters, from_environment, running
from benchmarks.fleet import spawn
from benchmarks.gateway.fronts import free_port, get, router_command, until
from benchmarks.pairing.trace import Conversation, Trace, conversations
from tandem_worker.contract import Phase, WorkerRecord

MODEL = "SmolLM2-135M-Instruct"
OUTPUT_TOKENS = 4
BINDING = "VLLM_CPU_OMP_THREADS_BIND"
TIMEOUT_S = 300.0
TRACE = Trace(
    conversations=9,
    turns=5,
    beginnings=3,
    beginning_words=250,
    turn_words=60,
    answer_words=30,
    starts_within_s=25.0,
    pause_s=4.0,
)
WARM_UP = Trace(
    conversations=4,
    turns=2,
    beginnings=4,
    beginning_words=60,
    turn_words=20,
    answer_words=20,
    starts_within_s=1.0,
    pause_s=0.1,
)
OURS = "ours"
POLICIES = {
    "vllm-router, round_robin": ("--policy", "round_robin"),
    "vllm-router, cache_aware": ("--prefill-policy", "cache_aware", "--decode-policy", "round_robin"),
}
"""With the defaults of its command line; there is one decode worker only, so its policy decides nothing."""


@dataclass(slots=True)
class Round:
    """The whole trace through one front."""

    way: str
    number: int
    ttft_s: list[float] = field(default_factory=list[float])
    hits: float = 0.0
    """Share of prompt tokens that the prefill engines had in their caches, by their own counters."""
    busiest: float = 0.0
    """Share of prompt tokens that the busier of the prefill engines was asked for."""
    kv_mb: float = 0.0
    """What decode read from prefill, in 10^6 bytes."""
    load_average: float = 0.0
    """Of the last minute, at the round's end."""


class WrongAnswerError(Exception):
    """An answer was not what the measurement asked for, so its times mean nothing."""


def declare() -> tandem.Service:
    """Prefill workers with a core each; decode has a thread that runs where there is room (`ENVIRONMENTS`)."""
    limits = tandem.Limits(prefill_timeout_s=TIMEOUT_S, stall_timeout_s=TIMEOUT_S)
    return tandem.Service(
        name="bench",
        model=tandem.Model(name=MODEL, path=from_environment("TANDEM_MODEL_DIR")),
        engine=tandem.Vllm(version="0.32.0"),
        prefill=tandem.Pool(gpu="cpu", workers=2),
        decode=tandem.Pool(gpu="cpu"),
        context_tokens=2048,
        limits=limits,
    )


def environments() -> dict[str, dict[str, str]]:
    """Which cores each engine computes on; neither prefill worker shares its core with decode more than the other."""
    cores = sorted(os.sched_getaffinity(0))
    bound = {f"bench-prefill-{number}": {BINDING: str(core)} for number, core in enumerate(cores[:2])}
    return {**bound, "bench-decode-0": {BINDING: "nobind", "OMP_NUM_THREADS": "1"}}


async def measure(*, rounds: int, seed: int, say: Callable[[str], None]) -> list[Round]:
    """Every front in each round, another one first in each."""
    salt = secrets.token_hex(3)
    found: list[Round] = []
    async with running(declare(), say, environments=environments()) as door, _routers(door) as routers:
        urls = {OURS: door.url, **routers}
        for way, url in urls.items():
            await _send(url, conversations(WARM_UP, seed, f"{salt} {way}"))
        for number in range(rounds):
            order = [*urls][number % len(urls) :] + [*urls][: number % len(urls)]
            for way in order:
                say(f"round {number + 1} of {rounds}: {way}")
                said = conversations(TRACE, seed + number, f"{salt} {number} {way}")
                found.append(await _round(door, way, number, url=urls[way], said=said))
    return found


@asynccontextmanager
async def _routers(door: Door) -> AsyncIterator[dict[str, str]]:
    """vllm-router with each policy before the same engines."""
    workers: list[tuple[Phase, str]] = [(w.phase, f"http://{w.address}:{w.http_port}") for w in door.workers]
    urls: dict[str, str] = {}
    with ExitStack() as stack:
        for way, policy in POLICIES.items():
            port, log = free_port(), door.folder / f"{way}.log"
            process = spawn(router_command(port, workers, *policy), log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            await _router_ready(way, port, log)
            urls[way] = f"http://{ADDRESS}:{port}"
        yield urls


async def _router_ready(way: str, port: int, log: Path) -> None:
    async def ready() -> bool:
        return (await get(port, "/readiness"))[0] == 200 and (await get(port, "/health"))[0] == 200

    await until(way, ready, log=log)


async def _round(door: Door, way: str, number: int, *, url: str, said: list[Conversation]) -> Round:
    before = [await counters(worker) for worker in door.workers]
    found = Round(way, number, await _send(url, said))
    after = [await counters(worker) for worker in door.workers]
    grown = {
        worker.name: {name: now[name] - then.get(name, 0.0) for name in now}
        for worker, then, now in zip(door.workers, before, after, strict=True)
    }
    asked = [grown[worker.name]["vllm:prefix_cache_queries_total"] for worker in _readers(door)]
    found.hits = sum(grown[worker.name]["vllm:prefix_cache_hits_total"] for worker in _readers(door)) / sum(asked)
    found.busiest = max(asked) / sum(asked)
    found.kv_mb = sum(each.get("vllm:nixl_bytes_transferred_sum", 0.0) for each in grown.values()) / 1e6
    found.load_average = os.getloadavg()[0]
    if not found.kv_mb:
        raise WrongAnswerError(f"{way}: no KV moved, so no prompt was handed off")
    return found


def _readers(door: Door) -> list[WorkerRecord]:
    return [worker for worker in door.workers if worker.phase == "prefill"]


async def _send(url: str, said: list[Conversation]) -> list[float]:
    """Times to the first token of all turns."""
    started = time.perf_counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:

        async def talk(one: Conversation) -> list[float]:
            await asyncio.sleep(max(0.0, started + one.start_s - time.perf_counter()))
            times: list[float] = []
            for turn in one.turns:
                await asyncio.sleep(turn.pause_s)
                times.append(await _ask(session, url, turn.messages))
            return times

        return [ttft_s for times in await asyncio.gather(*map(talk, said)) for ttft_s in times]


async def _ask(session: aiohttp.ClientSession, url: str, messages: list[dict[str, str]]) -> float:
    """The time to the first token. Raises: WrongAnswerError."""
    body = {"model": MODEL, "messages": messages, "max_tokens": OUTPUT_TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    sent = time.perf_counter()
    first: float | None = None
    usage: dict[str, int] = {}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise WrongAnswerError(f"{url} answered {answer.status}: {(await answer.text())[:300]}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            said = any("content" in choice["delta"] and not choice["delta"].get("role") for choice in event["choices"])
            if said and first is None:
                first = time.perf_counter()
    if first is None or usage.get("completion_tokens") != OUTPUT_TOKENS:
        raise WrongAnswerError(f"{url}: a stream of {OUTPUT_TOKENS} tokens ended with usage {usage}")
    return first - sent
