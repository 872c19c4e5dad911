"""Real CPU engines under their agents, and gateways before them."""

import asyncio
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

import pulumi_tandem as tandem
from benchmarks.fleet import gateway_command, spawn, write_fleet
from pulumi_tandem.check import accept
from pulumi_tandem.local import ports
from pulumi_tandem.lower import Fleet, LoweredPool, lower
from tandem_worker.contract import GatewaySpec, WorkerRecord, WorkerSpec

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
    workers: tuple[WorkerRecord, ...]
    folder: Path
    """Where logs are."""


def from_environment(name: str) -> str:
    """A variable that tools/run sets. Raises: NotReadyError."""
    if found := os.environ.get(name):
        return found
    raise NotReadyError(f"{name} is not set; run `make bench`, or this command as `tools/run python -m ...`")


@asynccontextmanager
async def running(
    service: tandem.Service, say: Say, *, environments: Mapping[str, Mapping[str, str]] | None = None
) -> AsyncIterator[Door]:
    """Starts engines and gateway, ends them afterwards, whatever happens.

    `environments`: by the name of a worker, `bench-prefill-0` say, what its engine has in its environment besides.
    """
    fleet = lower(accept(service)[0])
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        async with (
            started(fleet, folder, say, environments=environments) as records,
            front(fleet.gateway, records, folder, say) as door,
        ):
            yield door


@asynccontextmanager
async def started(
    fleet: Fleet, folder: Path, say: Say, *, environments: Mapping[str, Mapping[str, str]] | None = None
) -> AsyncIterator[tuple[WorkerRecord, ...]]:
    """Starts every worker of a fleet, its logs in `folder`; `environments` as above."""
    python = from_environment("TANDEM_ENGINE_PYTHON")
    named = {f"bench-{pool.name}-{number}": pool for pool in fleet.pools for number in range(pool.workers)}
    blocks = [ports.claim(ADDRESS) for _ in named]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        records = tuple(
            _record(fleet, pool, name, block.first) for (name, pool), block in zip(named.items(), blocks, strict=True)
        )
        for record in records:
            spec = named[record.name].spec
            also = (environments or {}).get(record.name, {})
            spec = spec.model_copy(update={"env": {**spec.env, **also}})
            processes.append(_start(folder, python, spec, record))
        for record, engine in zip(records, processes, strict=True):
            await _ready(record.name, record.agent_port, "/ready", engine, folder, say)
        yield records
    finally:
        _stop(processes)
        for block in blocks:
            block.release()


@asynccontextmanager
async def front(spec: GatewaySpec, records: Sequence[WorkerRecord], folder: Path, say: Say) -> AsyncIterator[Door]:
    """Starts a gateway before workers that run; its fleet folder, token and log are in `folder`."""
    write_fleet(folder / "fleet", records[0].generation, list(records))
    token = secrets.token_urlsafe(16)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token)
    block = ports.claim(ADDRESS)
    url = f"http://{ADDRESS}:{block.first}"
    more = ("--proof-token-file", str(folder / "token"))
    gateway = spawn(gateway_command(spec, folder / "fleet", url.removeprefix("http://"), *more), folder / "gateway.log")
    try:
        await _ready("gateway", block.first, "/live", gateway, folder, say)
        await _seen(f"{url}/fleet", token, len(records))
        yield Door(url, token, tuple(records), folder)
    finally:
        _stop([gateway])
        block.release()


def _record(fleet: Fleet, pool: LoweredPool, name: str, first_port: int) -> WorkerRecord:
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


def _start(folder: Path, python: str, spec: WorkerSpec, record: WorkerRecord) -> subprocess.Popen[bytes]:
    path = folder / f"{record.name}.json"
    path.write_text(spec.model_dump_json())
    command = [python, "-m", "tandem_worker", "agent", "--spec", str(path), "--name", record.name]
    command += ["--address", ADDRESS]
    next_port = record.http_port
    for port in spec.ports:
        command += ["--port", f"{port.name}={next_port}"]
        next_port += port.count
    return spawn(command, folder / f"{record.name}.log")


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


async def counters(record: WorkerRecord) -> dict[str, float]:
    """An engine's own counters by their names, each summed over its labels."""
    found: dict[str, float] = {}
    url = f"http://{record.address}:{record.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        for line in (await answer.text()).splitlines():
            if not line.startswith("#"):
                name, value = line.partition("{")[0].partition(" ")[0], float(line.rsplit(" ", 1)[1])
                found[name] = found.get(name, 0.0) + value
    return found
