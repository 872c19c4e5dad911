"""Joins a declared service with the catalog and fills every default.

Input: `Service`. Output: `Resolved`, plain data; equal input gives equal output. After this room no
stage looks a fact up, and nothing is None that a later stage needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pulumi_tandem import catalog
from pulumi_tandem.catalog import Gpu, Nodes, UnknownName
from pulumi_tandem.declare import (
    Architecture,
    Autoscaler,
    Cluster,
    Engine,
    FrontDoor,
    Grace,
    Limits,
    Objectives,
    Pod,
    Pool,
    Ratio,
    Service,
    Speculation,
    TensorRtLlm,
    TokenSecret,
    Transfer,
    Vllm,
    Workload,
)
from pulumi_tandem.declare.model import GIB
from pulumi_tandem.declare.pinned import with_pinned_pools
from pulumi_tandem.finding import DeclarationError, Finding
from pulumi_tandem.resolve.batch import default_batch_tokens
from pulumi_tandem.resolve.engine import (
    BACKENDS,
    HYBRID_BY_DEFAULT,
    HYBRID_CONNECTORS,
    Phase,
    ResolvedConnector,
    attention_backend,
    default_backend,
    default_block_tokens,
    default_hybrid,
    draft_kv_of,
    gpu_slice,
    resolved_connector,
    split_flags,
)

__all__ = [
    "BACKENDS",
    "HYBRID_BY_DEFAULT",
    "HYBRID_CONNECTORS",
    "UNBOUND",
    "Phase",
    "Resolved",
    "ResolvedConnector",
    "ResolvedPool",
    "attention_backend",
    "resolve",
    "split_flags",
]

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
    """`prefill`, `decode`, `flexible` or `serve`."""
    phase: Phase
    phases: tuple[Phase, ...]
    gpu: Gpu
    gpus_per_worker: int
    """0 on a CPU."""
    workers: int
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    expert_parallel: bool
    nodes_per_worker: int
    engine: Engine
    release: catalog.Engine
    connector: ResolvedConnector
    model_ref: str
    """What the engine is given as its model: the path, else the name."""
    model_path: str | None
    model_revision: str | None
    dtype: str
    kv_dtype: str
    attention_backend: str
    hybrid_kv_cache: bool
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
    image: str | None
    image_arch: str | None
    metrics_path: str | None
    device: str | None
    mig: str | None

    @property
    def on_cpu(self) -> bool:
        """Whether the worker computes on the machine's cores."""
        return self.gpu.name == "cpu"

    @property
    def ranks(self) -> int:
        """GPUs that the parallelism takes."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def speculation(self) -> Speculation | None:
        """Speculative decoding, if any."""
        return self.engine.speculation

    @property
    def draft_kv(self) -> str:
        """Method and model of a speculation that has KV of its own, which both pools must share; empty: none."""
        return draft_kv_of(self.engine.speculation)

    @property
    def vllm(self) -> Vllm | None:
        """The engine, where it is vLLM."""
        return self.engine if isinstance(self.engine, Vllm) else None

    @property
    def tensorrt_llm(self) -> TensorRtLlm | None:
        """The engine, where it is TensorRT-LLM."""
        return self.engine if isinstance(self.engine, TensorRtLlm) else None

    @property
    def engine_name(self) -> str:
        """As people write it."""
        return "vLLM" if isinstance(self.engine, Vllm) else "TensorRT-LLM"

    def moves_kv_by(self, family: str) -> bool:
        """Whether the connector, or a part of it, has a name that begins so: `Nixl`."""
        names = self.connector.children or (self.connector.name or "",)
        return any(name.startswith(family) for name in names)

    @property
    def release_numbers(self) -> tuple[int, ...]:
        """The engine's version, to compare with."""
        return catalog.version(self.engine.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A service with nothing left open."""

    name: str
    served_names: tuple[str, ...]
    model_name: str
    architecture: Architecture
    weights_bytes: int
    disaggregated: bool
    flexible: bool
    """Whether workers change between the phases."""
    prompt_tokens_max: int | None
    """None: not declared."""
    pools: tuple[ResolvedPool, ...]
    """`prefill` and `decode` in this order, or `flexible` or `serve` alone."""
    workload: Workload | None
    """None: not declared; so for the next."""
    objectives: Objectives | None
    transfer: Transfer
    progress_delay_us: int | None
    """None: the transfer library's own."""
    limits: Limits
    grace: Grace
    survivors_serve_both: bool
    hand_off_tokens_min: int | None
    """None: where a hand-off begins to pay."""
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
    declared = {
        "prefill": service.prefill,
        "decode": service.decode,
        "flexible": service.flexible,
        "serve": service.serve,
    }
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
        architecture=weights.shape,
        weights_bytes=weights.bytes_in_all,
        disaggregated=service.serve is None,
        flexible=service.flexible is not None,
        prompt_tokens_max=service.prompt_tokens_max,
        pools=pools,
        workload=service.workload,
        objectives=service.objectives,
        transfer=service.transfer,
        progress_delay_us=delay_us,
        limits=service.limits,
        grace=service.grace,
        survivors_serve_both=_survivors_serve_both(service),
        hand_off_tokens_min=service.hand_off_tokens_min,
        resume=service.resume and not _runs_tensorrt_llm(service),
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


def _survivors_serve_both(service: Service) -> bool:
    """As declared with vLLM, whose workers have no role of their own; never with TensorRT-LLM.

    A context server without the overlap scheduler and CUDA graphs would decode, and many times slower.
    """
    return service.survivors_serve_both and not _runs_tensorrt_llm(service)


def _runs_tensorrt_llm(service: Service) -> bool:
    pools = (
        pool for pool in (service.prefill, service.decode, service.flexible, service.serve) if isinstance(pool, Pool)
    )
    return any(isinstance(pool.engine or service.engine, TensorRtLlm) for pool in pools)


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
    if model.weights_gib:
        return _Weights(shape, int(model.weights_gib * GIB))
    return _Weights(shape, shape.weights_bytes(model.dtype or shape.dtype))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the catalog says of one pool."""

    gpu: Gpu
    release: catalog.Engine
    weights: _Weights


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
    kind = "vllm" if isinstance(engine, Vllm) else "tensorrt-llm"
    gpu = _find(lambda: catalog.gpu(pool.gpu), f"{path}.gpu", "", unknown)
    release = _find(lambda: catalog.engine(kind, engine.version), engine_path, "", unknown)
    if gpu is None or release is None or weights is None:
        return None
    whole_or_slice = gpu if pool.mig is None else gpu_slice(gpu, pool.mig)
    return _filled(service, name, pool, _Facts(whole_or_slice, release, weights))


def _filled(service: Service, name: str, pool: Pool, facts: _Facts) -> ResolvedPool:
    engine, gpu, weights = pool.engine or service.engine, facts.gpu, facts.weights
    on_cpu = gpu.name == "cpu"
    phase: Phase = "prefill" if name == "prefill" else "decode"
    both = name in ("flexible", "serve") or _survivors_serve_both(service)
    shared = pool.pipeline_parallel * pool.data_parallel
    tensor_parallel = pool.tensor_parallel or max(1, (pool.gpus_per_worker or 1) // shared)
    sequences = pool.sequences or (8 if on_cpu else 256)
    kv_cache_gib = pool.kv_cache_gib or (1.0 if on_cpu else None)
    path_of_model = pool.model_path or service.model.path
    cpu_gib = weights.bytes_in_all / GIB + (kv_cache_gib or 0.0) * tensor_parallel + CPU_ENGINE_GIB
    connector = resolved_connector(pool.connector or service.transfer.connector, phase, engine, on_cpu=on_cpu)
    latent = weights.shape.latent_dim > 0
    dtype = pool.dtype or service.model.dtype or weights.shape.dtype
    batch_tokens = default_batch_tokens(
        pool, engine, gpu=gpu, shape=weights.shape, dtype=dtype, reads=name == "prefill"
    )
    return ResolvedPool(
        name=name,
        phase=phase,
        phases=("prefill", "decode") if both else (phase,),
        gpu=gpu,
        gpus_per_worker=0 if on_cpu else pool.gpus_per_worker or tensor_parallel * shared,
        workers=pool.workers,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pool.pipeline_parallel,
        data_parallel=pool.data_parallel,
        expert_parallel=pool.expert_parallel,
        nodes_per_worker=pool.nodes_per_worker,
        engine=engine,
        release=facts.release,
        connector=connector,
        model_ref=path_of_model or service.model.name,
        model_path=path_of_model,
        model_revision=pool.model_revision or service.model.revision,
        dtype=dtype,
        kv_dtype=pool.kv_dtype,
        attention_backend=engine.attention_backend or default_backend(engine, gpu, pool.kv_dtype, latent=latent),
        hybrid_kv_cache=default_hybrid(engine, connector, disaggregated=service.serve is None),
        context_tokens=pool.context_tokens or service.context_tokens or weights.shape.positions_max,
        sequences=sequences,
        batch_tokens=pool.batch_tokens or max(batch_tokens, sequences),
        block_tokens=pool.block_tokens or default_block_tokens(engine, on_cpu=on_cpu),
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
        image=pool.image,
        image_arch=pool.image_arch,
        metrics_path=pool.metrics_path,
        device=pool.device,
        mig=pool.mig,
    )


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
