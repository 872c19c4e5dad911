"""Weights and KV, against values worked by hand and as properties."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tandem import catalog, estimate
from pulumi_tandem.estimate import KvCache

LLAMA_8B = catalog.model("Llama-3.1-8B-Instruct").architecture
GPT_OSS = catalog.model("gpt-oss-120b").architecture
CACHES = st.builds(
    KvCache,
    kv_dtype=st.sampled_from(["auto", "fp8", "fp8_e4m3", "nvfp4"]),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    block_tokens=st.sampled_from([16, 32, 64, 128]),
    tensor_parallel=st.sampled_from([1, 2, 4, 8, 16]),
    hybrid=st.booleans(),
)


def bf16(**changes: Any) -> KvCache:
    return replace(KvCache(kv_dtype="auto", dtype="bfloat16", block_tokens=16), **changes)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        # keys and values (2) x layers x KV heads x head size x 2 bytes
        ("SmolLM2-135M-Instruct", 23_040),  # 2 x 30 x 3 x 64 x 2
        ("Llama-3.1-8B-Instruct", 131_072),  # 2 x 32 x 8 x 128 x 2
        ("Llama-3.3-70B-Instruct", 327_680),  # 2 x 80 x 8 x 128 x 2
        ("Qwen3-32B", 262_144),  # 2 x 64 x 8 x 128 x 2
        ("Qwen3-235B-A22B", 192_512),  # 2 x 94 x 4 x 128 x 2
        ("gpt-oss-120b", 73_728),  # 2 x 36 x 8 x 64 x 2, windows not counted
        # latent attention: layers x (512 + 64) x 2 bytes, for all heads together
        ("DeepSeek-V3", 70_272),  # 61 x 576 x 2
    ],
)
def test_kv_of_a_token(name: str, taken: int):
    assert estimate.kv_bytes_per_token(catalog.model(name).architecture, bf16()) == taken


def test_every_gpu_holds_the_whole_latent():
    shape = catalog.model("DeepSeek-V3").architecture
    assert estimate.kv_bytes_per_token(shape, bf16(tensor_parallel=8)) == 70_272


def test_a_latent_in_fp8_keeps_its_position_in_sixteen_bits():
    # 512 bytes, four scales of 4 bytes, 64 numbers of 2 bytes: 656 in each of 61 layers
    shape = catalog.model("DeepSeek-V3").architecture
    assert estimate.kv_bytes_per_token(shape, bf16(kv_dtype="fp8_ds_mla")) == 61 * 656


def test_a_state_is_paid_once_and_its_layers_cache_no_tokens():
    hybrid = LLAMA_8B.model_copy(update={"state_layers": 24, "state_bytes": 1_000_000})
    # a quarter of the layers has attention: 32 KiB a token
    assert estimate.kv_bytes(hybrid, bf16(), 160) == 160 * 32 * 1024 + 1_000_000
    assert estimate.kv_bytes(hybrid, bf16(tensor_parallel=2), 160) == 160 * 16 * 1024 + 500_000


def test_the_indexer_of_a_sparse_attention_caches_besides():
    sparse = catalog.model("DeepSeek-V3").architecture.model_copy(update={"index_bytes_per_token": 61 * 132})
    assert estimate.kv_bytes_per_token(sparse, bf16()) == 61 * (1152 + 132)


def test_kv_of_gpt_oss_is_half_linear_and_half_a_window():
    # 18 full layers: 36 KiB a token; 18 windowed ones: 128 + 16 tokens of 36 KiB each
    tokens = 8192
    assert estimate.kv_bytes(GPT_OSS, bf16(), tokens) == (tokens + 128 + 16) * 36 * 1024
    assert estimate.kv_bytes(GPT_OSS, bf16(hybrid=False), tokens) == tokens * 72 * 1024


@pytest.mark.parametrize(("split", "kib"), [(1, 128), (2, 64), (8, 16), (16, 16)])
def test_kv_heads_are_dealt_out_and_then_held_twice(split: int, kib: int):
    assert estimate.kv_bytes_per_token(LLAMA_8B, bf16(tensor_parallel=split)) == kib * 1024


@pytest.mark.parametrize(
    ("kv_dtype", "dtype", "width"),
    [("auto", "bfloat16", 2), ("auto", "float32", 4), ("fp8_e4m3", "float32", 1), ("nvfp4", "bfloat16", 0.5)],
)
def test_width_of_a_cached_number(kv_dtype: str, dtype: str, width: float):
    assert estimate.kv_dtype_bytes(kv_dtype, dtype) == width


@given(CACHES, st.integers(1, 100_000), st.integers(1, 10_000))
def test_more_tokens_never_take_less(cache: KvCache, tokens: int, more: int):
    for shape in (LLAMA_8B, GPT_OSS):
        assert estimate.kv_bytes(shape, cache, tokens + more) >= estimate.kv_bytes(shape, cache, tokens)


@given(CACHES, st.integers(1, 100_000))
def test_kv_is_whole_blocks_of_what_a_token_takes(cache: KvCache, tokens: int):
    in_all = estimate.kv_bytes(LLAMA_8B, cache, tokens)
    per_token = estimate.kv_bytes_per_token(LLAMA_8B, cache)
    assert tokens * per_token <= in_all < (tokens + cache.block_tokens) * per_token


@given(CACHES, st.integers(1, 100_000))
def test_windows_never_take_more(cache: KvCache, tokens: int):
    whole = replace(cache, hybrid=False)
    assert estimate.kv_bytes(GPT_OSS, cache, tokens) <= estimate.kv_bytes(GPT_OSS, whole, tokens)
