"""`tandem-worker agent`: from a command line to an exit code."""

import argparse
import asyncio
import json
import logging
import os
import sys
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from tandem_worker.agent.decide import Exit
from tandem_worker.agent.preflight import in_words, judge
from tandem_worker.agent.probe import gather
from tandem_worker.agent.run import Outcome, Shell, Worker
from tandem_worker.agent.spec import Place, SpecError, engine_environment, load_spec, place_command, write_files
from tandem_worker.contract import WorkerSpec
from tandem_worker.tree import MARKER

log = logging.getLogger("tandem.agent")


def main(argv: Sequence[str]) -> int:
    """Run one worker; returns the agent's exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with ExitStack() as stack:
        try:
            worker = _worker(_parse(argv), stack)
        except SpecError as error:
            return _end(Outcome(Exit.BAD_SPEC, str(error), []))
        return _run(worker)


def _run(worker: Worker) -> int:
    problems = judge(worker.spec, gather(worker.spec, worker.place, worker.command, worker.environment))
    if problems:
        for problem in problems:
            log.error("preflight: %s", problem)
        return _end(Outcome(Exit.PREFLIGHT_FAILED, in_words(problems), []))
    return _end(asyncio.run(Shell(worker).run()))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line ends like a wrong spec, not with argparse's own exit code."""
        raise SpecError(f"{message}; see `tandem-worker agent --help`")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="tandem-worker agent",
        description="Start one engine, watch it, and drain it in the end.",
        epilog="exit codes: 0 drained, 64 bad spec, 65 preflight failed, 66 engine did not start, "
        "67 engine died while serving, 68 drain ran out of time",
    )
    parser.add_argument("--spec", type=Path, required=True, help="the worker's spec, JSON")
    parser.add_argument("--name", required=True, help="the worker's name, unique in its service")
    parser.add_argument("--address", required=True, help="where gateways and other workers reach this one")
    parser.add_argument(
        "--port",
        type=_named_port,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="the first number of a named run of ports of the spec; repeatable",
    )
    parser.add_argument(
        "--leader-address", default="", help="address of the worker's first machine, where it spans several"
    )
    parser.add_argument("--node-rank", type=int, default=0, help="number of this machine in its worker, from 0")
    parser.add_argument("--drain-token-file", type=Path, help="file with the token for POST /drain from other hosts")
    return parser.parse_args(argv)


def _named_port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdigit() or not 0 < int(number) < 65536:
        msg = f"{text!r} is not NAME=NUMBER with a number from 1 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return name, int(number)


def _worker(options: argparse.Namespace, stack: ExitStack) -> Worker:
    spec = load_spec(options.spec)
    place = Place(
        options.name,
        options.address,
        dict(options.port),
        options.leader_address,
        options.node_rank,
        _files(spec, stack),
        _launch_dir(spec, stack),
    )
    command = place_command(spec, place)
    instance = os.environ.get(MARKER) or str(uuid.uuid4())
    environment = engine_environment(command, os.environ, instance)
    return Worker(spec, place, command, environment, instance, _token(options.drain_token_file))


def _files(spec: WorkerSpec, stack: ExitStack) -> dict[str, str]:
    """The spec's files, in a folder that only this user can enter and that goes with the agent."""
    if not spec.files:
        return {}
    try:
        return write_files(spec, Path(stack.enter_context(TemporaryDirectory(prefix="tandem-"))))
    except OSError as error:
        msg = f"the spec's files cannot be written: {error.strerror}; mount a writable folder at /tmp or set TMPDIR"
        raise SpecError(msg) from error


def _launch_dir(spec: WorkerSpec, stack: ExitStack) -> str:
    """Where a worker over several machines keeps what the others are to start; likewise."""
    if spec.nodes == 1:
        return ""
    try:
        return stack.enter_context(TemporaryDirectory(prefix="tandem-"))
    except OSError as error:
        msg = f"no folder can be made: {error.strerror}; mount a writable one at /tmp or set TMPDIR"
        raise SpecError(msg) from error


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        msg = f"cannot read the drain token {str(path)!r}: {error.strerror}; check --drain-token-file"
        raise SpecError(msg) from error
    if not token:
        msg = f"the drain token {str(path)!r} is empty; write a random token to it"
        raise SpecError(msg)
    return token


def _end(outcome: Outcome) -> int:
    """The last line on stderr tells a failure to whoever started the agent."""
    if outcome.exit is not Exit.DRAINED:
        last = {"exit": int(outcome.exit), "reason": outcome.reason, "engine_tail": outcome.engine_tail}
        sys.stderr.write(json.dumps(last) + "\n")
        sys.stderr.flush()
    return int(outcome.exit)
