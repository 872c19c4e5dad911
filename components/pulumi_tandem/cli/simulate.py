"""`tandem simulate`: what it does, without the words of a command line."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pulumi_tandem.check import accept
from pulumi_tandem.cli.timeline import draw_timeline
from pulumi_tandem.declare import DeclarationError, Lengths, Service, Workload
from pulumi_tandem.finding import Finding
from pulumi_tandem.simulate import Arrivals, Outcome, Percentiles, TraceError, Traffic, from_rows, generate, simulate
from pulumi_tandem.simulate.declared import scenario_of

WARM_UP_SHARE = 0.1
"""Share of generated traffic that does not count, as it meets an empty service. All of a trace counts."""
LINE_FULL = 0.8
"""Share of the time from which the network is named as what holds requests up."""
WINDOWS = 60
"""Stretches of time that the picture shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The options of the command."""

    requests_per_s: float | None = None
    """In place of the declared rate."""
    trace: Path | None = None
    """JSON lines or CSV with arrival_s, prompt_tokens, output_tokens; in place of the declared workload."""
    duration_s: float | None = None
    """Default: 600, or as long as the trace."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """One service, and what became of it."""

    service: Service
    workers: dict[str, int]
    """By pool."""
    requests_running_max: int
    duration_s: float
    warm_up_s: float
    outcome: Outcome


def simulated(services: Sequence[Service], ask: Ask, *, console: Console | None = None) -> tuple[Simulated, ...]:
    """Simulates every service; shows progress on a console that is a terminal.

    Raises DeclarationError where a rule has errors or a service cannot be simulated, TraceError where the trace cannot
    be read.
    """
    accept(*services)
    rows = _rows(ask.trace) if ask.trace else None
    return tuple(_simulated(service, ask, rows, console) for service in services)


def _simulated(
    service: Service, ask: Ask, rows: Sequence[Mapping[str, object]] | None, console: Console | None
) -> Simulated:
    traffic, workload = _traffic(service, ask, rows)
    warm_up_s = 0.0 if rows else WARM_UP_SHARE * traffic.duration_s
    scenario = scenario_of(service, traffic, workload=workload, warm_up_s=warm_up_s)
    with _progress(service.name, traffic.duration_s, console) as progress:
        outcome = simulate(scenario, window_s=max(traffic.duration_s, 1.0) / WINDOWS, progress=progress)
    return Simulated(
        service=service,
        workers={pool.name: sum(count for _, count in pool.workers) for pool in scenario.pools},
        requests_running_max=scenario.door.requests_running_max,
        duration_s=traffic.duration_s,
        warm_up_s=warm_up_s,
        outcome=outcome,
    )


def _traffic(service: Service, ask: Ask, rows: Sequence[Mapping[str, object]] | None) -> tuple[Traffic, Workload]:
    if rows is not None:
        traffic = from_rows(rows, duration_s=ask.duration_s)
        return traffic, _like(traffic)
    load = service.workload
    if load is None:
        message = "the service declares no workload; what it is asked is not known"
        fix = "give workload=tandem.Workload(...), or a trace: `tandem simulate FILE --trace requests.jsonl`"
        path = f"{service.name}.workload"
        raise DeclarationError(
            [Finding(code="TND0302", severity="error", path=path, message=message, fix=fix, source=__name__)]
        )
    if ask.requests_per_s is not None:
        load = load.model_copy(update={"requests_per_s": ask.requests_per_s})
    traffic = generate(
        Arrivals(requests_per_s=load.requests_per_s),
        prompt_tokens=load.prompts,
        output_tokens=load.outputs,
        duration_s=ask.duration_s or 600.0,
        seed=ask.seed,
        prefix_hit=load.prefix_hit,
        context_tokens=service.context_tokens,
    )
    return traffic, load


def _like(traffic: Traffic) -> Workload:
    """What a trace is like on average."""
    count = len(traffic)
    return Workload(
        requests_per_s=count / max(traffic.duration_s, 1e-3),
        prompt_tokens=Lengths(mean=sum(traffic.prompt_tokens) / count),
        output_tokens=Lengths(mean=sum(traffic.output_tokens) / count),
    )


def _rows(path: Path) -> Sequence[Mapping[str, object]]:
    """The rows of a file, by its suffix. Raises TraceError."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TraceError(f"{path.name!r} is no trace's name; end it with {', '.join(readers)}")
    try:
        return reader(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from None


def _csv_rows(text: str) -> Sequence[Mapping[str, object]]:
    return list(csv.DictReader(text.splitlines()))


def _json_rows(text: str) -> Sequence[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TraceError(f"row {number} is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise TraceError(f'row {number} is not an object; write {{"arrival_s": 0.5, "prompt_tokens": 900, ...}}')
        rows.append(cast(dict[str, object], row))
    return rows


@contextmanager
def _progress(name: str, duration_s: float, console: Console | None) -> Iterator[Any]:
    if console is None or not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"simulating {name}", total=duration_s)
        yield lambda now_s: bar.update(task, completed=now_s)


# --- what is shown --------------------------------------------------------------------------------


def simulation_view(one: Simulated) -> RenderableType:
    """The outcome for people."""
    found = one.outcome
    return Group(_latencies(one), _pools(one), *(Text(line) for line in _sentences(one, found)))


def _latencies(one: Simulated) -> Table:
    found, wanted = one.outcome, one.service.objectives
    heading = (
        f"{one.service.name}: {one.service.model.name}, {found.requests} requests in "
        f"{one.duration_s - one.warm_up_s:g} simulated seconds"
    )
    table = Table(title=heading, title_justify="left")
    table.add_column("ms")
    for name in ("mean", "p50", "p90", "p95", "p99", "objective"):
        table.add_column(name, justify="right")
    rows: tuple[tuple[str, Percentiles, float | None], ...] = (
        ("time to first token", found.ttft_s, wanted and wanted.ttft_ms),
        ("time per output token", found.tpot_s, wanted and wanted.tpot_ms),
        ("gap between two tokens", found.gap_s, None),
        ("whole answer", found.e2e_s, wanted and wanted.e2e_ms),
    )
    for name, times, limit_ms in rows:
        cells = (f"{1e3 * each:.{0 if each >= 0.1 else 1}f}" for each in asdict(times).values())
        table.add_row(name, *cells, f"{limit_ms:g}" if limit_ms else "-")
    return table


def _pools(one: Simulated) -> Table:
    table = Table(title="pools", title_justify="left")
    table.add_column("pool")
    for name in ("workers", "GPU hours", "computes", "network", "KV memory, most", "waiting, most"):
        table.add_column(name, justify="right")
    for number, pool in enumerate(one.outcome.pools):
        looks = [window.look.pools[number] for window in one.outcome.windows]
        table.add_row(
            pool.name,
            str(one.workers[pool.name]),
            f"{pool.gpu_hours:.1f}",
            f"{pool.busy:.0%}",
            f"{pool.line_busy:.0%}",
            f"{max((look.kv_share for look in looks), default=0.0):.0%}",
            str(pool.waiting_max),
        )
    return table


def _sentences(one: Simulated, found: Outcome) -> Iterator[str]:
    yield f"{found.requests_per_s:.2f} requests/s and {found.output_tokens_per_s:.0f} output tokens/s were answered."
    if found.good is not None:
        wanted = one.service.objectives
        assert wanted
        yield (
            f"{found.good:.1%} of requests were answered within every objective ({wanted.quantile:.0%} are asked for): "
            f"{found.good_requests_per_s:.2f} requests/s."
        )
    queued = max((window.look.waiting_at_door for window in found.windows), default=0)
    if queued or found.turned_away:
        yield (
            f"Up to {queued} requests waited at the front door, which lets {one.requests_running_max} run "
            f"(limits.requests_running_max); {found.turned_away} were turned away with 429."
        )
    for pool in found.pools:
        if pool.line_busy >= LINE_FULL:
            share = f"{pool.line_busy:.0%}"
            yield f"The network of {pool.name} workers is what holds requests up: it carried KV {share} of the time."
    if found.too_long:
        yield f"{found.too_long} requests fit into no worker's KV memory."
    if found.failed:
        yield f"{found.failed} requests failed."


def to_json(all_of_them: Sequence[Simulated]) -> str:
    """Every outcome as one JSON document."""
    services = [
        {"service": one.service.name, "duration_s": one.duration_s, "warm_up_s": one.warm_up_s, **asdict(one.outcome)}
        for one in all_of_them
    ]
    return json.dumps({"services": services}, indent=2, allow_nan=False)


def plotted(all_of_them: Sequence[Simulated], path: Path) -> tuple[str, ...]:
    """Draws every service, in files of their own where there are several; a line about each.

    Raises PictureError where it cannot be drawn.
    """
    lines: list[str] = []
    for one in all_of_them:
        own = path if len(all_of_them) == 1 else path.with_stem(f"{path.stem}-{one.service.name}")
        draw_timeline(one.outcome, one.service.objectives, own)
        lines.append(f"drew {own}")
    return tuple(lines)


def is_met(one: Simulated) -> bool:
    """Whether the share of requests that the objectives ask for was answered within them; True without objectives."""
    wanted = one.service.objectives
    return wanted is None or one.outcome.good is None or one.outcome.good >= wanted.quantile
