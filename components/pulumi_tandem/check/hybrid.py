"""Codes 0070 to 0079: what NIXL and others cannot transfer, by kinds of layers, layouts and stages."""

from collections.abc import Iterator

from pulumi_tandem.check.pair import pair, vllm_pair
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import HYBRID_BY_DEFAULT, HYBRID_CONNECTORS, Resolved, ResolvedPool

PULL_STAGES = (0, 30)
"""First vLLM that takes a pipelined prefill in pull mode; vllm#52913 (August 2026) still could not."""
PUSH_STAGES = (0, 24)
"""First vLLM that does in push mode: vllm#45880, merged in June 2026."""
NIXL_HYBRID = (0, 18)
"""First vLLM whose NIXL connector moves blocks of several kinds of layers: vllm#35758, merged in March 2026."""
UNEQUAL_STATES = (0, 20)
"""First vLLM that moves states between unequal tensor parallelism: vllm#37635; before, equal only (vllm#36687)."""
UNEQUAL_BLOCKS = (0, 12)
"""First vLLM that moves KV between unequal block sizes: vllm#26759."""
PREFILL_LARGER = (0, 13)
"""First vLLM that takes prefill with more tensor parallelism than decode: vllm#27274."""
UNEQUAL_FROM = (0, 9)
"""First vLLM with a NIXL connector."""
REPLICATED_DECODE = (0, 24)
"""First vLLM whose handshake knows that with more GPUs than KV heads each holds one head: vllm#45879, merged in
June 2026; vllm#45330 saw it in 0.21."""
LAYOUT = "VLLM_KV_CACHE_LAYOUT"
TOKENS_FIRST = ("NHD", "LBNHC")
"""Layouts in which a block's heads are not contiguous."""
STATE_LAYOUT = "VLLM_SSM_CONV_STATE_LAYOUT"

_WORKER = "vLLM 0.32/0.33 .../kv_connector/v1/nixl/base_worker.py"


@rule(
    code="TND0070",
    title="a model with an encoder is not disaggregated",
    story="""Decode would need the encoder's output beside the KV, and no connector carries it; the engine asserts at
    start that there is no connector.""",
    source="vLLM 0.32/0.33 config/vllm.py: KV connectors and encoder-decoder models; TensorRT-LLM 1.2 disaggregated",
)
def no_encoder(resolved: Resolved) -> Iterator[Breach]:
    """Encoder-decoder models are served by one pool."""
    if resolved.disaggregated and resolved.architecture.encoder_decoder:
        message = f"{resolved.model_name} has an encoder, whose output no KV connector carries"
        yield Breach(path="model.architecture", message=message, fix="use serve in place of prefill and decode")


@rule(
    code="TND0071",
    title="stages of a pipeline stand where the connector can read them",
    story="""Decode cannot be pipelined with NIXL in any release. A pipelined prefill is taken in pull mode by recent
    releases, for models whose layers are all of one kind; in push mode since 0.24, models with states excepted.""",
    source=f"{_WORKER}: NotImplementedError for pipeline_parallel_size > 1; vllm#45880, vllm#52913",
)
def stages_are_read(resolved: Resolved) -> Iterator[Breach]:
    """Pipeline parallelism is within what NIXL transfers."""
    for pool in vllm_pair(resolved) or ():
        if pool.pipeline_parallel == 1:
            continue
        push = pool.moves_kv_by("NixlPush")
        several = bool(resolved.architecture.state_layers or (resolved.architecture.sliding_layers and not push))
        first = PUSH_STAGES if push else PULL_STAGES
        if pool.name == "prefill" and pool.release_numbers >= first and not several:
            continue
        mode = "push" if push else "pull"
        why = " for a model with several kinds of layers" if several else ""
        message = (
            f"{pool.pipeline_parallel} pipeline stages on {pool.name} cannot be had with NIXL in {mode} mode and vLLM "
            f"{pool.engine.version}{why}; the engine would not start, or the first hand-off would fail"
        )
        fix = "use tensor_parallel in its place"
        if pool.name == "prefill" and not several:
            fix += ", or a newer vLLM with NixlPushConnector"
        yield Breach(path=f"{pool.name}.pipeline_parallel", message=message, fix=fix)


@rule(
    code="TND0072",
    title="models with states keep them in the layout that NIXL can read",
    story="""Layers of Mamba, gated delta nets and the like keep a convolution state. NIXL transfers it in the DS layout
    only, which is not the default; it asserts while the caches are registered.""",
    source=f"{_WORKER}: Set VLLM_SSM_CONV_STATE_LAYOUT=DS",
)
def state_layout(resolved: Resolved) -> Iterator[Breach]:
    """Pools of a model with states set the DS layout."""
    for pool in vllm_pair(resolved) or ():
        given = dict(pool.env).get(STATE_LAYOUT)
        if resolved.architecture.state_layers and pool.release_numbers >= UNEQUAL_STATES and given != "DS":
            message = (
                f"{STATE_LAYOUT} is {given or 'not set'}, and {resolved.model_name} has layers with states, which NIXL "
                "reads in the DS layout only; the engine would not start"
            )
            fix = f"env={{{STATE_LAYOUT!r}: 'DS'}} on both pools"
            yield Breach(path=f"{pool.name}.env.{STATE_LAYOUT}", message=message, fix=fix)


@rule(
    code="TND0073",
    severity="warning",
    title="models with states have the same tensor parallelism on both pools",
    story="""vLLM maps states between unequal tensor parallelism since 0.20 and tests some families so, while its
    table of supported features still asks for equal ones. Try it with your model before users do.""",
    source="vllm#37635, vllm#45019; vLLM docs, NIXL connector compatibility",
)
def unequal_states(resolved: Resolved) -> Iterator[Breach]:
    """Tensor parallelism of a hybrid pair is equal, where the release could do otherwise."""
    yield from _unequal_states(resolved, old=False)


@rule(
    code="TND0074",
    title="old releases move states between equal tensor parallelism only",
    story="""Before 0.20 a rank reads the state of the rank of its number; with another split it would be another part
    of the state.""",
    source="vllm#36687: homogeneous TP only",
)
def unequal_states_before(resolved: Resolved) -> Iterator[Breach]:
    """Tensor parallelism of a hybrid pair is equal before 0.20."""
    yield from _unequal_states(resolved, old=True)


@rule(
    code="TND0075",
    title="blocks are equal where they cannot be cut or joined",
    story="""Decode reads smaller blocks into larger ones by address. That works for layers of one kind in GPU memory;
    with several kinds of layers managed apart, with a buffer in host memory, and before 0.12 it does not.""",
    source=f"{_WORKER}, _validate_remote_agent_handshake; vllm#26759",
)
def equal_blocks(resolved: Resolved) -> Iterator[Breach]:
    """Block sizes are equal where they cannot be remapped."""
    two = vllm_pair(resolved)
    if not two or two[0].block_tokens == two[1].block_tokens or two[1].block_tokens % two[0].block_tokens:
        return
    host = any(pool.connector.buffer_device == "cpu" for pool in two) and not two[1].on_cpu
    kinds = bool(resolved.architecture.sliding_layers or resolved.architecture.state_layers)
    reasons = {
        "the model has several kinds of layers, which are managed apart": kinds and two[1].hybrid_kv_cache,
        "KV is buffered in host memory": host,
        f"vLLM {two[1].engine.version} cannot remap them": two[1].release_numbers < UNEQUAL_BLOCKS,
    }
    for reason, holds in reasons.items():
        if holds:
            message = (
                f"a block is {two[1].block_tokens} tokens on decode and {two[0].block_tokens} on prefill, and "
                f"{reason}; the first hand-off would fail"
            )
            fix = f"set block_tokens={two[0].block_tokens} on both"
            yield Breach(path="decode.block_tokens", message=message, fix=fix)
            return


@rule(
    code="TND0076",
    title="blocks of KV lie so that decode can take heads out of them",
    story="""Where the pools are split over different numbers of GPUs, a rank reads some heads of a block. They must lie
    together (HND, which NIXL chooses by itself); in the NHD layout they do not. Two layouts on the two sides do not
    match at all.""",
    source=f"{_WORKER}: heterogeneous TP requires contiguous heads; kv_cache_layout",
)
def layout_is_cut(resolved: Resolved) -> Iterator[Breach]:
    """KV layouts are equal, and by heads where tensor parallelism differs."""
    two = vllm_pair(resolved)
    if not two or resolved.architecture.latent_dim:
        return
    layouts = [dict(pool.env).get(LAYOUT) for pool in two]
    permutes = any(pool.connector.fields.get("enable_permute_local_kv") for pool in two)
    if layouts[0] != layouts[1] and not permutes and set(layouts) != {None, "HND"}:
        message = f"{LAYOUT} is {layouts[1]} on decode and {layouts[0]} on prefill; the first hand-off would fail"
        yield Breach(path=f"decode.env.{LAYOUT}", message=message, fix=f"take {LAYOUT} out: NIXL chooses HND")
        return
    if two[0].tensor_parallel == two[1].tensor_parallel:
        return
    for pool, layout in zip(two, layouts, strict=True):
        if layout in TOKENS_FIRST and not permutes:
            message = (
                f"the layout {layout} does not keep heads together, and the pools are split over "
                f"{two[0].tensor_parallel} and {two[1].tensor_parallel} GPUs; the first hand-off would fail"
            )
            fix = f"take {LAYOUT} out, or use equal tensor_parallel"
            yield Breach(path=f"{pool.name}.env.{LAYOUT}", message=message, fix=fix)


@rule(
    code="TND0077",
    title="the release can read across this pair of tensor parallelisms",
    story="""Early releases of the NIXL connector took decode with at least prefill's tensor parallelism only, and
    until 0.24 asserted block lengths that do not hold where a pool has more GPUs than the model KV heads. KV in NVFP4
    cannot be cut by heads at all.""",
    source=f"vllm#27274, vllm#43523, vllm#45330; {_WORKER}: NVFP4 KV needs equal heads per rank",
)
def ratio_of_release(resolved: Resolved) -> Iterator[Breach]:
    """Unequal tensor parallelism is within what the release reads."""
    two = vllm_pair(resolved)
    if not two or two[0].tensor_parallel == two[1].tensor_parallel:
        return
    prefill, decode = two
    heads = resolved.architecture.kv_heads
    latent = resolved.architecture.latent_dim > 0
    split = sorted((prefill.tensor_parallel, decode.tensor_parallel))
    if split[1] % split[0] or (decode.tensor_parallel < prefill.tensor_parallel > heads and not latent):
        return  # TND0022 and TND0023 tell of it, whatever the release
    per_rank = [max(1, heads // pool.tensor_parallel) for pool in two]
    replicated = per_rank[0] * prefill.tensor_parallel != per_rank[1] * decode.tensor_parallel
    beyond = replicated and not latent and UNEQUAL_FROM <= decode.release_numbers < REPLICATED_DECODE
    reasons = {
        f"vLLM {decode.engine.version} takes no decode that is split less than prefill": (
            prefill.tensor_parallel > decode.tensor_parallel and decode.release_numbers < PREFILL_LARGER
        ),
        f"vLLM {decode.engine.version} takes no more GPUs than the model's {heads} KV heads there": beyond,
        "KV in NVFP4 cannot be cut by heads": decode.kv_dtype.startswith("nvfp4") and not latent,
    }
    for reason, holds in reasons.items():
        if holds:
            message = (
                f"decode is split over {decode.tensor_parallel} GPUs and prefill over {prefill.tensor_parallel}, and "
                f"{reason}; the handshake would fail"
            )
            fix = f"use tensor_parallel={prefill.tensor_parallel} on both, or a newer vLLM"
            yield Breach(path="decode.tensor_parallel", message=message, fix=fix)
            return


@rule(
    code="TND0078",
    severity="warning",
    title="layers with a window or a state are managed apart",
    story="""With any KV connector, releases before 0.21 turned the hybrid KV cache manager off unless told otherwise,
    and later ones do with a connector that cannot move several kinds of layers. Layers with a sliding window then
    keep the whole context: gpt-oss holds half as many tokens, and no line of the log says why.""",
    source="vllm#42024, vllm#41847 (0.21); vLLM 0.32/0.33 config/vllm.py, SupportsHMA",
)
def hybrid_stays_on(resolved: Resolved) -> Iterator[Breach]:
    """The hybrid manager is not off by default for a model that profits from it."""
    shape = resolved.architecture
    for pool in pair(resolved) or ():
        undeclared = pool.vllm and pool.vllm.hybrid_kv_cache is None and pool.connector.name is not None
        if not undeclared or pool.hybrid_kv_cache or not (shape.sliding_layers or shape.state_layers):
            continue
        old = pool.release_numbers < HYBRID_BY_DEFAULT
        why = f"vLLM {pool.engine.version} with a KV connector" if old else str(pool.connector.name)
        message = f"{why} turns the hybrid KV cache manager off; {resolved.model_name} then keeps far more KV per token"
        fix = "say hybrid_kv_cache=True on the service's engine" if old else "use 'NixlConnector'"
        yield Breach(path=f"{pool.name}.engine.hybrid_kv_cache", message=message, fix=fix)


@rule(
    code="TND0079",
    title="the hybrid KV cache manager is asked for with a connector that can have it",
    story="""Told to keep the manager on, the engine refuses a connector that moves blocks of one kind only. NIXL can
    since 0.18.""",
    source="vLLM 0.32/0.33 kv_connector/factory.py: supports_hma_config; vllm#35758",
)
def hybrid_can_be(resolved: Resolved) -> Iterator[Breach]:
    """hybrid_kv_cache=True stands with connectors that support it."""
    for pool in pair(resolved) or ():
        if not (pool.vllm and pool.vllm.hybrid_kv_cache and pool.connector.name):
            continue
        unable = set(pool.connector.children or (pool.connector.name,)) - HYBRID_CONNECTORS
        if unable or pool.release_numbers < NIXL_HYBRID:
            what = " and ".join(sorted(unable)) or f"vLLM {pool.engine.version}'s {pool.connector.name}"
            message = f"{what} cannot move several kinds of layers; the engine would not start"
            fix = "drop hybrid_kv_cache, or use 'NixlConnector' and vLLM 0.18 or newer"
            yield Breach(path=f"{pool.name}.engine.hybrid_kv_cache", message=message, fix=fix)


def _unequal_states(resolved: Resolved, *, old: bool) -> Iterator[Breach]:
    two: tuple[ResolvedPool, ResolvedPool] | None = vllm_pair(resolved)
    if not two or not resolved.architecture.state_layers or two[0].tensor_parallel == two[1].tensor_parallel:
        return
    if (two[1].release_numbers < UNEQUAL_STATES) == old:
        message = (
            f"decode is split over {two[1].tensor_parallel} GPUs and prefill over {two[0].tensor_parallel}, and "
            f"{resolved.model_name} has layers with states; "
            + ("their transfer would be wrong" if old else "few models were tried so")
        )
        fix = f"use tensor_parallel={two[0].tensor_parallel} on both"
        yield Breach(path="decode.tensor_parallel", message=message, fix=fix)
