"""The measured pair of CPU engines, and the same pair simulated.

What the simulation knows of the machine comes from the light load alone: how fast it computes (TTFT of one engine),
how fast it reads memory (median gap), how much gaps vary (99th percentile over median), and what a hand-off takes (TTFT
of the pair, less that of one engine). The heavy load, with twice the clients and prompts twice as long, is predicted.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from pulumi_tandem import catalog
from pulumi_tandem.estimate import EngineSetup
from pulumi_tandem.estimate.work import Batch, work
from pulumi_tandem.simulate import FrontDoor, HandOff, Outcome, PoolModel, Scenario, WorkerModel, constant, simulate

MEASURED = json.loads(Path(__file__).with_name("measured_pair.json").read_text("utf-8"))
SEEDS = range(5)
"""A run has twelve requests, so its figures vary; the median of five runs is shown."""
BATCH_TOKENS = 2_048
"""vLLM's default on a CPU, and ours."""
FIGURES = ("ttft_p50_s", "gap_p50_ms", "gap_p95_ms", "gap_p99_ms", "tokens_per_s")


@dataclass(frozen=True, slots=True)
class Row:
    """One load, one way: what was measured, as (lowest, highest), and what the simulation says."""

    load: str
    way: str
    measured: dict[str, tuple[float, float]]
    simulated: dict[str, float]

    def error(self, figure: str) -> float:
        """How far the simulation is beyond what was measured, as a share; 0 within its range."""
        low, high = self.measured[figure]
        value = self.simulated[figure]
        return value / high - 1 if value > high else min(0.0, value / low - 1)


def rows() -> Iterator[Row]:
    """Every measured row with its simulation."""
    worker, hand_off = calibrated()
    for row in MEASURED["rows"]:
        runs = [simulate(scenario(row, worker, hand_off, seed=seed)) for seed in SEEDS]
        shown = [_figures(run, row["output_tokens"]) for run in runs]
        yield Row(
            load=row["load"],
            way=row["way"],
            measured={name: (row[name][0], row[name][1]) for name in FIGURES},
            simulated={name: median(each[name] for each in shown) for name in FIGURES},
        )


def calibrated() -> tuple[WorkerModel, HandOff]:
    """A worker and a hand-off that give the light load's times."""
    alone, pair = (row for row in MEASURED["rows"] if row["load"] == "light")
    gap_s = _middle(alone, "gap_p50_ms") / 1e3
    ttft_s = _middle(alone, "ttft_p50_s")
    prompt_tokens = alone["prompt_tokens"]
    shape = catalog.model("SmolLM2-135M-Instruct").architecture
    setup = EngineSetup(gpu=catalog.gpu("cpu"), shape=shape, block_tokens=128, batch_tokens=BATCH_TOKENS)

    def todo(prompt: float, prompt_context: float, sequences: float, context: float) -> tuple[float, float]:
        """Operations of reading prompts, and bytes that are read from memory."""
        read = work(setup, Batch(prompt_tokens=prompt, prompt_context_tokens=prompt_context))
        whole = work(
            setup,
            Batch(
                prompt_tokens=prompt,
                prompt_context_tokens=prompt_context,
                sequences=sequences,
                context_tokens=context,
            ),
        )
        return (read.flops + read.attention_flops) if prompt else 0.0, whole.weight_bytes + whole.kv_bytes

    _, decode_bytes = todo(0, 0, 1, prompt_tokens + alone["output_tokens"] / 2)
    bytes_per_s = decode_bytes / gap_s
    read_flops, read_bytes = todo(prompt_tokens, (prompt_tokens + 1) / 2, 0, 0)
    flops_per_s = read_flops / (ttft_s - read_bytes / bytes_per_s)

    def pass_s(prompt: float, prompt_context: float, sequences: float, context: float) -> float:
        flops, moved = todo(prompt, prompt_context, sequences, context)
        return flops / flops_per_s + moved / bytes_per_s

    jitter = log(_middle(pair, "gap_p99_ms") / _middle(pair, "gap_p50_ms")) / NormalDist().inv_cdf(0.99)
    handed_s = _middle(pair, "ttft_p50_s") - ttft_s - _middle(pair, "gap_p50_ms") / 1e3
    worker = WorkerModel(
        name="core",
        pass_s=pass_s,
        kv_tokens=40_000,
        sequences=8,
        batch_tokens=BATCH_TOKENS,
        gpus=0,
        line_gb_per_s=prompt_tokens * 1e-9 / handed_s,
        jitter=jitter,
    )
    return worker, HandOff(kv_bytes=float)


def scenario(row: dict[str, Any], worker: WorkerModel, hand_off: HandOff, *, seed: int) -> Scenario:
    """The measurement as it was done. Its bytes are counted in tokens, as only their time was measured."""
    one = ((worker, 1),)
    is_pair = row["way"] == "disaggregated"
    return Scenario(
        traffic=constant(
            MEASURED["conditions"]["requests"],
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens"],
        ),
        prefill=PoolModel(name="prefill", workers=one) if is_pair else None,
        decode=PoolModel(name="decode", workers=one)
        if is_pair
        else PoolModel(name="serve", workers=((worker, 2),), routing="in_turn"),
        hand_off=hand_off,
        door=FrontDoor(requests_running_max=64, requests_waiting_max=0),
        clients=row["clients"],
        seed=seed,
    )


def _figures(run: Outcome, output_tokens: int) -> dict[str, float]:
    return {
        "ttft_p50_s": run.ttft_s.p50,
        "gap_p50_ms": 1e3 * run.gap_s.p50,
        "gap_p95_ms": 1e3 * run.gap_s.p95,
        "gap_p99_ms": 1e3 * run.gap_s.p99,
        "tokens_per_s": run.answered * output_tokens / run.simulated_s,
    }


def _middle(row: dict[str, Any], figure: str) -> float:
    return sum(row[figure]) / 2
