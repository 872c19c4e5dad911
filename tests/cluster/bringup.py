"""The cluster that tests run on: one bring-up for the whole rung, and gone afterwards."""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from steps.frame import Place
from steps.images import RECIPES
from steps.kubernetes import unable
from tests.cluster.api import Api, Namespace

ROOT = Path(__file__).parents[2]
IMAGES = ("gateway", "worker-fake", "worker-cpu")
SETTINGS = {"PYTHONPATH": str(ROOT / "tools")}


def run_tool(*words: str) -> int:
    """A command of tools/, with its progress shown."""
    command = (str(Place.here().python), *words)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **SETTINGS}, check=False).returncode


def built(*steps: str) -> None:
    """Steps of bootstrap that a test takes, made unless they are."""
    assert run_tool("tools/bootstrap.py", *(word for step in steps for word in ("--only", step))) == 0


@contextlib.contextmanager
def added(name: str) -> Generator[None]:
    """The running cluster with an addition of `tools/cluster`, which is gone again afterwards."""
    assert run_tool("-m", "cluster", "up", "--with", name) == 0
    try:
        yield
    finally:
        assert run_tool("-m", "cluster", "down", "--with", name) == 0


@pytest.fixture(scope="session")
def cluster_kubeconfig() -> Iterator[str]:
    """Path of the kubeconfig of a cluster that has our images."""
    if reason := unable():
        pytest.skip(f"no cluster can run on this machine: {reason}")
    was_running = run_tool("-m", "cluster", "status") == 0
    steps = ("kubernetes", *(RECIPES[name].step_name for name in IMAGES))
    built(*steps)
    assert run_tool("-m", "cluster", "up", *(word for name in IMAGES for word in ("--image", name))) == 0
    yield str(Place.here().private / "cluster" / "kubeconfig")
    if not was_running:
        sys.stdout.flush()
        assert run_tool("-m", "cluster", "down") == 0


@pytest.fixture(scope="session")
def api(cluster_kubeconfig: str) -> Api:
    return Api(cluster_kubeconfig)


@pytest.fixture(scope="module")
def namespace(api: Api) -> Iterator[Callable[..., Namespace]]:
    """Makes namespaces that are removed at the module's end."""
    made: list[Namespace] = []

    def make(level: str = "restricted") -> Namespace:
        made.append(Namespace(api, f"test-{uuid.uuid4().hex[:8]}", level))
        return made[-1]

    yield make
    for one in made:
        one.end()
