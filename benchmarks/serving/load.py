"""The load: streams with long prompts, so many at once, and the time of every token."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from benchmarks.engines import Door, counters

Way = Literal["aggregated", "disaggregated"]
SENTENCE = "The quick brown fox jumps over the lazy dog. "
REQUEST_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of equal size."""

    name: str
    at_once: int
    requests: int
    sentences: int
    """Length of the prompt; one sentence is about ten tokens."""
    output_tokens: int


@dataclass(slots=True)
class Sample:
    """One load, one way, once."""

    load: str
    way: Way
    ttft_s: list[float] = field(default_factory=list[float])
    gaps_s: list[float] = field(default_factory=list[float])
    """Time between two tokens of one stream (ITL), all streams together."""
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0


class WrongAnswerError(Exception):
    """A stream was not what the measurement asked for, so its times mean nothing."""


async def measure(door: Door, load: Load, way: Way, salt: str) -> Sample:
    """Sends the load and takes the times."""
    sample = Sample(load.name, way)
    numbers = iter(range(load.requests))
    started = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    url = f"{door.url}/v1/chat/completions"
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def one_place() -> None:
            for number in numbers:
                headers = _route(door, way, number)
                prompt = f"{salt} {number} {SENTENCE * load.sentences} Write a long story about it."
                sent = time.perf_counter()
                async with session.post(url, json=_body(prompt, load), headers=headers) as answer:
                    await _read(answer, sent, load, sample)

        await asyncio.gather(*(one_place() for _ in range(load.at_once)))
    sample.seconds = time.perf_counter() - started
    return sample


def _route(door: Door, way: Way, number: int) -> dict[str, str]:
    """Headers that send a whole request to one worker, each worker in turn; none for a hand-off."""
    if way == "disaggregated":
        return {}
    worker = door.workers[number % len(door.workers)].name
    return {"x-tandem-proof": door.token, "x-tandem-path": "aggregated", "x-tandem-decode": worker}


def _body(prompt: str, load: Load) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "ignore_eos": True}
    return body | {"max_tokens": load.output_tokens, "stream": True, "stream_options": {"include_usage": True}}


async def _read(answer: aiohttp.ClientResponse, sent: float, load: Load, sample: Sample) -> None:
    """Takes the time of every token. Raises: WrongAnswerError."""
    took = answer.headers.get("x-tandem-path")
    if answer.status != 200 or took != sample.way:
        raise WrongAnswerError(f"asked for {sample.way}, got {answer.status} {took}: {(await answer.text())[:300]}")
    last: float | None = None
    usage: dict[str, Any] = {}
    async for line in answer.content:
        now = time.perf_counter()
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        delta = event["choices"][0]["delta"] if event["choices"] else {}
        if "content" not in delta or delta.get("role"):  # the role comes with the first token, before it
            continue
        if last is None:
            sample.ttft_s.append(now - sent)
        else:
            sample.gaps_s.append(now - last)
        last = now
    if usage.get("completion_tokens") != load.output_tokens:
        raise WrongAnswerError(f"a stream of {load.output_tokens} tokens ended with usage {usage}")
    sample.tokens += usage["completion_tokens"]
    sample.prompt_tokens = usage["prompt_tokens"]


async def kv_bytes(door: Door) -> float:
    """KV that the engines have read from each other so far, by their own counters."""
    return sum([(await counters(worker)).get("vllm:nixl_bytes_transferred_sum", 0.0) for worker in door.workers])
