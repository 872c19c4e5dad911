"""The processes of the measurement: fake engines, and the fronts that stand before them."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import psutil

from benchmarks.fleet import gateway_command, spawn, write_fleet
from tandem_worker.contract import GatewaySpec, WorkerRecord

ROUTER = "vllm-router==0.1.17"
ROUTER_NEEDS = ("orjson", "aiohttp", "fastapi", "uvicorn", "setproctitle", "requests")
"""What its Python launcher imports and its distribution does not ask for."""
START_TIMEOUT_S = 60.0
HOST = "127.0.0.1"
Role = Literal["prefill", "decode"]


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def get(port: int, path: str, *, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a request to a process of ours; status 0 when nobody answers."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return 0, b""
    method, data = ("GET", b"") if body is None else ("POST", body)
    head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    try:
        writer.write(head.encode() + data)
        answer = await asyncio.wait_for(_read_answer(reader), 5.0)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return 0, b""
    finally:
        writer.close()
    return answer


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0])) if lengths else await reader.read()
    return int(head.split(" ", 2)[1]), body


async def until(what: str, ready: Callable[[], Awaitable[bool]], *, log: Path) -> None:
    """Waits until `ready` says so. Raises: RuntimeError after a minute, with the log's place."""
    for _ in range(int(START_TIMEOUT_S / 0.1)):
        if await ready():
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{what} is not ready after {START_TIMEOUT_S:.0f} s; its output is in {log}")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process, its threads and its living children."""
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))


@dataclass(slots=True)
class Engine:
    """One fake engine in its own process."""

    name: str
    role: Role
    folder: Path
    port: int = field(default_factory=free_port)
    side_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Starts it, or starts it again on its ports."""
        environment = {**os.environ, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(self.side_port)}
        command = [sys.executable, "-m", "tests.fakes.engine", "--port", str(self.port), "--model", "fake"]
        self.process = spawn(command, self.folder / f"{self.name}.log", environment)

        async def healthy() -> bool:
            return (await get(self.port, "/health"))[0] == 200

        await until(self.name, healthy, log=self.folder / f"{self.name}.log")

    async def pace(self, step_ms: float) -> None:
        """Sets the time between two tokens of a stream."""
        await get(self.port, "/fake/step", body=json.dumps({"step_ms": step_ms}).encode())

    async def state(self) -> dict[str, Any]:
        """What it has seen; empty when it is dead."""
        _, body = await get(self.port, "/fake/state")
        return cast(dict[str, Any], json.loads(body)) if body else {}

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass(slots=True)
class Front:
    """A contender: where the load goes and whose CPU is counted."""

    name: str
    folder: Path
    engines: list[Engine]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where clients connect."""
        return [(HOST, self.port)]

    @property
    def cpu_s(self) -> float:
        """CPU seconds that it has used so far; 0 when there is no process."""
        return cpu_s(self.process.pid) if self.process else 0.0

    async def start(self) -> None:
        """Starts the process, if there is one."""

    async def sees_all(self) -> bool:
        """Whether it would use every engine now."""
        return True

    async def ready(self) -> None:
        """Waits until every engine takes part."""
        await until(self.name, self.sees_all, log=self.log)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    def stop(self) -> None:
        """Ends the process and its children."""
        if self.process is None:
            return
        family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for member in family:
            member.kill()
        self.process.wait()
        self.process = None


class Direct(Front):
    """No front: whole requests, spread over all engines by the client."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(HOST, e.port) for e in self.engines]


class Tandem(Front):
    """Our gateway, as it ships: token ids asked for, streams resumable."""

    async def start(self) -> None:
        records = [
            WorkerRecord(
                name=engine.name,
                service="bench",
                pool=engine.role,
                phase=engine.role,
                phases=("prefill", "decode"),
                dialect="vllm-nixl-pull",
                generation="g1",
                pair_key="k1",
                address=HOST,
                http_port=engine.port,
                agent_port=engine.port,
            )
            for engine in self.engines
        ]
        write_fleet(self.folder / "fleet", "g1", records)
        spec = GatewaySpec(service="bench", served_names=("fake",), dialect="vllm-nixl-pull")
        self.process = spawn(gateway_command(spec, self.folder / "fleet", f"{HOST}:{self.port}"), self.log)

    async def sees_all(self) -> bool:
        status, body = await get(self.port, "/fleet")
        if status != 200:
            return False
        workers = json.loads(body)["workers"]
        return len(workers) == len(self.engines) and all(w["ready"] and not w["suspect"] for w in workers)


class Router(Front):
    """vllm-router in P/D mode; health checks as quick as its users set them, for its sake when engines die."""

    async def start(self) -> None:
        workers: list[tuple[Role, str]] = [(engine.role, f"http://{HOST}:{engine.port}") for engine in self.engines]
        self.process = spawn(router_command(self.port, workers, "--policy", "round_robin"), self.log)

    async def sees_all(self) -> bool:
        status, body = await get(self.port, "/readiness")
        if status != 200:
            return False
        return b"ready" in body and (await get(self.port, "/health"))[0] == 200


def router_command(port: int, workers: Iterable[tuple[Role, str]], *policy: str) -> list[str]:
    """The command line of vllm-router in P/D mode before workers of these roles and addresses."""
    command = [str(router_binary()), "--host", HOST, "--port", str(port), "--prometheus-port", str(free_port())]
    command += ["--vllm-pd-disaggregation", *policy, "--log-level", "warning"]
    command += ["--health-check-interval-secs", "5", "--health-check-timeout-secs", "2"]
    command += ["--health-failure-threshold", "2", "--health-success-threshold", "1"]
    command += ["--worker-startup-check-interval", "1"]
    for role, url in workers:
        command += [f"--{role}", url]
    return command


def router_binary() -> Path:
    """vllm-router in its own environment under $TANDEM_CACHE, installed at the first use."""
    cache = Path(os.environ.get("TANDEM_CACHE") or Path.home() / ".cache" / "tandem")
    home = cache / f"bench-{ROUTER.replace('==', '-')}"
    binary = home / "bin" / "vllm-router"
    if not binary.exists():
        print(f"installing {ROUTER} into {home} (once)", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", ROUTER, *ROUTER_NEEDS], check=True)
    return binary
