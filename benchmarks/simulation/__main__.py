"""What the simulation costs and how far it is from measurements: `python -m benchmarks.simulation`."""

import argparse

from rich.console import Console
from rich.table import Table

from benchmarks.simulation.fleet import cost
from benchmarks.simulation.pair import FIGURES, Row, rows

NAMES = ("TTFT p50, s", "gap p50, ms", "gap p95, ms", "gap p99, ms", "tokens/s")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gpus", type=int, default=2000)
    options.add_argument("--duration-s", type=float, default=600.0)
    chosen = options.parse_args()
    console = Console(width=120)
    console.print(pair_table())
    console.print(fleet_table(chosen.gpus, chosen.duration_s))


def pair_table() -> Table:
    table = Table(title="two CPU engines: measured, and simulated from the light load alone", title_justify="left")
    for name in ("load", "way"):
        table.add_column(name)
    for name in NAMES:
        table.add_column(name, justify="right")
    for row in rows():
        cells = [_cell(row, name) for name in FIGURES]
        table.add_row(row.load, row.way, *cells)
    return table


def _cell(row: Row, name: str) -> str:
    low, high = row.measured[name]
    return f"{low:g} to {high:g}\n{row.simulated[name]:.4g} ({row.error(name):+.0%})"


def fleet_table(gpus: int, duration_s: float) -> Table:
    title = f"{gpus} H100, Llama-3.3-70B on 4 each, {duration_s:g} simulated seconds"
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for name in ("requests", "events", "CPU s", "us a request", "TTFT p95, ms", "TPOT p95, ms"):
        table.add_column(name, justify="right")
    for way in ("disaggregated", "aggregated"):
        run = cost(gpus, way, duration_s=duration_s)
        table.add_row(
            way,
            str(run.requests),
            str(run.events),
            f"{run.cpu_s:.1f}",
            f"{1e6 * run.cpu_s / run.requests:.0f}",
            f"{1e3 * run.outcome.ttft_s.p95:.0f}",
            f"{1e3 * run.outcome.tpot_s.p95:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
