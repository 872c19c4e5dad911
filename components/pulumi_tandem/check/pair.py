"""Codes 0010 to 0019: what both pools must have in common to exchange KV at all.

vLLM hashes it in the handshake between two workers. Where the hashes differ, decode fails every hand-off
with `NIXL compatibility hash mismatch`, which is only seen at the first request.
"""

from collections.abc import Iterator

from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.finding import nearest
from pulumi_tandem.resolve import Resolved, ResolvedPool

_HASH = "vLLM 0.32/0.33 .../kv_connector/v1/nixl/metadata.py, compute_nixl_compatibility_hash"
_SEEN = "every hand-off would end in 'NIXL compatibility hash mismatch', at the first request"


def pair(resolved: Resolved) -> tuple[ResolvedPool, ResolvedPool] | None:
    """Prefill and decode; None for an aggregated service."""
    return (resolved.pool("prefill"), resolved.pool("decode")) if resolved.disaggregated else None


def vllm_pair(resolved: Resolved) -> tuple[ResolvedPool, ResolvedPool] | None:
    """Prefill and decode where both run vLLM and exchange KV through its NIXL connector."""
    two = pair(resolved)
    return two if two and all(pool.vllm and pool.moves_kv_by("Nixl") for pool in two) else None


def _hashed(resolved: Resolved) -> tuple[ResolvedPool, ResolvedPool] | None:
    """The pair, where its handshake compares hashes: decode's side can be told not to."""
    two = vllm_pair(resolved)
    return two if two and two[1].connector.extra.get("enforce_handshake_compat", True) else None


def _differ(field: str, what: str, fix: str, values: tuple[str, str]) -> Iterator[Breach]:
    if values[0] != values[1]:
        message = f"{what} is {values[1]!r} on decode and {values[0]!r} on prefill; {_SEEN}"
        yield Breach(path=f"decode.{field}", message=message, fix=fix)


@rule(
    code="TND0010",
    title="both pools name the model by the same string",
    story="""The handshake compares the model as it was given, letter by letter: a folder on one side and the
    organisation's name on the other, or two folders with the same weights, are two models to it. Engines start,
    report healthy, and every hand-off fails.""",
    source=_HASH,
)
def same_model(resolved: Resolved) -> Iterator[Breach]:
    """Model strings of the pair are equal."""
    if two := _hashed(resolved):
        fix = "mount the weights at the same path on both, and drop the pool's model_path"
        yield from _differ("model_path", "the model", fix, (two[0].model_ref, two[1].model_ref))


@rule(
    code="TND0011",
    title="both pools compute in the same dtype",
    story="""KV is written by prefill as it stands in memory and read by decode as it stands: two dtypes would mean
    reading one number as another. The handshake compares the dtype and refuses.""",
    source=_HASH,
)
def same_dtype(resolved: Resolved) -> Iterator[Breach]:
    """Dtypes of the pair are equal."""
    if two := _hashed(resolved):
        fix = "set dtype on the model and on no pool"
        yield from _differ("dtype", "the dtype", fix, (two[0].dtype, two[1].dtype))


@rule(
    code="TND0012",
    title="both pools spell the KV dtype alike",
    story="""The handshake compares the word, not its meaning: 'fp8' and 'fp8_e4m3' are the same numbers and still do
    not match, nor do 'auto' and 'bfloat16' on a bfloat16 model.""",
    source=f"{_HASH}: str(cache_config.cache_dtype)",
)
def same_kv_dtype(resolved: Resolved) -> Iterator[Breach]:
    """KV dtypes of the pair are the same word."""
    if two := _hashed(resolved):
        fix = f"write kv_dtype={two[0].kv_dtype!r} on both pools"
        yield from _differ("kv_dtype", "the KV dtype", fix, (two[0].kv_dtype, two[1].kv_dtype))


@rule(
    code="TND0013",
    title="both pools run the same engine version",
    story="""The engine's version and its connector's version are in the handshake, so a pair across two releases
    never exchanges a block, even during a rolling update. A new version is rolled out as a new generation of both
    pools.""",
    source=_HASH,
)
def same_engine(resolved: Resolved) -> Iterator[Breach]:
    """Engines of the pair are one release of one engine."""
    two = pair(resolved)
    if not two:
        return
    if (two[0].vllm is None) != (two[1].vllm is None):
        message = f"decode runs {two[1].engine_name} and prefill {two[0].engine_name}, which exchange no KV"
        yield Breach(path="decode.engine", message=message, fix="run one engine on both pools")
        return
    fix = "set the version on the service's engine and give no pool its own; both pools roll together"
    versions = (two[0].engine.version, two[1].engine.version)
    yield from _differ("engine.version", f"{two[0].engine_name}'s version", fix, versions)


@rule(
    code="TND0014",
    title="both pools use the same attention backend",
    story="""The engine picks an attention backend for its GPU and KV type: FLASH_ATTN on Hopper, FLASHINFER on B200
    or for fp8 KV below compute capability 9.0, CPU_ATTN on a CPU. Its name is in the handshake. H200 with H100 pairs
    by itself; H100 with B200 does not, unless one backend that both have is named.""",
    source=f"{_HASH}; platforms/cuda.py, backend priorities",
)
def same_attention(resolved: Resolved) -> Iterator[Breach]:
    """Attention backends of the pair, chosen or named, are equal."""
    two = _hashed(resolved)
    if not two or two[0].attention_backend == two[1].attention_backend:
        return
    prefill, decode = two
    message = (
        f"{decode.gpu.name} decodes with {decode.attention_backend}, "
        f"{prefill.gpu.name} prefills with {prefill.attention_backend}; {_SEEN}"
    )
    alike = "use GPUs of the same kind on both pools"
    named = "or name one that both have: engine=tandem.Vllm(attention_backend='FLASHINFER') on the service"
    fix = alike if prefill.on_cpu != decode.on_cpu else f"{alike}, {named}"
    path = "decode.engine.attention_backend" if prefill.gpu == decode.gpu else "decode.gpu"
    yield Breach(path=path, message=message, fix=fix)


@rule(
    code="TND0015",
    title="both pools manage layers with a sliding window the same way",
    story="""Whether the hybrid KV cache manager is on decides which blocks exist; it is in the handshake.""",
    source=f"{_HASH}: is_hma_enabled",
)
def same_hybrid(resolved: Resolved) -> Iterator[Breach]:
    """The hybrid KV cache manager is on, or off, on both."""
    if two := _hashed(resolved):
        states = (str(two[0].hybrid_kv_cache), str(two[1].hybrid_kv_cache))
        fix = "set hybrid_kv_cache on the service's engine and give no pool its own"
        yield from _differ("engine.hybrid_kv_cache", "hybrid_kv_cache", fix, states)


@rule(
    code="TND0016",
    title="both pools decode speculatively in the same way, or neither does",
    story="""A draft model has KV of its own that travels with the prompt's, so its method and model are in the
    handshake; older releases crashed decode on long prompts in its place. How many tokens are guessed may differ, and
    so may methods that have no KV (`ngram`).""",
    source=f"{_HASH}: speculative_config",
)
def same_speculation(resolved: Resolved) -> Iterator[Breach]:
    """Speculation with KV of its own is the same on both."""
    if two := _hashed(resolved):
        guesses = (two[0].draft_kv or "none", two[1].draft_kv or "none")
        fix = "set speculation on the service's engine, or use a method without KV of its own: 'ngram'"
        yield from _differ("engine.speculation", "speculative decoding", fix, guesses)


@rule(
    code="TND0017",
    title="the engine knows the KV dtype",
    story="""vLLM refuses an unknown word at start; the CPU build takes fewer than the GPU builds. Workers then die
    one after another while the update waits for them.""",
    source="vLLM 0.32/0.33 config/cache.py CacheDType; v1/attention/backends/cpu_attn.py",
)
def known_kv_dtype(resolved: Resolved) -> Iterator[Breach]:
    """KV dtypes are words of the pool's engine."""
    for pool in resolved.pools:
        known = pool.release.cpu_kv_dtypes if pool.on_cpu else pool.release.kv_dtypes
        if pool.kv_dtype in known:
            continue
        near = nearest(pool.kv_dtype, known)
        where = f"{pool.engine_name} {pool.engine.version}{' on a CPU' if pool.on_cpu else ''}"
        yield Breach(
            path=f"{pool.name}.kv_dtype",
            message=f"{where} knows no KV dtype {pool.kv_dtype!r}; its workers would not start",
            fix=f"write {near!r}" if near else f"use one of: {', '.join(known)}",
        )
