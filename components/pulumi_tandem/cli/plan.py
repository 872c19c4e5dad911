"""`tandem plan`: what it does, without the words of a command line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pulumi_tandem.cli.picture import draw
from pulumi_tandem.cli.report import html_report
from pulumi_tandem.declare import Auto, DeclarationError, Service
from pulumi_tandem.estimate import Interval
from pulumi_tandem.pins import pins_path, write_pins
from pulumi_tandem.plan import Capacity, Option, Plan, PlannedPool, capacity, plan
from pulumi_tandem.plan.search import By
from pulumi_tandem.plan.verdict import binding, limits, shares

if TYPE_CHECKING:
    from pulumi_tandem.finding import Finding

PAGE_COLUMNS = 160
"""Width of the table in a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One service's plan, and what a given number of GPUs would serve."""

    plan: Plan
    gpus: int | None
    capacities: tuple[Capacity, ...]
    """Of the kinds that serve anything at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the options of the command wrote, a line each, and whether every service has what it needs."""

    lines: tuple[str, ...]
    is_met: bool


def planned(services: Sequence[Service], *, by: By, gpus: int | None = None) -> tuple[Planned, ...]:
    """The plan of every service.

    Raises DeclarationError with everything that keeps services from being planned, all services together.
    """
    plans: list[Planned] = []
    findings: list[Finding] = []
    for service in services:
        try:
            found = plan(service, by=by)
            most = [capacity(service, kind, gpus=gpus) for kind in ("disaggregated", "aggregated")] if gpus else []
        except DeclarationError as error:
            findings += error.findings
            continue
        plans.append(Planned(plan=found, gpus=gpus, capacities=tuple(each for each in most if each)))
    if findings:
        raise DeclarationError(findings)
    return tuple(plans)


def written(plans: Sequence[Planned], *, program: Path, plot: Path | None, html: Path | None, write: bool) -> Written:
    """Draws, reports and pins what was asked for.

    Raises PictureError where it cannot be drawn.
    """
    only = [each.plan for each in plans]
    lines: list[str] = []
    if plot:
        draw(only, plot)
        lines.append(f"drew {plot}")
    if html:
        html.write_text(html_report(only, view=view_text(plans)), "utf-8")
        lines.append(f"wrote {html}")
    if write:
        lines.append(_pinned(only, program))
    return Written(lines=tuple(lines), is_met=all(_is_met(one) for one in only))


def plan_view(one: Planned) -> RenderableType:
    """The plan of a service for people: the ways with what they do, their pools, the verdict."""
    service, wanted = one.plan.service, one.plan.service.objectives
    assert service.workload
    assert wanted
    load = service.workload
    heading = (
        f"{service.name}: {service.model.name}, {load.requests_per_s:g} requests/s, "
        f"{load.prompts.mean:.0f} tokens in, {load.outputs.mean:.0f} out"
    )
    lines = [Text(one.plan.verdict.words, style="bold")]
    if chosen := one.plan.chosen or one.plan.declared:
        lines += [Text(sentence) for sentence in _sureness(chosen, one.plan)]
    lines += [Text(_capacity_text(one, each)) for each in one.capacities]
    return Group(_ways(one.plan, heading), _pools(one.plan), *lines)


def plan_json(one: Planned) -> dict[str, Any]:
    """The plan of a service for machines; times in milliseconds as [low, mid, high], null where a queue only grows."""
    found = one.plan
    return {
        "service": found.service.name,
        "by": found.by,
        "verdict": {
            "winner": found.verdict.winner,
            "saving": found.verdict.saving,
            "clear": found.verdict.is_clear,
            "words": found.verdict.words,
        },
        "options": {name: _option_json(option, found) for name, option in _named(found).items()},
        "capacity": {
            each.option.kind: {"gpus": one.gpus, "requests_per_s": each.requests_per_s, "pools": each.option.label}
            for each in one.capacities
        },
        "pin": found.pin.model_dump() if found.pin else None,
    }


def view_text(plans: Sequence[Planned]) -> str:
    """What a terminal without colours shows."""
    text = StringIO()
    console = Console(width=PAGE_COLUMNS, file=text, highlight=False)
    for one in plans:
        console.print(plan_view(one))
    return text.getvalue()


def _named(found: Plan) -> dict[str, Option]:
    ways = {"declared": found.declared, "disaggregated": found.disaggregated, "aggregated": found.aggregated}
    return {name: option for name, option in ways.items() if option}


def _ways(found: Plan, heading: str) -> Table:
    wanted = found.service.objectives
    assert wanted
    share = f"{wanted.quantile * 100:g} %"
    table = Table(title=heading, title_justify="left")
    table.add_column("")
    table.add_column("pools", no_wrap=True)
    for name in ("GPUs", "USD/h", f"TTFT {share}", f"TPOT {share}", "tokens/s", "KV GB/s", "meets it", "binds"):
        table.add_column(name, justify="right")
    for name, option in _named(found).items():
        price = option.usd_per_hour
        table.add_row(
            name,
            option.label,
            str(option.gpus),
            "-" if price is None else f"{price:.2f}",
            interval_text(option.ttft_s),
            interval_text(option.tpot_s),
            f"{option.output_tokens_per_s:.0f}",
            f"{option.kv_gb_per_s:.2f}" if option.kv_gb_per_s else "-",
            _meets(option, found),
            binding(option, wanted).upper(),
        )
    return table


def _pools(found: Plan) -> Table:
    table = Table(title="what each worker does", title_justify="left")
    for name in ("pool", "worker", "priced as"):
        table.add_column(name)
    for name in ("workers", "weights/GPU", "KV/GPU", "batch tokens", "runs", "at most", "used"):
        table.add_column(name, justify="right")
    seen: set[tuple[Any, ...]] = set()
    for option in _named(found).values():
        for pool in option.pools:
            row = _pool_row(pool)
            if row not in seen:
                table.add_row(*row)
                seen.add(row)
    return table


def _pool_row(pool: PlannedPool) -> tuple[str, ...]:
    shape = pool.candidate
    return (
        pool.name,
        shape.label,
        shape.machine.instance or "-",
        str(pool.workers),
        f"{shape.weights_gib:.1f} GiB",
        f"{shape.kv_gib:.1f} GiB",
        str(shape.setup.batch_tokens),
        f"{pool.running:.1f}",
        str(pool.sequences),
        "overload" if isinf(pool.busy) or pool.busy > 1 else f"{pool.busy:.0%}",
    )


def interval_text(time_s: Interval) -> str:
    """`124 (75 to 568) ms`."""
    if isinf(time_s.mid):
        return "overload"
    digits = 1 if time_s.mid < 0.1 else 0
    low, mid, high = (f"{1e3 * each:.{digits}f}" for each in (time_s.low, time_s.mid, time_s.high))
    return f"{mid} ({low} to {'overload' if isinf(time_s.high) else high}) ms"


def _meets(option: Option, found: Plan) -> str:
    wanted = found.service.objectives
    assert wanted
    times = limits(option, wanted)
    if all(time.high <= limit for _, time, limit in times):
        return "surely"
    if all(time.mid <= limit for _, time, limit in times):
        return "probably"
    return "perhaps" if all(time.low <= limit for _, time, limit in times) else "no"


def _sureness(option: Option, found: Plan) -> list[str]:
    """What the intervals leave open, and what binds."""
    wanted = found.service.objectives
    assert wanted
    name = binding(option, wanted)
    lines = [
        f"{option.kind.capitalize()}: {name.upper()} binds, at {shares(option, wanted)[name]:.0%} of its objective."
    ]
    for objective, time_ms, limit_ms in limits(option, wanted):
        if time_ms.mid <= limit_ms < time_ms.high:
            end = "the queue would only grow" if isinf(time_ms.high) else f"it is {time_ms.high:.0f} ms"
            lines.append(
                f"{objective.upper()} is within {limit_ms:g} ms by the middle of the estimate; at the unfavourable end "
                f"of its 80 % interval {end}."
            )
    return lines


def _capacity_text(one: Planned, most: Capacity) -> str:
    load = one.plan.service.workload
    assert load
    tokens = most.requests_per_s * load.outputs.mean / (one.gpus or 1)
    served = "GPUs serve" if one.gpus != 1 else "GPU serves"
    return (
        f"{one.gpus} {served} at most {most.requests_per_s:.2f} requests/s {most.option.kind} "
        f"({most.option.label}): {tokens:.0f} output tokens/s per GPU."
    )


def _option_json(option: Option, found: Plan) -> dict[str, Any]:
    wanted = found.service.objectives
    assert wanted
    return {
        "kind": option.kind,
        "gpus": option.gpus,
        "usd_per_hour": option.usd_per_hour,
        "ttft_ms": _ends_ms(option.ttft_s),
        "tpot_ms": _ends_ms(option.tpot_s),
        "e2e_ms": _ends_ms(option.e2e_s),
        "transfer_ms": _ends_ms(option.transfer_s) if option.transfer_s else None,
        "output_tokens_per_s": option.output_tokens_per_s,
        "kv_gb_per_s": option.kv_gb_per_s,
        "link_gb_per_s": option.link_gb_per_s,
        "meets": _meets(option, found),
        "binds": binding(option, wanted),
        "pools": {pool.name: _pool_json(pool) for pool in option.pools},
    }


def _pool_json(pool: PlannedPool) -> dict[str, Any]:
    return pool.shape.model_dump() | {
        "instance": pool.candidate.machine.instance or None,
        "weights_gib_per_gpu": pool.candidate.weights_gib,
        "kv_gib_per_gpu": pool.candidate.kv_gib,
        "running": pool.running,
        "used": None if isinf(pool.busy) else pool.busy,
    }


def _ends_ms(time_s: Interval) -> list[float | None]:
    return [None if isinf(end) else 1e3 * end for end in (time_s.low, time_s.mid, time_s.high)]


def _is_met(found: Plan) -> bool:
    """Whether the service has pools that meet its objectives: the planned ones, or those that it declares."""
    pools = (found.service.prefill, found.service.decode, found.service.serve)
    option = found.chosen if any(isinstance(pool, Auto) for pool in pools) else found.declared
    return option is not None and _meets(option, found) != "no"


def _pinned(plans: Sequence[Plan], program: Path) -> str:
    pins = {found.service.name: found.pin for found in plans if found.pin}
    if not pins:
        return "nothing to pin: no pool is tandem.Auto(...), or nothing meets the objectives"
    changed = write_pins(program, pins)
    names = ", ".join(pins)
    return f"pinned {names} in {pins_path(program)}; commit it" if changed else f"{pins_path(program)} holds it already"


def to_json(plans: Sequence[Planned]) -> str:
    """All plans as one JSON document."""
    return json.dumps({"services": [plan_json(one) for one in plans]}, indent=2, allow_nan=False)
