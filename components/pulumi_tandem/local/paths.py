"""Where a local stack keeps what it needs to find its processes again.

Everything of one stack lives in one folder (`.tandem/STACK` beside Pulumi.yaml), so two stacks and two
checkouts never meet.
"""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class StackPaths:
    """The files of one local stack."""

    root: Path

    @property
    def socket(self) -> Path:
        """The supervisor's socket."""
        return self.root / "supervisor.sock"

    @contextlib.contextmanager
    def short_socket(self) -> Iterator[str]:
        """The socket under a name that fits: a unix socket's path may have 107 bytes, a checkout's may have more."""
        folder = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{folder}/{self.socket.name}"
        finally:
            os.close(folder)

    @property
    def lock(self) -> Path:
        """Held by the living supervisor."""
        return self.root / "supervisor.lock"

    @property
    def log(self) -> Path:
        """What the supervisor says."""
        return self.root / "logs" / "supervisor.log"

    @property
    def entries(self) -> Path:
        """One file for each process that the supervisor owns."""
        return self.root / "entries"

    def log_of(self, name: str) -> Path:
        """What one process of the stack says."""
        return self.root / "logs" / f"{name}.log"

    def spec_of(self, name: str) -> Path:
        """The spec file that one process was started with."""
        return self.root / "specs" / f"{name}.json"

    def fleet(self, service: str) -> Path:
        """The folder that the gateways of one service watch."""
        return self.root / "fleet" / service

    def proof_token(self, service: str) -> Path:
        """The secret that lets the prover address a generation that serves nobody yet; mode 0600."""
        return self.root / "secrets" / f"{service}.proof-token"

    def told(self, error: OSError) -> str:
        """What failed, for the user; a full disk names no file, and any of the stack's may be the one."""
        if error.errno in FULL:
            return f"no space is left in {self.root}, where the stack keeps its files; free some, then run it again"
        return str(error)

    def make(self) -> None:
        """Create the folders, closed to other users."""
        for folder in (
            self.root,
            self.entries,
            self.root / "logs",
            self.root / "specs",
            self.root / "secrets",
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step, so that a reader or a crash never sees half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink()
        raise


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none or a crash left it unreadable."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
