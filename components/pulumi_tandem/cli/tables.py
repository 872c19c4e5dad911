"""What the commands print for people."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tandem_worker.contract import FLEXIBLE_POOL


def bytes_text(count: float) -> str:
    """A size in the decimal units that bandwidths use."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def evidence_view(url: str, evidence: dict[str, Any]) -> Group:
    """The proof of the generation that serves, as a short table and an answer."""
    table = Table(
        title=f"{evidence['service']}: generation {evidence['generation']} is {evidence['path']}, proven",
        title_justify="left",
    )
    for heading in (
        "prefill",
        "decode",
        "prompt",
        "KV moved",
        "KV speed",
        "over",
        "TTFT",
        "TPOT",
        "same as aggregated",
    ):
        table.add_column(
            heading,
            justify="left" if heading in ("prefill", "decode", "over") else "right",
        )
    for pair in evidence["pairs"]:
        table.add_row(
            _short(pair["prefill"]),
            _short(pair["decode"]),
            f"{pair['prompt_tokens']} tokens",
            bytes_text(pair["kv_bytes"]),
            f"{pair['kv_gb_per_s']:.3f} GB/s",
            pair["transport"],
            f"{pair['ttft_ms']:.0f} ms",
            f"{pair['tpot_ms']:.1f} ms",
            f"{pair['same_tokens']} of {pair['output_tokens']} tokens",
        )
    lines = [Text(f"{evidence['question']}  ", style="dim") + Text(evidence["answer"], style="bold")]
    lines += [Text(f"note: {note}", style="yellow") for note in evidence["notes"]]
    lines.append(Text(f"serving at {url}/v1", style="green"))
    return Group(*([table] if evidence["pairs"] else []), *lines)


def _short(name: str) -> str:
    # chat-prefill-1a2b3c4d-0: service and generation stand in the title already
    parts = name.split("-")
    return f"{parts[-3]} {parts[-1]}" if len(parts) >= 4 else name


def status_view(
    status: dict[str, Any],
    fleets: dict[str, dict[str, Any]],
    speeds: dict[str, float | None],
) -> Group:
    """Pools, generations and what they do at this moment.

    Args:
        status: the supervisor's own view.
        fleets: each service's `/fleet`, from its gateway.
        speeds: effective KV bandwidth of each worker in GB/s, where it has received any.
    """
    parts: list[Any] = []
    for service, active in sorted(status["active"].items()):
        fleet = fleets.get(service, {})
        seen = {worker["name"]: worker for worker in fleet.get("workers", [])}
        table = Table(
            title=f"{service}: generation {active or 'none'} serves",
            title_justify="left",
        )
        for heading in (
            "process",
            "pool",
            "generation",
            "state",
            "prefilling",
            "decoding",
            "KV speed",
            "restarts",
            "address",
        ):
            table.add_column(
                heading,
                justify="right" if heading in ("prefilling", "decoding", "KV speed", "restarts") else "left",
            )
        for process in sorted(
            (p for p in status["processes"] if p["service"] == service),
            key=lambda p: p["name"],
        ):
            worker = seen.get(process["name"], {})
            speed = speeds.get(process["name"])
            table.add_row(
                process["name"],
                _pool(process, worker),
                process["generation"],
                _state(process, worker, active),
                str(worker.get("running_prefill", "")),
                str(worker.get("running_decode", "")),
                f"{speed:.3f} GB/s" if speed else "",
                str(process["restarts"]),
                process["url"],
            )
        parts.append(table)
        if fleet:
            parts.append(_traffic(fleet))
    return Group(*(parts or [Text("nothing runs; `make up` starts the stack")]))


def _pool(process: dict[str, Any], worker: dict[str, Any]) -> str:
    """The worker's pool; of a flexible one also the phase that it takes now."""
    pool = process["pool"] or "gateway"
    return f"{pool}, {worker['phase']}" if pool == FLEXIBLE_POOL and worker else pool


def _state(process: dict[str, Any], worker: dict[str, Any], active: str | None) -> Text:
    if process["wanted"] == "stopped":
        return Text("stopped", style="dim")
    if not process["alive"]:
        return Text(f"down: {process['last_failure'][:60]}", style="red")
    if process["kind"] == "gateway":
        return Text("up", style="green")
    if worker.get("draining"):
        return Text("draining", style="yellow")
    if not worker.get("ready"):
        return Text("not ready", style="yellow")
    return (
        Text("serving", style="green") if process["generation"] == active else Text("ready, not active", style="cyan")
    )


def _traffic(fleet: dict[str, Any]) -> Text:
    counts, queue = fleet["counts"], fleet["queue"]
    ttft, tpot = fleet["ttft_ms"], fleet["tpot_ms"]
    shown = {k: v for k, v in counts.items() if v}
    return Text(
        f"{queue['running']} requests in flight, {queue['waiting']} waiting; "
        f"TTFT p50 {_ms(ttft['p50'])} p99 {_ms(ttft['p99'])}; TPOT p50 {_ms(tpot['p50'])} p99 {_ms(tpot['p99'])}; "
        + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in shown.items())
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
