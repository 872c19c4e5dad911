"""`python -m benchmarks.gateway [--quick] [--json]`."""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.gateway.fronts import ROUTER
from benchmarks.gateway.measure import FULL, QUICK, Result, measure

OURS, PEER = "tandem", "vllm-router"
PER_CPU = {
    "handoffs_per_cpu_s": "hand-offs",
    "chunks_per_cpu_s": "paced chunks",
    "burst_chunks_per_cpu_s": "chunks in bursts",
}


def _table(result: Result) -> Table:
    table = Table(title="One load, 2 prefill and 2 decode fake engines; medians over the rounds")
    table.add_column("front")
    for name in (
        "hand-offs\nper CPU-s",
        "chunks per\nCPU-s, paced",
        "chunks per\nCPU-s, burst",
        "hand-offs\nper s",
        "added TTFT\np50, ms",
        "added TTFT\np99, ms",
        "failed when\n1P + 1D die",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for front in ("direct", OURS, PEER):
        killed = next((k for k in result.killed if k.front == front), None)
        per_cpu = [result.median(front, v) for v in PER_CPU]
        added = [statistics.median(result.differences(v, front, "direct")) for v in ("ttft_p50_ms", "ttft_p99_ms")]
        table.add_row(
            front,
            *(f"{v:,.0f}" if v else "-" for v in per_cpu),
            f"{result.median(front, 'handoffs_per_s'):,.0f}",
            *((f"{v:+.2f}" for v in added) if front != "direct" else ("-", "-")),
            f"{killed.failed} of {killed.calls}" if killed else "-",
        )
    return table


def _lines(result: Result) -> list[str]:
    lines: list[str] = []
    for value, what in PER_CPU.items():
        ratios = result.ratios(value, OURS, PEER)
        if ratios:
            lines.append(
                f"{what} per CPU-second, {OURS} / {PEER}: median {statistics.median(ratios):.2f}, "
                f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
            )
    later = result.differences("ttft_p50_ms", OURS, PEER)
    lines.append(f"TTFT p50, {OURS} - {PEER}: median {statistics.median(later):+.2f} ms")
    lines.extend(
        f"{k.front}: {k.failed} failed of {k.calls} ({k.failures or 'none'}), KV rules broken: {k.violations}"
        for k in result.killed
    )
    failed = sum(r.failed for r in result.rounds)
    lines.append(f"failed in undisturbed rounds: {failed}")
    return lines


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round")
    parser.add_argument("--json", action="store_true", help="prints every number as JSON, and nothing else")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=max(Console().width, 120))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, peer {ROUTER}"
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        result = uvloop.run(measure(QUICK if options.quick else FULL, Path(folder), console.log))
    if options.json:
        print(json.dumps({"machine": machine, "load_average_before": load_before, **result.as_json()}, indent=2))
        return
    console.print(_table(result))
    for line in _lines(result):
        console.print(line, soft_wrap=True)
    console.print(f"{machine}; load average before the run {load_before:.2f}")


if __name__ == "__main__":
    main()
