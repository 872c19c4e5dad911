"""Asks the machine for the facts that preflight judges; every question has a short time limit."""

import json
import math
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from tandem_worker.agent.preflight import Facts, Gpu
from tandem_worker.agent.spec import Command, Place, ports_of
from tandem_worker.agent.transport import kv_backends
from tandem_worker.contract import WorkerSpec
from tandem_worker.tree import SHM_DIR

GIB: Final = 1024.0**3
NIXL_TIMEOUT_S: Final = 60.0
"""A second on a quiet machine; CUDA initialisation and a cold disk take their time."""
GPU_TIMEOUT_S: Final = 30.0
_CAP_IPC_LOCK: Final = 14  # linux/capability.h

_MAKE_NIXL_AGENT: Final = """
import json, os, sys
from nixl._api import nixl_agent, nixl_agent_config
backends = json.loads(sys.argv[1])
agent = nixl_agent("tandem-preflight", nixl_agent_config(backends=backends))
missing = [name for name in backends if name not in agent.backends]
if missing:
    sys.exit("backends " + ", ".join(missing) + " did not load; plugins found: " + ", ".join(agent.get_plugin_list()))
sys.stdout.flush()
os._exit(0)
"""


def gather(spec: WorkerSpec, place: Place, command: Command, environment: Mapping[str, str]) -> Facts:
    """Look at everything that this spec depends on."""
    gpus, gpus_unseen_because = _gpus(environment) if spec.gpus else ((), None)
    memory_available_gib, memory_limit = _memory()
    return Facts(
        gpus=gpus,
        gpus_unseen_because=gpus_unseen_because,
        shm_free_gib=_shm_free_gib(),
        memory_available_gib=memory_available_gib,
        memory_limit=memory_limit,
        locked_memory_gib=_locked_memory_gib(),
        rdma_devices=tuple(_verbs_devices()),
        efa_devices=tuple(name for name in _verbs_devices() if _driver(name) == "efa"),
        nixl_error=_nixl_error(command, environment) if "side_channel" in place.ports else None,
        model_error=None if spec.model_path is None else model_error(Path(spec.model_path)),
        ports_busy=dict(_busy_ports(spec, place)),
    )


def model_error(folder: Path) -> str | None:
    """Why this folder cannot be served from; None when it looks like a model and can be read."""
    try:
        files = [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        return f"cannot be listed: {error.strerror}"
    unreadable = sorted(file.name for file in files if not os.access(file, os.R_OK))
    if unreadable:
        return f"{unreadable[0]} cannot be read ({len(unreadable)} of {len(files)} files)"
    if not any(file.name == "config.json" for file in files):
        return "holds no config.json"
    if not any(file.suffix in (".safetensors", ".bin", ".pt", ".gguf") for file in files):
        return "holds no weights"
    return None


def _gpus(environment: Mapping[str, str]) -> tuple[tuple[Gpu, ...], str | None]:
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return (), "nvidia-smi is not there"
    except subprocess.TimeoutExpired:
        return (), f"nvidia-smi did not answer within {GPU_TIMEOUT_S:g} s"
    if answer.returncode != 0:
        return (), f"nvidia-smi: {_last_line(answer.stdout + answer.stderr)}"
    return parse_gpus(answer.stdout, environment.get("CUDA_VISIBLE_DEVICES")), None


def parse_gpus(table: str, visible: str | None) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's `index, uuid, name, MiB` lines, as far as CUDA_VISIBLE_DEVICES shows them."""
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.count(",") >= 3]
    chosen = rows
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        chosen = [row for name in names for row in rows if name == row[0] or row[1].startswith(name)]
    return tuple(Gpu(row[2], float(row[3]) / 1024) for row in chosen if row[3].replace(".", "").isdigit())


def _shm_free_gib() -> float | None:
    try:
        stat = os.statvfs(SHM_DIR)
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize / GIB


def _memory() -> tuple[float, str]:
    available = psutil.virtual_memory().available / GIB
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" in version 2: no limit
            left = (int(Path(limit_file).read_text()) - int(Path(usage_file).read_text())) / GIB
            if left < available:
                return max(0.0, left), "the container's limit"
    return available, "the machine"


def _locked_memory_gib() -> float:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
        if int(effective, 16) >> _CAP_IPC_LOCK & 1:
            return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return math.inf if soft == resource.RLIM_INFINITY else soft / GIB


def _verbs_devices() -> Iterator[str]:
    """RDMA devices whose character device this process may open."""
    with suppress(OSError):
        for entry in sorted(Path("/sys/class/infiniband_verbs").iterdir()):
            if entry.name.startswith("uverbs") and os.access(f"/dev/infiniband/{entry.name}", os.R_OK | os.W_OK):
                yield (entry / "ibdev").read_text().strip()


def _driver(device: str) -> str:
    return Path(f"/sys/class/infiniband/{device}/device/driver").resolve().name


def _nixl_error(command: Command, environment: Mapping[str, str]) -> str | None:
    """Make a NIXL agent in a child process, since a failing plugin may abort the process it is in."""
    backends = kv_backends(command.argv)
    if not backends:
        return None
    python = command.argv[0] if Path(command.argv[0]).name.startswith("python") else sys.executable
    question = [python, "-c", _MAKE_NIXL_AGENT, json.dumps(backends)]
    try:
        answer = subprocess.run(
            question,
            env=dict(environment),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NIXL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {NIXL_TIMEOUT_S:g} s"
    except OSError as error:
        return f"{python} cannot be run: {error.strerror}"
    if answer.returncode == 0:
        return None
    return _last_line(answer.stderr) or f"exit code {answer.returncode}"


def _busy_ports(spec: WorkerSpec, place: Place) -> Iterator[tuple[str, str]]:
    for name, numbers in ports_of(spec, place).items():
        busy = {number: why for number in numbers if (why := _why_busy(place.address, number))}
        # A run of several is a range to choose from: a killed engine's connections hold some of it for a minute.
        if len(busy) == len(numbers):
            for number, why in busy.items():
                yield f"{name} {number}", f"cannot be bound on {place.address}: {why}"


def _why_busy(address: str, number: int) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the engine binds: connections that are only waiting to be forgotten do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
            probe.listen(1)
        except OSError as error:
            return _owner(number) or error.strerror
    return None


def _owner(port: int) -> str | None:
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
                name = psutil.Process(connection.pid).name() if connection.pid else "another user's process"
                return f"{name} (process {connection.pid or 'unknown'}) listens there"
    return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
