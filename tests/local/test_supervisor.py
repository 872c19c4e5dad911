"""The supervisor of a local stack, over its real socket, with real processes that stand in for engines."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pulumi_tandem.local.client import SupervisorError, call
from pulumi_tandem.local.paths import StackPaths
from tandem_worker.contract import GatewaySpec, Port, WorkerSpec

FAKE = str(Path(__file__).parent / "fake_worker.py")
DEADLINE_S = 20.0


class Stack:
    """One stack of the test, and the words to drive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = StackPaths(folder)
        self.progress: list[str] = []

    def call(self, verb: str, **arguments: Any) -> Any:
        return call(self.folder, verb, on_progress=self.progress.append, **arguments)

    def start(self, name: str = "chat-decode-aaaa0000-0", **changes: Any) -> dict[str, Any]:
        return self.call(
            "start_worker",
            name=name,
            spec=spec(**changes).model_dump(mode="json"),
            python=FAKE,
        )

    def gateway(self, **changes: Any) -> dict[str, Any]:
        gateway = GatewaySpec(
            service="chat",
            served_names=("m",),
            dialect="vllm-nixl-pull",
            drain_timeout_s=2,
            **changes,
        )
        entry = {"name": "chat-gateway", "service": "chat", "spec": gateway.model_dump(mode="json"), "python": FAKE}
        return self.call("start_gateway", entry=entry)

    def processes(self) -> dict[str, dict[str, Any]]:
        return {process["name"]: process for process in self.call("status")["processes"]}


def spec(
    *,
    generation: str = "aaaa0000",
    pool: str = "decode",
    fake: str = "",
    **changes: Any,
) -> WorkerSpec:
    phase = "prefill" if pool == "prefill" else "decode"
    values: dict[str, Any] = {
        "service": "chat",
        "pool": pool,
        "phase": phase,
        "phases": (phase,),
        "dialect": "vllm-nixl-pull",
        "engine": "fake 1",
        "generation": generation,
        "pair_key": "k",
        "argv": ("python",),
        "env": {"FAKE": fake},
        "served_names": ("m",),
        "ports": (Port(name="http"), Port(name="agent"), Port(name="transfer", count=8)),
        "factors": {},
        "start_timeout_s": 10,
        "settle_s": 0,
        "drain_timeout_s": 2,
        "stop_timeout_s": 2,
    }
    return WorkerSpec.model_validate(values | changes)


def until(condition: Callable[[], Any]) -> Any:
    """Poll a condition that processes make true in their own time."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "the condition never came true"
        time.sleep(0.02)
    return value


def marked(instance: str) -> list[psutil.Process]:
    """Every process that carries the mark of this tree."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TANDEM_INSTANCE") == instance:
                found.append(process)
        except psutil.Error:
            continue
    return found


def accepts(url: str) -> bool:
    """Whether anybody listens there."""
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "stack")
    yield stack
    call(stack.folder, "shutdown", start=False)


def test_starts_a_worker_and_puts_it_into_the_fleet(stack: Stack) -> None:
    """A started worker is ready, has its ports, and stands in the fleet folder."""
    worker = stack.start()

    record = json.loads((stack.paths.fleet("chat") / "workers" / "chat-decode-aaaa0000-0.json").read_text())
    assert worker["alive"]
    assert record["http_port"] == worker["ports"]["http"]
    assert accepts(worker["agent_url"])


def test_adopts_a_worker_that_already_does_the_same(stack: Stack) -> None:
    """Starting twice starts once: a repeated `up` finds what a killed one left."""
    first = stack.start()

    assert stack.start()["pid"] == first["pid"]


def test_replaces_a_worker_of_another_specification(stack: Stack) -> None:
    """One name, one process: another spec ends the old process first."""
    first = stack.start()

    second = stack.start(env={"FAKE": "", "OTHER": "1"})

    assert second["pid"] != first["pid"]
    assert not psutil.pid_exists(first["pid"])


def test_a_worker_that_dies_while_starting_is_told_and_forgotten(stack: Stack) -> None:
    """The error has the reason, the last lines, the probable cause; nothing stays."""
    with pytest.raises(SupervisorError) as failure:
        stack.start(fake="dies")

    assert "the engine ended while starting" in str(failure.value)
    assert "No available memory" in str(failure.value)
    assert "probable cause: the KV cache does not fit" in str(failure.value)
    assert "nothing of it is left" in str(failure.value)
    assert stack.processes() == {}


def test_a_worker_that_is_never_ready_runs_out_of_time(stack: Stack) -> None:
    """A start has an end, and cleans up after itself."""
    with pytest.raises(SupervisorError, match="was not ready within 1 s"):
        stack.start(fake="never-ready", start_timeout_s=1)

    assert stack.processes() == {}


def test_a_dead_worker_comes_back_on_the_same_ports(stack: Stack) -> None:
    """The supervisor restarts what dies, and the fleet's record stays true."""
    before = stack.start()
    os.kill(before["pid"], signal.SIGKILL)

    after = until(
        lambda: (p := stack.processes()["chat-decode-aaaa0000-0"])["pid"] != before["pid"] and p["alive"] and p
    )

    assert after["ports"] == before["ports"]
    assert after["restarts"] == 1


def test_removing_a_worker_ends_its_whole_tree(stack: Stack) -> None:
    """A grandchild in another session that ignores SIGTERM goes too, and the port is free."""
    worker = stack.start(fake="leaves-child")
    assert len(marked(worker["instance"])) == 2

    stack.call("remove", name=worker["name"])

    assert marked(worker["instance"]) == []
    assert not accepts(worker["agent_url"])
    assert stack.processes() == {}


def test_a_killed_supervisor_comes_back_and_takes_its_workers_over(
    stack: Stack,
) -> None:
    """kill -9 of the supervisor: the guard starts another one, the worker never notices."""
    worker = stack.start()
    killed = stack.call("ping")["pid"]
    os.kill(killed, signal.SIGKILL)

    until(lambda: (stack.call("ping") or {}).get("pid") not in (None, killed))

    assert stack.processes()[worker["name"]]["pid"] == worker["pid"]
    assert stack.processes()[worker["name"]]["alive"]
    stack.call("remove", name=worker["name"])
    assert marked(worker["instance"]) == []


def test_a_worker_that_dies_without_a_supervisor_is_started_by_the_next(
    stack: Stack,
) -> None:
    """What died while nobody watched comes back, and nothing of the old tree is left."""
    worker = stack.start(fake="leaves-child")
    os.kill(stack.call("ping")["pid"], signal.SIGKILL)
    os.kill(worker["pid"], signal.SIGKILL)

    until(lambda: (p := stack.processes().get(worker["name"])) and p["alive"] and p["pid"] != worker["pid"])

    assert marked(worker["instance"]) == []


def test_a_changed_gateway_takes_over_the_same_port(stack: Stack) -> None:
    """The new gateway shares the old one's socket, and nobody is refused in between."""
    first = stack.gateway()
    second = stack.gateway(attempts_max=9)

    assert second["url"] == first["url"]
    assert second["pid"] != first["pid"]
    assert not psutil.pid_exists(first["pid"])
    assert accepts(second["url"])


def test_a_killed_gateway_comes_back_on_its_port(stack: Stack) -> None:
    """Connections wait in the supervisor's socket until the next gateway takes them."""
    first = stack.gateway()
    os.kill(first["pid"], signal.SIGKILL)

    after = until(lambda: (p := stack.processes()["chat-gateway"])["pid"] != first["pid"] and p["alive"] and p)

    assert after["url"] == first["url"]


def test_refuses_to_remove_the_last_worker_of_the_active_generation(
    stack: Stack,
) -> None:
    """`--continue-on-error` after a failed proof must not take the serving pair away."""
    stack.gateway()
    worker = stack.start()
    stack.call("activate", service="chat", generation="aaaa0000")

    with pytest.raises(SupervisorError, match="tandem abort"):
        stack.call("remove", name=worker["name"])

    assert stack.processes()[worker["name"]]["alive"]


def test_scaling_down_the_active_generation_is_allowed(stack: Stack) -> None:
    """A pool may shrink while it serves, down to one."""
    for index in range(2):
        stack.start(f"chat-decode-aaaa0000-{index}")
    stack.call("activate", service="chat", generation="aaaa0000")

    stack.call("remove", name="chat-decode-aaaa0000-1")

    assert set(stack.processes()) == {"chat-decode-aaaa0000-0"}


def test_abort_stops_only_what_does_not_serve(stack: Stack) -> None:
    """A failed generation goes; the one that serves is not touched."""
    serving = stack.start()
    stack.call("activate", service="chat", generation="aaaa0000")
    failed = stack.start("chat-decode-bbbb0000-0", generation="bbbb0000")

    stopped = stack.call("abort")["stopped"]

    assert stopped == [failed["name"]]
    assert marked(failed["instance"]) == []
    assert stack.processes()[serving["name"]]["alive"]


def test_a_halted_generation_can_be_started_again(stack: Stack) -> None:
    """A failed proof stops its workers; the next attempt finds and starts them."""
    worker = stack.start()
    stack.call("halt", service="chat", generation="aaaa0000")
    assert not stack.processes()[worker["name"]]["alive"]

    (again,) = stack.call("ensure", names=[worker["name"]])

    assert again["alive"]
    assert again["pid"] != worker["pid"]


def test_activation_stops_what_a_cut_off_update_left(stack: Stack) -> None:
    """Workers of a generation that nobody asks for any more do not stay."""
    stray = stack.start("chat-decode-cccc0000-0", generation="cccc0000")
    kept = stack.start()

    stack.call("activate", service="chat", generation="aaaa0000")

    assert marked(stray["instance"]) == []
    assert stack.processes()[kept["name"]]["alive"]


def test_destroy_is_allowed_once_the_other_generation_is_given_up(stack: Stack) -> None:
    """`tandem abort` is the explicit word."""
    stack.start()
    stack.call("activate", service="chat", generation="aaaa0000")
    stack.start("chat-decode-bbbb0000-0", generation="bbbb0000")
    stack.call("abort")

    stack.call("deactivate", service="chat", generation="aaaa0000")

    assert stack.call("status")["active"] == {"chat": None}


def test_a_terminated_supervisor_stops_everything_and_wants_it_again(stack: Stack) -> None:
    """A machine that shuts down and comes back: the next supervisor starts what the last one stopped."""
    worker = stack.start()
    os.kill(stack.call("ping")["pid"], signal.SIGTERM)
    until(lambda: marked(worker["instance"]) == [])

    again = until(lambda: (p := stack.processes().get(worker["name"])) and p["alive"] and p)

    assert again["pid"] != worker["pid"]


def test_secrets_of_the_shell_do_not_reach_the_processes(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in an environment stands in /proc; and an engine must not differ by who ran `up`."""
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "secret")
    monkeypatch.setenv("UCX_TLS", "rc")

    worker = stack.start()

    environment = psutil.Process(worker["pid"]).environ()
    assert environment.keys().isdisjoint({"PULUMI_CONFIG_PASSPHRASE", "UCX_TLS"})


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """Unix sockets have short names, checkouts may have long ones."""
    stack = Stack(tmp_path / ("long" * 30) / "stack")
    try:
        assert stack.call("ping")["pid"]
    finally:
        call(stack.folder, "shutdown", start=False)


def test_destroy_is_refused_while_another_generation_is_not_proven(
    stack: Stack,
) -> None:
    """Taking down what serves, with nothing proven beside it, needs an explicit word."""
    stack.start()
    stack.call("activate", service="chat", generation="aaaa0000")
    stack.start("chat-decode-bbbb0000-0", generation="bbbb0000")

    with pytest.raises(SupervisorError, match="tandem abort"):
        stack.call("deactivate", service="chat", generation="aaaa0000")


def test_two_stacks_do_not_collide(stack: Stack, tmp_path: Path) -> None:
    """Equal names in two stacks are two processes on two blocks of ports."""
    other = Stack(tmp_path / "other")
    try:
        here, there = stack.start(), other.start()

        assert here["pid"] != there["pid"]
        assert not set(here["ports"].values()) & set(there["ports"].values())
        other.call("shutdown")
        assert stack.processes()[here["name"]]["alive"]
    finally:
        call(other.folder, "shutdown", start=False)


def test_shutdown_leaves_nothing(stack: Stack) -> None:
    """After shutdown there is no process, no port and no socket."""
    worker, gateway = stack.start(fake="leaves-child"), stack.gateway()
    supervisor = stack.call("ping")["pid"]

    stack.call("shutdown")

    until(lambda: not psutil.pid_exists(supervisor))
    assert marked(worker["instance"]) == []
    assert not accepts(worker["agent_url"])
    assert not accepts(gateway["url"])
    assert not stack.paths.socket.exists()


def test_progress_reaches_the_caller(stack: Stack) -> None:
    """The one who waits is told."""
    stack.start()

    assert any("ready after" in line for line in stack.progress)
