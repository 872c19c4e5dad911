"""Codes 0020 to 0029: blocks, heads and GPUs."""

from collections.abc import Iterator

from pulumi_tandem.check.asked import GPU, gpus_per_pod
from pulumi_tandem.check.pair import vllm_pair
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import UNBOUND, Resolved, ResolvedPool

_TOPOLOGY = "vLLM 0.32/0.33 distributed/kv_transfer/kv_connector/utils.py, TransferTopology"


@rule(
    code="TND0020",
    title="decode's KV block is prefill's, or a multiple of it",
    story="""Decode reads prefill's blocks into its own, so one of its blocks must hold a whole number of them. Where
    prefill has the larger tensor parallelism the blocks must be equal. It is asserted at the first hand-off between
    two workers: engines look healthy until then.""",
    source=f"{_TOPOLOGY}.block_size_ratio; nixl/base_worker.py, _validate_remote_agent_handshake",
)
def block_sizes(resolved: Resolved) -> Iterator[Breach]:
    """Decode's block is divisible by prefill's; equal where prefill is split over more GPUs."""
    two = vllm_pair(resolved)
    if not two:
        return
    prefill, decode = two
    sizes = f"a block is {decode.block_tokens} tokens on decode and {prefill.block_tokens} on prefill"
    fix = f"set block_tokens={prefill.block_tokens} on both"
    if decode.block_tokens % prefill.block_tokens:
        message = f"{sizes}, which does not divide it; the first hand-off would fail an assertion in decode"
        yield Breach(path="decode.block_tokens", message=message, fix=f"{fix}, or a multiple of it on decode")
    elif decode.block_tokens != prefill.block_tokens and prefill.tensor_parallel > decode.tensor_parallel:
        message = (
            f"{sizes}, and prefill is split over more GPUs ({prefill.tensor_parallel} against "
            f"{decode.tensor_parallel}); blocks must then be equal, or the first hand-off fails"
        )
        yield Breach(path="decode.block_tokens", message=message, fix=fix)


@rule(
    code="TND0021",
    title="a KV block on a CPU is a multiple of 32 tokens",
    story="""The CPU's attention kernel reads blocks of 32 tokens; for any other size the engine finds no common block
    size and does not start.""",
    source="vLLM 0.32 v1/attention/backends/cpu_attn.py get_supported_kernel_block_sizes; v1/worker/utils.py",
)
def cpu_blocks(resolved: Resolved) -> Iterator[Breach]:
    """Blocks on a CPU are what its kernel reads."""
    for pool in resolved.pools:
        multiple = pool.release.cpu_block_multiple
        if pool.on_cpu and pool.block_tokens % multiple:
            message = f"a block of {pool.block_tokens} tokens is no multiple of {multiple}; the engine would not start"
            yield Breach(path=f"{pool.name}.block_tokens", message=message, fix=f"use {4 * multiple}, the default")


@rule(
    code="TND0022",
    title="one pool's tensor parallelism divides the other's",
    story="""Each rank of one side reads from a whole number of ranks of the other. 2 and 4 pair, 4 and 6 do not: an
    assertion at the handshake, after both engines came up healthy.""",
    source=f"{_TOPOLOGY}.tp_ratio",
)
def parallel_ratio(resolved: Resolved) -> Iterator[Breach]:
    """Tensor parallelism of the pair divides, one way or the other."""
    two = vllm_pair(resolved)
    if not two:
        return
    prefill, decode = two[0].tensor_parallel, two[1].tensor_parallel
    starts = all(deals_out(resolved, pool) for pool in two)
    if max(prefill, decode) % min(prefill, decode) and starts:
        message = (
            f"decode is split over {decode} GPUs and prefill over {prefill}; neither divides the other, "
            "and the first hand-off would fail an assertion"
        )
        yield Breach(path="decode.tensor_parallel", message=message, fix=f"use {prefill} on both, or a multiple")


@rule(
    code="TND0023",
    title="a prefill pool that is split more than decode has a KV head for every GPU",
    story="""With more GPUs than KV heads each head is held several times. Decode cannot read from such a prefill
    side when it is itself split less.""",
    source="vLLM 0.32/0.33 nixl/base_worker.py, _validate_remote_agent_handshake",
)
def replicated_prefill(resolved: Resolved) -> Iterator[Breach]:
    """Prefill's KV is not replicated where decode is split less."""
    two = vllm_pair(resolved)
    if not two:
        return
    prefill, decode = two[0].tensor_parallel, two[1].tensor_parallel
    heads = resolved.architecture.kv_heads
    if prefill > decode and prefill > heads and not resolved.architecture.latent_dim:
        message = (
            f"prefill is split over {prefill} GPUs, more than the model's {heads} KV heads, and decode over {decode}; "
            "the handshake between them would fail"
        )
        fix = f"use at most {heads} on prefill, or {prefill} on decode"
        yield Breach(path="prefill.tensor_parallel", message=message, fix=fix)


@rule(
    code="TND0024",
    title="attention and KV heads can be dealt out over the GPUs of a worker",
    story="""Attention heads are dealt evenly, so their number must be divisible by the tensor parallelism. KV heads
    are dealt evenly or, with more GPUs than heads, each is held by the same number of GPUs. Otherwise the engine
    stops at start.""",
    source="vLLM 0.32/0.33 config/model.py verify_with_parallel_config; model_executor/models/llama.py",
)
def heads_divide(resolved: Resolved) -> Iterator[Breach]:
    """Heads are divisible by the tensor parallelism of every pool."""
    attention, kv = resolved.architecture.attention_heads, _cached_heads(resolved)
    for pool in resolved.pools:
        split = pool.tensor_parallel
        if deals_out(resolved, pool):
            continue
        fits = [n for n in range(1, attention + 1) if attention % n == 0 and (kv % n == 0 or n % kv == 0)]
        what = f"{attention} attention heads" if attention % split else f"{kv} KV heads"
        message = f"{what} cannot be dealt out evenly over {split} GPUs; the engine would not start"
        yield Breach(
            path=f"{pool.name}.tensor_parallel",
            message=message,
            fix=f"use one of: {', '.join(str(n) for n in fits if n <= 64)}",
        )


@rule(
    code="TND0025",
    title="a worker has the GPUs that its parallelism needs",
    story="""The engine starts one process a GPU; on a machine or in a pod with fewer, it fails at start, after the
    node was paid for.""",
    source="vLLM 0.32/0.33 config/parallel.py, world size against visible devices",
)
def enough_gpus(resolved: Resolved) -> Iterator[Breach]:
    """GPUs per worker are at least what tensor, pipeline and data parallelism take together."""
    for pool in resolved.pools:
        if not pool.on_cpu and pool.gpus_per_worker < pool.ranks:
            message = (
                f"a worker has {pool.gpus_per_worker} GPUs and {parallelism(pool)} asks for {pool.ranks}; "
                "the engine would not start"
            )
            fix = f"set gpus_per_worker={pool.ranks}, or drop it"
            yield Breach(path=f"{pool.name}.gpus_per_worker", message=message, fix=fix)
        elif _asked(pool) < gpus_per_pod(pool):
            message = f"a pod asks for {_asked(pool)} GPUs and its ranks need {gpus_per_pod(pool)}; it would not start"
            yield Breach(path=f"{pool.name}.pod.resources", message=message, fix=f"ask for {gpus_per_pod(pool)}")


@rule(
    code="TND0026",
    severity="warning",
    title="a worker uses all of its GPUs",
    story="""GPUs beyond what the parallelism takes are reserved for the worker, and idle: nobody else can have
    them.""",
    source="pulumi_tandem.check",
)
def no_idle_gpus(resolved: Resolved) -> Iterator[Breach]:
    """GPUs per worker are not more than the parallelism takes."""
    for pool in resolved.pools:
        idle = pool.gpus_per_worker - pool.ranks
        if not pool.on_cpu and idle > 0:
            message = f"{idle} of a worker's {pool.gpus_per_worker} GPUs would stand idle"
            fix = f"set tensor_parallel={pool.gpus_per_worker}, or gpus_per_worker={pool.ranks}"
            yield Breach(path=f"{pool.name}.gpus_per_worker", message=message, fix=fix)
        elif _asked(pool) > gpus_per_pod(pool):
            message = f"a pod asks for {_asked(pool)} GPUs and its ranks use {gpus_per_pod(pool)}; the rest stand idle"
            yield Breach(path=f"{pool.name}.pod.resources", message=message, fix=f"ask for {gpus_per_pod(pool)}")


def _asked(pool: ResolvedPool) -> int:
    """GPUs that one pod asks for; what its ranks need where nothing is written, or GPUs are shared or sliced."""
    shared = pool.device or pool.mig or (pool.nodes and pool.nodes.declared.gpu_sharing != "none")
    return gpus_per_pod(pool) if shared else pool.pod.resources.get(GPU, gpus_per_pod(pool))


@rule(
    code="TND0027",
    title="a CPU worker has one list of cores per rank",
    story="""Cores are bound per rank, the lists joined by '|'. With another number of lists than ranks the engine
    stops on an assertion at start.""",
    source="vLLM 0.32 utils/ompmultiprocessing.py",
)
def core_lists(resolved: Resolved) -> Iterator[Breach]:
    """`cpu_cores` has as many lists as ranks."""
    for pool in resolved.pools:
        lists = pool.cpu_cores.split("|")
        if pool.on_cpu and pool.cpu_cores not in {UNBOUND, "auto"} and len(lists) != pool.tensor_parallel:
            message = (
                f"{len(lists)} lists of cores for {pool.tensor_parallel} ranks; the engine would stop on an assertion"
            )
            yield Breach(path=f"{pool.name}.cpu_cores", message=message, fix="join one list per rank by '|'")


@rule(
    code="TND0028",
    severity="warning",
    title="a pool is given no setting that its kind does not have",
    story="""Cores are bound by the CPU engine only; on a GPU the setting does nothing, and whoever wrote it thinks that
    it does.""",
    source="vLLM 0.32/0.33 envs.py: VLLM_CPU_OMP_THREADS_BIND",
)
def cores_on_a_cpu(resolved: Resolved) -> Iterator[Breach]:
    """`cpu_cores` stands on CPU pools only."""
    for pool in resolved.pools:
        if not pool.on_cpu and pool.cpu_cores != UNBOUND:
            message = f"{pool.cpu_cores!r} would bind nothing: {pool.gpu.name} is no CPU"
            yield Breach(path=f"{pool.name}.cpu_cores", message=message, fix="drop it")


def parallelism(pool: ResolvedPool) -> str:
    """The parallelism as declared, in one phrase: `tensor_parallel 2 x data_parallel 4`."""
    fields = ("tensor_parallel", "pipeline_parallel", "data_parallel")
    return " x ".join(f"{field} {getattr(pool, field)}" for field in fields if getattr(pool, field) > 1) or (
        "tensor_parallel 1"
    )


def deals_out(resolved: Resolved, pool: ResolvedPool) -> bool:
    """Whether heads can be dealt out evenly over the GPUs of a worker; data parallelism of attention splits none."""
    if (engine := pool.tensorrt_llm) and engine.attention_data_parallel:
        return True
    split, kv = pool.tensor_parallel, _cached_heads(resolved)
    return resolved.architecture.attention_heads % split == 0 and (kv % split == 0 or split % kv == 0)


def _cached_heads(resolved: Resolved) -> int:
    return 1 if resolved.architecture.latent_dim else resolved.architecture.kv_heads
