"""The shapes that one worker may have: those to which no rule objects."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from pulumi_tandem.check import check
from pulumi_tandem.check.capacity import kv_gib, kv_room_gib, weights_gib
from pulumi_tandem.declare import Auto, DeclarationError, Pool, PoolShape, Service
from pulumi_tandem.estimate import EngineSetup, saturation_tokens
from pulumi_tandem.finding import Finding
from pulumi_tandem.plan.machine import Machine, machine
from pulumi_tandem.resolve import Resolved, ResolvedPool, resolve

Role = Literal["prefill", "decode", "serve"]

MACHINE_GPUS = 8
"""Most GPUs of one worker: those of a machine, which are linked best. This version deploys none over several."""
WAYS = (1, 2, 4, 8)
"""Tensor and pipeline parallelism that are tried, together on one machine."""
ENGINE_GIB = 3.0
"""Per GPU beside weights and KV: activations, graphs, communication buffers. vLLM's profile run finds 2 to 4 GiB."""
UNSHAPED = {"gpus_per_worker": None, "kv_cache_gib": None, "data_parallel": 1, "nodes_per_worker": 1}
"""Fields of a pool that go with its old shape."""
SEQUENCES_MAX = 1024
"""Most requests that one worker is given at once, vLLM's own default on large GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One worker's shape with what planning asks of it again and again."""

    pool: ResolvedPool
    setup: EngineSetup
    sequences_max: int
    """Requests of mean length whose KV fits beside the weights."""
    weights_gib: float
    """Per GPU; so for the next."""
    kv_gib: float
    """Room for keys and values."""
    machine: Machine
    """What it stands on."""

    @property
    def usd_per_hour(self) -> float | None:
        """Of one worker; None where its GPU's price is not known."""
        price = self.machine.usd_per_gpu_hour
        return None if price is None else price * self.gpus

    @property
    def gpus(self) -> int:
        """GPUs of one worker."""
        return self.setup.gpus

    @property
    def label(self) -> str:
        """`H100 TP2`, `L40S TP2 PP4`, `H100 TP4 EP`."""
        setup = self.setup
        stages = f" PP{setup.pipeline_parallel}" if setup.pipeline_parallel > 1 else ""
        return f"{setup.gpu.name} TP{setup.tensor_parallel}{stages}{' EP' if setup.expert_parallel else ''}"


@dataclass(frozen=True, slots=True)
class Candidates:
    """Shapes that may be, and why others may not."""

    shapes: tuple[Candidate, ...]
    refused: tuple[Finding, ...]


def candidates(service: Service, role: Role, declared: Pool | Auto, gpus: Iterable[str]) -> Candidates:
    """Every shape on these GPUs for a worker with the settings of `declared`, whatever shape that has itself.

    Prefill at the smallest batch that saturates the GPU; so does an aggregated worker, as a longer step only makes
    others wait.
    """
    shapes: list[Candidate] = []
    refused: list[Finding] = []
    for shape in (each for gpu in gpus for each in _shapes(gpu)):
        try:
            resolved = resolve(_alone(service, role, shaped(declared, shape)))
        except DeclarationError as error:
            refused += error.findings
            continue
        if shape.expert_parallel and resolved.architecture.experts == 1:
            continue  # the same shape as without
        errors = [each for each in check(resolved) if each.severity == "error"]
        refused += errors
        if not errors:
            shapes.append(_saturated(candidate(service, resolved, resolved.pools[0])))
    return Candidates(tuple(each for each in shapes if each.sequences_max), tuple(dict.fromkeys(refused)))


def candidate(service: Service, resolved: Resolved, pool: ResolvedPool) -> Candidate:
    """A pool's worker as it is declared."""
    assert service.workload is not None
    tokens = round(service.workload.prompts.mean + service.workload.outputs.mean)
    room_gib = kv_room_gib(resolved, pool) - (0.0 if pool.kv_cache_gib else ENGINE_GIB)
    setup = setup_of(resolved, pool)
    return Candidate(
        pool=pool,
        setup=setup,
        sequences_max=max(0, min(pool.sequences, int(room_gib / kv_gib(resolved, pool, tokens)))) * setup.data_parallel,
        weights_gib=weights_gib(resolved, pool),
        kv_gib=room_gib,
        machine=machine(
            service.usd_per_gpu_hour,
            pool.gpu.name,
            gpus=setup.gpus,
            transport=service.transfer.transport if resolved.disaggregated else None,
        ),
    )


def setup_of(resolved: Resolved, pool: ResolvedPool) -> EngineSetup:
    """What the estimate asks of a pool's engine."""
    return EngineSetup(
        engine="vllm" if pool.vllm else "tensorrt-llm",
        gpu=pool.gpu,
        shape=resolved.architecture,
        weight_dtype=_weight_dtype(resolved, pool),
        dtype=pool.dtype,
        kv_dtype=pool.kv_dtype,
        tensor_parallel=pool.tensor_parallel,
        pipeline_parallel=pool.pipeline_parallel,
        data_parallel=pool.data_parallel,
        expert_parallel=pool.expert_parallel,
        block_tokens=pool.block_tokens,
        batch_tokens=pool.batch_tokens,
        memory_fraction=pool.memory_fraction,
    )


def shaped(declared: Pool | Auto, shape: PoolShape) -> Pool:
    """A pool of that shape with all other settings of `declared`."""
    if isinstance(declared, Auto):
        return declared.pool(shape)
    return declared.model_copy(update=shape.model_dump() | UNSHAPED)


def pools_of(service: Service) -> Iterator[Pool | Auto]:
    """The declared pools."""
    yield from (pool for pool in (service.prefill, service.decode, service.serve) if pool)


def gpus_of(pool: Pool | Auto) -> tuple[str, ...]:
    """The GPUs that a pool may have."""
    return pool.gpus if isinstance(pool, Auto) else (pool.gpu,)


def _shapes(gpu: str) -> Iterator[PoolShape]:
    for tensor, stages in product(WAYS, WAYS):
        if tensor * stages <= MACHINE_GPUS:
            for experts_whole in (False, True) if tensor > 1 else (False,):
                yield PoolShape(
                    gpu=gpu,
                    workers=1,
                    tensor_parallel=tensor,
                    pipeline_parallel=stages,
                    expert_parallel=experts_whole,
                    sequences=SEQUENCES_MAX,
                    batch_tokens=8192,
                )


def _alone(service: Service, role: Role, pool: Pool) -> Service:
    """The service with nothing but this pool: aggregated, or a pair of equals, so that rules of pairs speak too."""
    pools = {"serve": pool, "prefill": None, "decode": None}
    if role != "serve":
        pools = {"serve": None, "prefill": pool, "decode": pool}
    return service.model_copy(update=pools)


def _saturated(found: Candidate) -> Candidate:
    return replace(found, setup=replace(found.setup, batch_tokens=saturation_tokens(found.setup)))


def _weight_dtype(resolved: Resolved, pool: ResolvedPool) -> str:
    """Type of the large weights; by what the checkpoint weighs where nobody states it."""
    if stated := resolved.architecture.quantisation:
        return stated.weights
    bits = 8 * resolved.weights_bytes / resolved.architecture.parameters
    if bits > 12:
        return pool.dtype
    if bits > 6:
        return "fp8"
    return "nvfp4" if pool.gpu.fp4_tflops else "mxfp4"
