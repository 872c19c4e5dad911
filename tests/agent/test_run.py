"""Whole agents with an engine of three small processes: ready, drain, death, stops."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem_worker.tree import MARKER, end_tree, tree_members
from tests.agent.place import TREE_ENGINE, free_ports, worker_spec

TIMEOUT_S = 30.0
TOKEN = "s3cret-of-this-test"


class Agent:
    """One running agent and what it said."""

    def __init__(self, folder: Path, *more: str, **changes: Any) -> None:
        self.http, self.port = free_ports(2)
        self.instance = f"test-{uuid.uuid4()}"
        spec, token = folder / "spec.json", folder / "token"
        spec.write_text(worker_spec(**changes).model_dump_json())
        token.write_text(f"{TOKEN}\n")
        self.out, self.err = (folder / "out").open("w+"), (folder / "err").open("w+")
        options = ["--name=w0", "--address=127.0.0.1", f"--port=http={self.http}", f"--port=agent={self.port}", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tandem_worker", "agent", "--spec", spec, "--drain-token-file", token, *options],
            env={**os.environ, MARKER: self.instance},
            stdout=self.out,
            stderr=self.err,
        )

    def ask(self, path: str, method: str = "GET", *, port: int | None = None) -> tuple[int, str]:
        """Status and body of one request; status 0 when nobody answers."""
        url = f"http://127.0.0.1:{port or self.port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5.0) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def until(self, claim: Callable[[], bool]) -> None:
        """Ask until the claim holds; fails when it does not in time."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not claim():
            assert time.monotonic() < deadline_s, self.last_words()
            time.sleep(0.02)

    def until_ready(self, status: int = 200) -> None:
        self.until(lambda: self.ask("/ready")[0] == status)

    def roles(self) -> dict[str, int]:
        """Pids of the engine's processes by role, once all three have said theirs."""
        self.until(lambda: len(self.said()) == 3)
        return self.said()

    def said(self) -> dict[str, int]:
        lines = Path(self.out.name).read_text().splitlines()
        return {line["role"]: line["pid"] for line in map(json.loads, lines)}

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def last_words(self) -> str:
        return Path(self.err.name).read_text()

    def verdict(self) -> dict[str, Any]:
        return json.loads(self.last_words().splitlines()[-1])

    def end(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        end_tree(self.instance, TIMEOUT_S)
        self.out.close()
        self.err.close()


Start = Callable[..., Agent]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts agents; whatever they leave is ended."""
    agents: list[Agent] = []

    def start(*more: str, **changes: Any) -> Agent:
        agents.append(Agent(tmp_path, *more, **changes))
        return agents[-1]

    yield start
    for agent in agents:
        agent.end()


def test_serves_and_drains(start: Start) -> None:
    """Ready once the engine answers; after SIGTERM it exits with 0 and nothing of the tree is left."""
    agent = start()
    agent.until_ready()
    factors = json.loads(agent.ask("/factors")[1])
    metrics = agent.ask("/metrics")[1]
    agent.process.terminate()

    assert agent.wait() == 0, agent.last_words()
    assert factors["factors"] == {"dtype": "float32"}
    assert (factors["name"], factors["generation"], factors["pair_key"]) == ("w0", "1a2b3c4d", "5e6f")
    assert "\ntandem_engine_up 1.0\n" in metrics
    assert "\ntandem_requests_running 0.0\n" in metrics
    assert tree_members(agent.instance) == []


def test_waits_for_requests_before_it_stops(start: Start) -> None:
    """A drain lasts as long as the engine has requests, and is seen at once."""
    agent = start()
    agent.until_ready()
    agent.ask("/load?running=2", "POST", port=agent.http)
    status, _ = agent.ask("/drain", "POST")
    agent.until_ready(503)
    reason = json.loads(agent.ask("/ready")[1])["reason"]
    agent.ask("/load?running=0", "POST", port=agent.http)

    assert (status, reason) == (202, "the worker is draining")
    assert agent.wait() == 0, agent.last_words()


def test_gives_up_a_drain_that_takes_too_long(start: Start) -> None:
    """Requests that never end do not hold a worker for ever."""
    agent = start(drain_timeout_s=1.0)
    agent.until_ready()
    agent.ask("/load?running=2", "POST", port=agent.http)
    agent.process.terminate()

    assert agent.wait() == 68
    assert agent.verdict()["reason"] == "requests were still running 1 s after the drain began"


def test_kills_an_engine_that_ignores_its_end(start: Start) -> None:
    """An engine that ignores SIGTERM is killed with all its children."""
    argv = ("python", str(TREE_ENGINE), "--port", "$(TANDEM_PORT_HTTP)", "--stop", "ignore")
    agent = start(argv=argv, drain_timeout_s=1.0, stop_timeout_s=0.5)
    agent.until_ready()
    agent.process.terminate()

    assert agent.wait() == 68
    assert tree_members(agent.instance) == []


def test_does_not_wait_for_the_teardown_of_an_idle_engine(start: Start) -> None:
    """An engine that says its work is done is ended, with a good exit code, long before its time is up."""
    argv = ("python", str(TREE_ENGINE), "--port", "$(TANDEM_PORT_HTTP)", "--stop", "linger")
    agent = start(argv=argv, drain_timeout_s=600.0, stop_timeout_s=600.0)
    agent.until_ready()
    agent.process.terminate()

    assert agent.wait() == 0, agent.last_words()
    assert tree_members(agent.instance) == []


def test_stops_at_once_on_a_second_signal(start: Start) -> None:
    """Whoever sends SIGTERM twice does not wait for requests."""
    agent = start()
    agent.until_ready()
    agent.ask("/load?running=2", "POST", port=agent.http)
    agent.process.terminate()
    agent.until_ready(503)
    agent.process.terminate()

    assert agent.wait() == 68
    assert agent.verdict()["reason"] == "told to stop before the drain was done"


def test_says_how_the_engine_died(start: Start) -> None:
    """The last line on stderr is JSON with the code, the reason and the engine's last lines."""
    agent = start()
    agent.until_ready()
    os.kill(agent.roles()["api"], signal.SIGKILL)

    assert agent.wait() == 67
    verdict = agent.verdict()
    assert verdict["exit"] == 67
    assert verdict["reason"] == "the engine was ended by SIGKILL while it was serving"
    assert {json.loads(line)["role"] for line in verdict["engine_tail"]} == {"api", "core", "worker"}
    assert tree_members(agent.instance) == []


def test_says_why_the_engine_did_not_start(start: Start) -> None:
    """An engine that fails while it starts ends with 66 and its own words."""
    agent = start(argv=("python", str(TREE_ENGINE), "--fail"))

    assert agent.wait() == 66
    assert agent.verdict() == {
        "exit": 66,
        "reason": "the engine exited with code 3 while it was starting",
        "engine_tail": ["ValueError: no such model"],
    }


def test_gives_up_an_engine_that_never_answers(start: Start) -> None:
    """A start has a time limit."""
    agent = start(argv=("python", "-c", "import signal; signal.pause()"), start_timeout_s=1.0)

    assert agent.wait() == 66
    assert agent.verdict()["reason"] == "the engine was not ready within 1 s"


@pytest.mark.parametrize("role", ["api", "core", "worker"])
def test_is_not_ready_while_a_process_is_stopped(start: Start, role: str) -> None:
    """A stopped API server is silent; a stopped core or worker is seen though health checks pass."""
    agent = start()
    agent.until_ready()
    pid = agent.roles()[role]
    os.kill(pid, signal.SIGSTOP)
    agent.until_ready(503)
    reason = json.loads(agent.ask("/ready")[1])["reason"]
    os.kill(pid, signal.SIGCONT)
    agent.until_ready(200)

    assert f"process {pid} " in reason or "has not answered /health" in reason


def test_takes_the_api_server_along_when_killed(start: Start) -> None:
    """kill -9 of the agent ends the API server at once; its supervisor ends the rest and cleans up."""
    agent = start()
    agent.until_ready()
    pids = agent.roles()
    agent.until(lambda: len(list(Path("/dev/shm").glob(f"tandem-{agent.instance}"))) == 1)
    agent.process.kill()
    agent.wait()
    agent.until(lambda: agent.ask("/health", port=agent.http)[0] == 0)
    cleaned = end_tree(agent.instance, TIMEOUT_S)

    assert set(cleaned.pids) >= {pids["core"], pids["worker"]}
    assert len(cleaned.shm_paths) == 2
    assert tree_members(agent.instance) == []


def test_ends_a_bad_spec_in_one_line(start: Start, tmp_path: Path) -> None:
    """A spec that cannot be placed ends with 64, without a traceback and without an engine."""
    agent = start(argv=("python", "$(TANDEM_PORT_GRPC)"))

    assert agent.wait() == 64
    assert len(agent.last_words().splitlines()) == 1
    assert "asks for $(TANDEM_PORT_GRPC)" in agent.verdict()["reason"]


def test_reports_every_problem_of_the_place(start: Start) -> None:
    """Preflight ends with 65 and every problem, before an engine is started."""
    agent = start(model_path="/nonexistent", memory_gib=1e6, shm_gib=1e6)

    assert agent.wait() == 65
    assert agent.verdict()["reason"].startswith("preflight found 3 problems: /dev/shm: ")
    assert agent.said() == {}


def test_a_follower_is_ready_while_its_engine_runs_and_its_files_go_with_it(start: Start, tmp_path: Path) -> None:
    """No HTTP is asked of an engine on a machine that is not the first; what was written for it is removed."""
    told = tmp_path / "told"
    engine = ("sh", "-c", f"printf %s $(TANDEM_FILE_CONFIG_YAML) > {told} && exec sleep 600")
    agent = start(
        "--node-rank=1",
        "--leader-address=127.0.0.1",
        nodes=2,
        follower_argv=engine,
        files={"config.yaml": "a: 1"},
    )
    agent.until(lambda: told.exists() and told.read_text() != "")
    agent.until_ready()
    path = Path(told.read_text())
    assert path.read_text() == "a: 1"
    (sleeping,) = (each for each in tree_members(agent.instance) if each.name() == "sleep")
    sleeping.kill()
    assert agent.wait() == 67, agent.last_words()
    assert not path.parent.exists()
