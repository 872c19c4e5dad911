"""`python -m benchmarks.scale [--quick] [--json]`, as root: it starts the test cluster, with KWOK, where none runs."""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.scale.discovery import Discovery, GatewayEnded, measure_discovery
from benchmarks.scale.factory import factory
from benchmarks.scale.preview import (
    BY_HAND,
    COMPONENT,
    Preview,
    PreviewFailed,
    line,
    measure_previews,
    median_s,
    ratios,
)
from tests.cluster.api import Api

ROOT = Path(__file__).parents[2]
KUBECONFIG = ROOT / ".tandem/cluster/kubeconfig"


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    nodes: int
    services: int
    fleets: tuple[int, ...]
    """Workers of the service whose gateway is measured."""
    previews: tuple[int, ...]
    """Services of a stack."""
    rounds: int


FULL = Scale(nodes=1000, services=50, fleets=(2, 100, 1000), previews=(1, 10, 25, 50), rounds=5)
QUICK = Scale(nodes=6, services=2, fleets=(2, 6), previews=(1, 3), rounds=1)


class NoCluster(Exception):
    """The test cluster cannot be had; the reason was printed."""


@contextmanager
def cluster() -> Iterator[Path]:
    """The kubeconfig of a cluster with KWOK; what of it did not run before is gone afterwards.

    Raises: NoCluster.
    """
    was_running = _tool("-m", "cluster", "status") == 0
    up = (("tools/bootstrap.py", "--only", "kwok"), ("-m", "cluster", "up", "--with", "kwok"))
    try:
        if any(_tool(*words) for words in up):
            raise NoCluster
        yield KUBECONFIG
    finally:
        _tool("-m", "cluster", "down", *(("--with", "kwok") if was_running else ()))


def _tool(*words: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    return subprocess.run(("python3", *words), cwd=ROOT, env=environment, stdout=sys.stderr, check=False).returncode


def machine() -> str:
    """What it ran on, in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB, Python {platform.python_version()}"


def _measure(scale: Scale, tell: Callable[[str], None]) -> tuple[list[Discovery], list[Preview]]:
    with tempfile.TemporaryDirectory(prefix="tandem-scale-") as name:
        folder = Path(name)
        with cluster() as kubeconfig, factory(Api(str(kubeconfig)), scale.nodes, scale.services, tell) as made:
            found = measure_discovery(made, kubeconfig=kubeconfig, folder=folder, sizes=scale.fleets, tell=tell)
            discoveries = list(found)
        previews = measure_previews(folder, scale.previews, scale.rounds, tell)
    return discoveries, previews


def _of_discovery(found: Sequence[Discovery], scale: Scale) -> Table:
    table = Table(title=f"One gateway of one of {scale.services} services, {scale.nodes:,} GPU nodes")
    columns = ("workers", "listens\ns", "knows all\ns", "memory\nMiB", "idle\ncores", "joined\nms", "left\nms")
    for name in columns:
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            f"{one.workers:,}",
            *(f"{value:.1f}" for value in (one.listens_s, one.known_s)),
            *(f"{one.memory_mib:.0f}", f"{one.cpu_cores:.2f}", f"{one.joined_ms:.0f}", f"{one.left_ms:.0f}"),
        )
    return table


def _of_preview(found: Sequence[Preview]) -> Table:
    table = Table(title="pulumi preview of a stack of services")
    for name in ("services", "component\ns", "by hand\ns", "ratio", "ratio of\nprocessor time"):
        table.add_column(name, justify="right")
    for services in sorted({one.services for one in found}):
        took = {way: median_s(found, way, services) for way in (COMPONENT, BY_HAND)}
        cpu = {way: median_s(found, way, services, "cpu_s") for way in (COMPONENT, BY_HAND)}
        rounds = ratios(found, services)
        table.add_row(
            str(services),
            *(f"{took[way]:.1f}" for way in (COMPONENT, BY_HAND)),
            f"{statistics.median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})",
            f"{cpu[COMPONENT] / cpu[BY_HAND]:.2f}",
        )
    return table


def _lines(found: Sequence[Preview]) -> Iterator[str]:
    for way in (COMPONENT, BY_HAND):
        fit = line(found, way)
        yield (
            f"{way}: {fit.start_s:.1f} s + {fit.per_service_s:.3f} s a service, "
            f"no median further than {100 * fit.off_max:.0f} % from that line"
        )


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few of everything: shows that it works, not how well")
    parser.add_argument("--json", action="store_true", help="prints every number as JSON, and nothing else")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is taken away first
    scale = QUICK if options.quick else FULL
    progress, load_before = Console(stderr=True, width=120), os.getloadavg()[0]
    try:
        discoveries, previews = _measure(scale, progress.log)
    except (NoCluster, PreviewFailed, GatewayEnded) as error:
        sys.stderr.write(f"benchmarks.scale: {error or 'there is no cluster to run on'}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        head = {"machine": machine(), "load_average_before": load_before, **asdict(scale)}
        every = {"discovery": [asdict(one) for one in discoveries], "preview": [asdict(one) for one in previews]}
        print(json.dumps({**head, **every}, indent=2))
        return 0
    console = Console(width=max(Console().width, 120))
    console.print(_of_discovery(discoveries, scale))
    console.print(_of_preview(previews))
    for text in (*_lines(previews), f"{machine()}; load average before the run {load_before:.2f}"):
        console.print(text, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
