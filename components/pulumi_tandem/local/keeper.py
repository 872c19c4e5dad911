"""Keeps one entry's process running: start, watch, clean up, start again."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pulumi_tandem.local import ports, process
from pulumi_tandem.local.decide import Restarts, last_words
from pulumi_tandem.local.entry import Entry, Wanted
from pulumi_tandem.local.paths import StackPaths, write_atomically
from pulumi_tandem.local.process import Process, environment_of_children
from tandem_worker.contract import WorkerRecord, WorkerSpec
from tandem_worker.tree import end_tree

TREE_TIMEOUT_S = 20.0
START_MARK = "--- started as"

log = logging.getLogger("tandem.supervisor")


class Keeper:
    """Owns one entry: at most one process of it runs at any time."""

    def __init__(self, paths: StackPaths, entry: Entry, listener: socket.socket | None = None) -> None:
        """Take over an entry; `listener` is a gateway's listening socket, kept over its restarts."""
        self.paths = paths
        self.entry = entry
        self.listener = listener
        self.block: ports.Block | None = None
        self.process: Process | None = None
        self.exit_code: int | None = None
        self.deaths = 0
        self.fault: OSError | None = None
        """Why the process could not be started the last time; None where it was, or nothing has been tried."""
        self._task: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to keep the process running."""
        self.fault = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep(), name=f"keep {self.entry.name}")

    async def stop(
        self, grace_s: float, *, wanted: Wanted = "stopped", say: Callable[[str], None] = lambda _line: None
    ) -> None:
        """Let the process drain for up to `grace_s`, then end its whole tree; returns when nothing of it is left.

        `wanted` is what the next supervisor reads.
        """
        self.entry.wanted = wanted
        self.note()
        self.entry.wanted = "stopped"
        self.leave_fleet()
        if self.process and self.process.is_alive:
            self.process.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), grace_s)
            except TimeoutError:
                say(f"{self.entry.name} did not drain within {grace_s:.0f} s; ending it")
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._clean_up()
        self.entry.wanted = wanted
        self.release_ports()

    def note(self) -> None:
        """Write the entry for the next supervisor, if there is room: a full disk keeps nobody from being stopped."""
        try:
            self.entry.save(self.paths)
        except OSError as error:
            log.warning("%s: not noted: %s", self.entry.name, self.paths.told(error))

    def release_ports(self) -> None:
        """Give the ports back to whoever comes next."""
        if self.block:
            self.block.release()
            self.block = None

    async def _keep(self) -> None:
        restarts = Restarts()
        while self.entry.wanted == "running":
            started_s = time.monotonic()
            try:
                await self._run()
                self.entry.last_failure = self.failure()
            except OSError as error:
                self.fault = error
                self.entry.last_failure = self.paths.told(error)
            await self._clean_up()
            if self.entry.wanted != "running":
                return
            restarts = restarts.after_death(time.monotonic() - started_s)
            self.entry.restarts += 1
            self.note()
            log.warning("%s: %s; again in %.1f s", self.entry.name, self.entry.last_failure, restarts.delay_s)
            await asyncio.sleep(restarts.delay_s)

    async def _run(self) -> None:
        """The process, found or started, to its end.

        Raises: OSError: it could not be started, for want of space for one.
        """
        self.process = process.find(self.entry.pid, self.entry.created_s)
        if self.process is None:
            await self._clean_up()  # an earlier supervisor may have died between a start and its note
            self.process = self._spawn()
        self.join_fleet()
        self.fault = None
        self.exit_code = await self.process.wait()
        self.deaths += 1

    def _spawn(self) -> Process:
        entry = self.entry
        entry.instance = uuid.uuid4().hex
        entry.pid = 0
        entry.save(self.paths)  # before the start: a tree whose pid was never written is found by its mark
        write_atomically(self.paths.spec_of(entry.name), json.dumps(entry.spec))
        argv, descriptors = self._command()
        environment = {
            **environment_of_children(),
            "TANDEM_INSTANCE": entry.instance,
            "PYTHONUNBUFFERED": "1",
        }
        process.mark(self.paths.log_of(entry.name), f"{START_MARK} {entry.instance}")
        child = process.spawn(
            argv,
            log=self.paths.log_of(entry.name),
            environment=environment,
            pass_descriptors=descriptors,
        )
        entry.pid, entry.created_s = child.pid, child.created_s
        entry.save(self.paths)
        return child

    def _command(self) -> tuple[list[str], list[int]]:
        entry = self.entry
        if entry.kind == "worker":
            argv = [
                entry.python,
                "-m",
                "tandem_worker",
                "agent",
                "--spec",
                str(self.paths.spec_of(entry.name)),
                "--name",
                entry.name,
                "--address",
                entry.address,
            ]
            for name, port in entry.ports.items():
                argv += ["--port", f"{name}={port}"]
            return argv, []
        if self.listener is None:
            self.listener = listen(entry.address, entry.first_port)
        descriptor = self.listener.fileno()
        argv = [
            entry.python,
            "-m",
            "tandem_worker",
            "gateway",
            "--spec",
            str(self.paths.spec_of(entry.name)),
            "--fleet-dir",
            str(self.paths.fleet(entry.service)),
            "--listen-fd",
            str(descriptor),
        ]
        for flag, value in entry.options.items():
            argv += [f"--{flag}", value]
        return argv, [descriptor]

    async def _clean_up(self) -> None:
        if self.entry.instance:
            await asyncio.to_thread(end_tree, self.entry.instance, TREE_TIMEOUT_S)

    # --- what others see ------------------------------------------------------------------------

    @property
    def record_path(self) -> Path:
        """The worker's file in the fleet folder."""
        return self.paths.fleet(self.entry.service) / "workers" / f"{self.entry.name}.json"

    def join_fleet(self) -> None:
        """Tell the gateways of a worker; they ask its agent whether it is ready."""
        entry = self.entry
        if entry.kind != "worker":
            return
        spec = WorkerSpec.model_validate(entry.spec)
        record = WorkerRecord(
            name=entry.name,
            service=spec.service,
            pool=spec.pool,
            phase=spec.phase,
            phases=spec.phases,
            dialect=spec.dialect,
            generation=spec.generation,
            pair_key=spec.pair_key,
            address=entry.address,
            http_port=entry.ports["http"],
            agent_port=entry.ports["agent"],
            served_names=spec.served_names,
        )
        write_atomically(self.record_path, record.model_dump_json())

    def leave_fleet(self) -> None:
        """Take the worker out of the gateways' sight."""
        if self.entry.kind == "worker":
            self.record_path.unlink(missing_ok=True)

    def failure(self) -> str:
        """Why the process ended, in the agent's own words where it had time for some."""
        lines = process.last_lines(self.paths.log_of(self.entry.name))
        for line in reversed(lines):
            if line.startswith(START_MARK):
                break  # what stands above, an earlier process said
            if reason := last_words(line):
                return reason
        return f"ended with exit code {self.exit_code}" if self.exit_code is not None else "ended"


def give_ports(entry: Entry) -> ports.Block:
    """Claim a block of ports for an entry and name them; the same block again where it had one."""
    block = ports.claim(entry.address, entry.first_port or None)
    entry.first_port = block.first
    if entry.kind == "worker":
        entry.ports, port = {}, block.first
        for run in WorkerSpec.model_validate(entry.spec).ports:
            entry.ports[run.name] = port
            port += run.count
        if port > block.first + ports.BLOCK_PORTS:
            msg = f"{entry.name} needs {port - block.first} ports; a block holds {ports.BLOCK_PORTS}"
            raise OSError(msg)
    return block


def listen(address: str, port: int) -> socket.socket:
    """A listening socket that outlives the gateways it is handed to, so that no connection is refused between two."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A gateway that outlived an earlier supervisor still holds that one's socket: the new one binds beside it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address, port))
    listener.listen(1024)
    return listener
