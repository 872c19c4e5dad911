"""`pulumi preview` of so many services: our component, and the same objects by hand, turn by turn."""

import json
import re
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale.services import rendered
from pulumi_tandem.manifest import Child
from tests.standin import plugin

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent
COMPONENT, BY_HAND = "component", "by_hand"
WAYS = (COMPONENT, BY_HAND)
NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "nowhere",
    "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere"}}],
    "clusters": [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}}],
}
"""A kubeconfig of no cluster: a preview then asks no API server, and what is measured is Pulumi and the program."""


@dataclass(frozen=True)
class Preview:
    """One run of the command, from its start to its end."""

    way: str
    services: int
    resources: int
    took_s: float
    cpu_s: float
    """Of the CLI, the program and the provider."""


@dataclass(frozen=True)
class Line:
    """Least squares through the medians of each size."""

    start_s: float
    per_service_s: float
    off_max: float
    """How far the worst point lies from the line, as a share of its own value."""


class PreviewFailed(Exception):
    """A preview that must have succeeded did not."""


@dataclass(frozen=True)
class Previews:
    """Two stacks in a folder, and how long their previews take."""

    folder: Path

    @classmethod
    def prepared(cls, folder: Path, services: int) -> "Previews":
        """The rendered objects, a backend and both stacks; none of it is part of what is measured."""
        objects = [[_written(child) for child in rendered(number, "default").children] for number in range(services)]
        (folder / "objects.json").write_text(json.dumps(objects))
        (folder / "kubeconfig").write_text(json.dumps(NOWHERE))
        (folder / "backend").mkdir()
        made = cls(folder)
        for way in WAYS:
            made._run(way, 0, "stack", "init", way)
        return made

    def measure(self, way: str, services: int) -> Preview:
        """Preview once.

        Raises: PreviewFailed.
        """
        before, begun_s = _cpu_s(), time.monotonic()
        told = self._run(way, services, "preview", "--stack", way)
        took_s = time.monotonic() - begun_s
        found = re.search(r"\+ (\d+) to create", told)
        if found is None:
            raise PreviewFailed(f"a preview of {way} creates nothing: {told[-2000:]}")
        return Preview(way, services, int(found[1]), took_s, _cpu_s() - before)

    def declared(self, way: str, services: int) -> list[dict[str, Any]]:
        """The Kubernetes objects that a preview would create, as the provider gets them."""
        steps = json.loads(self._run(way, services, "preview", "--stack", way, "--json"))["steps"]
        made = [step["newState"] for step in steps if step["op"] == "create"]
        return [state["inputs"] for state in made if state["type"].startswith("kubernetes:")]

    def _run(self, way: str, services: int, *words: str) -> str:
        own = {
            "PYTHONPATH": str(ROOT),
            "SCALE_KUBECONFIG": str(self.folder / "kubeconfig"),
            "SCALE_OBJECTS": str(self.folder / "objects.json"),
            "SCALE_SERVICES": str(services),
        }
        ran = subprocess.run(
            ["pulumi", *words, "--non-interactive"],
            cwd=PROGRAMS / way,
            env=plugin.cli(self.folder / "backend", **own),
            text=True,
            check=False,
            capture_output=True,
        )
        if ran.returncode:
            raise PreviewFailed(f"pulumi {' '.join(words)} of {way}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        return ran.stdout


def measure_previews(folder: Path, sizes: Sequence[int], rounds: int, tell: Callable[[str], None]) -> list[Preview]:
    """Every size both ways, in turn, so that what else the machine does hits both alike."""
    previews = Previews.prepared(folder, max(sizes))
    found: list[Preview] = []
    for number in range(rounds):
        for services in sizes:
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                found.append(previews.measure(way, services))
                tell(f"preview {number + 1} of {rounds}: {services} services, {way}: {found[-1].took_s:.1f} s")
    return found


def median_s(previews: Sequence[Preview], way: str, services: int, value: str = "took_s") -> float:
    """Median over the rounds; `value` may be `cpu_s`."""
    return statistics.median(asdict(one)[value] for one in previews if (one.way, one.services) == (way, services))


def ratios(previews: Sequence[Preview], services: int) -> list[float]:
    """Component by hand, round by round."""
    took = [[one.took_s for one in previews if (one.way, one.services) == (way, services)] for way in WAYS]
    return [ours / theirs for ours, theirs in zip(*took, strict=True)]


def line(previews: Sequence[Preview], way: str) -> Line:
    """The straight line of one way; needs two sizes or more."""
    sizes = sorted({one.services for one in previews})
    medians = [median_s(previews, way, services) for services in sizes]
    slope, start = statistics.linear_regression(sizes, medians)
    off = (abs(start + slope * size - median) / median for size, median in zip(sizes, medians, strict=True))
    return Line(start, slope, max(off))


def _written(child: Child) -> dict[str, Any]:
    timeout = f"{int(child.timeout_s)}s" if child.timeout_s else None
    return {
        "key": child.key,
        "after": child.after,
        "ignored": child.ignored,
        "timeout": timeout,
        "manifest": child.manifest,
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
