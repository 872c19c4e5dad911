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
    """Bytes that one token takes on one GPU over all layers, windows not counted.

    Keys and values of every cached head; where there are more GPUs than heads, heads are held twice. Latent
    attention caches one vector a layer, on every GPU. Layers with a state take nothing per token.
    """
    return (shape.layers - shape.state_layers) * _layer_bytes(shape, cache)


def kv_bytes(shape: Architecture, cache: KvCache, tokens: int) -> float:
    """Bytes that one request of `tokens` takes on one GPU, in whole blocks.

    A layer with a sliding window keeps its window and one block more, if such layers are managed apart.
    """
    windowed = shape.sliding_layers if cache.hybrid and shape.sliding_window_tokens else 0
    window_tokens = min(tokens, shape.sliding_window_tokens + cache.block_tokens)
    whole = shape.layers - shape.state_layers - windowed
    kept = whole * _whole(tokens, cache) + windowed * _whole(window_tokens, cache)
    return kept * _layer_bytes(shape, cache) + shape.state_bytes / cache.tensor_parallel


def _whole(tokens: int, cache: KvCache) -> int:
    """Tokens rounded up to whole blocks."""
    return -(-tokens // cache.block_tokens) * cache.block_tokens


def _layer_bytes(shape: Architecture, cache: KvCache) -> float:
    if shape.latent_dim:
        return shape.latent_dim * kv_dtype_bytes(cache.kv_dtype, cache.dtype)
    heads_here = max(1, shape.kv_heads // cache.tensor_parallel)
    return 2 * heads_here * shape.head_dim * kv_dtype_bytes(cache.kv_dtype, cache.dtype)
