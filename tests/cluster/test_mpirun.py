"""Two whole agents and one engine over both: the real `mpirun` and `orted` of Open MPI, and stand-ins for TensorRT-LLM.

On one host the two machines differ by their ports, and by a folder for what Open MPI writes.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import pulumi_tandem as tandem
from steps.frame import Failure, Run, system_package
from tandem_worker.contract import WorkerSpec
from tandem_worker.tree import MARKER, end_tree, tree_members
from tests.builders import fleet

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
RUNS = ("http", "agent", "group", "ranks")
RUN_PORTS = 8
"""From one run's first port to the next one's; more than two machines of one rank need."""
PORTS_FROM, PORTS_TO = 21_000, 32_000
"""Below those that the kernel gives to clients."""
ON_ONE_HOST = {
    # Both machines would call their segments in /dev/shm alike, and know no interface but the loopback.
    "OMPI_MCA_btl": "self,tcp",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_oob_tcp_if_include": "lo",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def spec_of(**changes: object) -> WorkerSpec:
    """A server of two ranks on two machines, as it is lowered, without the GPUs and weights that are not here."""
    pool = tandem.Pool(gpu="H100", tensor_parallel=2, nodes_per_worker=2, env=ON_ONE_HOST)
    service = tandem.Service(
        name="chat",
        model=tandem.Model(name="Llama-3.3-70B-Instruct", path="/models/llama-70b"),
        engine=tandem.TensorRtLlm(),
        serve=pool,
        grace=tandem.Grace(start_timeout_s=TIMEOUT_S, settle_s=0.2, drain_timeout_s=20, stop_timeout_s=5),
    )
    return fleet(service).pool("serve").spec.model_copy(update={"gpus": 0, "model_path": None, **changes})


class Machine:
    """One agent of a worker."""

    def __init__(self, folder: Path, rank: int, spec: WorkerSpec, first_port: int) -> None:
        folder.mkdir()
        runs = [port.name for port in spec.ports]
        of_leader = {name: first_port + RUN_PORTS * index for index, name in enumerate(runs)}
        self.ports = {name: port + RUN_PORTS * len(runs) * rank for name, port in of_leader.items()}
        leaders_agent = str(of_leader["agent"])
        follower = tuple(leaders_agent if word == "$(TANDEM_PORT_AGENT)" else word for word in spec.follower_argv)
        (folder / "spec.json").write_text(spec.model_copy(update={"follower_argv": follower}).model_dump_json())
        (folder / "tmp").mkdir()
        self.instance = f"test-{uuid.uuid4()}"
        self.out = folder / "out"
        options = [f"--port={name}={number}" for name, number in self.ports.items()]
        place = ["--name", f"w0-{rank}", "--address", "127.0.0.1", "--leader-address", "127.0.0.1", "--node-rank"]
        path = os.pathsep.join((str(ROOT / "tests/fakes/bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
        settings = {
            "POD_NAME": f"w0-{rank}",
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            MARKER: self.instance,
        }
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                ["tandem-worker", "agent", "--spec", folder / "spec.json", *place, str(rank), *options],
                executable=Path(sys.executable).parent / "tandem-worker",
                env={**os.environ, **settings},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.out.read_text()

    def ask(self, path: str, run: str = "agent") -> int:
        """Status of a request; 0: nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[run]}{path}", timeout=5.0) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def program(self, name: str) -> psutil.Process:
        """The one process of the engine that runs this program."""
        (found,) = [one for one in tree_members(self.instance) if name in " ".join(one.cmdline()[:2])]
        return found

    def until(self, claim: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not claim():
            assert time.monotonic() < deadline_s and self.process.poll() is None, self.said
            time.sleep(0.05)

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        end_tree(self.instance, TIMEOUT_S)


def free_run() -> int:
    """The first of ports for two machines, all of which nobody uses now."""
    count = 2 * len(RUNS) * RUN_PORTS
    taken = {one.laddr[1] for one in psutil.net_connections("tcp") if one.laddr}
    runs = range(PORTS_FROM, PORTS_TO, count)
    shuffled = random.sample(runs, len(runs))
    return next(first for first in shuffled if not taken.intersection(range(first, first + count)))


@pytest.fixture(scope="module")
def open_mpi(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The system's, installed where that is possible without asking."""
    if shutil.which("mpirun") is None:
        try:
            run = Run(log=tmp_path_factory.mktemp("log") / "log", report=print)
            system_package(run, "openmpi-bin", "engines of TensorRT-LLM over several machines start by mpirun")
        except Failure as reason:
            pytest.skip(str(reason))


@pytest.fixture
def pair(open_mpi: None, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    first_port = free_run()
    machines = [Machine(tmp_path / f"machine-{rank}", rank, spec_of(), first_port) for rank in (0, 1)]
    yield machines[0], machines[1]
    for one in machines:
        one.end()


def ready(machines: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    for one in machines:
        one.until(lambda one=one: one.ask("/ready") == 200)
    return machines


def test_an_engine_over_two_machines_serves_and_drains(pair: tuple[Machine, Machine]) -> None:
    leader, follower = ready(pair)
    assert leader.ask("/health", "http") == 200
    for node in (0, 1):
        assert f"rank {node} of 2 has met the others on w0-{node}\n" in leader.said
    for one in pair:
        one.process.terminate()

    assert [one.wait() for one in pair] == [0, 0], leader.said + follower.said
    assert [tree_members(one.instance) for one in pair] == [[], []]


@pytest.mark.parametrize(
    ("where", "program"),
    [(0, "trtllm-serve"), (0, "mpirun"), (1, "trtllm-llmapi-launch"), (1, "orted")],
)
def test_the_death_of_any_part_ends_every_machine(where: int, program: str, pair: tuple[Machine, Machine]) -> None:
    ready(pair)
    pair[where].program(program).send_signal(signal.SIGKILL)

    assert [one.wait() for one in pair] == [67, 67], pair[0].said + pair[1].said
    assert [tree_members(one.instance) for one in pair] == [[], []]


def test_the_loss_of_a_machine_ends_the_others(pair: tuple[Machine, Machine]) -> None:
    leader, follower = ready(pair)
    follower.end()

    assert leader.wait() == 67, leader.said


def test_a_machine_is_not_ready_before_it_has_its_leaders_word(tmp_path: Path) -> None:
    """And gives up when the engine's time to start is over."""
    alone = Machine(tmp_path / "alone", 1, spec_of(start_timeout_s=2.0), free_run())
    try:
        alone.until(lambda: alone.ask("/live") == 200)
        assert alone.ask("/ready") == 503
        assert alone.wait() == 66, alone.said
    finally:
        alone.end()
