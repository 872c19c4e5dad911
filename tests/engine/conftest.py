"""The real Pulumi CLI, the real supervisor, agents and gateway; only the engine is the fake one.

So an update takes seconds, and everything around the engine can be killed and compared.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tandem.local.client import call

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "serving" / "program"
COMMAND_TIMEOUT_S = 120.0


class Project:
    """A Pulumi project of its own in an empty folder, with its own backend."""

    def __init__(self, folder: Path, environment: dict[str, str], stack: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.folder = folder
        self.environment = environment
        self.stack = stack
        self.state_dir = folder / ".tandem" / stack

    def command(self, *argv: str, **declaration: Any) -> list[str]:
        self.environment["TANDEM_TEST_DECLARATION"] = json.dumps(declaration)
        return list(argv)

    def run(self, *argv: str, **declaration: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; output is captured, stderr merged."""
        return subprocess.run(
            self.command(*argv, **declaration),
            cwd=self.folder,
            env=self.environment,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=self.timeout_s,
        )

    def up(self, **declaration: Any) -> subprocess.CompletedProcess[str]:
        return self.run("tandem", "up", "--stack", self.stack, **declaration)

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.run("tandem", "down", "--stack", self.stack)

    def preview(self, *more: str, **declaration: Any) -> subprocess.CompletedProcess[str]:
        return self.run("pulumi", "preview", "--stack", self.stack, "--non-interactive", *more, **declaration)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.run("pulumi", "stack", "output", "--json", "--stack", self.stack).stdout)

    def status(self) -> dict[str, Any]:
        return call(self.state_dir, "status", start=False) or {"processes": [], "active": {}}

    def running(self) -> set[str]:
        """Names of the processes that run."""
        return {process["name"] for process in self.status()["processes"] if process["alive"]}


def make_project(folder: Path, environment: dict[str, str], timeout_s: float = COMMAND_TIMEOUT_S) -> Project:
    """An empty project that brings the test's service up."""
    folder.mkdir()
    for file in PROGRAM.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "backend").mkdir()
    (folder / "model").mkdir()
    for name in ("config.json", "model.safetensors"):  # what preflight looks for; the fake engine reads neither
        (folder / "model" / name).write_text("{}")
    settings = {
        **os.environ,
        "PULUMI_BACKEND_URL": f"file://{folder / 'backend'}",
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "TANDEM_MODEL_DIR": str(folder / "model"),
        **environment,
    }
    settings.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
    return Project(folder, settings, "test", timeout_s)


def fake_engines() -> dict[str, str]:
    """The environment in which `python -m vllm...` is the fake engine."""
    path = os.pathsep.join([str(ROOT / "tests" / "engine" / "site"), str(ROOT)])
    return {"TANDEM_ENGINE_PYTHON": sys.executable, "PYTHONPATH": path}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose engines are fakes; everything of it is gone afterwards."""
    project = make_project(tmp_path / "project", fake_engines())
    yield project
    call(project.state_dir, "shutdown", start=False)
