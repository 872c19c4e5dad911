"""The cluster's processes: each is known by its pid and the time it started, so none of another owner is ever ended."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.frame import Failure

POLL_S = 0.1
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 12


@dataclass(frozen=True)
class Processes:
    """Detached processes with a record each."""

    records: Path
    logs: Path

    def start(self, name: str, command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
        """Start a process that outlives this one, unless the same command runs already."""
        words = [str(word) for word in command]
        found = self._record(name)
        if found and found["command"] == words and _started(found["pid"]) == found["started"]:
            return
        self.stop(name)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.records.mkdir(parents=True, exist_ok=True)
        with (self.logs / name).open("w") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        record = {"pid": process.pid, "started": _started(process.pid), "command": words}
        (self.records / f"{name}.json").write_text(json.dumps(record))

    def running(self) -> list[str]:
        """Names of the processes that run."""
        names = sorted(file.stem for file in self.records.glob("*.json"))
        return [name for name in names if self._alive(name)]

    def stop(self, name: str) -> None:
        """End a process, and wait for its end."""
        found = self._record(name)
        if found is not None:
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            number = signal.SIGTERM
            while self._alive(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found["pid"], number)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(found["pid"], os.WNOHANG)  # ours, when this very process started it
                if time.monotonic() > deadline_s:
                    number = signal.SIGKILL
                time.sleep(POLL_S)
            (self.records / f"{name}.json").unlink(missing_ok=True)

    def until(self, what: str, holds: Callable[[], bool], *, name: str, timeout_s: float) -> None:
        """Wait for what a process brings about.

        Raises: Failure with its last lines, when it ended or the time is over.
        """
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            ended = not self._alive(name)
            if ended or time.monotonic() > deadline_s:
                why = "it has ended" if ended else f"not within {timeout_s:.0f} s"
                raise Failure(f"{what}: {why}\n{self._tail(name)}\n  the whole log is {self.logs / name}")
            time.sleep(POLL_S)

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.records / f"{name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _alive(self, name: str) -> bool:
        found = self._record(name)
        return found is not None and _started(found["pid"]) == found["started"]

    def _tail(self, name: str) -> str:
        file = self.logs / name
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return "\n".join(f"    {line[:300]}" for line in lines[-LOG_TAIL_LINES:]) or "    (it printed nothing)"


def _started(pid: int) -> int | None:
    """Clock ticks from the machine's start to the process's; None when it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
