"""The engine as a child process: started, read line by line, told to stop.

Ending its whole tree is `tandem_worker.tree`'s, since the agent's supervisor needs that as well.
"""

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from tandem_worker.agent.spec import Command

TAIL_LINES_MAX = 60
LINE_BYTES_MAX = 16 * 1024
"""A longer line is passed on in pieces: an engine may print a whole request."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)

_POLLED = '"GET /health HTTP'

LineSink = Callable[[str], None]


class Engine:
    """The engine's main process and what it says."""

    def __init__(self, process: Process, output: asyncio.StreamReader, on_line: LineSink) -> None:
        self._process = process
        self._output = output
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=TAIL_LINES_MAX)
        self._reading = asyncio.create_task(self._read(), name="engine output")

    @property
    def pid(self) -> int:
        """Of the main process, which is also its process group and session."""
        return self._process.pid

    @property
    def tail(self) -> list[str]:
        """The last lines the engine's tree wrote, oldest first."""
        return list(self._tail)

    async def ended(self) -> str:
        """Wait until the main process has ended; returns how, to be read after "the engine"."""
        code = await self._process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    def terminate(self) -> None:
        """Ask the main process to stop; it stops its own children."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    async def read_rest(self, timeout_s: float) -> None:
        """Wait for the end of the output, which comes when the last process of the tree has ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reading, timeout_s)

    async def _read(self) -> None:
        rest = b""
        while chunk := await self._output.read(LINE_BYTES_MAX):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = raw.decode("utf-8", errors="replace").rstrip("\r")
        if _POLLED not in line:  # the agent's own questions would soon be all that is left
            self._tail.append(line)
        with suppress(OSError):  # nobody reads the agent's output any more: no reason to stop serving
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        self._on_line(line)


async def start_engine(command: Command, environment: Mapping[str, str], on_line: LineSink) -> Engine:
    """Start the engine in a session of its own, bound to die with the agent.

    Raises: OSError when the program cannot be executed.
    """
    # A pipe of our own: asyncio reports the end of a process only when its pipes are closed, and the
    # children of a dead API server keep theirs open.
    reading_fd, writing_fd = os.pipe()
    output = await _reader(reading_fd)
    try:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing_fd,
            stderr=STDOUT,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
    finally:
        os.close(writing_fd)
    return Engine(process, output, on_line)


async def _reader(reading_fd: int) -> asyncio.StreamReader:
    stream = asyncio.StreamReader()
    file = os.fdopen(reading_fd, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
    return stream


def _die_with(parent_pid: int) -> Callable[[], None]:
    """SIGKILL the main process when the agent dies; the rest of the tree is the supervisor's to end."""

    def before_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the agent died between fork and prctl
            os._exit(1)

    return before_exec
