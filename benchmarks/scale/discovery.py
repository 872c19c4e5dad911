"""A gateway that gets to know its fleet: how long it takes, what it costs, and how soon it hears of a change.

The gateway is the real one, as its Deployment starts it, under its own service account: the token is asked of the API
server and lies where a kubelet would mount it, in a mount namespace of the process's own.
"""

import base64
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import psutil
import yaml

from benchmarks.scale.agents import AGENT_PORT
from benchmarks.scale.factory import CORE, SLICES, Factory, Tell, name_of, worker_spec
from pulumi_tandem.manifest import Manifests

ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
HTTP_PORT = 8000
LATE = "10.245.255.250"
"""Address of a worker that comes later; KWOK hands addresses out from the other end."""
IDLE_S = 10.0
CHANGES = 5
POLL_S = 0.02


@dataclass(frozen=True)
class Discovery:
    """What one gateway took to know a fleet of so many workers, and to keep knowing it."""

    workers: int
    listens_s: float
    """From the start of its process until it answers at all; Python's imports, mostly."""
    known_s: float
    """From the same start until `/fleet` names every worker, ready."""
    memory_mib: float
    """Resident, of the process, after it has known all of them for `IDLE_S`."""
    cpu_cores: float
    """Processor time per second without any request: watching the API server, and asking every agent twice a second."""
    joined_ms: float
    """From an endpoint slice's creation until `/fleet` has its worker, ready; median of five."""
    left_ms: float
    """From its deletion until the worker is gone from `/fleet`; likewise."""


def measure_discovery(
    factory: Factory, *, kubeconfig: Path, folder: Path, sizes: Sequence[int], tell: Tell, idle_s: float = IDLE_S
) -> Iterator[Discovery]:
    """The factory's first service at each size, the others staying as they are."""
    service = factory.services[0]
    for workers in sizes:
        factory.resize(service, workers)
        tell(f"{name_of(service)} has {workers} workers")
        with _agents(_identities(factory, service), folder), _gateway(factory, service, kubeconfig, folder) as gateway:
            yield _measured(gateway, factory, service, idle_s)


@dataclass(frozen=True)
class _Gateway:
    process: psutil.Process
    url: str
    begun_s: float

    def fleet(self) -> dict[str, Any]:
        """Raises: OSError while it does not listen."""
        with urllib.request.urlopen(f"{self.url}/fleet", timeout=30) as answer:
            return json.load(answer)

    def await_ready(self, workers: int) -> float:
        """When `/fleet` first has so many workers, all of them ready, and no other."""
        return self.when(lambda: [one["ready"] for one in self.fleet()["workers"]] == [True] * workers)

    def when(self, holds: Callable[[], bool]) -> float:
        """Monotonic time at which a condition was first seen to hold."""
        while not _holds(holds):
            if not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE:
                raise GatewayEnded("the gateway has ended; its last words are in the log above")
            time.sleep(POLL_S)
        return time.monotonic()


class GatewayEnded(Exception):
    """The measured process is gone."""


def _measured(gateway: _Gateway, factory: Factory, service: Manifests, idle_s: float) -> Discovery:
    workers = len(factory.workers(service))
    listens_s = gateway.when(lambda: bool(gateway.fleet()))
    known_s = gateway.await_ready(workers)
    before_s = sum(gateway.process.cpu_times()[:2])
    time.sleep(idle_s)
    cpu_s = sum(gateway.process.cpu_times()[:2]) - before_s
    memory = gateway.process.memory_info().rss
    joined, left = zip(*(_change(gateway, factory, service, workers) for _ in range(CHANGES)), strict=True)
    return Discovery(
        workers=workers,
        listens_s=listens_s - gateway.begun_s,
        known_s=known_s - gateway.begun_s,
        memory_mib=memory / 2**20,
        cpu_cores=cpu_s / idle_s,
        joined_ms=1e3 * statistics.median(joined),
        left_ms=1e3 * statistics.median(left),
    )


def _change(gateway: _Gateway, factory: Factory, service: Manifests, workers: int) -> tuple[float, float]:
    """Seconds until a worker that comes is known, and one that goes is forgotten."""
    name = f"{name_of(service)}-late"
    factory.namespace.create(SLICES, "endpointslices", _late(name, service))
    came_s = time.monotonic()
    joined_s = gateway.await_ready(workers + 1) - came_s
    factory.namespace.delete(SLICES, f"endpointslices/{name}")
    went_s = time.monotonic()
    return joined_s, gateway.await_ready(workers) - went_s


def _late(name: str, service: Manifests) -> dict[str, Any]:
    """A slice of one endpoint, as the controller would write it for the decode pool's Service."""
    return {
        "metadata": {"name": name, "labels": service.child("decode-service").manifest["metadata"]["labels"]},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": HTTP_PORT}, {"name": "agent", "port": AGENT_PORT}],
        "endpoints": [{"addresses": [LATE], "conditions": {"ready": True}}],
    }


def _identities(factory: Factory, service: Manifests) -> dict[str, dict[str, Any]]:
    """What the agent at each address would say of itself."""
    pods = {pod["status"]["podIP"]: pod["metadata"] for pod in factory.workers(service)}
    who = {at: (pod["name"], pod["labels"]["tandem.serving/pool"]) for at, pod in pods.items()}
    who[LATE] = (f"{name_of(service)}-decode-late", "decode")
    said = (
        "service",
        "pool",
        "phase",
        "phases",
        "engine",
        "dialect",
        "served_names",
        "generation",
        "pair_key",
        "factors",
    )
    specs = {pool: worker_spec(service, pool) for pool in ("prefill", "decode")}
    return {at: {"name": name, **{key: specs[pool][key] for key in said}} for at, (name, pool) in who.items()}


@contextmanager
def _agents(who: dict[str, dict[str, Any]], folder: Path) -> Iterator[None]:
    file = folder / "agents.json"
    file.write_text(json.dumps(who))
    command = [sys.executable, "-m", "benchmarks.scale.agents", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{len(who)}\n", "the stand-ins for agents cannot listen"
        yield
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def _gateway(factory: Factory, service: Manifests, kubeconfig: Path, folder: Path) -> Iterator[_Gateway]:
    account, spec = folder / "account", folder / "gateway.json"
    spec.write_text(service.child("gateway-spec").manifest["data"]["gateway.json"])
    server = _account(account, factory, service, kubeconfig)
    port = _free_port()
    arguments = ["gateway", "--spec", str(spec), "--kubernetes", "--listen", f"127.0.0.1:{port}"]
    command = shlex.join([sys.executable, "-m", "tandem_worker", *arguments])
    script = f"mount -t tmpfs tmpfs /run && mkdir -p {ACCOUNT} && cp {account}/* {ACCOUNT} && exec {command}"
    environment = {
        **os.environ,
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "POD_NAME": "measured",
    }
    begun_s = time.monotonic()
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], env=environment)
    try:
        yield _Gateway(psutil.Process(process.pid), f"http://127.0.0.1:{port}", begun_s)
    finally:
        process.terminate()
        process.wait()


def _account(account: Path, factory: Factory, service: Manifests, kubeconfig: Path) -> SplitResult:
    """Writes what a kubelet mounts; gives the API server's address."""
    account.mkdir(exist_ok=True)
    path = f"{CORE}/namespaces/{factory.namespace.name}/serviceaccounts/{service.child('gateway-account').name}/token"
    token = factory.namespace.api.ask("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    data = cluster.get("certificate-authority-data")
    authority = base64.b64decode(data) if data else Path(cluster["certificate-authority"]).read_bytes()
    for name, content in (
        ("token", token.encode()),
        ("ca.crt", authority),
        ("namespace", factory.namespace.name.encode()),
    ):
        (account / name).write_bytes(content)
    return urlsplit(cluster["server"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (urllib.error.URLError, OSError):
        return False
