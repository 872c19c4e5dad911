"""What one pass of an engine moves and computes, on the GPU that has the most to do.

A pass takes a batch of tokens through all layers: chunks of prompts, one token of every sequence that decodes, or both.
"""

from dataclasses import dataclass, replace
from math import log2

from pulumi_tandem.declare.architecture import DTYPE_BYTES, QUANTISED_BITS, Architecture
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.memory import KvCache, layer_bytes

EXPERTS_ONLY = frozenset({"nvfp4", "mxfp4", "int4"})
"""Checkpoints of a mixture of experts in these types keep attention in the model's own type: so do gpt-oss's and
NVIDIA's NVFP4 ones of DeepSeek and Kimi (hf_quant_config.json, exclude_modules)."""

EXCHANGES_PER_LAYER = 2
"""All-reduces with tensor parallelism: after attention and after the feed-forward block. With experts spread over
data parallel ranks they are the two all-to-alls around the experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The tokens of one pass, over the whole engine."""

    prompt_tokens: float = 0.0
    """New tokens of prompts."""
    prompt_context_tokens: float = 0.0
    """Mean number of tokens that each of them looks back at."""
    prompt_ranks: int = 1
    """Data parallel ranks that they are spread over; one prompt is read by one rank."""
    sequences: float = 0.0
    """Sequences that get one more token."""
    context_tokens: float = 0.0
    """Mean number of tokens that each of those looks back at."""

    @property
    def tokens(self) -> float:
        """All tokens of the pass."""
        return self.prompt_tokens + self.sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Bytes, operations and events of a pass on one GPU."""

    weight_bytes: float
    """Weights read, without experts."""
    expert_bytes: float
    """Weights of the experts that the batch touches."""
    flops: float
    """Operations of the products with weights, without experts; two per weight and token."""
    expert_flops: float
    kv_bytes: float
    """Cached keys, values and states read."""
    attention_flops: float
    """Operations of attention itself: scores and weighted values."""
    activation_bytes: float
    """One pass over the activations between layers; kernels make several."""
    layers: float
    expert_layers: float
    latent_layers: float
    sequences: float
    """That decode on this GPU."""
    exchanges: float
    """All-reduces, or all-to-alls; 0 on one GPU."""
    exchange_doublings: float
    """Binary logarithm of the GPUs that take part."""
    exchange_bytes: float
    """What all exchanges together carry out of the GPU."""


def experts_touched(shape: Architecture, tokens: float) -> float:
    """Experts of one layer that at least one of `tokens` is sent to, if all are equally likely.

    E * (1 - (1 - k/E)**B). Real routers prefer some experts, so it is the most that is read.
    """
    return shape.experts * (1.0 - (1.0 - shape.experts_per_token / shape.experts) ** tokens)


def weight_bytes_each(setup: EngineSetup, *, expert: bool) -> float:
    """Bytes of one weight of an expert, or of all else but the embeddings."""
    kept = setup.shape.experts > 1 and not expert and setup.weight_dtype in EXPERTS_ONLY
    bits = None if kept else QUANTISED_BITS.get(setup.weight_dtype)
    return bits / 8 if bits else float(DTYPE_BYTES[setup.dtype])


def work(setup: EngineSetup, batch: Batch) -> Work:
    """What the pass costs the busiest GPU. Attention is spread over tensor parallel ranks, experts over all."""
    shape, ways = setup.shape, setup.tensor_parallel
    spread = ways * setup.data_parallel
    own = replace(
        batch,
        prompt_tokens=batch.prompt_tokens / batch.prompt_ranks,
        sequences=batch.sequences / setup.data_parallel,
    )
    expert_layers = shape.layers - shape.dense_layers if shape.experts > 1 else 0
    expert = 3.0 * shape.hidden * shape.intermediate
    everywhere = _parameters_everywhere(shape, expert_layers)
    touched = experts_touched(shape, batch.tokens) * expert_layers * expert
    head_bytes = shape.vocabulary * shape.hidden * DTYPE_BYTES[setup.dtype]
    exchanges = EXCHANGES_PER_LAYER * shape.layers if spread > 1 else 0
    hidden_bytes = own.tokens * shape.hidden * DTYPE_BYTES[setup.dtype]
    return Work(
        weight_bytes=(everywhere * weight_bytes_each(setup, expert=False) + head_bytes) / ways,
        expert_bytes=touched * weight_bytes_each(setup, expert=True) / spread,
        flops=2.0 * everywhere * own.tokens / ways,
        expert_flops=2.0 * expert_layers * expert * shape.experts_per_token * batch.tokens / spread,
        kv_bytes=_kv_bytes_read(setup, own),
        attention_flops=_attention_flops(setup, own) / ways,
        activation_bytes=shape.layers * hidden_bytes,
        layers=shape.layers,
        expert_layers=expert_layers,
        latent_layers=shape.layers if shape.latent_dim else 0,
        sequences=own.sequences,
        exchanges=exchanges,
        exchange_doublings=log2(spread),
        # A ring carries 2 * (n - 1) / n of the bytes out of every GPU, and as much in.
        exchange_bytes=exchanges * hidden_bytes * 2.0 * (ways - 1) / ways,
    )


def _parameters_everywhere(shape: Architecture, expert_layers: int) -> float:
    """Weights that every token goes through, on all GPUs together, without embeddings."""
    dense = (shape.layers - expert_layers) * (shape.dense_intermediate or shape.intermediate)
    shared = expert_layers * shape.shared_experts * shape.intermediate
    return shape.layers * shape.attention_parameters + 3.0 * shape.hidden * (dense + shared)


def _kv_bytes_read(setup: EngineSetup, own: Batch) -> float:
    """Bytes read by sequences that decode; a chunk of a prompt reads its context once, not once per token."""
    shape = setup.shape
    cache = KvCache(
        kv_dtype=setup.kv_dtype,
        dtype=setup.dtype,
        block_tokens=setup.block_tokens,
        tensor_parallel=setup.tensor_parallel,
    )
    each = layer_bytes(shape, cache)
    chunk = own.prompt_context_tokens if own.prompt_tokens else 0.0
    return each * (own.sequences * _seen(shape, own.context_tokens) + _seen(shape, chunk)) + (
        own.sequences * shape.state_bytes / setup.tensor_parallel
    )


def _seen(shape: Architecture, context_tokens: float) -> float:
    """Tokens looked back at, summed over the layers that keep keys and values."""
    windowed = shape.sliding_layers if shape.sliding_window_tokens else 0
    whole = shape.layers - shape.state_layers - windowed
    return whole * context_tokens + windowed * min(context_tokens, shape.sliding_window_tokens)


def _attention_flops(setup: EngineSetup, own: Batch) -> float:
    """Two operations per head, dimension and pair of tokens, for scores and again for values."""
    shape = setup.shape
    value_dim = shape.value_head_dim or shape.head_dim
    pair = 2.0 * shape.attention_heads * (shape.head_dim + value_dim)
    # Decode with latent attention works in the latent space: 2 * (576 + 512) per head and pair for DeepSeek V3.
    latent = 2.0 * shape.latent_dim - shape.latent_rope_dim
    latent_pair = 2.0 * shape.attention_heads * latent if shape.latent_dim else pair
    prompt = own.prompt_tokens * _seen(shape, own.prompt_context_tokens) * pair
    return prompt + own.sequences * _seen(shape, own.context_tokens) * latent_pair
