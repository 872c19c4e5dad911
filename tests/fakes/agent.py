"""A fake agent beside a fake engine, and a fake fleet: engines, agents and the folder that a gateway reads.

async with FakeFleet(folder, prefill=2, decode=2) as fleet:
    fleet.engine("prefill-0").fail("before_headers")
    fleet.kill("decode-0")
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tandem_worker.contract import Dialect, Phase, ServiceState, WorkerRecord
from tests.fakes import wire
from tests.fakes.engine import FakeEngine
from tests.fakes.server import Connection, Request, Server


@dataclass(slots=True, eq=False)
class FakeAgent:
    """Answers /live, /ready, /factors, /metrics and /drain for one engine in the same process."""

    engine: FakeEngine
    host: str = "127.0.0.1"
    port: int = 0
    ready: bool = True
    """False: /ready answers 503 whatever the engine does."""
    draining: bool = False
    ready_asked: int = 0
    _server: Server = field(init=False)

    def __post_init__(self) -> None:
        self._server = Server(self._answer, self.host, self.port)

    async def start(self) -> None:
        """Listens."""
        await self._server.start()
        self.port = self._server.port

    def kill(self) -> None:
        """Ends as by SIGKILL."""
        self._server.kill()

    def freeze(self, frozen: bool = True) -> None:
        """SIGSTOP, or SIGCONT."""
        self._server.freeze(frozen)

    @property
    def _well(self) -> bool:
        return self.ready and not self.draining and self.engine.alive and self.engine.healthy

    async def _answer(self, request: Request, connection: Connection) -> None:
        match (request.method, request.path):
            case ("GET", "/live"):
                connection.respond(200, b"{}")
            case ("GET", "/ready"):
                self.ready_asked += 1
                reason = "draining" if self.draining else "engine not ready"
                body = {"ready": True} if self._well else {"ready": False, "reason": reason}
                connection.respond(200 if self._well else 503, wire.dumps(body).encode())
            case ("GET", "/factors"):
                connection.respond(200, wire.dumps({"engine": "vllm 0.32.0", "name": self.engine.name}).encode())
            case ("GET", "/metrics"):
                up = f"# TYPE tandem_engine_up gauge\ntandem_engine_up {int(self._well)}\n"
                connection.respond(200, up.encode(), "text/plain; version=0.0.4")
            case ("POST", "/drain"):
                self.draining = True
                connection.respond(202, b"{}")
            case _:
                connection.respond(404, b"{}")


@dataclass(slots=True, eq=False)
class FakeWorker:
    """An engine, its agent and its record."""

    engine: FakeEngine
    agent: FakeAgent
    record: WorkerRecord


@dataclass(slots=True, eq=False)
class FakeFleet:
    """Workers in this process and the fleet folder that names them."""

    folder: Path
    prefill: int = 1
    decode: int = 1
    service: str = "chat"
    generation: str = "g1"
    served_names: tuple[str, ...] = ("fake",)
    engine_options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of every FakeEngine."""
    survivors_serve_both: bool = True
    dialect: Dialect = "vllm-nixl-pull"
    workers: dict[str, FakeWorker] = field(default_factory=dict[str, FakeWorker])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the workers, writes their records and makes the generation active."""
        (self.folder / "workers").mkdir(parents=True, exist_ok=True)
        for i in range(self.prefill):
            await self.add(f"prefill-{i}", "prefill", self.generation)
        for i in range(self.decode):
            await self.add(f"decode-{i}", "decode", self.generation)
        self.activate(self.generation)

    async def stop(self) -> None:
        """Kills all workers; the folder stays."""
        for worker in self.workers.values():
            worker.engine.kill()
            worker.agent.kill()
        await asyncio.sleep(0)

    def make_engine(self, name: str, names: tuple[str, ...]) -> FakeEngine:
        """An engine that is not started yet."""
        return FakeEngine(name=name, served_names=names, **self.engine_options)

    async def add(
        self, name: str, phase: Phase, generation: str, *, pair_key: str | None = None, names: tuple[str, ...] = ()
    ) -> FakeWorker:
        """Starts one more worker and writes its record; it serves under the fleet's names unless it has its own."""
        names = names or self.served_names
        engine = self.make_engine(name, names)
        agent = FakeAgent(engine)
        await engine.start()
        await agent.start()
        record = WorkerRecord(
            name=name,
            service=self.service,
            pool=phase,
            phase=phase,
            phases=("prefill", "decode") if self.survivors_serve_both else (phase,),
            dialect=self.dialect,
            generation=generation,
            pair_key=pair_key or f"pair-{generation}",
            address=engine.host,
            http_port=engine.port,
            agent_port=agent.port,
            served_names=names,
        )
        self.workers[name] = FakeWorker(engine, agent, record)
        self.write(record)
        return self.workers[name]

    def engine(self, name: str) -> FakeEngine:
        """The engine of a worker."""
        return self.workers[name].engine

    def agent(self, name: str) -> FakeAgent:
        """The agent of a worker."""
        return self.workers[name].agent

    @property
    def engines(self) -> list[FakeEngine]:
        """All engines, in the order they were added."""
        return [w.engine for w in self.workers.values()]

    @property
    def violations(self) -> list[str]:
        """Broken rules of the KV protocol on any engine."""
        return [v for e in self.engines for v in e.violations]

    @property
    def held(self) -> int:
        """Requests whose blocks wait for a reader, on all engines that live."""
        return sum(e.held for e in self.engines if e.alive)

    def kill(self, name: str, *, agent: bool = True) -> None:
        """Kills a worker's engine, and its agent with it; the record stays, as after a crash."""
        self.engine(name).kill()
        if agent:
            self.agent(name).kill()

    async def revive(self, name: str) -> None:
        """Starts a killed worker again on its ports."""
        worker = self.workers[name]
        if not worker.engine.alive:
            await worker.engine.start()
        worker.agent.kill()
        await worker.agent.start()

    def remove(self, name: str) -> None:
        """Removes a worker's record; the worker runs on."""
        (self.folder / "workers" / f"{name}.json").unlink(missing_ok=True)

    def write(self, record: WorkerRecord) -> None:
        """Writes a record as the supervisor does, by rename."""
        self.write_raw(f"workers/{record.name}.json", record.model_dump_json().encode())

    def activate(self, generation: str | None) -> None:
        """Makes a generation the one that serves clients."""
        state = ServiceState(service=self.service, active_generation=generation)
        self.write_raw("service.json", state.model_dump_json().encode())

    def write_raw(self, path: str, data: bytes) -> None:
        """Replaces a file of the folder with any bytes, by rename."""
        target = self.folder / path
        fresh = target.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.replace(target)
