"""Programs that tests on the cluster take, each built from a Go module that its own folder pins."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steps.frame import Place, Run, Step, digest, made_beside
from steps.gomodule import build, folder_of


@dataclass(frozen=True)
class Program:
    """One of them; `tools/cluster/NAME` pins it."""

    name: str
    summary: str
    fill: Callable[[Run, Path, Path], None]
    """Builds what it takes from its sources, the first folder, into the second. Raises: Failure."""
    go_file: str = "main.go"
    """Its main package, or what imports the one of its module."""
    settings: tuple[str, ...] = ()
    """What else decides what is built."""

    def sources(self, place: Place) -> Path:
        """The pinned module."""
        return place.checkout / "tools/cluster" / self.name

    def key(self, place: Place) -> str:
        """Every file that decides what is built."""
        files = (self.sources(place) / name for name in ("go.mod", "go.sum", self.go_file))
        return digest(os.uname().machine, *self.settings, *files)

    def cached(self, place: Place) -> Path:
        """The folder of what is built."""
        return place.cache / f"{self.name}-{self.key(place)}"

    def binary(self, place: Place) -> Path:
        """Where it lies once it is made."""
        return self.cached(place) / self.name

    def stamp(self, place: Place) -> Path:
        """Beside the binary."""
        return self.cached(place) / "stamp"

    def make(self, place: Place, run: Run) -> None:
        """Builds it."""
        with made_beside(self.cached(place)) as folder:
            self.fill(run, self.sources(place), folder)

    @property
    def step(self) -> Step:
        """As a step of bootstrap; compiled packages of Kubernetes are its own for the most part."""
        return Step(
            name=self.name,
            summary=self.summary,
            key=self.key,
            stamp=self.stamp,
            make=self.make,
            needs=("kubernetes",),
            shared=True,
            when_named=True,
        )


KEDA_MODULE, KWOK_MODULE = "github.com/kedacore/keda/v2", "sigs.k8s.io/kwok"
KWOK_STAGES = (
    "node/fast/node-initialize.yaml",
    *(f"pod/fast/pod-{what}.yaml" for what in ("ready", "complete", "delete")),
)
"""Of the module's own: nodes and pods are ready at once, and what is deleted is gone at once."""
PROMETHEUS_TAGS = "remove_all_sd,enable_kubernetes_sd"
"""It finds its targets in Kubernetes or not at all: without the clients of every cloud it is a third smaller."""


def _alone(run: Run, sources: Path, folder: Path) -> None:
    """The main package in the folder itself, as a binary of its name."""
    run.report(f"compiling {sources.name} takes one minute on two cores, two on a busy machine")
    build(run, sources, ".", folder / sources.name)


def _keda(run: Run, sources: Path, folder: Path) -> None:
    """`operator` and `adapter`, and `crds/*.yaml`; the clients of every cloud are in it."""
    for name in ("operator", "adapter"):
        run.report(f"compiling KEDA's {name}; both take nine minutes on two cores")
        build(run, sources, f"{KEDA_MODULE}/cmd/{name}", folder / name)
    shutil.copytree(folder_of(run, sources, KEDA_MODULE) / "config/crd/bases", folder / "crds")


def _hpa(run: Run, sources: Path, folder: Path) -> None:
    """`adapter`, Prometheus' of external metrics, and `metrics-server`; both as they were released."""
    run.report("compiling the Prometheus adapter and metrics-server takes two minutes on two cores")
    build(run, sources, "sigs.k8s.io/prometheus-adapter/cmd/adapter", folder / "adapter")
    build(run, sources, "sigs.k8s.io/metrics-server/cmd/metrics-server", folder / "metrics-server")


def _prometheus(run: Run, sources: Path, folder: Path) -> None:
    """`prometheus`, without its pages."""
    run.report("compiling Prometheus takes two minutes on two cores")
    package = "github.com/prometheus/prometheus/cmd/prometheus"
    build(run, sources, package, folder / "prometheus", tags=PROMETHEUS_TAGS)


def _kwok(run: Run, sources: Path, folder: Path) -> None:
    """`kwok`, and `stages.yaml`, what it makes of nodes and pods."""
    run.report("compiling KWOK takes a minute")
    build(run, sources, f"{KWOK_MODULE}/cmd/kwok", folder / "kwok")
    stages = folder_of(run, sources, KWOK_MODULE) / "kustomize/stage"
    (folder / "stages.yaml").write_text("---\n".join((stages / stage).read_text() for stage in KWOK_STAGES))


KWOK = Program("kwok", "nodes that do not exist, for the test cluster", _kwok, "tools.go", KWOK_STAGES)
KEDA = Program("keda", "autoscalers that follow a gateway's figures, for the test cluster", _keda, "tools.go")
PROMETHEUS = Program("prometheus", "Prometheus, for the test cluster", _prometheus, "tools.go", (PROMETHEUS_TAGS,))
HPA = Program("hpa", "what plain autoscalers read their figures from, for the test cluster", _hpa, "tools.go")
POLICIES = Program("policies", "an enforcer of NetworkPolicies for the test cluster: kube-network-policies", _alone)
KUBECTL = Program("kubectl", "kubectl, with which tests drain nodes", _alone)
STEPS = tuple(program.step for program in (KWOK, KEDA, PROMETHEUS, HPA, POLICIES, KUBECTL))
