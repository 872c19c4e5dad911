"""`tandem status`, as people see it."""

from io import StringIO
from typing import Any

from rich.console import Console

from pulumi_tandem.cli.tables import status_view

WORKER: dict[str, Any] = {
    "kind": "worker",
    "service": "chat",
    "generation": "abc",
    "wanted": "running",
    "alive": True,
    "restarts": 0,
    "url": "http://127.0.0.1:20000",
}
"""A worker as the supervisor tells of it, all but its name and pool."""


def pools(workers: dict[str, tuple[str, str]]) -> dict[str, str]:
    """What stands under `pool` for each worker, of which the pool and the phase of now are given."""
    still = {"ready": True, "running_prefill": 0, "running_decode": 0}
    never: dict[str, None] = {"p50": None, "p99": None}
    fleet: dict[str, Any] = {"queue": {"running": 0, "waiting": 0}, "counts": {}, "ttft_ms": never, "tpot_ms": never}
    fleet["workers"] = [{**still, "name": name, "phase": phase} for name, (_, phase) in workers.items()]
    processes = [{**WORKER, "name": name, "pool": pool} for name, (pool, _) in workers.items()]
    paper = StringIO()
    view = status_view({"active": {"chat": "abc"}, "processes": processes}, {"chat": fleet}, {})
    Console(file=paper, width=200).print(view)
    rows = [[cell.strip() for cell in line.split("│")] for line in paper.getvalue().splitlines()]
    return {row[1]: row[2] for row in rows if len(row) > 2}


def test_the_phase_of_a_flexible_worker_stands_beside_its_pool() -> None:
    assert pools({"a": ("flexible", "prefill"), "b": ("flexible", "decode")}) == {
        "a": "flexible, prefill",
        "b": "flexible, decode",
    }


def test_a_worker_of_one_phase_is_told_by_its_pool_alone() -> None:
    assert pools({"a": ("prefill", "prefill")}) == {"a": "prefill"}
