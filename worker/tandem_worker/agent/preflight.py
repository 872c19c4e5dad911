"""Whether this place can run this worker: facts in, every problem out, nothing asked of the machine here.

The engine would meet most of these itself, one at a time, minutes later and in other words; some it
never mentions (KV over TCP where a fabric was meant).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tandem_worker.contract import WorkerSpec
from tandem_worker.tree import SHM_DIR

_SPARE = 0.98
"""Sizes are compared with 2 % of tolerance: kernels and drivers round and keep a little back."""


@dataclass(frozen=True)
class Gpu:
    """One visible GPU."""

    name: str
    memory_gib: float


@dataclass(frozen=True)
class Facts:
    """What the probe saw; a field stays at its default when the spec gives no reason to look."""

    gpus: tuple[Gpu, ...] = ()
    gpus_unseen_because: str | None = None
    """Why GPUs could not be listed at all."""
    shm_free_gib: float | None = None
    """None: there is no /dev/shm."""
    memory_available_gib: float = math.inf
    memory_limit: str = "the machine"
    """What bounds the memory: the machine, or the container's limit."""
    locked_memory_gib: float = math.inf
    """How much this process may lock; infinite with CAP_IPC_LOCK."""
    rdma_devices: tuple[str, ...] = ()
    """RDMA devices that can be opened."""
    efa_devices: tuple[str, ...] = ()
    nixl_error: str | None = None
    """Why a NIXL agent with the spec's backends could not be made; None when it could, or need not."""
    model_error: str | None = None
    ports_busy: Mapping[str, str] = field(default_factory=dict[str, str])
    """By `name 20000`: who has the port, or why it cannot be bound."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the place."""

    where: str
    what: str
    otherwise: str
    """What happens when it is ignored."""
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; otherwise {self.otherwise}; {self.fix}"


def judge(spec: WorkerSpec, facts: Facts) -> list[Problem]:
    """All problems of the place, in the order of the checks; empty when the engine may be started."""
    checks = (_gpus, _shared_memory, _memory, _fabric, _locked_memory, _nixl, _model, _ports)
    return [problem for check in checks for problem in check(spec, facts)]


def in_words(problems: list[Problem]) -> str:
    """One message for all of them."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"preflight found {count}: " + " | ".join(map(str, problems))


def _gpus(spec: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    if spec.gpus == 0:
        return
    if len(facts.gpus) < spec.gpus:
        why = f" ({facts.gpus_unseen_because})" if facts.gpus_unseen_because else ""
        yield Problem(
            "GPUs",
            f"{len(facts.gpus)} visible{why}, the worker needs {spec.gpus}",
            "the engine fails while it starts",
            "check the driver and what hides GPUs: nvidia.com/gpu limit, container runtime, CUDA_VISIBLE_DEVICES",
        )
    small = [gpu for gpu in facts.gpus[: spec.gpus] if gpu.memory_gib < spec.gpu_memory_gib * _SPARE]
    if small:
        yield Problem(
            "GPU memory",
            f"{small[0].name} has {small[0].memory_gib:.1f} GiB, "
            f"the worker was planned for {spec.gpu_memory_gib:.1f} GiB",
            "the engine runs out of memory while it loads, or serves far fewer requests than planned",
            "put the worker on the GPU that the service declares",
        )


def _shared_memory(spec: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    if spec.shm_gib <= 0:
        return
    free_gib = facts.shm_free_gib
    if free_gib is None or free_gib < spec.shm_gib * _SPARE:
        short = f"{free_gib or 0.0:.2f} GiB free, the worker needs {spec.shm_gib:.2f}"
        yield Problem(
            str(SHM_DIR),
            "it does not exist" if free_gib is None else short,
            "the engine's processes die of SIGBUS when they exchange data",
            "mount a larger one (an emptyDir with `medium: Memory`, docker --shm-size) or remove what fills it",
        )


def _memory(spec: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    if facts.memory_available_gib < spec.memory_gib * _SPARE:
        yield Problem(
            "memory",
            f"{facts.memory_available_gib:.1f} GiB available of {facts.memory_limit}, "
            f"the worker needs {spec.memory_gib:.1f}",
            "the kernel kills the engine under load",
            "stop something, raise the limit, or declare fewer workers or a smaller KV space",
        )


def _fabric(spec: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    slow = "KV goes over TCP in silence, ten to a hundred times slower, and every answer still says 200"
    if spec.kv_transport == "rdma" and not facts.rdma_devices:
        yield Problem(
            "RDMA",
            "no device under /dev/infiniband can be opened",
            slow,
            "ask for the fabric's device plugin resource, or declare kv_transport 'tcp'",
        )
    if spec.kv_transport == "efa" and not facts.efa_devices:
        yield Problem(
            "EFA",
            "no EFA device can be opened",
            slow,
            "ask for vpc.amazonaws.com/efa on an instance type that has it, or declare kv_transport 'tcp'",
        )


def _locked_memory(spec: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    if spec.kv_transport in ("rdma", "efa") and not math.isinf(facts.locked_memory_gib):
        yield Problem(
            "locked memory",
            f"the limit is {facts.locked_memory_gib:.3g} GiB, {spec.kv_transport} needs none",
            "registering KV memory with the network card fails, and KV falls to TCP or not at all",
            "add the IPC_LOCK capability, or set memlock to unlimited (ulimit -l, LimitMEMLOCK)",
        )


def _nixl(_: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    if facts.nixl_error is not None:
        yield Problem(
            "NIXL",
            f"an agent could not be made: {facts.nixl_error}",
            "the engine fails while it starts, or moves no KV",
            "use an image with nixl 1.5 for this Python and CUDA, and a backend that it holds",
        )


def _model(spec: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    if facts.model_error is not None:
        yield Problem(
            f"model {str(spec.model_path)!r}",
            facts.model_error,
            "the engine fails while it starts, or tries to download a model of that name",
            "mount the folder that holds config.json and the weights, readable for the worker's user",
        )


def _ports(_: WorkerSpec, facts: Facts) -> Iterator[Problem]:
    for port, why in facts.ports_busy.items():
        yield Problem(
            f"port {port}",
            why,
            "the engine fails after it has loaded the model, or a peer talks to a stranger",
            "stop what uses it or choose other ports",
        )
