"""Programs that tests on the cluster take, each built from a Go module of its own."""

import os
from dataclasses import dataclass
from pathlib import Path

from steps.frame import Place, Run, Step, digest, made_beside
from steps.gomodule import build


@dataclass(frozen=True)
class Program:
    """One of them; `tools/cluster/NAME` pins it and has its main package."""

    name: str
    summary: str

    def sources(self, place: Place) -> Path:
        """The pinned module."""
        return place.checkout / "tools/cluster" / self.name

    def key(self, place: Place) -> str:
        """Every file that decides what is built."""
        return digest(os.uname().machine, *(self.sources(place) / name for name in ("go.mod", "go.sum", "main.go")))

    def cached(self, place: Place) -> Path:
        """The folder of the binary."""
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
            run.report(f"compiling {self.name} takes one minute on two cores, two on a busy machine")
            build(run, self.sources(place), ".", folder / self.name)

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


POLICIES = Program("policies", "an enforcer of NetworkPolicies for the test cluster: kube-network-policies")
KUBECTL = Program("kubectl", "kubectl, with which tests drain nodes")
STEPS = (POLICIES.step, KUBECTL.step)
