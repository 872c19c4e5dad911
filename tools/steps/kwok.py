"""KWOK's controller, built from its Go module: it plays the kubelets of nodes that do not exist."""

import os
from pathlib import Path

from steps.frame import Place, Run, Step, digest, made_beside
from steps.gomodule import build, folder_of

MODULE = "sigs.k8s.io/kwok"
STAGES = ("node/fast/node-initialize.yaml", *(f"pod/fast/pod-{what}.yaml" for what in ("ready", "complete", "delete")))
"""Of the module's own: nodes and pods are ready at once, and what is deleted is gone at once."""


def sources(place: Place) -> Path:
    """The pinned module."""
    return place.checkout / "tools/cluster/kwok"


def key(place: Place) -> str:
    """Every file that decides what is built."""
    return digest(os.uname().machine, *STAGES, *(sources(place) / name for name in ("go.mod", "go.sum", "tools.go")))


def cached(place: Place) -> Path:
    """Where the binary `kwok` lies, and `stages.yaml`, what it makes of nodes and pods."""
    return place.cache / f"kwok-{key(place)}"


def stamp(place: Place) -> Path:
    """Beside the binary."""
    return cached(place) / "stamp"


def make(place: Place, run: Run) -> None:
    """Builds it: 54 s on two cores after Kubernetes itself."""
    with made_beside(cached(place)) as folder:
        run.report("compiling KWOK takes a minute")
        build(run, sources(place), f"{MODULE}/cmd/kwok", folder / "kwok")
        stages = folder_of(run, sources(place), MODULE) / "kustomize/stage"
        (folder / "stages.yaml").write_text("---\n".join((stages / stage).read_text() for stage in STAGES))


STEP = Step(
    name="kwok",
    summary="nodes that do not exist, for the test cluster",
    key=key,
    stamp=stamp,
    make=make,
    needs=("kubernetes",),
    shared=True,
    when_named=True,
)
