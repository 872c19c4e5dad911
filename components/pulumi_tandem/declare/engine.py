"""The engines that can serve."""

from typing import Literal

from pulumi_tandem.declare.noun import Noun


class Vllm(Noun):
    """vLLM, with the settings that both sides of a pair must share."""

    version: str = "0.33.0"
    """Release on PyPI; both pools must run the same one."""
    attention_backend: str | None = None
    """Default: what the engine chooses for the GPU and KV type; name one where the two pools differ in GPU."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their KV."""
    hybrid_kv_cache: bool = True
    """Whether layers with a sliding window keep only their window; off doubles the KV of gpt-oss."""
    tool_call_parser: str | None = None
    """Name of the parser that turns the model's text into tool calls. Default: tools are passed as text only."""
    reasoning_parser: str | None = None
    kv_load_failure: Literal["fail", "recompute"] = "fail"
    """What decode does when a prompt's KV cannot be fetched: end the request, so that the gateway runs it
    elsewhere, or prefill it on the decode worker, which delays its other streams."""
