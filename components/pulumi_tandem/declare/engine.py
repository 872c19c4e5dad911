"""The engines that can serve."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.noun import Noun


class Speculation(Noun):
    """Speculative decoding: a cheap guess of several tokens, which the model then checks in one step."""

    method: str
    """As the engine names it: `eagle3`, `mtp`, `ngram`, `draft_model`, ... and for TensorRT-LLM `Eagle3`, `MTP`."""
    model: str | None = None
    """Weights that guess, where the method has some of its own."""
    tokens: int | None = Field(default=None, ge=1)
    """Guesses per step; the pools may differ in it. Default: the engine's."""


class Vllm(Noun):
    """vLLM, with the settings that both sides of a pair must share."""

    version: str = "0.33.0"
    """Release on PyPI; both pools must run the same one."""
    attention_backend: str | None = None
    """Default: what the engine chooses for the GPU and KV type; name one where the two pools differ in GPU."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their KV."""
    hybrid_kv_cache: bool | None = None
    """Whether layers with a sliding window keep only their window; off doubles the KV of gpt-oss.
    Default: the engine's own, which is on wherever its connector can (off with any connector before 0.21)."""
    tool_call_parser: str | None = None
    """Name of the parser that turns the model's text into tool calls. Default: tools are passed as text only."""
    reasoning_parser: str | None = None
    kv_load_failure: Literal["fail", "recompute"] = "fail"
    """What decode does when a prompt's KV cannot be fetched: end the request, so that the gateway runs it
    elsewhere, or prefill it on the decode worker, which delays its other streams."""
    speculation: Speculation | None = None
    """Default: none; every token is computed one by one."""
    nixl_version: str | None = None
    """NIXL release in the engine's image. Default: one that the engine takes."""


class TensorRtLlm(Noun):
    """TensorRT-LLM's PyTorch backend. Not run on hardware: what it becomes is held against its sources only."""

    version: str = "1.2.1"
    """Release on PyPI; both pools must run the same one."""
    attention_backend: str | None = None
    """`TRTLLM`, `FLASHINFER`, `VANILLA`. Default: `TRTLLM`."""
    server_role: Literal["CONTEXT", "GENERATION"] | None = None
    """Default: `CONTEXT` on prefill, `GENERATION` on decode."""
    transceiver: str | None = "DEFAULT"
    """`cache_transceiver_config.backend`: `DEFAULT` (NIXL), `NIXL`, `UCX`, `MOONCAKE` or `MPI`.
    None: no such section, and the server exchanges no KV."""
    max_tokens_in_buffer: int | None = Field(default=None, ge=1)
    """Tokens of one hand-off that the transceiver's buffer holds. Default: the engine's."""
    overlap_scheduler: bool = True
    """Whether the next step is scheduled while the last one runs."""
    chunked_prefill: bool = False
    """Whether a prompt longer than `batch_tokens` is read in several steps."""
    moe_backend: str | None = None
    """`moe_config.backend`: `CUTLASS`, `TRTLLM`, `CUTEDSL`, `DEEPGEMM`, `WIDEEP`, ... Default: the engine's."""
    beams: int = Field(default=1, ge=1)
    """`max_beam_width`."""
    attention_data_parallel: bool = False
    """Whether attention is split by requests over the worker's GPUs, and not by heads."""
    perf_metrics: bool = False
    """`return_perf_metrics`: whether the server has Prometheus metrics. Servers that Tandem starts always do: its agent
    reads the transfers of KV there."""
    speculation: Speculation | None = None
    """Default: none."""


Engine = Vllm | TensorRtLlm
