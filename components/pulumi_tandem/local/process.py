"""Processes by (pid, start time): starting them, finding them again, waiting for their end."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Process:
    """A process that this supervisor, or one before it, started."""

    pid: int
    created_s: float
    popen: subprocess.Popen[bytes] | None = None
    """None when an earlier supervisor started it: then its exit code goes to another parent."""

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return is_alive(self.pid, self.created_s)

    async def wait(self) -> int | None:
        """Wait for the end; the exit code, or None where only its parent can know it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return self._exit_code()
        try:
            if self.is_alive:
                loop = asyncio.get_running_loop()
                ended = asyncio.Event()
                loop.add_reader(descriptor, ended.set)
                try:
                    await ended.wait()
                finally:
                    loop.remove_reader(descriptor)
        finally:
            os.close(descriptor)
        return self._exit_code()

    def _exit_code(self) -> int | None:
        return self.popen.wait() if self.popen else None

    def signal(self, signum: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


def is_alive(pid: int, created_s: float) -> bool:
    """Whether the process with this pid and start time runs (a zombie does not)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find(pid: int, created_s: float) -> Process | None:
    """The process of an earlier supervisor, where it still runs."""
    return Process(pid, created_s) if pid and is_alive(pid, created_s) else None


INHERITED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "HF_HOME",
        "HF_HUB_CACHE",
    }
)
"""What a process is told of the shell that ran `up`. Anything else would reach it unseen: secrets, which then stand in
/proc, and settings of the engine, which would differ between two workers of one generation."""


def environment_of_children() -> dict[str, str]:
    """The part of our own environment that is passed on."""
    return {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    pass_descriptors: Sequence[int] = (),
) -> Process:
    """Start a process in a session of its own, its output appended to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=dict(environment),
            start_new_session=True,
            pass_fds=tuple(pass_descriptors),
        )
    return Process(popen.pid, psutil.Process(popen.pid).create_time(), popen)


def mark(log: Path, line: str) -> None:
    """Add a line of our own to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(line + "\n")


def last_lines(log: Path, count: int = 15, bytes_max: int = 16_384) -> list[str]:
    """The end of a log, without reading the rest of it."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - bytes_max))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
