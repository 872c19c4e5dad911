"""Two real CPU engines under their agents, and our gateway before them."""

import asyncio
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

import pulumi_tandem as tandem
from benchmarks.fleet import gateway_command, spawn, write_fleet
from pulumi_tandem.check import accept
from pulumi_tandem.local import ports
from pulumi_tandem.lower import Fleet, LoweredPool, lower
from tandem_worker.contract import WorkerRecord

ADDRESS = "127.0.0.1"
MODEL = "SmolLM2-135M-Instruct"
STOP_TIMEOUT_S = 60.0
SIGHT_TIMEOUT_S = 60.0
POLL_S = 0.5
PATIENCE_S = 300.0


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


def declare() -> tandem.Service:
    """The pair: each engine on half of the cores. Without a prefix cache, so that no prompt is answered from it."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(len(cores) // 2, 1)
    shares = (cores[:half], cores[half:] or cores[:half])
    model_folder = _from_environment("TANDEM_MODEL_DIR")
    prefill, decode = (tandem.Pool(gpu="cpu", cpu_cores=",".join(map(str, share))) for share in shares)
    return tandem.Service(
        name="bench",
        model=tandem.Model(name=MODEL, path=model_folder),
        engine=tandem.Vllm(version="0.32.0", prefix_caching=False),
        prefill=prefill,
        decode=decode,
        context_tokens=2048,
        # A machine that does other work besides must give bad times, not a failed run.
        limits=tandem.Limits(prefill_timeout_s=PATIENCE_S, stall_timeout_s=PATIENCE_S),
    )


def _from_environment(name: str) -> str:
    if found := os.environ.get(name):
        return found
    raise NotReadyError(f"{name} is not set; run `make bench`, or tools/run python -m benchmarks.serving")


@asynccontextmanager
async def running(say: Callable[[str], None]) -> AsyncIterator[Door]:
    """Starts engines and gateway, ends them afterwards, whatever happens."""
    python = _from_environment("TANDEM_ENGINE_PYTHON")
    fleet = lower(accept(declare())[0])
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        blocks = [ports.claim(ADDRESS) for _ in fleet.pools]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            records = [_record(fleet, pool, block.first) for pool, block in zip(fleet.pools, blocks, strict=True)]
            write_fleet(folder / "fleet", fleet.generation, records)
            token = secrets.token_urlsafe(16)
            (folder / "token").touch(mode=0o600)
            (folder / "token").write_text(token)
            port = blocks[0].first + ports.BLOCK_PORTS - 1
            more = ("--proof-token-file", str(folder / "token"))
            command = gateway_command(fleet.gateway, folder / "fleet", f"{ADDRESS}:{port}", *more)
            gateway = spawn(command, folder / "gateway.log")
            processes.append(gateway)
            await _ready("gateway", port, "/live", gateway, folder, say)
            engines = [_start(folder, python, p, b.first) for p, b in zip(fleet.pools, blocks, strict=True)]
            processes += engines
            for record, engine in zip(records, engines, strict=True):
                await _ready(record.name, record.agent_port, "/ready", engine, folder, say)
            await _seen(f"http://{ADDRESS}:{port}/fleet", token, len(records))
            urls = tuple(f"http://{ADDRESS}:{r.http_port}/metrics" for r in records)
            yield Door(f"http://{ADDRESS}:{port}", token, tuple(r.name for r in records), urls)
        finally:
            _stop(processes)
            for block in blocks:
                block.release()


def _record(fleet: Fleet, pool: LoweredPool, first_port: int) -> WorkerRecord:
    return WorkerRecord(
        name=f"bench-{pool.name}-0",
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


def _start(folder: Path, python: str, pool: LoweredPool, first_port: int) -> subprocess.Popen[bytes]:
    path = folder / f"{pool.name}.json"
    path.write_text(pool.spec.model_dump_json())
    name = f"bench-{pool.name}-0"
    command = [python, "-m", "tandem_worker", "agent", "--spec", str(path), "--name", name, "--address", ADDRESS]
    next_port = first_port
    for port in pool.spec.ports:
        command += ["--port", f"{port.name}={next_port}"]
        next_port += port.count
    return spawn(command, folder / f"{name}.log")


async def _ready(
    name: str, port: int, path: str, process: subprocess.Popen[bytes], folder: Path, say: Callable[[str], None]
) -> None:
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


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
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
