"""`python -m benchmarks.serving [--repeat N] [--quick] [--json] [--picture FILE]`, run as `make bench` does.

tools/run names the engine's environment and the model.
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.engines import NotReadyError, running
from benchmarks.serving.load import Load, Sample, WrongAnswerError, kv_bytes, measure
from benchmarks.serving.pair import MODEL, declare
from benchmarks.serving.report import WAYS, as_json, draw, table

LIGHT = Load("light", at_once=2, requests=12, sentences=40, output_tokens=64)
HEAVY = Load("heavy", at_once=4, requests=12, sentences=80, output_tokens=64)
WARM_UP = Load("warm-up", at_once=2, requests=4, sentences=20, output_tokens=8)
PICTURE = Path(__file__).parents[2] / "docs" / "serving.svg"
BUSY_LOAD = 0.7
"""Load average before the run above which its numbers are said to be disturbed."""


def machine() -> str:
    """What it ran on, in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB, vLLM 0.32.0 on CPU, {MODEL} bf16"


async def _measure(loads: tuple[Load, ...], repeat: int, console: Console) -> tuple[list[Sample], float]:
    samples: list[Sample] = []
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # the engines are ended first
    async with running(declare(), console.log) as door:
        salt = secrets.token_hex(3)
        for way in WAYS:
            await measure(door, WARM_UP, way, f"{salt}w")
        before = await kv_bytes(door)
        for load in loads:
            for number in range(repeat):
                for way in WAYS:
                    console.log(f"{load.name}, {way}, {number + 1} of {repeat}")
                    samples.append(await measure(door, load, way, f"{salt}{number}"))
        return samples, await kv_bytes(door) - before


def main() -> int:
    """Measures, prints, draws."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--repeat", type=int, default=2, help="how often each load is sent each way")
    parser.add_argument("--quick", action="store_true", help="few short requests: shows that it works, not how well")
    parser.add_argument("--json", action="store_true", help="prints every repetition as JSON, and nothing else")
    parser.add_argument("--picture", type=Path, default=None, help=f"where to draw; {PICTURE.name} in docs by default")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=max(Console().width, 120))
    load_before = os.getloadavg()[0]
    loads = (LIGHT, HEAVY)
    if options.quick:
        loads = tuple(replace(load, requests=4, output_tokens=16) for load in loads)
    try:
        samples, moved = asyncio.run(_measure(loads, 1 if options.quick else options.repeat, console))
    except (NotReadyError, WrongAnswerError) as error:
        sys.stderr.write(f"benchmarks.serving: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    picture = options.picture or PICTURE
    draw(samples, loads[-1], picture, f"python -m benchmarks.serving; {machine()}")
    if options.json:
        results = as_json(samples, loads)
        head = {"machine": machine(), "load_average_before": load_before, "kv_bytes": moved}
        sys.stdout.write(json.dumps({**head, "results": results}, indent=2) + "\n")
        return 0
    console.print(table(samples, loads))
    console.print(f"KV moved between the engines: {moved / 1e6:,.0f} MB; picture: {picture}", soft_wrap=True)
    busy = "; other work was running, so take the times with care" if load_before > BUSY_LOAD else ""
    console.print(f"{machine()}; load average before the run {load_before:.2f}{busy}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
