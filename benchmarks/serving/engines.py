"""Real CPU engines under their agents, and gateways before them."""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.fleet import gateway_command, spawn, write_fleet
from pulumi_tandem.local import ports
from pulumi_tandem.lower import Fleet, LoweredPool
from tandem_worker.contract import GatewaySpec, WorkerRecord

ADDRESS = "127.0.0.1"
STOP_TIMEOUT_S = 60.0
SIGHT_TIMEOUT_S = 60.0
POLL_S = 0.5

Say = Callable[[str], None]


class NotReadyError(Exception):
    """Something that the measurement needs is not there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the requests go, and who stands behind it."""

    url: str
    token: str
    """Proof token: lets a request name its worker."""
    workers: tuple[str, ...]
    metrics_urls: tuple[str, ...]
    """The engines' own counters, in the order of `workers`."""


def from_environment(name: str) -> str:
    """A variable that tools/run sets. Raises: NotReadyError."""
    if found := os.environ.get(name):
        return found
    raise NotReadyError(f"{name} is not set; run `make bench`, or tools/run python -m benchmarks.serving")


@asynccontextmanager
async def engines(fleet: Fleet, folder: Path, say: Say) -> AsyncIterator[list[WorkerRecord]]:
    """Starts every worker of a fleet, waits until it serves, and ends them afterwards, whatever happens."""
    python = from_environment("TANDEM_ENGINE_PYTHON")
    wanted = [(f"{fleet.service}-{pool.name}-{number}", pool) for pool in fleet.pools for number in range(pool.workers)]
    blocks = [ports.claim(ADDRESS) for _ in wanted]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        records: list[WorkerRecord] = []
        for (name, pool), block in zip(wanted, blocks, strict=True):
            processes.append(_start(name, pool, block.first, folder, python))
            records.append(_record(name, fleet, pool, block.first))
        for record, process in zip(records, processes, strict=True):
            await _ready(record.name, record.agent_port, "/ready", process, folder, say)
        yield records
    finally:
        _stop(processes)
        for block in blocks:
            block.release()


@asynccontextmanager
async def front(spec: GatewaySpec, records: Sequence[WorkerRecord], folder: Path, say: Say) -> AsyncIterator[Door]:
    """Starts a gateway before running workers, and ends it afterwards."""
    write_fleet(folder / "fleet", records[0].generation, list(records))
    token = secrets.token_urlsafe(16)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token)
    block = ports.claim(ADDRESS)
    more = ("--proof-token-file", str(folder / "token"))
    gateway = spawn(gateway_command(spec, folder / "fleet", f"{ADDRESS}:{block.first}", *more), folder / "gateway.log")
    try:
        await _ready("gateway", block.first, "/live", gateway, folder, say)
        url = f"http://{ADDRESS}:{block.first}"
        await _seen(f"{url}/fleet", token, len(records))
        metrics_urls = tuple(f"http://{ADDRESS}:{record.http_port}/metrics" for record in records)
        yield Door(url, token, tuple(record.name for record in records), metrics_urls)
    finally:
        _stop([gateway])
        block.release()


def _record(name: str, fleet: Fleet, pool: LoweredPool, first_port: int) -> WorkerRecord:
    return WorkerRecord(
        name=name,
        service=fleet.service,
        pool=pool.name,
        phase=pool.phase,
        phases=pool.phases,
        dialect=pool.spec.dialect,
        generation=fleet.generation,
        pair_key=fleet.pair_key,
        address=ADDRESS,
        http_port=first_port,
        agent_port=first_port + 1,
    )


def _start(name: str, pool: LoweredPool, first_port: int, folder: Path, python: str) -> subprocess.Popen[bytes]:
    path = folder / f"{pool.name}.json"
    path.write_text(pool.spec.model_dump_json())
    command = [python, "-m", "tandem_worker", "agent", "--spec", str(path), "--name", name, "--address", ADDRESS]
    next_port = first_port
    for port in pool.spec.ports:
        command += ["--port", f"{port.name}={next_port}"]
        next_port += port.count
    return spawn(command, folder / f"{name}.log")


async def _ready(name: str, port: int, path: str, process: subprocess.Popen[bytes], folder: Path, say: Say) -> None:
    """Waits until the process answers 200; it ends by itself when it cannot start, the agent within its own timeout."""
    say(f"waiting for {name}")
    async with aiohttp.ClientSession() as session:
        while process.poll() is None:
            try:
                async with session.get(f"http://{ADDRESS}:{port}{path}") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(POLL_S)
    last = (folder / f"{name}.log").read_text(errors="replace").splitlines()[-8:]
    raise NotReadyError(f"{name} ended with {process.returncode} while it was starting:\n" + "\n".join(last))


async def _seen(url: str, token: str, workers: int) -> None:
    """Waits until the gateway would use every worker; it looks at them twice a second."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(SIGHT_TIMEOUT_S):
        while True:
            async with session.get(url, headers={"x-tandem-proof": token}) as answer:
                seen = (await answer.json())["workers"]
            if sum(worker["ready"] and not worker["suspect"] for worker in seen) == workers:
                return
            await asyncio.sleep(POLL_S)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """The second signal makes an agent stop its engine without a drain; an agent that hangs is killed last."""
    for _ in range(2):
        for process in processes:
            if process.poll() is None:
                process.terminate()
    for process in processes:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
