"""Fits the estimator's constants and writes its table: `python -m benchmarks.estimator.fit [--write]`.

Deterministic. Only rows that are not held out are seen. Prints errors on those, on the held-out groups, and on each
model family and each GPU when it is left out of the fit entirely. Runs in the peer's environment, which has scipy.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.estimator import peer
from benchmarks.estimator.columns import Array, Columns, Predicted
from benchmarks.estimator.rows import Row, load
from benchmarks.estimator.split import SALT, draw
from pulumi_tandem.estimate.constants import fitted, kind_of

TABLE = Path(__file__).parents[2] / "components/pulumi_tandem/estimate/constants.toml"
START = Path(__file__).with_name("start.toml")
BOUNDS = {
    "share": (0.05, 0.95),
    "bytes": (0.3, 4.0),
    "passes": (1.0, 20.0),
    "waited": (0.5, 2.0),
    "overlap": (0.3, 1.0),
    "handoff": (10.0, 150.0),
    "us": (0.5, 500.0),
    "ms": (1.0, 500.0),
}
"""Physical limits by the first of these words in a constant's name."""
TOLERANCE = 0.1
"""Relative error from which a row pulls with its sign rather than its size: measurements have outliers."""
TTFT_WEIGHTS = {"agg": 0.4, "disagg": 0.05}
"""Against TPOT's 1. A first token's time is measured less well; that of a pair of pools hardly at all: routers,
warm-up and batching by the hundred are in it."""
PRIOR_WEIGHT = 0.1
"""Holds constants that the rows say nothing of where they were first put."""
FOLDS = 5
Rows = Sequence[Row]
COUNTED: dict[str, tuple[int, Callable[[Row], bool]]] = {
    "prefill": (1, lambda row: row.ttft_counts and row.mode == "agg" and row.concurrency <= 8),
    "ttft": (1, lambda row: row.ttft_counts and row.mode == "agg"),
    "handed_over": (1, lambda row: row.ttft_counts and row.mode == "disagg"),
    "tpot": (2, lambda _: True),
    "throughput": (3, lambda _: True),
}
"""Place in `ratios` of what each interval is around, and the rows that speak of it."""


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """Paths of all constants of a table, without the intervals."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key)) if key != "spread" else ()
        else:
            yield (*path, key)


def bounds(name: str) -> tuple[float, float]:
    """Physical limits of a constant."""
    return next(limits for word, limits in BOUNDS.items() if word in name.split("_"))


def with_values(table: dict[str, Any], paths: Sequence[tuple[str, ...]], values: Iterable[float]) -> dict[str, Any]:
    """A copy of the table with other constants."""
    copy: dict[str, Any] = json.loads(json.dumps(table))
    for path, value in zip(paths, values, strict=True):
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = float(value)
    return copy


def fit(rows: Rows, start: dict[str, Any]) -> dict[str, Any]:
    """The table whose constants fit the rows best, in relative errors.

    A group of n rows counts like the root of n: rows of one group err together, and one is not to decide for all.
    """
    # The peer's environment has it; ours needs it nowhere else.
    from scipy.optimize import least_squares  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    paths = list(leaves(start))
    columns = Columns(rows)
    tpot_ms, ttft_ms = (np.array([getattr(row, name) for row in rows]) for name in ("tpot_ms", "ttft_ms"))
    members = Counter(_group(row) for row in rows)
    rooted = np.array([members[_group(row)] ** -0.5 for row in rows])
    weights = np.sqrt(rooted / rooted.mean())
    first_weights = weights * [TTFT_WEIGHTS[row.mode] * row.ttft_counts for row in rows]
    first = np.log([_value(start, path) for path in paths])
    low, high = np.log([bounds(path[-1]) for path in paths]).T

    def errors(logs: Array) -> Array:
        predicted = columns.predict(with_values(start, paths, np.exp(logs)))
        tpot = np.log(predicted.tpot_ms / tpot_ms)
        ttft = np.log(predicted.ttft_ms / ttft_ms)
        return np.concatenate([weights * bent(tpot), first_weights * bent(ttft), PRIOR_WEIGHT * (logs - first)])

    inside = np.clip(first, low + 1e-6, high - 1e-6)
    found = least_squares(errors, inside, bounds=(low, high), max_nfev=60)
    return with_values(start, paths, np.exp(found.x))


def bent(errors: Array) -> Array:
    """Errors whose square grows like a parabola up to TOLERANCE, and like a line beyond."""
    return np.sign(errors) * TOLERANCE * np.sqrt(2.0 * (np.sqrt(1.0 + (errors / TOLERANCE) ** 2) - 1.0))


def _value(table: dict[str, Any], path: tuple[str, ...]) -> float:
    inner: Any = table
    for key in path:
        inner = inner[key]
    return inner


def left_out(rows: Rows, start: dict[str, Any], part: Callable[[Row], str], judged: Rows) -> dict[str, list[Any]]:
    """For each part: its rows among `judged`, predicted by a fit on the rows of all other parts."""
    found: dict[str, list[Any]] = {}
    for name in sorted({part(row) for row in judged}):
        table = fit([row for row in rows if part(row) != name], start)
        own = [row for row in judged if part(row) == name]
        found[name] = list(ratios(own, Columns(own).predict(table)))
    return found


def ratios(rows: Rows, predicted: Predicted) -> Iterable[tuple[Row, float, float, float]]:
    """Measured over predicted: TTFT, TPOT, throughput."""
    for number, row in enumerate(rows):
        yield (
            row,
            row.ttft_ms / predicted.ttft_ms[number],
            row.tpot_ms / predicted.tpot_ms[number],
            row.tokens_per_s / predicted.tokens_per_s[number],
        )


def intervals(known: Sequence[Any], unknown: Sequence[Any]) -> dict[str, dict[str, list[float]]]:
    """Tenth and ninetieth percentile of measured over predicted, by quantity, engine and kind of model.

    Groups count as in the fit, so that sixty rows that err together are not sixty errors.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for what, (place, counts) in COUNTED.items():
        counted = [each for each in known if counts(each[0])]
        found[what] = {"unmeasured": _tenths([each for each in unknown if counts(each[0])], place)}
        for setup in dict.fromkeys(kind_of(each[0].decode.setup) for each in known):
            own = [each for each in counted if kind_of(each[0].decode.setup) == setup]
            # What was not measured at all, such as dense models on two pools, counts like all that was.
            found[what][setup] = _tenths(own or counted, place)
    return found


def _tenths(several: Sequence[Any], place: int) -> list[float]:
    members = Counter(_group(each[0]) for each in several)
    weights = np.array([members[_group(each[0])] ** -0.5 for each in several])
    ratio = np.array([each[place] for each in several])
    low, high = np.quantile(ratio, (0.1, 0.9), weights=weights, method="inverted_cdf")
    return [round(float(low), 2), round(float(high), 2)]


def say(name: str, several: Sequence[Any]) -> None:
    """One line of errors."""
    if not several:
        return
    tpot = [abs(1 / each[2] - 1) for each in several]
    ttft = [abs(1 / each[1] - 1) for each in several if each[0].ttft_counts]
    found = [f"{name:<34} {len(several):5d} rows"]
    for what, own in (("TPOT", tpot), ("TTFT", ttft)):
        if own:
            found.append(f"{what} MAPE {100 * np.mean(own):5.1f} % median {100 * np.median(own):5.1f} %")
    print("  ".join(found), flush=True)


def written(table: dict[str, Any], header: str) -> str:
    """The table as TOML, three digits each."""
    lines = [f"# {line}" for line in header.splitlines()]
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in leaves(table):
        groups.setdefault(path[:-1], {})[path[-1]] = float(f"{_value(table, path):.3g}")
    for what, kinds in table["spread"].items():
        groups["spread", what] = kinds
    for path, values in groups.items():
        lines += ["", f"[{'.'.join(path)}]", *(f"{key} = {value}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fits, prints errors, and writes the table when asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimator.fit", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"writes {TABLE.name}")
    parser.add_argument("--fast", action="store_true", help="the fit alone, without what is left out in turn")
    options = parser.parse_args()
    root = peer.package()
    rows, _ = load(root)
    seen = [row for row in rows if not row.held_out]
    start = tomllib.loads(START.read_text("utf-8"))
    table = fit(seen, start)
    table["spread"] = fitted()["spread"]
    result = list(ratios(rows, Columns(rows).predict(table)))
    say("fitted on", [each for each in result if not each[0].held_out])
    say("held out", [each for each in result if each[0].held_out])
    if not options.fast:
        folds = left_out(seen, start, lambda row: str(int(draw(f"fold|{_group(row)}") * FOLDS)), seen)
        families = left_out(seen, start, lambda row: row.family, rows)
        gpus = left_out(seen, start, lambda row: row.gpu, rows)
        for name, several in (families | gpus).items():
            say(f"{name}, left out", several)
        known = [each for several in folds.values() for each in several]
        say("groups left out in turn", known)
        table["spread"] = intervals(known, [each for several in families.values() for each in several])
    digest = hashlib.sha256((root / "systems/silicon_sample.csv").read_bytes()).hexdigest()[:16]
    header = (
        "Constants of the estimator; constants.py says what each means. Written by\n"
        "`python -m benchmarks.estimator.fit --write`, do not edit.\n"
        f"Fitted on {len(seen)} of {len(rows)} rows of silicon_sample.csv (sha256 {digest}...) in aiconfigurator-core\n"
        f"0.12.0, Apache-2.0; held out by the salt {SALT!r}."
    )
    text = written(table, header)
    if options.write:
        TABLE.write_text(text, "utf-8")
    else:
        print(text)


def _group(row: Row) -> str:
    return f"{row.family}|{row.gpu}|{row.engine}|{row.parallelism}"


def in_the_peers_environment() -> int:
    """Runs this module there; its exit code."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / each) for each in (".", "components", "worker"))
    command = [peer.python(), "-m", "benchmarks.estimator.fit", *sys.argv[1:]]
    return subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode


if __name__ == "__main__":
    if find_spec("scipy") is None:
        sys.exit(in_the_peers_environment())
    main()
