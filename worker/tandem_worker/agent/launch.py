"""How an engine that starts by `mpirun` gets to the other machines of its worker: they fetch their part from the first.

Open MPI 4.1 starts a daemon, `orted`, on every machine through a remote shell, called as AGENT HOST COMMAND
(`plm_rsh_agent`), which is usually ssh. Here it is `tandem-worker launch`, which only writes the command down, in a
folder that none but this user can enter. The first machine's agent shows it (`GET /launch/NODE`), and on each of the
others the engine process, `tandem-worker join`, asks for its own and becomes `orted`.

So nobody can tell an agent to start something: no machine takes commands, there is no sshd, no key and no root. A
machine believes one address, that of its leader, which it was started with; what it takes from there is the options
of `orted` and nothing else, and the program is the one on its own PATH. Whoever can answer at the leader's address
still decides what `orted` connects to, and Open MPI lets whoever reaches its ports in: as with vLLM's own group, the
network of the pods is the fence, and `manifest` writes its policy. What the agent shows says where `mpirun` listens.
"""

import argparse
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

DAEMON = "orted"
COMMAND_BYTES_MAX = 64 * 1024
"""It names every machine of the worker, in one regular expression: some hundred bytes each at the very most."""
ASK_PERIOD_S = 0.5
ASK_TIMEOUT_S = 5.0

_HOST = re.compile(r"node-([1-9][0-9]{0,3})")
"""What `lower` calls the machines after the first; `mpirun` only hands the name back, and nobody looks it up."""
_OPTION = re.compile(r"--?mca")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]*")
_JOINS = "tandem-worker join: "


class LaunchError(Exception):
    """A command that is not the start of Open MPI's daemon; the message says what it is instead."""


def daemon_options(command: str) -> tuple[str, ...]:
    """The options of `orted` in the command that `mpirun` gives its remote shell: `-mca NAME VALUE`, repeated.

    Where Open MPI was built to export its own folders, or finds a shell that reads .profile, words for a shell stand
    before the daemon; they are left out, since every machine has the same image and its own PATH.
    Raises: LaunchError for everything else. Source: orte/mca/plm/rsh/plm_rsh_module.c of Open MPI 4.1, and what 4.1.4
    was seen to send.
    """
    if len(command.encode()) > COMMAND_BYTES_MAX:
        raise LaunchError(f"the command is longer than {COMMAND_BYTES_MAX} bytes")
    reader = shlex.shlex(command, posix=True, punctuation_chars=";()|&<>")
    reader.whitespace_split = True
    try:
        words = list(reader)
    except ValueError as error:
        raise LaunchError(f"the command cannot be read: {error}") from error
    daemon = next((index for index, word in enumerate(words) if word.rpartition("/")[2] == DAEMON), None)
    if daemon is None:
        raise LaunchError(f"the command starts no {DAEMON}: {command[:200]!r}")
    return checked(words[daemon + 1 : -1 if words[-1] == ")" else None])


def checked(options: Sequence[str]) -> tuple[str, ...]:
    """The options, if they are `-mca NAME VALUE`, repeated. Raises: LaunchError."""
    triples = [options[at : at + 3] for at in range(0, len(options), 3)]
    for triple in triples:
        if len(triple) < 3 or not _OPTION.fullmatch(triple[0]) or not _PARAMETER.fullmatch(triple[1]):
            raise LaunchError(f"{' '.join(triple)[:200]!r} is no option `-mca NAME VALUE` of {DAEMON}")
    if not triples:
        raise LaunchError(f"{DAEMON} was given no options")
    return tuple(options)


def launched(folder: Path, node: int) -> tuple[str, ...] | None:
    """What `mpirun` wants started on that machine; None: it has not asked yet."""
    try:
        return tuple(json.loads(_file(folder, node).read_text()))
    except FileNotFoundError:
        return None


def launch(arguments: Sequence[str]) -> int:
    """`tandem-worker launch FOLDER HOST COMMAND...`, as `mpirun` calls its remote shell."""
    if len(arguments) < 3 or (host := _HOST.fullmatch(arguments[1])) is None:
        return _refuse("usage: tandem-worker launch FOLDER node-N COMMAND..., as mpirun calls its remote shell")
    try:
        options = daemon_options(" ".join(arguments[2:]))
    except LaunchError as error:
        return _refuse(f"cannot start machine {host[1]}: {error}")
    file = _file(Path(arguments[0]), int(host[1]))
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(options))
    draft.replace(file)
    return 0


def join(arguments: Sequence[str]) -> int:
    """`tandem-worker join ...`: wait for the leader's word, then be the daemon; returns only where that fails.

    The agent bounds the wait: until it reads that this machine joins, the engine counts as starting.
    """
    parser = argparse.ArgumentParser(prog="tandem-worker join")
    parser.add_argument("--leader-address", required=True)
    parser.add_argument("--agent-port", type=int, required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    options = parser.parse_args(arguments)
    leader: str = options.leader_address
    try:
        words = _word_of(leader, options.agent_port, options.node_rank)
    except LaunchError as error:
        return _refuse(f"the agent of {leader} says something else than options of {DAEMON}: {error}")
    sys.stderr.write(f"{_JOINS}this machine starts {DAEMON} for {leader}\n")
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so in the new program
    try:
        os.execvp(DAEMON, [DAEMON, *words])  # noqa: S606 - no shell is the point
    except OSError as error:
        return _refuse(f"cannot start {DAEMON}: {error.strerror}; use an image that has Open MPI on its PATH")


def joins(line: str) -> bool:
    """Whether a line of a machine's output says that it has its leader's word."""
    return line.startswith(_JOINS)


def waits(argv: Sequence[str]) -> bool:
    """Whether the engine process of a machine begins by waiting for its leader's word."""
    return tuple(argv[:2]) == ("tandem-worker", "join")


def _word_of(leader: str, agent_port: int, node: int) -> tuple[str, ...]:
    """The options for this machine's daemon, once the leader's agent has them. Raises: LaunchError."""
    while (page := _page(leader, agent_port, f"/launch/{node}")) is None:
        time.sleep(ASK_PERIOD_S)
    return _read(page)


def _page(host: str, port: int, path: str) -> bytes | None:
    """What a GET is answered with; None: no name yet, nobody there, or anything but 200. No proxy is asked."""
    connection = HTTPConnection(host, port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read(COMMAND_BYTES_MAX + 1) if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _read(page: bytes) -> tuple[str, ...]:
    try:
        words = json.loads(page)
    except ValueError as error:
        raise LaunchError("it is no JSON") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LaunchError("it is no list of words")
    return checked(words)


def _file(folder: Path, node: int) -> Path:
    return folder / f"node-{node}.json"


def _refuse(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return 1
