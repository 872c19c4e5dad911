"""Codes 0030 to 0039: context, batches and memory."""

from collections.abc import Iterator

from pulumi_tandem.check.asked import kv_lease_s
from pulumi_tandem.check.pair import pair
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.declare.model import DTYPE_BYTES, GIB, Architecture
from pulumi_tandem.estimate import KvCache, kv_bytes
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

LIBRARIES_GIB = 1.0
"""CUDA graphs and what libraries keep; vLLM's own log says 0.3 to 1.5 GiB for graphs, by sizes that are captured."""


@rule(
    code="TND0030",
    title="the context is no longer than the model was made for",
    story="""Positions beyond those that the model was trained for give garbage, so the engine refuses the length at
    start. Who stretches the positions (--hf-overrides) or insists (VLLM_ALLOW_LONG_MAX_MODEL_LEN) is taken at their
    word.""",
    source="vLLM 0.32/0.33 config/model.py, _get_and_verify_max_len",
)
def context_in_range(resolved: Resolved) -> Iterator[Breach]:
    """Context of every pool fits the model's positions."""
    longest = resolved.architecture.positions_max
    for pool in resolved.pools:
        insists = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1") in pool.env
        stretches = any(flag[0].partition(".")[0] == "--hf-overrides" for flag in split_flags(pool.extra_args))
        if pool.context_tokens > longest and not insists and not stretches:
            message = (
                f"{pool.context_tokens} tokens are more than the {longest} that {resolved.model_name} was made for; "
                "the engine would not start"
            )
            yield Breach(path=f"{pool.name}.context_tokens", message=message, fix=f"use at most {longest}")


@rule(
    code="TND0031",
    title="both pools take the same context",
    story="""A prompt that prefill takes and decode refuses is read in vain and ends in an error; one that only decode
    could take is refused by prefill. Users see it as errors for long prompts only.""",
    source="vLLM 0.32/0.33: each engine holds a request against its own max_model_len",
)
def same_context(resolved: Resolved) -> Iterator[Breach]:
    """Contexts of the pair are equal."""
    two = pair(resolved)
    if two and two[0].context_tokens != two[1].context_tokens:
        prefill, decode = two[0].context_tokens, two[1].context_tokens
        message = (
            f"the context is {decode} tokens on decode and {prefill} on prefill; "
            f"requests between {min(prefill, decode)} and {max(prefill, decode)} tokens would fail"
        )
        fix = "set context_tokens on the service and on no pool"
        yield Breach(path="decode.context_tokens", message=message, fix=fix)


@rule(
    code="TND0032",
    title="a batch has a token for every sequence",
    story="""In one step every running sequence takes at least one token of the batch; the engine refuses more
    sequences than batch tokens at start.""",
    source="vLLM 0.32/0.33 config/scheduler.py: max_num_batched_tokens must be greater than or equal to max_num_seqs",
)
def batch_holds_sequences(resolved: Resolved) -> Iterator[Breach]:
    """Batch tokens are at least the sequences."""
    for pool in resolved.pools:
        if pool.vllm and pool.batch_tokens < pool.sequences:
            message = (
                f"a batch of {pool.batch_tokens} tokens cannot hold {pool.sequences} sequences; "
                "the engine would not start"
            )
            fix = f"use at least batch_tokens={pool.sequences}, or fewer sequences"
            yield Breach(path=f"{pool.name}.batch_tokens", message=message, fix=fix)


@rule(
    code="TND0033",
    title="the weights fit into the share of GPU memory",
    story="""Each GPU of a worker holds its part of the weights. What the engine may take is memory_fraction of the
    whole card; weights beyond that are an out-of-memory error after minutes of loading.""",
    source="vLLM 0.32/0.33 v1/core/kv_cache_utils.py: no available memory for the cache blocks",
)
def weights_fit(resolved: Resolved) -> Iterator[Breach]:
    """Weights per GPU are within the budget."""
    for pool in resolved.pools:
        if pool.on_cpu or weights_gib(resolved, pool) < _budget_gib(pool):
            continue
        gpus = _gpus_needed(resolved, pool)
        message = (
            f"{weights_gib(resolved, pool):.1f} GiB of weights per GPU do not fit into "
            f"{pool.memory_fraction:g} of {pool.gpu.name}'s {pool.gpu.memory_gib:g} GiB; the engine would run out of "
            "memory while it loads"
        )
        fix = f"use tensor_parallel={gpus}" if gpus else "use a GPU with more memory, or a quantised checkpoint"
        yield Breach(path=f"{pool.name}.gpu", message=message, fix=fix)


@rule(
    code="TND0034",
    title="the KV of one longest request fits beside the weights",
    story="""An engine must be able to serve at least one request of its full context, or it stops at start with 'To
    serve at least one request with the model's max seq len ...'. On a GPU the KV has what memory_fraction leaves
    beside the weights (activations and graphs take some of it yet, so this is the least that is needed); on a CPU it
    has kv_cache_gib.""",
    source="vLLM 0.32/0.33 v1/core/kv_cache_utils.py _check_enough_kv_cache_memory",
)
def longest_request_fits(resolved: Resolved) -> Iterator[Breach]:
    """KV of one request of the whole context is within what KV has."""
    for pool in resolved.pools:
        room_gib = kv_room_gib(resolved, pool)
        if room_gib <= 0 or pool.tensorrt_llm:
            continue  # TND0033 tells of it; TensorRT-LLM starts with a shorter limit
        needed_gib = kv_gib(resolved, pool, pool.context_tokens)
        if needed_gib <= room_gib:
            continue
        longest = longest_context(resolved, pool, room_gib)
        message = (
            f"one request of {pool.context_tokens} tokens takes {needed_gib:.2f} GiB of KV per GPU and "
            f"{room_gib:.2f} GiB are there; the engine would not start"
        )
        more = "more kv_cache_gib" if pool.kv_cache_gib else "more GPUs (tensor_parallel)"
        fix = f"set context_tokens to at most {longest}, or give {more}" if longest else f"give {more}"
        yield Breach(path=f"{pool.name}.context_tokens", message=message, fix=fix)


@rule(
    code="TND0035",
    title="weights and a stated KV cache fit on the GPU together",
    story="""kv_cache_gib takes the place of memory_fraction: the engine allocates it beside the weights, and runs out
    of memory when the card does not have both.""",
    source="vLLM 0.32/0.33 config/cache.py: kv_cache_memory_bytes ignores gpu_memory_utilization",
)
def stated_cache_fits(resolved: Resolved) -> Iterator[Breach]:
    """Weights and kv_cache_gib together are less than the card has."""
    for pool in resolved.pools:
        if pool.on_cpu or pool.kv_cache_gib is None:
            continue
        taken_gib = weights_gib(resolved, pool) + pool.kv_cache_gib
        if taken_gib >= pool.gpu.memory_gib:
            message = (
                f"{pool.kv_cache_gib:g} GiB of KV and {weights_gib(resolved, pool):.1f} GiB of weights per GPU are "
                f"more than {pool.gpu.name}'s {pool.gpu.memory_gib:g} GiB; the engine would run out of memory"
            )
            fix = "drop kv_cache_gib: memory_fraction leaves KV what the weights do not take"
            yield Breach(path=f"{pool.name}.kv_cache_gib", message=message, fix=fix)


@rule(
    code="TND0036",
    title="the longest prompt that clients send fits into the context",
    story="""A prompt that is longer than the context is refused with 400, by the front door or by the engine, whatever
    capacity was paid for.""",
    source="vLLM 0.32/0.33: a request is held against max_model_len; TensorRT-LLM: max_seq_len",
)
def prompts_fit(resolved: Resolved) -> Iterator[Breach]:
    """prompt_tokens_max is no more than the context of every pool."""
    longest = resolved.prompt_tokens_max
    for pool in resolved.pools:
        if longest and longest > pool.context_tokens:
            message = f"prompts have up to {longest} tokens and the context is {pool.context_tokens}; long ones get 400"
            fix = f"set context_tokens to more than {longest}"
            yield Breach(path=f"{pool.name}.context_tokens", message=message, fix=fix)


@rule(
    code="TND0037",
    severity="warning",
    title="activations and graphs have room beside the weights and the KV of one longest request",
    story="""Before it sizes the cache the engine runs its largest batch once and keeps what that took: activations,
    CUDA graphs, libraries. Where weights and KV fill the card to the brim it stops at start with 'To serve at least
    one request ...', or runs with so little KV that requests wait for each other. How much it takes is estimated: two
    widths of the feed-forward block and four of the model per token of the batch, and 1 GiB for graphs and
    libraries.""",
    source="vLLM 0.32/0.33 v1/worker/gpu_worker.py determine_available_memory; estimate: pulumi_tandem.check.capacity",
)
def activations_fit(resolved: Resolved) -> Iterator[Breach]:
    """What is left beside one longest request's KV is at least what activations and graphs take."""
    for pool in resolved.pools:
        if pool.on_cpu or not pool.vllm or pool.kv_cache_gib is not None:
            continue
        room_gib, working_gib = kv_room_gib(resolved, pool), working_gib_of(resolved, pool)
        left_gib = room_gib - kv_gib(resolved, pool, pool.context_tokens)
        if not 0 <= left_gib < working_gib:
            continue  # TND0033 and TND0034 tell of what does not fit at all
        longest = longest_context(resolved, pool, room_gib - working_gib)
        message = (
            f"weights and KV of one request of {pool.context_tokens} tokens leave {left_gib:.1f} GiB per GPU, and "
            f"activations of {pool.batch_tokens} tokens and graphs take about {working_gib:.1f}; it may not start"
        )
        fix = f"set context_tokens to about {longest}, or fewer batch_tokens" if longest else "use fewer batch_tokens"
        yield Breach(path=f"{pool.name}.context_tokens", message=message, fix=fix)


@rule(
    code="TND0038",
    title="a step takes the longest prompt where prompts are not read in chunks",
    story="""vLLM reads long prompts in chunks of the batch. With chunked prefill turned off a whole prompt must fit
    into one step, and the engine refuses a batch that is smaller than the context at start.""",
    source="vLLM 0.32/0.33 config/scheduler.py verify_max_model_len",
)
def steps_take_prompts(resolved: Resolved) -> Iterator[Breach]:
    """batch_tokens is at least the context where chunked prefill is off."""
    for pool in resolved.pools:
        whole = any(flag[0] == "--no-enable-chunked-prefill" for flag in split_flags(pool.extra_args))
        if pool.vllm and whole and pool.batch_tokens < pool.context_tokens:
            message = (
                f"chunked prefill is off, and a batch of {pool.batch_tokens} tokens is smaller than the context of "
                f"{pool.context_tokens}; the engine would not start"
            )
            fix = "take --no-enable-chunked-prefill out, or use batch_tokens as large as the context"
            yield Breach(path=f"{pool.name}.batch_tokens", message=message, fix=fix)


@rule(
    code="TND0039",
    severity="warning",
    title="prefill holds what it reads during one lease",
    story="""KV of a read prompt stays on prefill until decode has fetched it, or until the lease ends when decode is
    dead or behind. At full load prefill fills up with KV that waits, and reads nothing more until leases run out: a
    dead decode worker stops the healthy ones.""",
    source="vLLM 0.32/0.33 nixl/pull_scheduler.py, kv_lease_duration; arithmetic of workload x lease",
)
def lease_is_held(resolved: Resolved) -> Iterator[Breach]:
    """Prompt tokens of one lease, at the declared load, fit into prefill's KV."""
    two = pair(resolved)
    if not two or resolved.workload is None or not two[0].moves_kv_by("Nixl"):
        return
    prefill, load = two[0], resolved.workload
    lease_s, path = kv_lease_s(resolved)
    tokens = load.requests_per_s * load.prompts.mean / prefill.workers / prefill.data_parallel * lease_s
    room_gib, held_gib = kv_room_gib(resolved, prefill), kv_gib(resolved, prefill, int(tokens))
    if 0 < room_gib < held_gib:
        message = (
            f"at {load.requests_per_s:g} requests/s a prefill worker reads {held_gib:.1f} GiB of KV per GPU in a "
            f"lease of {lease_s:g} s and has room for {room_gib:.1f}; one dead decode worker could stop it"
        )
        fix = "use a shorter lease, more prefill workers, or KV in fp8"
        yield Breach(path=path, message=message, fix=fix)


def working_gib_of(resolved: Resolved, pool: ResolvedPool) -> float:
    """What activations of a full batch, graphs and libraries take of one GPU, roughly."""
    shape = resolved.architecture
    width = max(shape.dense_intermediate, shape.intermediate * shape.experts_per_token) / pool.tensor_parallel
    per_token = (2 * width + 4 * shape.hidden) * DTYPE_BYTES[pool.dtype]
    return pool.batch_tokens * per_token / GIB + (LIBRARIES_GIB if not pool.eager else LIBRARIES_GIB / 2)


def kv_room_gib(resolved: Resolved, pool: ResolvedPool) -> float:
    """Memory for KV per GPU, before activations and graphs; negative where the weights alone are too large."""
    if pool.kv_cache_gib is not None:
        return pool.kv_cache_gib
    if pool.tensorrt_llm:
        return (pool.gpu.memory_gib - weights_gib(resolved, pool)) * pool.memory_fraction
    return _budget_gib(pool) - weights_gib(resolved, pool)


def kv_gib(resolved: Resolved, pool: ResolvedPool, tokens: int) -> float:
    """KV of one request of so many tokens, per GPU, in whole blocks."""
    cache = KvCache(
        kv_dtype=pool.kv_dtype,
        dtype=pool.dtype,
        block_tokens=pool.block_tokens,
        tensor_parallel=pool.tensor_parallel,
        hybrid=pool.hybrid_kv_cache,
    )
    return kv_bytes(resolved.architecture, cache, tokens) / GIB / pool.pipeline_parallel


def longest_context(resolved: Resolved, pool: ResolvedPool, room_gib: float) -> int:
    """Most tokens, in whole blocks, whose KV is within `room_gib`; 0 if not even one block is."""
    low, high = 0, pool.context_tokens // pool.block_tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = kv_gib(resolved, pool, middle * pool.block_tokens) <= room_gib
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * pool.block_tokens


def weights_gib(resolved: Resolved, pool: ResolvedPool) -> float:
    """Weights on one GPU.

    Tensor and pipeline parallelism split everything; ranks of data parallelism each hold all but the experts, which
    they share (vLLM 0.33 fused_moe/config.py: the experts are split over tensor x data parallelism).
    """
    return _split_gib(resolved, pool, pool.tensor_parallel)


def _split_gib(resolved: Resolved, pool: ResolvedPool, tensor_parallel: int) -> float:
    experts_share = expert_share(resolved.architecture)
    whole = bool(pool.tensorrt_llm and pool.tensorrt_llm.attention_data_parallel)
    rest = (1 - experts_share) / (1 if whole else tensor_parallel)
    experts = experts_share / (tensor_parallel * pool.data_parallel)
    return resolved.weights_bytes / GIB * (rest + experts) / pool.pipeline_parallel


def expert_share(shape: Architecture) -> float:
    """Share of the weights that routed experts are; 0 for a dense model."""
    if shape.experts == 1:
        return 0.0
    block = 3 * shape.hidden
    experts = block * shape.intermediate * shape.experts * (shape.layers - shape.dense_layers)
    attention = shape.layers * shape.hidden * shape.head_dim * 2 * (shape.attention_heads + shape.kv_heads)
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied_embeddings else 2)
    dense = shape.dense_layers * block * (shape.dense_intermediate or shape.intermediate)
    shared = (shape.layers - shape.dense_layers) * block * shape.intermediate * shape.shared_experts
    return experts / (experts + attention + embeddings + dense + shared)


def _budget_gib(pool: ResolvedPool) -> float:
    """What weights must fit into: TensorRT-LLM's fraction is one of what they leave."""
    return pool.gpu.memory_gib * (1.0 if pool.tensorrt_llm else pool.memory_fraction)


def _gpus_needed(resolved: Resolved, pool: ResolvedPool) -> int | None:
    """Smallest tensor parallelism on which the weights fit and the heads divide; None where there is none."""
    shape = resolved.architecture
    for gpus in (2, 4, 8, 16):
        divides = shape.attention_heads % gpus == 0 and (shape.kv_heads % gpus == 0 or gpus % shape.kv_heads == 0)
        if divides and _split_gib(resolved, pool, gpus) < _budget_gib(pool):
            return gpus
    return None
