"""What an engine does where the declaration leaves it open: backends, blocks, managers, connectors."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import JsonValue

from pulumi_tandem import catalog
from pulumi_tandem.catalog import Gpu
from pulumi_tandem.declare import Connector, Engine, Speculation, TensorRtLlm, Vllm

Phase = Literal["prefill", "decode"]

HYBRID_CONNECTORS = frozenset({
    "NixlConnector", "NixlPullConnector", "NixlPushConnector", "MooncakeConnector", "MooncakeStoreConnector",
    "MoRIIOConnector", "OffloadingConnector", "SimpleCPUOffloadConnector", "HiSparseConnector", "DecodeBenchConnector",
})  # fmt: skip
"""Connectors that move the blocks of several kinds of layers; with another one vLLM manages all layers alike.
Source: classes with SupportsHMA in vLLM 0.33 distributed/kv_transfer/kv_connector/v1."""
HYBRID_BY_DEFAULT = (0, 21)
"""First vLLM that leaves layers managed apart where a connector can have it. Source: vllm#41847, merged in May 2026."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What an attention backend of vLLM can be had with."""

    capability_min: int
    capability_max: int = 999
    kv_dtypes: tuple[str, ...] = ()
    """KV types beside 16 bits."""
    latent: bool = False
    fp8_from: int = 0
    """Smallest compute capability for KV in fp8."""
    plain: bool = True
    """Whether it takes KV in 16 bits."""

    def takes(self, gpu: Gpu, kv_dtype: str) -> bool:
        """Whether it can be had on the GPU with KV of the type."""
        if not self.capability_min <= gpu.compute_capability <= self.capability_max:
            return False
        if kv_dtype in {"auto", "float16", "bfloat16"}:
            return self.plain
        return kv_dtype in self.kv_dtypes and not (
            kv_dtype.startswith("fp8") and gpu.compute_capability < self.fp8_from
        )


_FP8 = ("fp8", "fp8_e4m3")
_PER_HEAD = ("int4_per_token_head", "int8_per_token_head", "fp8_per_token_head")
BACKENDS = {
    "FLASH_ATTN": Backend(80, kv_dtypes=_FP8, fp8_from=90),
    "FLASHINFER": Backend(80, 121, (*_FP8, "fp8_e5m2", "nvfp4", "nvfp4_4over6")),
    "TRITON_ATTN": Backend(0, kv_dtypes=(*_FP8, "fp8_e5m2", *_PER_HEAD)),
    "FLEX_ATTENTION": Backend(0),
    "FLASH_ATTN_MLA": Backend(90, 99, latent=True),
    "FLASHMLA": Backend(90, 109, _FP8, latent=True),
    "FLASHINFER_MLA": Backend(100, 109, _FP8, latent=True),
    "CUTLASS_MLA": Backend(100, 109, _FP8, latent=True),
    "TOKENSPEED_MLA": Backend(100, 109, _FP8, latent=True, plain=False),
    "TRITON_MLA": Backend(0, kv_dtypes=_FP8, latent=True),
}
"""Source: vLLM 0.32.0 v1/attention/backends: supported_kv_cache_dtypes, supports_compute_capability, and for fp8 in
FLASH_ATTN flash_attn_supports_kv_cache_dtype."""
PRIORITIES = {
    10: ("FLASHINFER", "FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION"),
    0: ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION"),
}
"""Backends in the engine's order, by the major compute capability; 0: every other."""
LATENT_PRIORITIES = {
    10: ("FLASHINFER_MLA", "TOKENSPEED_MLA", "CUTLASS_MLA", "FLASH_ATTN_MLA", "FLASHMLA", "TRITON_MLA"),
    12: ("TRITON_MLA",),
    0: ("FLASH_ATTN_MLA", "FLASHMLA", "FLASHINFER_MLA", "TRITON_MLA"),
}
METHODS_WITHOUT_KV = frozenset({"ngram", "ngram_gpu", "suffix", "medusa", "mlp_speculator", "lookahead"})
"""Methods that guess without layers of attention of their own. Source: vLLM 0.32 config/speculative.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConnector:
    """How a pool exchanges KV; `Connector` says what each field means."""

    name: str | None
    role: str
    buffer_device: str
    load_failure: str
    extra: dict[str, JsonValue]
    """As declared: what Tandem lays under it is the business of lowering."""
    fields: dict[str, JsonValue]

    @property
    def backends(self) -> tuple[str, ...]:
        """NIXL's backends as declared by hand; empty: what the transport needs."""
        given = self.extra.get("backends")
        return tuple(str(each) for each in given) if isinstance(given, list) else ()

    @property
    def children(self) -> tuple[str, ...]:
        """Names of the connectors that a MultiConnector is made of."""
        given = self.extra.get("connectors")
        found = given if isinstance(given, list) else []
        return tuple(str(each.get("kv_connector") if isinstance(each, dict) else each) for each in found)


def default_block_tokens(engine: Engine, *, on_cpu: bool) -> int:
    """TensorRT-LLM's own default is 32 (kv_cache_config.tokens_per_block); ours for vLLM costs hand-offs less."""
    if isinstance(engine, TensorRtLlm):
        return 32
    return 128 if on_cpu else 64


def resolved_connector(given: Connector | None, phase: Phase, engine: Engine, *, on_cpu: bool) -> ResolvedConnector:
    """How a pool exchanges KV, with the role of its phase and the buffers of its device."""
    declared = given or Connector()
    load_failure = engine.kv_load_failure if isinstance(engine, Vllm) else "fail"
    return ResolvedConnector(
        name=declared.name,
        role=declared.role or ("kv_producer" if phase == "prefill" else "kv_consumer"),
        buffer_device=declared.buffer_device or ("cpu" if on_cpu else "cuda"),
        load_failure=declared.load_failure or load_failure,
        extra=declared.extra,
        fields=declared.fields,
    )


def default_hybrid(engine: Engine, connector: ResolvedConnector, *, disaggregated: bool) -> bool:
    """Whether layers of several kinds are managed apart: as declared, else as the engine chooses by itself."""
    if not isinstance(engine, Vllm) or not disaggregated or connector.name is None:
        return not isinstance(engine, Vllm) or engine.hybrid_kv_cache is not False
    if engine.hybrid_kv_cache is not None:
        return engine.hybrid_kv_cache
    able = set(connector.children or (connector.name,)) <= HYBRID_CONNECTORS
    return able and catalog.version(engine.version) >= HYBRID_BY_DEFAULT


def draft_kv_of(speculation: Speculation | None) -> str:
    """Method and model of a speculation that has KV of its own; empty: none."""
    if speculation is None or speculation.method.lower() in METHODS_WITHOUT_KV:
        return ""
    return f"{speculation.method} {speculation.model or ''}".strip()


def gpu_slice(gpu: Gpu, profile: str) -> Gpu:
    """A GPU's slice: memory as its profile's name says (`3g.20gb`), the rest as the GPU's."""
    found = re.search(r"(\d+)gb", profile)
    return replace(gpu, memory_gib=min(gpu.memory_gib, float(found[1]))) if found else gpu


def default_backend(engine: Engine, gpu: Gpu, kv_dtype: str, *, latent: bool) -> str:
    """What the engine chooses for the GPU."""
    return attention_backend(gpu, kv_dtype, latent=latent) if isinstance(engine, Vllm) else "TRTLLM"


def attention_backend(gpu: Gpu, kv_dtype: str, *, latent: bool = False) -> str:
    """What vLLM 0.32 and 0.33 choose by themselves, for a model with latent attention or without.

    Source: platforms/cuda.py, the first of its priorities that takes the GPU and the KV type; CPU: platforms/cpu.py.
    """
    if gpu.name == "cpu":
        return "CPU_ATTN"
    orders = LATENT_PRIORITIES if latent else PRIORITIES
    order = orders.get(gpu.compute_capability // 10, orders[0])
    return next((name for name in order if BACKENDS[name].takes(gpu, kv_dtype)), order[-1])


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
