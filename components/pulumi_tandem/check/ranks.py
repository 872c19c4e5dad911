"""Codes 0080 to 0089: experts, ranks, nodes, slices and GPUs that are shared."""

from collections import defaultdict
from collections.abc import Iterator

from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

SHARE_MAX = 1.0


@rule(
    code="TND0080",
    title="experts are spread only where there are experts",
    story="""Expert parallelism gives whole experts to GPUs. A dense model has none, and the engine refuses at
    start.""",
    source="vLLM 0.32/0.33 config/model.py: number of experts must be greater than 0",
)
def experts_exist(resolved: Resolved) -> Iterator[Breach]:
    """expert_parallel stands on mixtures of experts only."""
    for pool in resolved.pools:
        if pool.expert_parallel and resolved.architecture.experts == 1:
            message = f"{resolved.model_name} has no experts to spread; the engine would not start"
            yield Breach(path=f"{pool.name}.expert_parallel", message=message, fix="drop expert_parallel")


@rule(
    code="TND0081",
    title="experts can be dealt out evenly over the GPUs that share them",
    story="""With expert parallelism every GPU of tensor x data parallelism holds the same number of experts, redundant
    ones included. Otherwise the engine stops on an assertion while it builds the model.""",
    source="vLLM 0.32/0.33 model_executor/models/deepseek_v2.py: n_physical_experts and ep_size; vllm#52435",
)
def experts_divide(resolved: Resolved) -> Iterator[Breach]:
    """The number of experts is divisible by the GPUs that share them."""
    experts = resolved.architecture.experts
    for pool in resolved.pools:
        sharing = pool.tensor_parallel * pool.data_parallel
        redundant = any("redundant" in word for word in pool.extra_args)
        if not pool.vllm or not pool.expert_parallel or experts == 1 or experts % sharing == 0 or redundant:
            continue
        field = "data_parallel" if pool.data_parallel > 1 else "tensor_parallel"
        fits = ", ".join(str(n) for n in range(2, 129) if experts % n == 0)
        message = f"{experts} experts cannot be dealt out evenly over {sharing} GPUs; the engine would not start"
        fix = f"let one of {fits} GPUs share them, or add redundant experts (--eplb-config)"
        yield Breach(path=f"{pool.name}.{field}", message=message, fix=fix)


@rule(
    code="TND0082",
    title="a worker's GPUs are dealt out evenly over its nodes",
    story="""Every node of a worker runs as many ranks as the others. --data-parallel-size-local says how many ranks
    of data parallelism stand on one node; nodes and ranks that do not multiply leave the group waiting for ranks that
    never come.""",
    source="vLLM 0.32/0.33 config/parallel.py: nnodes, data_parallel_size_local",
)
def nodes_divide(resolved: Resolved) -> Iterator[Breach]:
    """GPUs, nodes and local ranks multiply."""
    for pool in resolved.pools:
        if pool.gpus_per_worker % pool.nodes_per_worker:
            message = f"{pool.gpus_per_worker} GPUs cannot be dealt out evenly over {pool.nodes_per_worker} nodes"
            fix = "give nodes_per_worker a divisor of the worker's GPUs"
            yield Breach(path=f"{pool.name}.nodes_per_worker", message=message, fix=fix)
        local = _local_ranks(pool)
        if pool.gpus_per_worker < pool.ranks:
            continue  # TND0025 tells of it
        if local and local * pool.nodes_per_worker != pool.data_parallel:
            message = (
                f"{local} ranks on each of {pool.nodes_per_worker} nodes are not {pool.data_parallel}; the engine "
                "would wait for ranks that never come"
            )
            fix = f"use --data-parallel-size-local={max(1, pool.data_parallel // pool.nodes_per_worker)}"
            yield Breach(path=f"{pool.name}.extra_args", message=message, fix=fix)


@rule(
    code="TND0083",
    title="ranks that work together have whole GPUs",
    story="""A process sees one MIG slice, and slices have no path to each other: the engine cannot form a group of
    them, and no GPU-to-GPU transfer leaves one.""",
    source="NVIDIA MIG User Guide: no GPU-to-GPU P2P; vllm#7211",
)
def no_slices_in_groups(resolved: Resolved) -> Iterator[Breach]:
    """Workers over several GPUs are not made of slices."""
    for pool in resolved.pools:
        if pool.mig and pool.ranks > 1:
            message = f"{pool.ranks} ranks cannot work together over MIG slices ({pool.mig}); it would not start"
            fix = "use whole GPUs, or one slice per worker"
            yield Breach(path=f"{pool.name}.mig", message=message, fix=fix)


@rule(
    code="TND0084",
    title="engines on one GPU ask for no more than it has",
    story="""memory_fraction is a share of the whole card for each engine. Two engines that are pinned to one GPU, or
    share it by time slicing, add up; whichever starts second finds no memory for its cache.""",
    source="vLLM 0.32/0.33 v1/worker/gpu_worker.py: free memory against gpu_memory_utilization; vllm#10533",
)
def shares_add_up(resolved: Resolved) -> Iterator[Breach]:
    """Fractions of all workers on one device add up to at most one."""
    on_device: dict[str, list[ResolvedPool]] = defaultdict(list)
    for pool in resolved.pools:
        if pool.device and pool.vllm:
            on_device[pool.device].append(pool)
    for device, pools in on_device.items():
        share = sum(pool.memory_fraction * pool.workers for pool in pools)
        if share > SHARE_MAX:
            engines = sum(pool.workers for pool in pools)
            message = (
                f"{engines} engines on {device} take {share:.2f} of its memory together; the last to start finds none "
                "for its KV"
            )
            fix = f"use at most memory_fraction={int(90 / engines) / 100:g} each, or a GPU for each"
            for pool in pools:
                yield Breach(path=f"{pool.name}.memory_fraction", message=message, fix=fix)


@rule(
    code="TND0085",
    severity="warning",
    title="an engine leaves some of the card to others",
    story="""The driver, CUDA's contexts, graphs that are captured after the cache was sized, and the symmetric heap of
    expert all-to-all libraries lie outside the engine's budget. Above 0.95 a small model runs out of memory at start, a
    large one under load.""",
    source="vLLM 0.32/0.33 config/cache.py gpu_memory_utilization (default 0.92); vllm#10797; llm-d wide-EP guide: 0.8",
)
def some_is_left(resolved: Resolved) -> Iterator[Breach]:
    """memory_fraction is at most 0.95 with vLLM."""
    for pool in resolved.pools:
        if pool.vllm and not pool.on_cpu and pool.memory_fraction > 0.95:
            message = (
                f"{pool.memory_fraction:g} of {pool.gpu.name}'s {pool.gpu.memory_gib:g} GiB leaves nothing to the "
                "driver, graphs and communication buffers; expect out-of-memory at start or under load"
            )
            yield Breach(path=f"{pool.name}.memory_fraction", message=message, fix="stay at or below 0.95")


@rule(
    code="TND0086",
    title="early releases have as much KV on decode as on prefill",
    story="""The first releases of the NIXL connector asserted that decode has at least as many blocks as prefill, so
    that a smaller memory fraction on decode broke the first hand-off.""",
    source="vllm#19338: assert self.num_blocks >= nixl_agent_meta.num_blocks (0.9)",
)
def blocks_do_not_shrink(resolved: Resolved) -> Iterator[Breach]:
    """Before 0.10, decode has no less memory than prefill, all else being equal."""
    if not resolved.disaggregated:
        return
    prefill, decode = resolved.pool("prefill"), resolved.pool("decode")
    alike = prefill.ranks == decode.ranks and prefill.gpu.memory_gib == decode.gpu.memory_gib
    early = decode.vllm and decode.release_numbers < (0, 10) and decode.moves_kv_by("Nixl")
    if early and alike and decode.memory_fraction < prefill.memory_fraction:
        message = (
            f"decode takes {decode.memory_fraction:g} of its GPUs and prefill {prefill.memory_fraction:g}; vLLM "
            f"{decode.engine.version} asserts that decode has no fewer blocks"
        )
        fix = f"use memory_fraction={prefill.memory_fraction:g} on both, or a newer vLLM"
        yield Breach(path="decode.memory_fraction", message=message, fix=fix)


def _local_ranks(pool: ResolvedPool) -> int | None:
    for flag, *values in split_flags(pool.extra_args):
        if flag == "--data-parallel-size-local" and values and values[0].isdigit():
            return int(values[0])
    return None
