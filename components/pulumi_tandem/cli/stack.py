"""A stack as the command line sees it: its folder, its Pulumi calls, its locks."""

import json
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pulumi_tandem.cli.refusal import Refusal
from pulumi_tandem.local.paths import read_json


@dataclass(frozen=True)
class Stack:
    """One stack of the Pulumi project that the working directory is in."""

    project_dir: Path
    name: str

    @property
    def state_dir(self) -> Path:
        """Where the local target keeps the stack's files."""
        return self.project_dir / ".tandem" / self.name

    def pulumi(self, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the Pulumi CLI on this stack; its output goes to the terminal unless captured."""
        command = [_pulumi_path(), *arguments, "--stack", self.name]
        output = subprocess.PIPE if capture else None
        return subprocess.run(
            command,
            cwd=self.project_dir,
            text=True,
            stdout=output,
            stderr=output,
            check=False,
        )

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs; empty where it has none."""
        answer = self.pulumi("stack", "output", "--json", "--non-interactive", capture=True)
        return json.loads(answer.stdout) if answer.returncode == 0 and answer.stdout.strip() else {}

    def select(self) -> None:
        """Create the stack where it does not exist.

        Raises:
            Refusal: Pulumi refused; its words.
        """
        command = [
            _pulumi_path(),
            "stack",
            "select",
            "--create",
            self.name,
            "--non-interactive",
        ]
        answer = subprocess.run(command, cwd=self.project_dir, text=True, capture_output=True, check=False)
        if answer.returncode:
            raise Refusal(answer.stderr.strip() or answer.stdout.strip())

    def exists(self) -> bool:
        """Whether Pulumi knows the stack."""
        command = [_pulumi_path(), "stack", "ls", "--json", "--non-interactive"]
        answer = subprocess.run(command, cwd=self.project_dir, text=True, capture_output=True, check=False)
        stacks = json.loads(answer.stdout) if answer.returncode == 0 else []
        return self.name in {stack["name"].rpartition("/")[2] for stack in stacks}

    def release_dead_lock(self) -> bool:
        """Cancel the lock of an update whose process is gone; False where there is none.

        Raises:
            Refusal: somebody else changes the stack. Pulumi would say so too, after we had touched what runs.
        """
        holders = [holder for lock in self._locks() if (holder := read_json(lock)) is not None]
        for holder in holders:
            if not _is_gone(holder):
                msg = (
                    f"stack {self.name} is being changed by process {holder.get('pid')} of {holder.get('hostname')}; "
                    f"wait until that has ended (if it is gone, `pulumi cancel --stack {self.name}` releases its lock)"
                )
                raise Refusal(msg)
        return bool(holders) and self.pulumi("cancel", "--yes", "--non-interactive", capture=True).returncode == 0

    def _locks(self) -> list[Path]:
        backend = os.environ.get("PULUMI_BACKEND_URL", "")
        if not backend.startswith("file://"):
            return []
        folder = Path(backend.removeprefix("file://").replace("~", str(Path.home()), 1)) / ".pulumi" / "locks"
        return sorted(folder.glob(f"**/{self.name}/*.json"))


def find_stack(name: str) -> Stack:
    """The stack of this name in the project that the working directory is in.

    Raises:
        Refusal: there is no Pulumi.yaml here or above.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "Pulumi.yaml").exists():
            return Stack(folder, name)
    msg = f"no Pulumi.yaml in {Path.cwd()} or above it; run this inside a Pulumi project"
    raise Refusal(msg)


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a lock's process was on this machine and has ended."""
    return holder.get("hostname") == socket.gethostname() and not psutil.pid_exists(int(holder.get("pid", 0)))


def _pulumi_path() -> str:
    path = shutil.which("pulumi")
    if path is None:
        msg = "the Pulumi CLI is not on PATH; run `python3 tools/bootstrap.py`, then use `tools/run tandem ...`"
        raise Refusal(msg)
    return path
