"""One worker's life: start the engine, watch it, answer HTTP, carry out what `decide` says."""

import asyncio
import logging
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from tandem_worker.agent import decide
from tandem_worker.agent.decide import Action, Event, Exit, Stage, State
from tandem_worker.agent.endpoints import View, application
from tandem_worker.agent.launch import joins, launched, waits
from tandem_worker.agent.observe import HEALTH_PERIOD_S, METERS, EngineClient, Tree
from tandem_worker.agent.processes import Engine, start_engine
from tandem_worker.agent.spec import Command, Place
from tandem_worker.agent.transport import UcxTables, allowed_transport, transports
from tandem_worker.contract import WorkerSpec
from tandem_worker.dialects.vllm_metrics import EngineNumbers
from tandem_worker.dialects.vllm_output import has_one_core, says_work_is_done
from tandem_worker.tree import end_tree

log = logging.getLogger("tandem.agent")

LOAD_PERIOD_READY_S = 2.0
LOAD_PERIOD_DRAINING_S = 0.25
END_TREE_TIMEOUT_S = 10.0
OUTPUT_REST_TIMEOUT_S = 1.0
"""How long the engine's last words may take to arrive once its processes have ended."""


@dataclass(frozen=True)
class Outcome:
    """How a worker ended."""

    exit: Exit
    reason: str
    engine_tail: list[str]


@dataclass(frozen=True)
class Worker:
    """Everything that is known before the engine starts."""

    spec: WorkerSpec
    place: Place
    command: Command
    environment: Mapping[str, str]
    instance: str
    drain_token: str | None = None


class Shell:
    """Feeds events to `decide` one at a time and acts on its decisions."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._follower = worker.place.node_rank > 0
        self._state = decide.begin(worker.spec, time.monotonic(), follower=self._follower)
        self._ucx = UcxTables()
        self._allowed = allowed_transport(worker.command.argv, worker.environment)
        self._one_core = has_one_core(worker.command.argv)
        self._waits = waits(worker.command.argv)
        self._stage_changed = asyncio.Event()
        self._drain_signals = 0

    async def run(self) -> Outcome:
        """From the engine's start to its end; returns when no process of the tree is left."""
        worker = self._worker
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        async with AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(limit=8)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            client = EngineClient(
                session, _url(worker.place.address, worker.place.ports["http"]), METERS[worker.spec.dialect]()
            )
            try:
                await self._serve(client, stack)
                engine = await self._start()
            except OSError as error:
                return Outcome(Exit.START_FAILED, f"the engine could not be started: {error}", [])
            watchers = [
                asyncio.create_task(watcher, name=watcher.__name__)
                for watcher in (self._watch_end(engine), self._watch_health(client), self._watch_load(client))
            ]
            try:
                await self._decide_until_exited(engine, watchers)
            finally:
                for task in watchers:
                    task.cancel()
                if self._state.stage is not Stage.EXITED:  # a fault of ours must not leave an engine behind
                    await self._act(Action.END_TREE, engine)
            await engine.read_rest(OUTPUT_REST_TIMEOUT_S)
        return Outcome(self._state.exit, self._state.reason, engine.tail)

    async def _serve(self, client: EngineClient, stack: AsyncExitStack) -> None:
        worker = self._worker
        view = View(
            worker.place.name,
            worker.spec,
            worker.drain_token,
            state=lambda: self._state,
            numbers=client.numbers,
            transports=lambda: transports(self._ucx.seen, self._allowed),
            drain=lambda: self._events.put_nowait(decide.DrainAsked()),
            launched=lambda node: launched(Path(worker.place.launch_dir), node) if worker.place.launch_dir else None,
        )
        runner = web.AppRunner(
            application(view),
            access_log=None,
            keepalive_timeout=15.0,
            handle_signals=False,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for host in _hosts(worker.place.address):
            await web.TCPSite(runner, host, worker.place.ports["agent"]).start()

    async def _start(self) -> Engine:
        worker = self._worker
        engine = await start_engine(worker.command, worker.environment, self._on_line)
        log.info("worker %s: engine started as process %d", worker.place.name, engine.pid)
        return engine

    def _on_line(self, line: str) -> None:
        self._ucx.take(line)
        self._waits = self._waits and not joins(line)
        if self._one_core and says_work_is_done(line):
            self._events.put_nowait(decide.WorkDone())

    def _on_signal(self) -> None:
        self._drain_signals += 1
        self._events.put_nowait(decide.DrainAsked() if self._drain_signals == 1 else decide.StopAsked())

    async def _decide_until_exited(self, engine: Engine, watchers: Iterable[asyncio.Task[None]]) -> None:
        while self._state.stage is not Stage.EXITED:
            event = await self._next_event()
            before = self._state
            self._state, actions = decide.decide(before, event, time.monotonic())
            if self._state.stage is not before.stage:
                self._stage_changed.set()
            _log_change(self._worker.place.name, before, self._state)
            for action in actions:
                await self._act(action, engine)
            for task in watchers:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    task.result()  # a fault of ours: end loudly rather than watch half blind

    async def _next_event(self) -> Event:
        deadline_s = decide.next_deadline_s(self._state)
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        try:
            return await asyncio.wait_for(self._events.get(), timeout_s)
        except TimeoutError:
            return decide.Tick()

    async def _act(self, action: Action, engine: Engine) -> None:
        match action:
            case Action.TERMINATE_ENGINE:
                engine.terminate()
            case Action.END_TREE:
                cleaned = await asyncio.to_thread(end_tree, self._worker.instance, END_TREE_TIMEOUT_S)
                log.info(
                    "worker %s: ended %d processes, removed %d shared memory segments%s",
                    self._worker.place.name,
                    len(cleaned.pids),
                    len(cleaned.shm_paths),
                    f"; processes {cleaned.left_pids} would not end" if cleaned.left_pids else "",
                )
            case Action.LEAVE:
                pass

    async def _watch_end(self, engine: Engine) -> None:
        self._events.put_nowait(decide.EngineEnded(await engine.ended()))

    async def _watch_health(self, client: EngineClient) -> None:
        tree = Tree(self._worker.instance)
        while True:
            asked_s = time.monotonic()
            starting = self._state.stage is Stage.STARTING
            stopped = await asyncio.to_thread(tree.look, starting=starting)
            self._events.put_nowait(await self._health(client) if stopped is None else decide.Unwell(stopped))
            await asyncio.sleep(max(0.0, asked_s + HEALTH_PERIOD_S - time.monotonic()))

    async def _health(self, client: EngineClient) -> decide.Healthy | decide.Unwell:
        """Machines after a worker's first have no HTTP server: there an engine that runs is well."""
        if self._waits:
            return decide.Unwell("the engine waits for the worker's first machine")
        return decide.Healthy() if self._follower else await client.health()

    async def _watch_load(self, client: EngineClient) -> None:
        while True:
            draining = self._state.stage is Stage.DRAINING
            await self._wait_stage_changed(LOAD_PERIOD_DRAINING_S if draining else LOAD_PERIOD_READY_S)
            if not decide.wants_load(self._state):
                continue
            taken_s = time.monotonic()
            numbers = await client.numbers()
            if numbers is not None:
                running, waiting = numbers.requests_running, numbers.requests_waiting
                load = decide.Load(running, waiting, numbers.steps_count, taken_s, _told(numbers))
                self._events.put_nowait(load)

    async def _wait_stage_changed(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stage_changed.wait(), timeout_s)
        self._stage_changed.clear()


def _told(numbers: EngineNumbers) -> decide.Told:
    return decide.Told(
        kv_share=numbers.kv_share,
        kv_tokens=numbers.kv_tokens,
        prompt_tokens_cached=numbers.prompt_tokens.get("local_cache_hit"),
        prompt_tokens_read=numbers.prompt_tokens.get("local_compute"),
    )


def _log_change(name: str, before: State, after: State) -> None:
    if after.stage is not before.stage:
        log.info("worker %s: %s%s", name, after.stage.value, f": {after.reason}" if after.reason else "")
    elif (after.not_ready_because is None) != (before.not_ready_because is None):
        log.info("worker %s: %s", name, after.not_ready_because or "well again")


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _hosts(address: str) -> tuple[str, ...]:
    """Besides the worker's own address its loopback, so that a pod can ask itself to drain."""
    loopback = "::1" if ":" in address else "127.0.0.1"
    return (address,) if address == loopback else (address, loopback)
