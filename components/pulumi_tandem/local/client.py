"""Talking to the supervisor of a stack; starting one where none lives.

The wire is one JSON line to ask and JSON lines to answer: any number of `{"progress": ...}`, then
`{"result": ...}` or `{"error": ...}`.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pulumi_tandem.local.paths import StackPaths
from pulumi_tandem.local.process import environment_of_children

START_TIMEOUT_S = 20.0
ATTEMPTS = 3


class SupervisorError(Exception):
    """The supervisor refused or failed; the message is meant for the user."""


def call(
    state_dir: str | Path,
    verb: str,
    *,
    on_progress: Callable[[str], None] | None = None,
    start: bool = True,
    **arguments: Any,
) -> Any:
    """Ask the stack's supervisor for one thing and wait for the answer.

    Args:
        state_dir: the stack's folder.
        verb: a method of `Supervisor`, such as `start_worker`.
        on_progress: called with each line of progress.
        start: start a supervisor where none lives; otherwise None is the answer.
        arguments: what the verb takes; JSON values.

    Raises:
        SupervisorError: it refused, failed, or ended while it was asked.
    """
    paths = StackPaths(Path(state_dir))
    say = on_progress or (lambda _line: None)
    for _ in range(ATTEMPTS):
        connection = _connect(paths)
        if connection is None:
            if not start:
                return None
            try:
                connection = _start(paths)
            except OSError as error:
                raise SupervisorError(paths.told(error)) from None
        with connection, contextlib.suppress(ConnectionError):
            for answer in _answers(connection, {"verb": verb, **arguments}):
                if "progress" in answer:
                    say(answer["progress"])
                elif "error" in answer:
                    raise SupervisorError(answer["error"])
                else:
                    return answer["result"]
        # It was killed while it was asked. Every verb can be asked twice: the second finds what the first did.
        say("the supervisor ended while it was asked; asking the next one")
    msg = f"the supervisor ended {ATTEMPTS} times while it was asked for {verb!r}; its log is {paths.log}"
    raise SupervisorError(msg)


def _answers(connection: socket.socket, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with connection.makefile("rw") as stream:
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        for line in stream:
            yield json.loads(line)


def _connect(paths: StackPaths) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with paths.short_socket() as path:
            connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


def _start(paths: StackPaths) -> socket.socket:
    paths.make()
    with (paths.root / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (connection := _connect(paths)) is None:
            _spawn_guard(paths)
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while (connection := _connect(paths)) is None:
                if time.monotonic() > deadline_s:
                    msg = f"no supervisor came up within {START_TIMEOUT_S:.0f} s; its log is {paths.log}"
                    raise SupervisorError(msg)
                time.sleep(0.05)
        return connection


def _spawn_guard(paths: StackPaths) -> None:
    with paths.log.open("a") as log, Path(os.devnull).open() as nothing:
        # Its own session: the engine ends its plugins' whole process groups. Nobody waits for it: it outlives us.
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-u", "-m", "pulumi_tandem.local.guard", str(paths.root.resolve())],
            environment_of_children(),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
            ],
            setsid=True,
        )
