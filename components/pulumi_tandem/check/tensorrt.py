"""Codes 0100 to 0109, 0126 and 0127: TensorRT-LLM's context and generation servers."""

from collections.abc import Iterator

from pulumi_tandem.check.pair import pair
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.declare import TensorRtLlm
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

OVERLAP_ON_CONTEXT = (1, 4)
"""Releases from here on may run the overlap scheduler on context servers: TensorRT-LLM PR#17390 (August 2026), in no
release that was read."""
NIXL_BY_DEFAULT = (1, 1)
"""First release whose DEFAULT transceiver is NIXL."""
FIXED_BUFFERS = ("NIXL", "MOONCAKE")

OWNED_FLAGS = {
    "--config": "the fields of TensorRtLlm(...) and Pool(...): the file is written from them",
    "--extra-llm-api-options": "the fields of TensorRtLlm(...) and Pool(...): the file is written from them",
    "--backend": "nothing: it is always pytorch",
    "--host": "nothing: the target gives every worker its address",
    "--port": "nothing: the target gives every worker its ports",
    "--tp-size": "Pool(tensor_parallel=...)",
    "--pp-size": "Pool(pipeline_parallel=...)",
    "--ep-size": "Pool(expert_parallel=True)",
    "--max-batch-size": "Pool(sequences=...)",
    "--max-num-tokens": "Pool(batch_tokens=...)",
    "--max-seq-len": "Service(context_tokens=...)",
    "--max-beam-width": "TensorRtLlm(beams=...)",
    "--kv-cache-free-gpu-memory-fraction": "Pool(memory_fraction=...)",
    "--server-role": "nothing: the gateway says with each request what it is for",
    "--metadata-server-config-file": "nothing: the gateway finds workers by itself",
    "--disagg-cluster-uri": "nothing: the gateway finds workers by itself",
}
"""Flag of trtllm-serve: what to declare instead."""
TRANSCEIVER_ENV = {
    "TRTLLM_USE_MPI_KVCACHE": "MPI",
    "TRTLLM_USE_UCX_KVCACHE": "UCX",
    "TRTLLM_USE_MOONCAKE_KVCACHE": "MOONCAKE",
    "TRTLLM_USE_NIXL_KVCACHE": "NIXL",
}
"""Variable that, set to 1, chooses the transceiver where the configuration says DEFAULT."""

_DISAGGREGATED = "TensorRT-LLM 1.2 docs, disaggregated serving"


@rule(
    code="TND0100",
    title="both servers have a cache transceiver",
    story="""Without the section cache_transceiver_config a server cannot send or receive KV: it is no context and no
    generation server at all.""",
    source=f"{_DISAGGREGATED}: cache_transceiver_config",
)
def has_transceiver(resolved: Resolved) -> Iterator[Breach]:
    """Every TensorRT-LLM pool of a pair has a transceiver."""
    for pool, engine in _engines(resolved):
        if engine.transceiver is None:
            message = "the server has no cache transceiver; it could not hand KV over"
            yield Breach(path=f"{pool.name}.engine.transceiver", message=message, fix="use 'DEFAULT' on both pools")


@rule(
    code="TND0101",
    title="both servers use one transceiver",
    story="""Context and generation server open connections of the transceiver's own kind; two kinds have no connection,
    and no transfer takes place. DEFAULT is NIXL in current releases.""",
    source=f"{_DISAGGREGATED}: backend DEFAULT, NIXL, UCX, MOONCAKE; TensorRT-LLM#18388",
)
def same_transceiver(resolved: Resolved) -> Iterator[Breach]:
    """Transceivers of the pair are the same."""
    two = tuple(_engines(resolved))
    if len(two) < 2 or not all(engine.transceiver for _, engine in two):
        return
    prefill, decode = (_transceiver(pool, engine) for pool, engine in two)
    if prefill != decode:
        message = f"the transceiver is {decode} on decode and {prefill} on prefill; no KV would be transferred"
        fix = f"use {two[0][1].transceiver!r} on both"
        yield Breach(path="decode.engine.transceiver", message=message, fix=fix)


@rule(
    code="TND0102",
    title="the transceiver's buffer holds whole blocks",
    story="""The buffer is carved into KV blocks; a size in tokens that is no multiple of tokens_per_block is an
    assertion while the executor is built.""",
    source="TensorRT-LLM 1.3.0rc, assertion of the transfer buffer; aiconfigurator#375",
)
def buffer_holds_blocks(resolved: Resolved) -> Iterator[Breach]:
    """max_tokens_in_buffer is a multiple of the block."""
    for pool, engine in _engines(resolved):
        buffer = engine.max_tokens_in_buffer
        if buffer and buffer % pool.block_tokens:
            message = (
                f"{buffer} tokens in the buffer are no multiple of a block of {pool.block_tokens}; it dies at start"
            )
            fix = f"use {-(-buffer // pool.block_tokens) * pool.block_tokens}"
            yield Breach(path=f"{pool.name}.engine.max_tokens_in_buffer", message=message, fix=fix)


@rule(
    code="TND0103",
    title="the transceiver's buffer holds the longest prompt",
    story="""With NIXL a longer prompt would need a buffer that grows, which it cannot use: warnings, then failed
    transfers, for long prompts only. UCX grows its buffers.""",
    source=f"{_DISAGGREGATED}: max_tokens_in_buffer; dynamo#5523",
)
def buffer_holds_prompt(resolved: Resolved) -> Iterator[Breach]:
    """max_tokens_in_buffer is at least prompt_tokens_max where buffers are fixed."""
    longest = resolved.prompt_tokens_max
    for pool, engine in _engines(resolved):
        buffer = engine.max_tokens_in_buffer
        if longest and buffer and buffer < longest and _transceiver(pool, engine) in FIXED_BUFFERS:
            message = f"prompts have up to {longest} tokens and the buffer {buffer}; transfers of long ones would fail"
            blocks = -(-longest // pool.block_tokens) * pool.block_tokens
            yield Breach(path=f"{pool.name}.engine.max_tokens_in_buffer", message=message, fix=f"use {blocks}")


@rule(
    code="TND0104",
    title="a context server runs without the overlap scheduler",
    story="""The overlap scheduler, on by default, is not supported for context-only requests: the server refuses
    them.""",
    source="TensorRT-LLM 1.2 docs, disaggregated serving: disable_overlap_scheduler; PR#17390 would lift it",
)
def no_overlap_on_context(resolved: Resolved) -> Iterator[Breach]:
    """overlap_scheduler is off on prefill."""
    for pool, engine in _engines(resolved):
        if pool.name == "prefill" and engine.overlap_scheduler and pool.release_numbers < OVERLAP_ON_CONTEXT:
            message = (
                f"the overlap scheduler is on, and TensorRT-LLM {engine.version} then refuses context-only requests"
            )
            fix = "engine=tandem.TensorRtLlm(overlap_scheduler=False) on prefill"
            yield Breach(path=f"{pool.name}.engine.overlap_scheduler", message=message, fix=fix)


@rule(
    code="TND0105",
    title="a prompt fits into one step where it is not read in chunks",
    story="""Without chunked prefill a prompt is read in one step of at most max_num_tokens. A longer one, the
    template's tokens included, brings the context server down.""",
    source="TensorRT-LLM#3937; TensorRT-LLM 1.2 docs: max_num_tokens, enable_chunked_prefill",
)
def prompt_fits_step(resolved: Resolved) -> Iterator[Breach]:
    """batch_tokens of the context server is at least prompt_tokens_max without chunks."""
    longest = resolved.prompt_tokens_max
    for pool, engine in _engines(resolved):
        if pool.name == "prefill" and longest and not engine.chunked_prefill and pool.batch_tokens < longest:
            message = (
                f"prompts have up to {longest} tokens, a step {pool.batch_tokens}, and chunked prefill is off; the "
                "context server would fail on the longest"
            )
            fix = f"use chunked_prefill=True, or batch_tokens={longest} and some for the template"
            yield Breach(path=f"{pool.name}.batch_tokens", message=message, fix=fix)


@rule(
    code="TND0106",
    title="both servers speculate in the same way, or neither does",
    story="""Draft layers are part of the cache's state, which the two servers compare before they exchange
    anything.""",
    source="TensorRT-LLM 1.3.0rc cacheState; speculative_config at the top level of both",
)
def same_drafts(resolved: Resolved) -> Iterator[Breach]:
    """Speculation with layers of its own is the same on both servers."""
    two = tuple(_engines(resolved))
    if len(two) == 2 and two[0][0].draft_kv != two[1][0].draft_kv:
        prefill, decode = (pool.draft_kv or "none" for pool, _ in two)
        message = f"speculative decoding is {decode!r} on decode and {prefill!r} on prefill; the handshake would fail"
        fix = "set speculation on the service's engine"
        yield Breach(path="decode.engine.speculation", message=message, fix=fix)


@rule(
    code="TND0107",
    title="what the FLASHINFER backend keeps is not cut",
    story="""The kernels that split and join KV between unequal parallelism assume the layout of the TRTLLM backend.
    With FLASHINFER they scramble heads: fluent, wrong answers, no error.""",
    source="TensorRT-LLM#6507 (1.0.0rc4)",
)
def layout_is_known(resolved: Resolved) -> Iterator[Breach]:
    """FLASHINFER stands with equal parallelism only."""
    two = tuple(_engines(resolved))
    if len(two) < 2 or (two[0][0].tensor_parallel, two[0][0].pipeline_parallel) == (
        two[1][0].tensor_parallel,
        two[1][0].pipeline_parallel,
    ):
        return
    for pool, engine in two:
        if engine.attention_backend == "FLASHINFER":
            message = (
                f"prefill is split over {two[0][0].tensor_parallel} GPUs and decode over {two[1][0].tensor_parallel}; "
                "with FLASHINFER the hand-off would scramble heads"
            )
            fix = "use the TRTLLM backend, or equal parallelism"
            yield Breach(path=f"{pool.name}.engine.attention_backend", message=message, fix=fix)


@rule(
    code="TND0108",
    title="both servers keep KV alike",
    story="""The servers compare the state of their caches: version, type of the numbers, tokens per block. Where it
    differs, the generation server refuses the hand-off.""",
    source=f"{_DISAGGREGATED}: homogeneous KV cache",
)
def same_cache(resolved: Resolved) -> Iterator[Breach]:
    """dtype, kv_dtype and block_tokens of the pair are equal."""
    two = tuple(pool for pool, _ in _engines(resolved))
    for field in ("dtype", "kv_dtype", "block_tokens") if len(two) == 2 else ():
        prefill, decode = (getattr(pool, field) for pool in two)
        if prefill != decode:
            message = f"{field} is {decode!r} on decode and {prefill!r} on prefill; the hand-off would be refused"
            yield Breach(path=f"decode.{field}", message=message, fix=f"use {prefill!r} on both")


@rule(
    code="TND0109",
    title="disaggregated servers search with one beam",
    story="""Beams share and copy blocks while they decode; the hand-off carries one sequence.""",
    source=f"{_DISAGGREGATED}: beam width 1",
)
def one_beam(resolved: Resolved) -> Iterator[Breach]:
    """max_beam_width is 1 on both servers."""
    for pool, engine in _engines(resolved):
        if engine.beams > 1:
            message = f"{engine.beams} beams cannot be handed over"
            yield Breach(path=f"{pool.name}.engine.beams", message=message, fix="use beams=1, or serve without a pair")


@rule(
    code="TND0126",
    title="flags of trtllm-serve do not override what Tandem writes into its configuration",
    story="""Parallelism, limits, the KV cache and the transceiver of a server stand in a file that is written from the
    declaration. The same said again as a flag makes two truths, of which the server takes one by the option's own
    rule; the memory budget, the plan and the pair's key were made from the other.""",
    source="TensorRT-LLM 1.2 trtllm-serve; pulumi_tandem.lower.tensorrt_llm",
)
def flags_are_free(resolved: Resolved) -> Iterator[Breach]:
    """No flag of extra_args is one that lowering, or its file, sets."""
    for pool in resolved.pools:
        for flag, *_ in split_flags(pool.extra_args) if pool.tensorrt_llm else ():
            if flag in OWNED_FLAGS:
                message = f"{flag} is set by Tandem, and given once more it would count in its stead or not at all"
                yield Breach(path=f"{pool.name}.extra_args", message=message, fix=f"use {OWNED_FLAGS[flag]}")


@rule(
    code="TND0127",
    title="the environment does not choose another transceiver",
    story="""Where the configuration says DEFAULT, variables of earlier releases still choose the transceiver. Set on
    one pool they give its servers another kind of connection than their peers have, and no KV is transferred; MPI needs
    both servers in one MPI world.""",
    source="TensorRT-LLM create_kv_cache_transceiver in _torch/pyexecutor/kv_cache_transceiver.py",
)
def environment_keeps_transceiver(resolved: Resolved) -> Iterator[Breach]:
    """No pool's env holds a variable that overrides a transceiver of DEFAULT."""
    for pool, engine in _engines(resolved):
        for name, value in pool.env:
            chosen = TRANSCEIVER_ENV.get(name)
            default = (engine.transceiver or "").upper() == "DEFAULT"
            if chosen and value == "1" and default and chosen != _transceiver(pool, engine):
                message = f"{name}=1 makes the transceiver {chosen}, and the declaration says DEFAULT"
                fix = f"drop it; transceiver={chosen!r} on both pools says the same for all to see"
                yield Breach(path=f"{pool.name}.env.{name}", message=message, fix=fix)


def _engines(resolved: Resolved) -> Iterator[tuple[ResolvedPool, TensorRtLlm]]:
    for pool in pair(resolved) or ():
        if isinstance(pool.engine, TensorRtLlm):
            yield pool, pool.engine


def _transceiver(pool: ResolvedPool, engine: TensorRtLlm) -> str:
    name = (engine.transceiver or "").upper()
    return "NIXL" if name == "DEFAULT" and pool.release_numbers >= NIXL_BY_DEFAULT else name
