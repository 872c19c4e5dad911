"""Judging a place, and looking at a real one."""

import math
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.agent.preflight import Facts, Gpu, in_words, judge
from tandem_worker.agent.probe import gather, model_error, parse_gpus
from tandem_worker.agent.spec import Command
from tandem_worker.contract import Port
from tests.agent.place import free_ports, place_of, worker_spec

NIXL_CONFIG = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'

CASES = [
    pytest.param({"gpus": 2}, Facts(gpus=(Gpu("H100", 80.0),)), "GPUs: 1 visible, the worker needs 2", id="gpus"),
    pytest.param(
        {"gpus": 1},
        Facts(gpus_unseen_because="nvidia-smi is not there"),
        "GPUs: 0 visible (nvidia-smi is not there), the worker needs 1",
        id="no driver",
    ),
    pytest.param(
        {"gpus": 1, "gpu_memory_gib": 141.0},
        Facts(gpus=(Gpu("H100", 79.6),)),
        "GPU memory: H100 has 79.6 GiB, the worker was planned for 141.0 GiB",
        id="small gpu",
    ),
    pytest.param(
        {"shm_gib": 1.0}, Facts(shm_free_gib=0.0625), "/dev/shm: 0.06 GiB free, the worker needs 1.00", id="shm"
    ),
    pytest.param({"shm_gib": 1.0}, Facts(), "/dev/shm: it does not exist", id="no shm"),
    pytest.param(
        {"memory_gib": 4.0},
        Facts(memory_available_gib=3.0, memory_limit="the container's limit"),
        "memory: 3.0 GiB available of the container's limit, the worker needs 4.0",
        id="memory",
    ),
    pytest.param({"kv_transport": "rdma"}, Facts(), "RDMA: no device under /dev/infiniband can be opened", id="rdma"),
    pytest.param(
        {"kv_transport": "efa"}, Facts(rdma_devices=("mlx5_0",)), "EFA: no EFA device can be opened", id="efa"
    ),
    pytest.param(
        {"kv_transport": "rdma"},
        Facts(rdma_devices=("mlx5_0",), locked_memory_gib=0.0625),
        "locked memory: the limit is 0.0625 GiB, rdma needs none",
        id="memlock",
    ),
    pytest.param({}, Facts(nixl_error="no plugin"), "NIXL: an agent could not be made: no plugin", id="nixl"),
    pytest.param(
        {"model_path": "/models/m"},
        Facts(model_error="holds no weights"),
        "model '/models/m': holds no weights",
        id="m",
    ),
    pytest.param(
        {}, Facts(ports_busy={"http 20000": "nginx listens there"}), "port http 20000: nginx listens there", id="port"
    ),
]


@pytest.mark.parametrize(("fields", "facts", "words"), CASES)
def test_names_what_is_wrong_where_why_and_how_to_fix_it(fields: dict[str, object], facts: Facts, words: str) -> None:
    """Each fault is one problem of four parts, and begins as stated."""
    (problem,) = judge(worker_spec(**fields), facts)

    assert str(problem).startswith(f"{words}; otherwise ")
    assert problem.fix


def test_reports_all_problems_together() -> None:
    """Nothing is found only after something else was mended."""
    spec = worker_spec(gpus=1, shm_gib=1.0, memory_gib=9.0, kv_transport="rdma", model_path="/m")
    facts = Facts(memory_available_gib=1.0, nixl_error="x", model_error="x", ports_busy={"http 1": "x"})
    problems = judge(spec, facts)

    assert len(problems) == 7
    assert in_words(problems).startswith("preflight found 7 problems: GPUs: ")


@given(st.floats(0.1, 4096), st.floats(0.1, 4096))
def test_tolerates_rounding_and_nothing_more(needed_gib: float, free_gib: float) -> None:
    """A place that has what is needed passes; one that lacks more than 2 % never does."""
    spec = worker_spec(shm_gib=needed_gib, memory_gib=needed_gib)
    problems = judge(spec, Facts(shm_free_gib=free_gib, memory_available_gib=free_gib))

    assert not problems or free_gib < needed_gib
    assert len(problems) == 2 or free_gib >= needed_gib * 0.97


def test_asks_for_nothing_that_the_spec_does_not_need() -> None:
    """A CPU worker over TCP needs no GPU, no fabric and no locked memory."""
    assert judge(worker_spec(), Facts(locked_memory_gib=0.0)) == []


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        pytest.param(None, ["A", "B"], id="all"),
        pytest.param("1", ["B"], id="by index"),
        pytest.param("GPU-bb,0", ["B", "A"], id="by uuid, in order"),
        pytest.param("", [], id="none"),
    ],
)
def test_sees_the_gpus_that_the_engine_will_see(visible: str | None, names: list[str]) -> None:
    """CUDA_VISIBLE_DEVICES hides GPUs from the engine, so it does from preflight."""
    table = "0, GPU-aa11, A, 81559\n1, GPU-bb22, B, 81559\n"

    assert [gpu.name for gpu in parse_gpus(table, visible)] == names


def whole(_: Path) -> None:
    pass


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(whole, None), (without_config, "holds no config.json"), (without_weights, "holds no weights")],
)
def test_looks_into_the_model_folder(tmp_path: Path, spoil: Callable[[Path], None], error: str | None) -> None:
    """A folder that is not a model is found before the engine is started."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    spoil(tmp_path)

    assert model_error(tmp_path) == error


def test_says_that_a_model_folder_is_missing(tmp_path: Path) -> None:
    """The operating system's reason is passed on."""
    assert model_error(tmp_path / "none") == "cannot be listed: No such file or directory"


def test_gathers_facts_of_this_machine() -> None:
    """A busy port is named with who has it; a free one is not mentioned; memory is seen."""
    spec = worker_spec()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        busy, free = taken.getsockname()[1], free_ports(1)[0]
        facts = gather(spec, place_of(http=busy, agent=free), Command(("engine",), {}), {})

    assert list(facts.ports_busy) == [f"http {busy}"]
    assert "listens there" in facts.ports_busy[f"http {busy}"]
    assert 0 < facts.memory_available_gib < math.inf
    assert facts.nixl_error is None


def test_looks_at_nixl_only_where_kv_moves(tmp_path: Path) -> None:
    """An interpreter without nixl is a problem for a worker with a side channel, and for no other."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    command = Command((str(bare), "-m", "engine", "--kv-transfer-config", NIXL_CONFIG), {})
    http, agent, side_channel = free_ports(3)
    ports = (Port(name="http"), Port(name="agent"), Port(name="side_channel"))
    place = place_of(http=http, agent=agent, side_channel=side_channel)
    facts = gather(worker_spec(ports=ports), place, command, {})

    assert facts.nixl_error == "ModuleNotFoundError: No module named 'nixl'"
    assert gather(worker_spec(), place_of(http=http, agent=agent), command, {}).nixl_error is None
