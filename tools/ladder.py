#!/usr/bin/env python3
"""Runs the rungs of the test ladder in order, all of them even when one fails, and prints how long each took.

tools/run python tools/ladder.py [RUNG ...]      every rung when none is named
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
BARE = "not processes and not engine and not serving and not faults and not cluster"
PYTEST = ("python", "-m", "pytest", "--quiet", "--durations=5", "--durations-min=2")
LANGUAGE_HOST = "tools/pulumi/pulumi-language-python"
"""Python without the suffix by which the linters know it."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder; it holds when every command does."""

    name: str
    budget_s: int
    """What it may take on two cores; going over it is told, and fails nothing, since machines differ."""
    commands: tuple[tuple[str, ...], ...]


RUNGS = (
    Rung(
        name="check",
        budget_s=60,
        commands=(
            ("ruff", "check", ".", LANGUAGE_HOST),
            ("ruff", "format", "--check", ".", LANGUAGE_HOST),
            ("pyright",),
            (*PYTEST, "-m", BARE),
        ),
    ),
    # Apart from `check`: counting branches more than doubles the time of the same tests.
    Rung(name="coverage", budget_s=3 * 60, commands=((*PYTEST, "-m", BARE, "--cov", "--cov-report=term"),)),
    Rung(name="processes", budget_s=4 * 60, commands=((*PYTEST, "-m", "processes"),)),
    Rung(name="engine", budget_s=12 * 60, commands=((*PYTEST, "-m", "engine"),)),
    # One bring-up serves both: it is looked at first, hurt afterwards.
    Rung(
        name="serving",
        budget_s=30 * 60,
        commands=((*PYTEST, "-m", "serving or faults", "tests/serving", "tests/faults"),),
    ),
    Rung(name="cluster", budget_s=35 * 60, commands=((*PYTEST, "-m", "cluster", "tests/cluster", "tests/standin"),)),
)


@dataclass(frozen=True)
class Outcome:
    """How a rung went."""

    rung: Rung
    took_s: float
    failed: tuple[str, ...]
    """The commands that did not hold."""


def climb(rung: Rung) -> Outcome:
    """Runs a rung's commands, all of them: a formatting slip hides no broken test.

    The last one is seen as it runs; the others run beside it, one at a time, and are shown when it has ended.
    """
    print(f"\n=== {rung.name} ===", flush=True)
    started_s = time.monotonic()
    *beside, last = rung.commands
    with ThreadPoolExecutor(max_workers=1) as pool:
        others = [pool.submit(carry_out, command, show=False) for command in beside]
        ended = [carry_out(last, show=True), *(other.result() for other in others)]
    for process in ended:
        print(process.stdout or "", end="", flush=True)
    failed = tuple(" ".join(process.args) for process in ended if process.returncode)
    return Outcome(rung=rung, took_s=time.monotonic() - started_s, failed=failed)


def carry_out(command: tuple[str, ...], *, show: bool) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; what it prints is shown at once or kept."""
    kept = None if show else subprocess.PIPE
    return subprocess.run(command, cwd=CHECKOUT, stdout=kept, stderr=subprocess.STDOUT, text=True, check=False)


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line per rung, and under it what failed."""
    lines: list[str] = []
    for outcome in outcomes:
        over = f", over its budget of {outcome.rung.budget_s} s" if outcome.took_s > outcome.rung.budget_s else ""
        word = "failed" if outcome.failed else "ok"
        lines.append(f"{outcome.rung.name:<9} {word:<6} {outcome.took_s:6.0f} s{over}")
        lines.extend(f"          failed: {command}" for command in outcome.failed)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a rung failed."""
    parser = argparse.ArgumentParser(prog="tools/ladder.py", description=__doc__)
    names = [rung.name for rung in RUNGS]
    parser.add_argument("rungs", nargs="*", metavar="RUNG", help=", ".join(names))
    chosen: list[str] = parser.parse_args(arguments).rungs or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no rung is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    outcomes = [climb(rung) for rung in RUNGS if rung.name in chosen]
    print(f"\n{summary(outcomes)}", flush=True)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
