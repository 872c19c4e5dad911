"""KEDA's operator and its server of external metrics, built from their Go module: they scale by what gateways tell."""

import os
import shutil
from pathlib import Path

from steps.frame import Place, Run, Step, digest, made_beside
from steps.gomodule import build, folder_of

MODULE = "github.com/kedacore/keda/v2"


def sources(place: Place) -> Path:
    """The pinned module."""
    return place.checkout / "tools/cluster/keda"


def key(place: Place) -> str:
    """Every file that decides what is built."""
    return digest(os.uname().machine, *(sources(place) / name for name in ("go.mod", "go.sum", "tools.go")))


def cached(place: Place) -> Path:
    """Where the binaries lie, `operator` and `adapter`, and `crds/*.yaml`."""
    return place.cache / f"keda-{key(place)}"


def stamp(place: Place) -> Path:
    """Beside the binaries."""
    return cached(place) / "stamp"


def make(place: Place, run: Run) -> None:
    """Builds them: nine minutes on two cores after Kubernetes itself, for the clients of every cloud are in it."""
    with made_beside(cached(place)) as folder:
        for name in ("operator", "adapter"):
            run.report(f"compiling KEDA's {name}; both take nine minutes on two cores")
            build(run, sources(place), f"{MODULE}/cmd/{name}", folder / name)
        shutil.copytree(folder_of(run, sources(place), MODULE) / "config/crd/bases", folder / "crds")


STEP = Step(
    name="keda",
    summary="autoscalers that follow a gateway's figures, for the test cluster",
    key=key,
    stamp=stamp,
    make=make,
    needs=("kubernetes",),
    shared=True,
    when_named=True,
)
