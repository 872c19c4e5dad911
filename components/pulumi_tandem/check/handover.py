"""Codes 0110 to 0129: flags and modes that do not go together with a hand-over of KV."""

from collections.abc import Iterator

from pulumi_tandem.check.hardware import BLACKWELL_EXPERTS
from pulumi_tandem.check.pair import pair
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

SLEEP_WITH_NIXL = (0, 33)
"""First vLLM whose NIXL connector can sleep, in pull mode over UCX only."""
SLEEP_IS_CHECKED = (0, 32)
MOONCAKE_UNEQUAL = (0, 20)
SEVERAL_HAND_OVER = (0, 11)
"""Releases before were seen to fail; later ones were not read."""
RECOMPUTE_STEPS_MAX = 8
"""A prompt of 64k tokens in batches of 8192, Tandem's default."""
METRICS_PATHS = {"vLLM": "/metrics", "TensorRT-LLM": "/prometheus/metrics"}
_CHANGING = ("--hf-overrides", "--rope-", "--hf-config-path")


@rule(
    code="TND0110",
    title="a pair with LMCache has equal tensor parallelism",
    story="""Its disaggregated mode sends from rank to rank of the same number. With another split on the other side the
    ranks that have no partner wait.""",
    source="LMCache/LMCache#1142 (LMCacheConnectorV1 in vLLM 0.9.2)",
)
def lmcache_ranks(resolved: Resolved) -> Iterator[Breach]:
    """Tensor parallelism is equal with LMCache."""
    two = _named(resolved, "LMCacheConnector")
    if two and two[0].tensor_parallel != two[1].tensor_parallel:
        message = (
            f"decode is split over {two[1].tensor_parallel} GPUs and prefill over {two[0].tensor_parallel}; LMCache "
            "transfers between ranks of one number only"
        )
        fix = f"use tensor_parallel={two[0].tensor_parallel} on both, or NixlConnector"
        yield Breach(path="decode.tensor_parallel", message=message, fix=fix)


@rule(
    code="TND0111",
    severity="warning",
    title="processes that find KV by a hash compute the same hash",
    story="""LMCache names chunks by Python's hash, which is random in every process unless PYTHONHASHSEED is set.
    Decode then never finds what prefill stored, and the buffer fills up.""",
    source="vllm#21161",
)
def one_hash_seed(resolved: Resolved) -> Iterator[Breach]:
    """PYTHONHASHSEED is set, alike, on both pools with LMCache."""
    two = _named(resolved, "LMCacheConnector")
    if not two:
        return
    seeds = [dict(pool.env).get("PYTHONHASHSEED") for pool in two]
    for pool, seed in zip(two, seeds, strict=True):
        if seed is None or seed == "random" or seeds[0] != seeds[1]:
            message = f"PYTHONHASHSEED is {seed or 'not set'}; decode would not find the chunks that prefill stored"
            fix = "env={'PYTHONHASHSEED': '0'} on both pools"
            yield Breach(path=f"{pool.name}.env.PYTHONHASHSEED", message=message, fix=fix)


@rule(
    code="TND0112",
    title="engines that hand KV over sleep only where the connector can",
    story="""Sleep gives the memory back that the transfer library has registered. vLLM 0.33's NIXL connector registers
    anew after waking, in pull mode over UCX only; every other one refuses sleep mode at start.""",
    source="vLLM 0.33 nixl/connector.py supports_sleep_mode; config/vllm.py _verify_kv_transfer_compat",
)
def sleep_is_supported(resolved: Resolved) -> Iterator[Breach]:
    """--enable-sleep-mode stands with NIXL in pull mode over UCX, from 0.33."""
    for pool in pair(resolved) or ():
        sleeps = any(flag[0] == "--enable-sleep-mode" for flag in split_flags(pool.extra_args))
        if not (pool.vllm and pool.connector.name and sleeps and pool.release_numbers >= SLEEP_IS_CHECKED):
            continue
        over = pool.connector.backends or (("LIBFABRIC",) if resolved.transfer.transport == "efa" else ("UCX",))
        pulls = pool.connector.name in {"NixlConnector", "NixlPullConnector"}
        if pulls and over == ("UCX",) and pool.release_numbers >= SLEEP_WITH_NIXL:
            continue
        message = f"sleep mode cannot be had with {pool.connector.name} over {' and '.join(over)}; it would not start"
        yield Breach(path=f"{pool.name}.extra_args", message=message, fix="take --enable-sleep-mode out")


@rule(
    code="TND0113",
    severity="warning",
    title="both-way transfer of sliding windows has equal tensor parallelism",
    story="""With bidirectional_kv_xfer prefill reads from decode too. On a model with sliding windows and unequal
    tensor parallelism the decode worker is reported to crash while it loads the other side's description, again after
    each restart; equal ones work.""",
    source="vllm#50765 (open, August 2026); vllm#37333",
)
def both_ways(resolved: Resolved) -> Iterator[Breach]:
    """bidirectional_kv_xfer on a windowed model goes with equal tensor parallelism."""
    two = _by(resolved, "Nixl")
    if not two or not resolved.architecture.sliding_layers or two[0].tensor_parallel == two[1].tensor_parallel:
        return
    if any(pool.connector.extra.get("bidirectional_kv_xfer") for pool in two):
        message = (
            f"decode is split over {two[1].tensor_parallel} GPUs and prefill over {two[0].tensor_parallel}, with KV "
            "moved both ways on a model with sliding windows; decode is reported to crash at the handshake"
        )
        fix = "use equal tensor_parallel, or drop bidirectional_kv_xfer"
        yield Breach(path="decode.tensor_parallel", message=message, fix=fix)


@rule(
    code="TND0114",
    title="transfer both ways is in pull mode, on both pools",
    story="""With bidirectional_kv_xfer decode keeps a conversation's KV for prefill to read at the next turn. Both
    sides take part, and only the pull protocol has it.""",
    source="vLLM 0.32/0.33 .../nixl: bidirectional_kv_xfer",
)
def both_take_part(resolved: Resolved) -> Iterator[Breach]:
    """bidirectional_kv_xfer is set alike on both, in pull mode."""
    two = _by(resolved, "Nixl")
    if not two:
        return
    wanted = [bool(pool.connector.extra.get("bidirectional_kv_xfer")) for pool in two]
    path = "decode.connector.extra.bidirectional_kv_xfer"
    if wanted[0] != wanted[1]:
        message = f"bidirectional_kv_xfer is {wanted[1]} on decode and {wanted[0]} on prefill; nothing would come back"
        yield Breach(path=path, message=message, fix="set it on the transfer's connector and on no pool's")
    elif wanted[0] and any(pool.moves_kv_by("NixlPush") for pool in two):
        message = "bidirectional_kv_xfer is read by the pull protocol only; the engine would not start"
        yield Breach(path=path, message=message, fix="use NixlConnector")


@rule(
    code="TND0115",
    severity="warning",
    title="speculation with DSpark is not combined with a hand-over on Hopper",
    story="""Its layers add KV that NIXL's handshake does not map with FlashAttention 3; the report is open.""",
    source="vllm#48221 (open)",
)
def dspark(resolved: Resolved) -> Iterator[Breach]:
    """DSpark on both pools of a Hopper pair is told of."""
    for pool in _by(resolved, "Nixl") or ():
        method = pool.speculation.method.lower() if pool.speculation else ""
        if method == "dspark" and pool.gpu.compute_capability == 90:
            message = "DSpark with NIXL on Hopper is reported to fail at the handshake"
            fix = "try it before users do, or use 'eagle3' or 'mtp'"
            yield Breach(path=f"{pool.name}.engine.speculation", message=message, fix=fix)


@rule(
    code="TND0116",
    title="both pools use the same revision of the weights",
    story="""The handshake compares names and shapes and not the revision: decode continues from KV of other weights,
    fluently and wrong, with 200 OK.""",
    source="vLLM 0.32/0.33 .../nixl/metadata.py compute_nixl_compatibility_hash has no revision; vllm#55776",
)
def same_revision(resolved: Resolved) -> Iterator[Breach]:
    """Revisions of the pair are equal."""
    two = pair(resolved)
    if two and two[0].model_revision != two[1].model_revision:
        message = (
            f"the revision is {two[1].model_revision or 'the newest'} on decode and "
            f"{two[0].model_revision or 'the newest'} on prefill; answers would be wrong, with 200 OK"
        )
        fix = "set revision on the model and model_revision on no pool"
        yield Breach(path="decode.model_revision", message=message, fix=fix)


@rule(
    code="TND0117",
    severity="warning",
    title="the handshake compares what must be equal",
    story="""enforce_handshake_compat=false lets any two engines exchange KV: what they do not have in common is then
    garbage in an answer, and no error.""",
    source="vLLM 0.32/0.33 .../nixl/base_worker.py enforce_handshake_compat",
)
def handshake_compares(resolved: Resolved) -> Iterator[Breach]:
    """enforce_handshake_compat is not turned off."""
    for pool in _by(resolved, "Nixl") or ():
        if pool.connector.extra.get("enforce_handshake_compat", True) is False:
            message = "the handshake's comparison is off; mismatches would become wrong answers"
            path = f"{pool.name}.connector.extra.enforce_handshake_compat"
            yield Breach(path=path, message=message, fix="take it out")


@rule(
    code="TND0118",
    title="both pools change the model's numbers in the same way",
    story="""--hf-overrides and its like stretch positions or replace other parts of the model's configuration. KV that
    was computed with one set of positions and is read with another gives fluent, wrong answers; nothing compares
    them.""",
    source="vLLM 0.32/0.33 engine/arg_utils.py hf_overrides; not in compute_nixl_compatibility_hash",
)
def same_overrides(resolved: Resolved) -> Iterator[Breach]:
    """Flags that change the model's configuration are equal on the pair."""
    two = pair(resolved)
    if not two or any(pool.context_tokens > resolved.architecture.positions_max for pool in two):
        return  # with TND0030, the pool without them would not start at all
    prefill, decode = (sorted(f for f in split_flags(pool.extra_args) if f[0].startswith(_CHANGING)) for pool in two)
    if prefill != decode:
        message = f"decode has {_flags(decode)} and prefill {_flags(prefill)}; KV of one would be wrong for the other"
        yield Breach(path="decode.extra_args", message=message, fix="give both pools the same of these flags")


@rule(
    code="TND0119",
    title="a TensorRT-LLM server has its pool's role",
    story="""A context server reads prompts and a generation server writes answers. Two of one kind register with the
    orchestrator, which then waits for the other.""",
    source="TensorRT-LLM 1.2 trtllm-serve --server_role",
)
def server_roles(resolved: Resolved) -> Iterator[Breach]:
    """server_role is CONTEXT on prefill and GENERATION on decode."""
    right = {"prefill": "CONTEXT", "decode": "GENERATION"}
    for pool in pair(resolved) or ():
        given = pool.tensorrt_llm.server_role if pool.tensorrt_llm else None
        if given not in (None, right[pool.name]):
            message = f"{pool.name} is declared {given!r}; the orchestrator would wait for a {right[pool.name]} server"
            yield Breach(path=f"{pool.name}.engine.server_role", message=message, fix=f"write {right[pool.name]!r}")


@rule(
    code="TND0120",
    title="a pair with an early Mooncake has equal tensor parallelism",
    story="""MooncakeConnector raised for unequal tensor parallelism until it learnt to plan such transfers; since then
    one must divide the other, as with NIXL.""",
    source="vllm#36869 (merged for 0.20): NotImplementedError before; mooncake_connector.py _get_tp_ratio",
)
def mooncake_ranks(resolved: Resolved) -> Iterator[Breach]:
    """Tensor parallelism is equal with Mooncake before 0.20, and divides from then on."""
    two = _named(resolved, "MooncakeConnector")
    if not two:
        return
    prefill, decode = two[0].tensor_parallel, two[1].tensor_parallel
    old = two[1].release_numbers < MOONCAKE_UNEQUAL and prefill != decode
    if old or max(prefill, decode) % min(prefill, decode):
        message = (
            f"decode is split over {decode} GPUs and prefill over {prefill}, which Mooncake cannot transfer between"
        )
        fix = f"use tensor_parallel={prefill} on both"
        yield Breach(path="decode.tensor_parallel", message=message, fix=fix)


@rule(
    code="TND0121",
    title="one connector of several hands KV over",
    story="""A MultiConnector gives a request's transfer parameters to all of its parts. With LMCache as another part,
    decode did not find NIXL's engine id in them, and hand-offs failed.""",
    source="vllm#20609 (0.9), vllm#20613",
)
def one_hands_over(resolved: Resolved) -> Iterator[Breach]:
    """Early MultiConnectors do not hold NIXL and LMCache together."""
    for pool in pair(resolved) or ():
        both = pool.vllm and pool.moves_kv_by("Nixl") and pool.moves_kv_by("LMCache")
        if both and pool.release_numbers < SEVERAL_HAND_OVER:
            message = (
                f"NIXL and LMCache together in vLLM {pool.engine.version} lose the other engine's id; hand-offs fail"
            )
            path = f"{pool.name}.connector.extra.connectors"
            yield Breach(path=path, message=message, fix="use NixlConnector alone, or a newer vLLM")


@rule(
    code="TND0124",
    severity="warning",
    title="connectors that stand together are known to hand KV over together",
    story="""NIXL and LMCache as parts of one MultiConnector were reported to fail or hang (0.9). Part of that was
    mended, and nobody has reported on the pair in a later release: try it before users do.""",
    source="vllm#20609 (0.9), vllm#20613",
)
def tried_together(resolved: Resolved) -> Iterator[Breach]:
    """Later MultiConnectors with NIXL and LMCache are told of."""
    for pool in pair(resolved) or ():
        both = pool.vllm and pool.moves_kv_by("Nixl") and pool.moves_kv_by("LMCache")
        if both and pool.release_numbers >= SEVERAL_HAND_OVER:
            message = (
                "NIXL and LMCache in one MultiConnector were reported to fail (0.9), and nobody has reported that they "
                "work now"
            )
            path = f"{pool.name}.connector.extra.connectors"
            yield Breach(path=path, message=message, fix="use NixlConnector alone, or prove the pair first")


@rule(
    code="TND0125",
    severity="warning",
    title="decode that reads lost prompts again has the steps for it",
    story="""With 'recompute' a decode worker reads a prompt whose KV cannot be fetched by itself, batch by batch, and
    all its streams wait in each of those steps. One lost prefill worker does that to every prompt that it held. A
    batch sized for decoding makes many long steps of it.""",
    source="vLLM 0.32/0.33 config/kv_transfer.py kv_load_failure_policy; docs/features/nixl_connector_usage.md",
)
def recompute_has_steps(resolved: Resolved) -> Iterator[Breach]:
    """With recompute, decode's batch takes the longest prompt in at most 8 steps."""
    two, longest = pair(resolved), resolved.prompt_tokens_max
    if not two or not longest or not two[1].vllm:
        return
    decode = two[1]
    steps = -(-longest // decode.batch_tokens)
    if decode.connector.load_failure == "recompute" and steps > RECOMPUTE_STEPS_MAX:
        message = (
            f"decode would read a lost prompt of {longest} tokens again in {steps} steps of {decode.batch_tokens}, in "
            "which its other streams wait"
        )
        fix = "use kv_load_failure='fail': the gateway runs the request elsewhere; or more batch_tokens on decode"
        yield Breach(path="decode.batch_tokens", message=message, fix=fix)


@rule(
    code="TND0122",
    title="metrics are scraped where the engine has them",
    story="""vLLM has Prometheus metrics at /metrics. TensorRT-LLM answers there with JSON about its iterations, which
    Prometheus cannot read, and has metrics at /prometheus/metrics once return_perf_metrics is on. A target that is
    scraped at the wrong place is down, and with it every alert and autoscaler that goes by it.""",
    source="vLLM 0.32/0.33 /metrics; TensorRT-LLM 1.2 trtllm-serve: /metrics, /prometheus/metrics",
)
def metrics_are_there(resolved: Resolved) -> Iterator[Breach]:
    """metrics_path is the engine's, and TensorRT-LLM's are on."""
    for pool in resolved.pools:
        right = METRICS_PATHS[pool.engine_name]
        if pool.metrics_path is None:
            continue
        if pool.metrics_path != right:
            message = f"{pool.engine_name} has no Prometheus metrics at {pool.metrics_path!r}"
            yield Breach(path=f"{pool.name}.metrics_path", message=message, fix=f"use {right!r}")
        elif pool.tensorrt_llm and not pool.tensorrt_llm.perf_metrics:
            message = f"TensorRT-LLM has nothing at {right!r} unless return_perf_metrics is on"
            yield Breach(path=f"{pool.name}.engine.perf_metrics", message=message, fix="use perf_metrics=True")


@rule(
    code="TND0123",
    title="kernels for experts run on the GPU",
    story="""CUTLASS runs everywhere. TRTLLM, CUTEDSL and DEEPGEMM were written for Blackwell's data-centre GPUs and
    assert on any other while the model is built.""",
    source="TensorRT-LLM 1.2 _torch/modules/fused_moe: SM100 and SM103 only",
)
def experts_kernels(resolved: Resolved) -> Iterator[Breach]:
    """moe_backend is one that the compute capability has."""
    for pool in resolved.pools:
        name = (pool.tensorrt_llm.moe_backend or "").upper() if pool.tensorrt_llm else ""
        if name in BLACKWELL_EXPERTS and pool.gpu.compute_capability // 10 != 10:
            message = f"experts' kernels {name} do not run on {pool.gpu.name}; the server would not start"
            yield Breach(path=f"{pool.name}.engine.moe_backend", message=message, fix="use 'CUTLASS', or name none")


def _flags(flags: list[tuple[str, ...]]) -> str:
    return " ".join(word for flag in flags for word in flag) or "none"


def _named(resolved: Resolved, family: str) -> tuple[ResolvedPool, ResolvedPool] | None:
    """The pair, where that connector itself, and not a part of another, moves its KV."""
    two = _by(resolved, family)
    return two if two and all((pool.connector.name or "").startswith(family) for pool in two) else None


def _by(resolved: Resolved, family: str) -> tuple[ResolvedPool, ResolvedPool] | None:
    """The pair, where both sides are vLLM with a connector of that family."""
    two = pair(resolved)
    return two if two and all(pool.vllm and pool.moves_kv_by(family) for pool in two) else None
