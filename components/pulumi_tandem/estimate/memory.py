"""What cached keys and values weigh."""

from dataclasses import dataclass

from pulumi_tandem.declare.model import DTYPE_BYTES, Architecture

KV_BITS = {"float16": 16, "bfloat16": 16, "fp8": 8, "int8": 8, "int4": 4, "nvfp4": 4}
"""Bits per cached number by the first word of the KV type's name; scales are not counted."""


def kv_dtype_bytes(kv_dtype: str, dtype: str) -> float:
    """Bytes of one cached number; `auto` means the model's `dtype`, an unknown type counts like it."""
    bits = KV_BITS.get(kv_dtype.partition("_")[0])
    return bits / 8 if bits else float(DTYPE_BYTES[dtype])


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """How one engine keeps keys and values."""

    kv_dtype: str
    dtype: str
    """The model's, which `auto` stands for."""
    block_tokens: int
    tensor_parallel: int = 1
    hybrid: bool = True
    """Whether layers with a sliding window are managed apart and keep only their window."""


def kv_bytes_per_token(shape: Architecture, cache: KvCache) -> float:
    """Bytes that one token takes on one GPU over all layers that cache tokens, windows not counted.

    Keys and values of every cached head; where there are more GPUs than heads, heads are held twice. With latent
    attention, the latent numbers, which every GPU holds whole.
    """
    return shape.attention_layers * layer_bytes(shape, cache) + shape.index_bytes_per_token


def kv_bytes(shape: Architecture, cache: KvCache, tokens: int) -> float:
    """Bytes that one request of `tokens` takes on one GPU, in whole blocks, its states of fixed size included.

    A layer with a sliding window keeps its window and one block more, if such layers are managed apart.
    """
    windowed = shape.sliding_layers if cache.hybrid and shape.sliding_window_tokens else 0
    window_tokens = min(tokens, shape.sliding_window_tokens + cache.block_tokens)
    kept = (shape.attention_layers - windowed) * _whole(tokens, cache) + windowed * _whole(window_tokens, cache)
    index = shape.index_bytes_per_token * _whole(tokens, cache)
    return kept * layer_bytes(shape, cache) + index + shape.state_bytes / cache.tensor_parallel


def _whole(tokens: int, cache: KvCache) -> int:
    """Tokens rounded up to whole blocks."""
    return -(-tokens // cache.block_tokens) * cache.block_tokens


def layer_bytes(shape: Architecture, cache: KvCache) -> float:
    """Bytes that one token takes on one GPU in a layer that caches tokens."""
    if shape.latent_dim:
        return _latent_bytes(shape, cache)
    heads_here = max(1, shape.kv_heads // cache.tensor_parallel)
    value_dim = shape.value_head_dim or shape.head_dim
    return heads_here * (shape.head_dim + value_dim) * kv_dtype_bytes(cache.kv_dtype, cache.dtype)


def _latent_bytes(shape: Architecture, cache: KvCache) -> float:
    """Bytes of one token's latent in one layer.

    `fp8_ds_mla` keeps the part without position in FP8 with a 4-byte scale per 128 numbers, and the rest in 16 bits:
    656 bytes for DeepSeek V3. Source: vLLM 0.33 v1/kv_cache_interface.py, MLAAttentionSpec.
    """
    if cache.kv_dtype == "fp8_ds_mla":
        plain = shape.latent_dim - shape.latent_rope_dim
        return plain + plain // 128 * 4 + 2 * shape.latent_rope_dim
    return shape.latent_dim * kv_dtype_bytes(cache.kv_dtype, cache.dtype)
