"""Joins a declared service with the catalog and fills every default.

Input: `Service`. Output: `Resolved`, plain data; equal input gives equal output. After this room no
stage looks a fact up, and nothing is None that a later stage needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from pulumi_tandem import catalog
from pulumi_tandem.catalog import Engine, Gpu, Nodes, UnknownName
from pulumi_tandem.declare import (
    Architecture,
    Autoscaler,
    Cluster,
    FrontDoor,
    Grace,
    Limits,
    Objectives,
    Pod,
    Pool,
    Ratio,
    Service,
    TokenSecret,
    Transfer,
    Vllm,
    Workload,
)
from pulumi_tandem.declare.model import DTYPE_BYTES, GIB
from pulumi_tandem.declare.pinned import with_pinned_pools
from pulumi_tandem.finding import DeclarationError, Finding

Phase = Literal["prefill", "decode"]
_Row = TypeVar("_Row")

CPU_ENGINE_GIB = 2.0
"""Memory of vLLM's CPU processes beside weights and KV; 3.4 GiB measured with 0.25 of weights and 1 of KV (0.32.0)."""
CPU_PROGRESS_DELAY_US = 5_000
"""NIXL's thread polls without a pause by default: an idle pair burns two cores, at 5,000 us a tenth of that."""
UNBOUND = "nobind"
"""vLLM's word for a CPU engine whose threads are bound to no cores."""
BF16_GAP_NATS = 0.5
FLOAT32_GAP_NATS = 0.01
"""Prefill and decode kernels sum in another order: in bfloat16, answers of 14 of 20 requests were equal token for
token and the rest parted at near ties; in float32 all 20 were equal (vLLM 0.32.0 on a CPU)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPool:
    """A pool with nothing left open; `Pool` says what each field means."""

    name: str
    """`prefill`, `decode` or `serve`."""
    phase: Phase
    phases: tuple[Phase, ...]
    gpu: Gpu
    gpus_per_worker: int
    """0 on a CPU."""
    workers: int
    tensor_parallel: int
    engine: Vllm
    release: Engine
    model_ref: str
    """What the engine is given as its model: the path, else the name."""
    model_path: str | None
    dtype: str
    kv_dtype: str
    attention_backend: str
    context_tokens: int
    sequences: int
    batch_tokens: int
    block_tokens: int
    memory_fraction: float
    kv_cache_gib: float | None
    """None: what `memory_fraction` leaves on the GPU."""
    host_memory_gib: float
    """0: not stated."""
    cpu_cores: str
    eager: bool
    pod: Pod
    autoscalers: tuple[Autoscaler, ...]
    nodes: Nodes | None
    """Machines that its pods go to; None: not known."""
    env: tuple[tuple[str, str], ...]
    """Sorted by name."""
    extra_args: tuple[str, ...]
    speculation: str
    """Speculative decoding as the extra flags ask for it; empty: none."""

    @property
    def on_cpu(self) -> bool:
        """Whether the worker computes on the machine's cores."""
        return self.gpu.name == "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A service with nothing left open."""

    name: str
    served_names: tuple[str, ...]
    model_name: str
    model_revision: str | None
    architecture: Architecture
    weights_bytes: int
    disaggregated: bool
    pools: tuple[ResolvedPool, ...]
    """`prefill` and `decode` in this order, or `serve` alone."""
    workload: Workload | None
    """None: not declared; so for the next."""
    objectives: Objectives | None
    transfer: Transfer
    progress_delay_us: int | None
    """None: the transfer library's own."""
    limits: Limits
    grace: Grace
    survivors_serve_both: bool
    resume: bool
    in_place: bool
    keep_failed: bool
    divergence_gap_nats_max: float
    cluster: Cluster | None
    """None: not known; nothing is judged by it."""
    node_pools: tuple[Nodes, ...]
    paired_pods: bool
    front_door: FrontDoor | None
    prefill_per_decode: Ratio | None
    token_secret: TokenSecret | None
    gated: bool
    """Whether the model hub wants a token for the model."""

    def pool(self, name: str) -> ResolvedPool:
        """The pool of that name, which must be there."""
        return next(pool for pool in self.pools if pool.name == name)


def resolve(service: Service) -> Resolved:
    """The service with every fact and default filled in.

    Raises DeclarationError with every name that the catalog does not know, or every pool whose shape is not pinned.
    """
    service = with_pinned_pools(service)
    unknown: list[Finding] = []
    weights = _weights(service, unknown)
    declared = {"prefill": service.prefill, "decode": service.decode, "serve": service.serve}
    found = [_pool(service, name, pool, weights, unknown) for name, pool in declared.items() if isinstance(pool, Pool)]
    pools = tuple(pool for pool in found if pool)
    if unknown:
        raise DeclarationError(dict.fromkeys(unknown))
    assert weights is not None
    served = service.served_names or (service.model.name,)
    exact = all(pool.dtype == "float32" for pool in pools)
    gap = service.divergence_gap_nats_max
    delay_us = service.transfer.progress_delay_us
    if delay_us is None and any(pool.on_cpu for pool in pools):
        delay_us = CPU_PROGRESS_DELAY_US
    return Resolved(
        name=service.name,
        served_names=tuple(dict.fromkeys(served)),
        model_name=service.model.name,
        model_revision=service.model.revision,
        architecture=weights.shape,
        weights_bytes=weights.bytes_in_all,
        disaggregated=service.serve is None,
        pools=pools,
        workload=service.workload,
        objectives=service.objectives,
        transfer=service.transfer,
        progress_delay_us=delay_us,
        limits=service.limits,
        grace=service.grace,
        survivors_serve_both=service.survivors_serve_both,
        resume=service.resume,
        in_place=service.rollout == "in_place",
        keep_failed=service.keep_failed,
        cluster=service.cluster,
        node_pools=_node_pools(service),
        paired_pods=service.pods == "paired",
        front_door=service.front_door,
        prefill_per_decode=service.prefill_per_decode,
        token_secret=service.token_secret,
        gated=service.model.gated,
        divergence_gap_nats_max=gap if gap is not None else FLOAT32_GAP_NATS if exact else BF16_GAP_NATS,
    )


def _node_pools(service: Service) -> tuple[Nodes, ...]:
    return tuple(catalog.nodes(pool) for pool in (service.cluster.node_pools if service.cluster else ()))


def _nodes_of(service: Service, pool: Pool) -> Nodes | None:
    """The node pool that is named, or the only one."""
    found = _node_pools(service)
    if pool.pod.node_pool is None:
        return found[0] if len(found) == 1 else None
    return next((nodes for nodes in found if nodes.name == pool.pod.node_pool), None)


@dataclass(frozen=True, slots=True)
class _Weights:
    shape: Architecture
    bytes_in_all: int


def _weights(service: Service, unknown: list[Finding]) -> _Weights | None:
    """Shape of the model and bytes of its weights; None where the catalog does not have it."""
    model = service.model
    row = None
    if model.architecture is None:
        row = _find(
            lambda: catalog.model(model.name),
            f"{service.name}.model.name",
            "or give architecture=tandem.Architecture(...) from its config.json",
            unknown,
        )
        if row is None:
            return None
    shape = model.architecture or (row and row.architecture)
    assert shape is not None
    weights_gib = model.weights_gib or (row and row.weights_gib)
    if weights_gib:
        return _Weights(shape, int(weights_gib * GIB))
    return _Weights(shape, shape.parameters * DTYPE_BYTES[model.dtype or shape.dtype])


def _pool(
    service: Service,
    name: str,
    pool: Pool,
    weights: _Weights | None,
    unknown: list[Finding],
) -> ResolvedPool | None:
    engine = pool.engine or service.engine
    path = f"{service.name}.{name}"
    engine_path = f"{path}.engine.version" if pool.engine else f"{service.name}.engine.version"
    gpu = _find(lambda: catalog.gpu(pool.gpu), f"{path}.gpu", "", unknown)
    release = _find(lambda: catalog.engine("vllm", engine.version), engine_path, "", unknown)
    if gpu is None or release is None or weights is None:
        return None
    on_cpu = gpu.name == "cpu"
    phase: Phase = "prefill" if name == "prefill" else "decode"
    both = name == "serve" or service.survivors_serve_both
    tensor_parallel = pool.tensor_parallel or pool.gpus_per_worker or 1
    sequences = pool.sequences or (8 if on_cpu else 256)
    kv_cache_gib = pool.kv_cache_gib or (1.0 if on_cpu else None)
    path_of_model = pool.model_path or service.model.path
    cpu_gib = weights.bytes_in_all / GIB + (kv_cache_gib or 0.0) * tensor_parallel + CPU_ENGINE_GIB
    return ResolvedPool(
        name=name,
        phase=phase,
        phases=("prefill", "decode") if both else (phase,),
        gpu=gpu,
        gpus_per_worker=0 if on_cpu else pool.gpus_per_worker or tensor_parallel,
        workers=pool.workers,
        tensor_parallel=tensor_parallel,
        engine=engine,
        release=release,
        model_ref=path_of_model or service.model.name,
        model_path=path_of_model,
        dtype=pool.dtype or service.model.dtype or weights.shape.dtype,
        kv_dtype=pool.kv_dtype,
        attention_backend=engine.attention_backend or attention_backend(gpu, pool.kv_dtype),
        context_tokens=pool.context_tokens or service.context_tokens or weights.shape.positions_max,
        sequences=sequences,
        batch_tokens=pool.batch_tokens or max(2_048 if on_cpu else 8_192, sequences),
        block_tokens=pool.block_tokens or (128 if on_cpu else 64),
        memory_fraction=pool.memory_fraction,
        kv_cache_gib=kv_cache_gib,
        host_memory_gib=pool.host_memory_gib or (round(cpu_gib, 2) if on_cpu else 0.0),
        cpu_cores=pool.cpu_cores or UNBOUND,
        eager=pool.eager if pool.eager is not None else on_cpu,
        pod=pool.pod,
        autoscalers=pool.autoscalers,
        nodes=_nodes_of(service, pool),
        env=tuple(sorted(pool.env.items())),
        extra_args=pool.extra_args,
        speculation=speculation(pool.extra_args),
    )


def attention_backend(gpu: Gpu, kv_dtype: str) -> str:
    """What vLLM 0.32 and 0.33 choose by themselves for a model without latent attention.

    Source: platforms/cuda.py, the first of its priorities that takes the KV type; FLASH_ATTN
    takes fp8 from compute capability 9.0. CPU: platforms/cpu.py.
    """
    if gpu.name == "cpu":
        return "CPU_ATTN"
    if gpu.compute_capability // 10 == 10:
        return "FLASHINFER"
    if kv_dtype.startswith("fp8") and gpu.compute_capability < 90:
        return "FLASHINFER"
    return "FLASH_ATTN"


def speculation(extra_args: tuple[str, ...]) -> str:
    """The flags among `extra_args` that set up speculative decoding, which cannot be declared otherwise."""
    flags = [each for each in split_flags(extra_args) if each[0] in {"-sc", "--speculative-config"}]
    flags += [each for each in split_flags(extra_args) if each[0].startswith(("--spec-", "--speculative-config."))]
    return " ".join(word for flag in sorted(flags) for word in flag)


def split_flags(extra_args: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Flags with their values: `--a=1 --b_c 2 3` gives (--a, 1), (--b-c, 2, 3).

    vLLM's parser takes underscores for dashes, and `--group.key` for one key of a JSON value.
    """
    flags: list[tuple[str, ...]] = []
    for word in extra_args:
        name, equals, value = word.partition("=")
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
            flags.append((name.replace("_", "-"), *([value] if equals else [])))
        elif flags:
            flags[-1] = (*flags[-1], word)
    return flags


def _find(look_up: Callable[[], _Row], path: str, otherwise: str, unknown: list[Finding]) -> _Row | None:
    """The row, or None and one more finding."""
    try:
        return look_up()
    except UnknownName as error:
        near = f"write {error.nearest!r}" if error.nearest else f"use one of: {', '.join(error.known)}"
        unknown.append(
            Finding(
                code="TND0004",
                severity="error",
                path=path,
                message=f"{error}; what it needs and what it can do is unknown",
                fix=f"{near}{', ' if otherwise else ''}{otherwise}",
                source="pulumi_tandem.catalog",
            )
        )
        return None
