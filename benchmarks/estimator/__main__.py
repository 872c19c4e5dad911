"""`python -m benchmarks.estimator [--quick] [--json] [--picture FILE]`."""

import argparse
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.estimator.peer import PEER, answers, in_its_order, package
from benchmarks.estimator.predict import Prediction, predict
from benchmarks.estimator.rows import Row, load

QUICK_ROWS, FULL_ROWS = 80, 400
"""How many of the held-out rows the peer is asked about: it takes a second or two for each."""
QUANTITIES = ("tpot_ms", "ttft_ms", "tokens_per_s")


@dataclass(frozen=True, slots=True)
class Judged:
    """A held-out row, what we say of it, and what the peer says, if anything."""

    row: Row
    ours: Prediction
    peers: dict[str, float] | None
    failure: str


def judge(rows: Sequence[Row]) -> list[Judged]:
    """Every row with both predictions; the peer's only where its own measurements carry it."""
    found = answers(rows)
    return [Judged(row, predict(row), *_peers(row, found[row.id])) for row in rows]


def _peers(row: Row, answer: dict[str, Any]) -> tuple[dict[str, float] | None, str]:
    if "failure" in answer:
        return None, str(answer["failure"])
    if answer["database"] != "SILICON":
        return None, "no measurements of the setup"
    ttft_ms, tpot_ms = float(answer["ttft_ms"]), float(answer["tpot_ms"])
    cycle_ms = ttft_ms + tpot_ms * (row.output_tokens - 1)
    rate = 1000.0 * row.concurrency * row.output_tokens / cycle_ms
    return {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "tokens_per_s": rate, "took_s": float(answer["took_s"])}, ""


def errors(judged: Sequence[Judged], quantity: str, *, peers: bool) -> list[float]:
    """Relative errors of one contender; of TTFT only where it is known how often clients ask."""
    found: list[float] = []
    for each in judged:
        if quantity == "ttft_ms" and not each.row.ttft_counts:
            continue
        guess = (each.peers or {}).get(quantity) if peers else getattr(each.ours, quantity).mid
        if guess is not None:
            found.append(abs(guess / getattr(each.row, quantity) - 1.0))
    return found


def covered(judged: Sequence[Judged], quantity: str) -> float:
    """Share of the rows that lie within our interval."""
    counted = [each for each in judged if quantity != "ttft_ms" or each.row.ttft_counts]
    inside = [
        getattr(each.ours, quantity).low <= getattr(each.row, quantity) <= getattr(each.ours, quantity).high
        for each in counted
    ]
    return sum(inside) / len(inside) if inside else float("nan")


GROUPS: dict[str, Callable[[Judged], str]] = {
    "all": lambda _: "all",
    "mode": lambda each: {"agg": "aggregated", "disagg": "disaggregated"}[each.row.mode],
    "engine": lambda each: each.row.engine,
    "GPU": lambda each: each.row.gpu,
    "model family": lambda each: each.row.family,
}


def summary(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """One record per group: rows, and per quantity the mean and median error of both, where both have one."""
    lines: list[dict[str, Any]] = []
    for kind, name in GROUPS.items():
        for value in sorted({name(each) for each in judged}):
            own = [each for each in judged if name(each) == value]
            both = [each for each in own if each.peers]
            line: dict[str, Any] = {"group": kind, "name": value, "rows": len(own), "peer_rows": len(both)}
            for quantity in QUANTITIES:
                line[quantity] = {
                    "ours_all": _mean(errors(own, quantity, peers=False)),
                    "ours": _mean(errors(both, quantity, peers=False)),
                    "peer": _mean(errors(both, quantity, peers=True)),
                    "ours_median": _median(errors(both, quantity, peers=False)),
                    "peer_median": _median(errors(both, quantity, peers=True)),
                    "covered": covered(own, quantity),
                }
            lines.append(line)
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def table(lines: Sequence[dict[str, Any]], title: str) -> Table:
    """Errors of both side by side."""
    result = Table(title=title)
    result.add_column("", no_wrap=True)
    result.add_column("rows", no_wrap=True)
    for what in ("TPOT", "TTFT", "tokens/s"):
        for heading in (f"{what}\nours", "peer", "ours,\nall rows"):
            result.add_column(heading, justify="right", no_wrap=True)
    kind = ""
    for line in lines:
        if kind and line["group"] != kind:
            result.add_section()
        kind = line["group"]
        cells = [_percent(line[quantity][key]) for quantity in QUANTITIES for key in ("ours", "peer", "ours_all")]
        result.add_row(line["name"], f"{line['peer_rows']}/{line['rows']}", *cells)
    return result


def alone(lines: Sequence[dict[str, Any]], title: str) -> Table:
    """Our errors, and how often the interval holds."""
    result = Table("", "rows", title=title)
    for what in ("TPOT", "TTFT", "tokens/s"):
        result.add_column(what, justify="right", no_wrap=True)
        result.add_column("in interval", justify="right", no_wrap=True)
    kind = ""
    for line in lines:
        if kind and line["group"] != kind:
            result.add_section()
        kind = line["group"]
        cells = [_percent(line[quantity][key]) for quantity in QUANTITIES for key in ("ours_all", "covered")]
        result.add_row(line["name"], str(line["rows"]), *cells)
    return result


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f} %"  # noqa: PLR0124


def microseconds(rows: Sequence[Row]) -> float:
    """Median time of one of our predictions; each predicts TTFT, TPOT and throughput."""
    took: list[float] = []
    for row in rows:
        started = time.perf_counter()
        predict(row)
        took.append((time.perf_counter() - started) * 1e6)
    return statistics.median(took)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows rather than {FULL_ROWS}")
    parser.add_argument("--json", action="store_true", help="prints every number as JSON, and nothing else")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draws predicted against measured")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=max(Console().width, 140))
    rows, left_out = load(package())
    held_out = in_its_order([row for row in rows if row.held_out])
    chosen = held_out[: QUICK_ROWS if options.quick else FULL_ROWS]
    console.log(f"{len(held_out)} of {len(rows)} rows are held out; {PEER} is asked about {len(chosen)} of them")
    judged = judge(chosen)
    everyone = [Judged(row, predict(row), None, "") for row in held_out]
    ours_us = microseconds(chosen)
    peers_s = [each.peers["took_s"] for each in judged if each.peers]
    if options.picture:
        from benchmarks.estimator.picture import draw_picture  # noqa: PLC0415  matplotlib takes a second to load

        draw_picture([(each.row, each.ours) for each in everyone], options.picture)
    if options.json:
        found = {"summary": summary(judged), "all_held_out": summary(everyone)[0], "ours_us": ours_us}
        print(json.dumps({**found, "peer_s": statistics.median(peers_s), "left_out": left_out}, indent=2))
        return
    _print(console, judged, everyone, left_out)
    console.print(
        f"time per prediction, median: ours {ours_us:.0f} us, {PEER} {statistics.median(peers_s):.2f} s; "
        f"Python {platform.python_version()}",
        soft_wrap=True,
    )


def _print(console: Console, judged: Sequence[Judged], everyone: Sequence[Judged], left_out: Counter[str]) -> None:
    title = f"Mean absolute error on held-out rows: tandem and {PEER}; rows that the peer predicts / all"
    console.print(table(summary(judged), title))
    console.print(alone(summary(everyone), f"All {len(everyone)} held-out rows, ours alone"))
    failures = Counter(each.failure.partition(":")[0] for each in judged if not each.peers)
    console.print("rows that the peer does not predict: " + (_counted(failures) or "none"), soft_wrap=True)
    console.print("rows of the file that count for nobody: " + _counted(left_out), soft_wrap=True)


def _counted(counter: Counter[str]) -> str:
    return "; ".join(f"{number} {reason}" for reason, number in counter.most_common())


if __name__ == "__main__":
    main()
