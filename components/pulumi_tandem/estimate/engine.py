"""The engine that a prediction is about."""

from dataclasses import dataclass
from typing import Literal

from pulumi_tandem.catalog import Gpu
from pulumi_tandem.declare.model import Architecture

EngineKind = Literal["vllm", "tensorrt-llm", "sglang"]
"""Engines whose constants are known; the last is measured beside ours, and not deployed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """One engine: the model, the GPUs that it is spread over, and the settings that decide its speed."""

    gpu: Gpu
    shape: Architecture
    engine: EngineKind = "vllm"
    weight_dtype: str = "bfloat16"
    """Type of the large weights: `bfloat16`, `fp8`, `nvfp4`, `mxfp4`, `int4`."""
    dtype: str = "bfloat16"
    """Type of activations, and of the weights that a quantised checkpoint leaves alone."""
    kv_dtype: str = "auto"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    """Ranks that each hold whole attention and their own requests, and share the experts."""
    expert_parallel: bool = False
    """Whether a GPU holds whole experts; else every GPU holds a slice of each."""
    block_tokens: int = 64
    batch_tokens: int = 8_192
    """Most tokens of one pass; longer prompts are read in chunks of it."""
    memory_fraction: float = 0.9

    @property
    def gpus(self) -> int:
        """GPUs of the engine."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel
