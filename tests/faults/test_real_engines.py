"""Every kind of process killed in turn under a steady load: nothing is lost, and nothing is left behind.

Each case waits until what died is back, so that the next one starts from a whole service.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from pulumi_tandem.local.client import call
from tests.serving.load import LONG_PROMPT, Load, steady
from tests.serving.service import Serving

pytestmark = pytest.mark.faults

RECOVERY_S = 480.0
"""An engine starts in 40 s on two idle cores, and its survivor keeps both busy meanwhile."""
RECOVERY_PACE_S = 5.0
"""The survivor has the clients for itself, and leaves the starting engine some of the machine."""
TITLES = {"api-server": "openai.api_server", "engine-core": "EngineCore", "engine-worker": "VLLM::Worker"}


def processes(serving: Serving) -> dict[str, dict[str, Any]]:
    """The workers by pool, as the supervisor describes them."""
    status = call(serving.project.state_dir, "status")
    return {
        process["pool"]: process for process in status["processes"] if process["kind"] == "worker" and process["alive"]
    }


def victim_of(serving: Serving, side: str, kind: str) -> psutil.Process:
    """The process of that kind on that side."""
    agent = psutil.Process(processes(serving)[side]["pid"])
    if kind == "agent":
        return agent
    return next(
        process for process in agent.children(recursive=True) if any(TITLES[kind] in word for word in process.cmdline())
    )


def marked(instance: str) -> list[int]:
    """Every live process of one tree."""
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("TANDEM_INSTANCE") == instance:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def unmapped_segments() -> set[str]:
    """Files in /dev/shm that no process maps: what a killed engine has leaked.

    By inode: a semaphore's file has another name in the maps of those that use it. The agents' own notes, which live
    as long as their trees, are left out.
    """
    mapped: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            mapped |= {line.split()[4] for line in lines if "/dev/shm/" in line}
    segments = {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("tandem-")}
    return {str(path) for path in segments if path.exists() and str(path.stat().st_ino) not in mapped}


def fleet(serving: Serving) -> dict[str, Any]:
    """What the gateway sees."""
    return httpx.get(f"{serving.url}/fleet").json()


async def until(condition: Callable[[], Any]) -> None:
    """Poll a condition that processes make true in their own time."""
    deadline_s = time.monotonic() + RECOVERY_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s, "the condition never came true"
        await asyncio.sleep(0.2)


def is_whole(serving: Serving) -> bool:
    """Whether every worker serves again."""
    workers = fleet(serving)["workers"]
    return len(workers) == 2 and all(worker["ready"] and not worker["suspect"] for worker in workers)


def streams_at(serving: Serving, side: str) -> int:
    """How many requests that side has to lose."""
    running = "running_prefill" if side == "prefill" else "running_decode"
    return sum(worker[running] for worker in fleet(serving)["workers"] if worker["pool"] == side)


def cut_connections_to(port: int) -> subprocess.CompletedProcess[str]:
    """Have the kernel destroy every connection to a local port."""
    command = ["ss", "-K", "-t", "dst", "127.0.0.1", "dport", "=", str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def kill_during_a_prefill(serving: Serving, load: Load, victim: psutil.Process) -> None:
    """Kill while a prompt is read that takes seconds; nothing else is asked meanwhile, so the death meets it."""
    async with load.quiet(), asyncio.TaskGroup() as group:
        group.create_task(load.one_more(LONG_PROMPT))
        await until(lambda: streams_at(serving, "prefill"))
        victim.kill()


def counts(serving: Serving) -> dict[str, int]:
    return fleet(serving)["counts"]


def saved(serving: Serving) -> int:
    """Requests that went on elsewhere after a failure."""
    return counts(serving)["retried"] + counts(serving)["resumed"]


@pytest.mark.parametrize("side", ["prefill", "decode"])
@pytest.mark.parametrize("kind", ["api-server", "engine-core", "engine-worker", "agent"])
def test_a_death_loses_no_request(serving: Serving, kind: str, side: str) -> None:
    """The survivor serves until the dead one is back; every answer is the undisturbed one, token for token."""
    leaked_before = unmapped_segments()
    before, instance = counts(serving), processes(serving)[side]["instance"]

    async def run() -> None:
        async with steady(serving.url, serving.expected, clients=2) as load:
            await load.answered(2)
            victim = victim_of(serving, side, kind)
            if side == "prefill":
                await kill_during_a_prefill(serving, load, victim)
            else:
                await until(lambda: streams_at(serving, side) and load.is_mid_stream)
                victim.kill()
            await load.answered(6)
            load.pace_s = RECOVERY_PACE_S
            await until(
                lambda: processes(serving).get(side, {}).get("instance", instance) != instance and is_whole(serving)
            )
            await load.answered(3)

    asyncio.run(run())

    after = counts(serving)
    assert after["typed_errors"] == before["typed_errors"]
    assert after["retried"] + after["resumed"] > before["retried"] + before["resumed"], "the death met no request"
    assert side == "prefill" or after["resumed"] > before["resumed"], "no stream went on elsewhere"
    assert after["fallback"] > before["fallback"], "the survivor served nothing"
    assert marked(instance) == []
    assert not Path(f"/dev/shm/tandem-{instance}").exists()
    assert unmapped_segments() <= leaked_before


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_a_stopped_engine_loses_no_request(serving: Serving, side: str) -> None:
    """SIGSTOP: nothing dies, nothing answers; the silence is noticed and the work moves on."""
    before = counts(serving)

    async def run() -> None:
        async with steady(serving.url, serving.expected, clients=2) as load:
            await load.answered(2)
            await until(lambda: streams_at(serving, side))
            stopped = victim_of(serving, side, "engine-core")
            stopped.send_signal(signal.SIGSTOP)
            try:
                await load.answered(8)
            finally:
                stopped.send_signal(signal.SIGCONT)
            await until(lambda: is_whole(serving))
            await load.answered(3)

    asyncio.run(run())

    assert counts(serving)["typed_errors"] == before["typed_errors"]


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_a_cut_connection_loses_no_request(serving: Serving, side: str) -> None:
    """The engine lives, the gateway's connections to it do not."""
    before, typed_errors = saved(serving), counts(serving)["typed_errors"]
    port = processes(serving)[side]["ports"]["http"]

    async def run() -> None:
        async with steady(serving.url, serving.expected, clients=2) as load:
            await load.answered(2)
            # A prefill lasts a quarter of a second: a cut may come when it is over. Cut until one has met a request.
            while saved(serving) == before:
                await until(lambda: streams_at(serving, side))
                cut = await asyncio.to_thread(cut_connections_to, port)
                if "ESTAB" not in cut.stdout and cut.stderr:
                    pytest.skip(f"this kernel, or this user, cannot cut connections from outside: {cut.stderr.strip()}")
                await load.answered(1)
            await load.answered(6)

    asyncio.run(run())

    assert counts(serving)["typed_errors"] == typed_errors


def test_a_killed_supervisor_is_not_noticed(serving: Serving) -> None:
    """Its guard starts another one, which takes the running engines over."""
    before = {pool: process["pid"] for pool, process in processes(serving).items()}

    async def run() -> None:
        async with steady(serving.url, serving.expected, clients=2) as load:
            await load.answered(2)
            killed = call(serving.project.state_dir, "ping")["pid"]
            os.kill(killed, signal.SIGKILL)
            await until(lambda: call(serving.project.state_dir, "ping")["pid"] != killed)
            await load.answered(4)

    asyncio.run(run())

    assert {pool: process["pid"] for pool, process in processes(serving).items()} == before


def test_a_new_generation_and_back_lose_no_request(serving: Serving) -> None:
    """Forward to another batch size, a failed proof, and back: a client that keeps asking notices nothing."""
    generation = serving.project.outputs()["generation"]

    async def run() -> None:
        async with steady(serving.url, serving.expected, clients=1) as load:
            await load.answered(2)
            load.pace_s = RECOVERY_PACE_S
            forward = await asyncio.to_thread(serving.project.up, pool={"sequences": 6})
            assert forward.returncode == 0, forward.stdout
            await load.answered(3)
            failed = await asyncio.to_thread(serving.project.up, transfer={"kv_gb_per_s_min": 1e6})
            assert failed.returncode != 0
            assert "below the declared floor" in failed.stdout
            await load.answered(3)
            back = await asyncio.to_thread(serving.project.up)
            assert back.returncode == 0, back.stdout
            await load.answered(3)

    asyncio.run(run())

    assert serving.project.outputs()["generation"] == generation
    assert len(processes(serving)) == 2


def test_down_leaves_nothing(serving: Serving) -> None:
    """No process, no port, no shared memory."""
    instances = [process["instance"] for process in processes(serving).values()]
    ports = [int(process["url"].rpartition(":")[2]) for process in processes(serving).values()]

    down = serving.project.down()

    assert down.returncode == 0, down.stdout
    assert [pid for instance in instances for pid in marked(instance)] == []
    for port in [*ports, int(serving.url.rpartition(":")[2])]:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/")
