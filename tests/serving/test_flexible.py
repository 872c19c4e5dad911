"""Three real engines that take either phase: proved in both, moved by the load, and killed under it.

Two would be a pair of which nobody can move.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from pulumi_tandem.local.client import call
from tests.engine.conftest import Project, make_project
from tests.serving.load import MODEL, Answer, Kind, steady, undisturbed
from tests.serving.service import UP_TIMEOUT_S

pytestmark = pytest.mark.serving

WORKERS, CLIENTS = 3, 6
PATIENCE_S = 300.0
FLEXIBLE: dict[str, Any] = {
    "workers": WORKERS,
    "sequences": 2,
    "kv_cache_gib": 0.25,
    # Three engines share the cores of this machine: one thread each, where the kernel has room for it.
    "env": {"OMP_NUM_THREADS": "1"},
}
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "ignore_eos": True}
LONG = "The river rose by a hand's breadth in the night, and in the morning the fox could not cross it. " * 35
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
READING = (Kind("long-prompt", "/v1/completions", {**GREEDY, "prompt": LONG, "max_tokens": 2}, unread=True),)
WRITING = (Kind("long-answer", "/v1/completions", {**GREEDY, **STREAM, "prompt": "The river rose", "max_tokens": 96}),)


@dataclass
class Flexible:
    """A service that is up, and what it answers while nothing is disturbed."""

    project: Project
    evidence: dict[str, Any]
    url: str
    expected: dict[str, Answer]

    def fleet(self) -> dict[str, Any]:
        """What the gateway sees."""
        return httpx.get(f"{self.url}/fleet").json()

    def ready(self) -> dict[str, str]:
        """The workers that take new requests, and of which phase."""
        return {worker["name"]: worker["phase"] for worker in self.fleet()["workers"] if worker["ready"]}

    def busy(self, phase: str) -> set[str]:
        """Ready workers that do something of a phase."""
        return {one["name"] for one in self.fleet()["workers"] if one["ready"] and one[f"running_{phase}"]}

    def kill(self, name: str) -> None:
        """End a worker's engine as the kernel would for want of memory."""
        (agent,) = (each["pid"] for each in self.project.status()["processes"] if each["name"] == name)
        children = psutil.Process(agent).children(recursive=True)
        next(each for each in children if any("EngineCore" in word for word in each.cmdline())).kill()


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flexible]:
    model = Path(os.environ["TANDEM_MODEL_DIR"])
    folder = tmp_path_factory.mktemp("flexible") / "project"
    project = make_project(folder, {"TANDEM_MODEL_DIR": str(model)}, UP_TIMEOUT_S)
    try:
        up = project.up(flexible=FLEXIBLE)
        assert up.returncode == 0, up.stdout
        outputs = project.outputs()
        expected = asyncio.run(undisturbed(outputs["url"], READING + WRITING))
        yield Flexible(project, outputs["evidence"], outputs["url"], expected)
    finally:
        call(project.state_dir, "shutdown", start=False)


async def until(condition: Callable[[], Any]) -> Any:
    """Poll a condition that the load makes true in its own time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline_s, "the condition never came true"
        await asyncio.sleep(0.1)
    return value


def test_each_worker_is_proved_in_both_phases_with_kv_that_moved(flexible: Flexible) -> None:
    pairs = flexible.evidence["pairs"]
    readers, writers = {pair["prefill"] for pair in pairs}, {pair["decode"] for pair in pairs}
    assert len(readers) == WORKERS
    assert readers == writers
    assert all(pair["kv_bytes"] > 0 for pair in pairs)
    assert all(pair["same_tokens"] == pair["output_tokens"] for pair in pairs), "float32 answers are equal"
    assert "Paris" in flexible.evidence["answer"]


def test_workers_go_where_the_load_is_and_every_answer_is_the_undisturbed_one(flexible: Flexible) -> None:
    async def load(kinds: tuple[Kind, ...], phase: str) -> None:
        async with steady(flexible.url, flexible.expected, clients=CLIENTS, asked=kinds):
            await until(lambda: len(flexible.busy(phase)) == WORKERS - 1)

    async def run() -> None:
        await load(READING, "prefill")  # where workers may have been already: the next two are moves for certain
        await load(WRITING, "decode")
        await load(READING, "prefill")

    asyncio.run(run())
    counts = flexible.fleet()["counts"]
    assert counts["retried"] == counts["resumed"] == counts["typed_errors"] == 0, "a move is no failure"


def test_deaths_on_either_side_lose_no_request_and_those_that_are_left_take_both_phases(flexible: Flexible) -> None:
    async def run() -> None:
        async with steady(flexible.url, flexible.expected, clients=CLIENTS, asked=(*READING, *WRITING)) as load:
            for _ in range(WORKERS - 1):
                victim = (await until(lambda: load.is_mid_stream and flexible.busy("decode"))).pop()
                flexible.kill(victim)
                await until(lambda victim=victim: victim not in flexible.ready())
            await load.answered(CLIENTS)

    asyncio.run(run())
    counts = flexible.fleet()["counts"]
    assert counts["typed_errors"] == 0
    assert counts["resumed"] > 0, "no death met an answer that had begun"
    assert counts["fallback"] > 0, "the last one had none to hand over to"
