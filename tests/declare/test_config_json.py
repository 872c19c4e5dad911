"""Model.from_config: what real config.json files say, and what is said of files that cannot be understood.

The configs are those of the checkpoints named, cut down to the keys that are read.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pulumi_tandem as tandem
from pulumi_tandem import catalog
from pulumi_tandem.declare import Quantisation

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}  # fmt: skip
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "vocab_size": 201088,
    "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 18, "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    },
}  # fmt: skip
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048, "vocab_size": 129280,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "moe_layer_freq": 1, "max_position_embeddings": 163840, "torch_dtype": "bfloat16",
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
}  # fmt: skip
GEMMA: dict[str, Any] = {
    "model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                    "num_hidden_layers": 34, "sliding_window": 1024,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
}  # fmt: skip
QWEN_NEXT: dict[str, Any] = {
    "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "intermediate_size": 5120, "moe_intermediate_size": 512,
    "num_experts": 512, "num_experts_per_tok": 10, "shared_expert_intermediate_size": 512, "vocab_size": 151936,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "max_position_embeddings": 262144, "torch_dtype": "bfloat16",
    "decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False,
}  # fmt: skip
NEMOTRON_H: dict[str, Any] = {
    "model_type": "nemotron_h", "hidden_size": 8192, "num_hidden_layers": 118, "num_attention_heads": 64,
    "num_key_value_heads": 8, "attention_head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072,
    "hybrid_override_pattern": "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-",
    "mamba_head_dim": 64, "mamba_num_heads": 256,
    "ssm_state_size": 256, "n_groups": 8, "conv_kernel": 4, "mlp_hidden_act": "relu2", "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def shape(config: dict[str, Any], **changes: Any) -> tandem.Architecture:
    made = tandem.Model.from_config({**config, **changes}, name="model").architecture
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("config", "name"),
    [(LLAMA, "Llama-3.1-8B-Instruct"), (GPT_OSS, "gpt-oss-120b"), (DEEPSEEK, "DeepSeek-V3"), (GEMMA, "gemma-3-4b-it")],
)
def test_a_config_says_what_the_catalog_says(config: dict[str, Any], name: str):
    assert shape(config) == catalog.model(name).architecture


DBRX: dict[str, Any] = {
    "model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "max_seq_len": 32768, "vocab_size": 100352,
    "attn_config": {"kv_n_heads": 8},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}  # fmt: skip
FALCON: dict[str, Any] = {
    "model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8, "num_hidden_layers": 60,
    "vocab_size": 65024, "multi_query": True, "new_decoder_architecture": True,
}  # fmt: skip
GRANITE: dict[str, Any] = {
    "model_type": "granitemoehybrid", "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 768, "shared_intermediate_size": 1536, "num_local_experts": 72,
    "num_experts_per_tok": 10, "vocab_size": 100352, "max_position_embeddings": 131072,
    "layer_types": (["mamba"] * 9 + ["attention"]) * 4, "mamba_n_heads": 128, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "tie_word_embeddings": True,
}  # fmt: skip
JAMBA: dict[str, Any] = {
    "model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 65536, "max_position_embeddings": 262144,
    "attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2, "expert_layer_offset": 1,
    "num_experts": 16, "num_experts_per_tok": 2, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_dt_rank": 256,
}  # fmt: skip
GPT_2: dict[str, Any] = {
    "model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 1024,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (NEMOTRON_H, 56.3),
        (QWEN_NEXT, 79.7),
        (DBRX, 131.6),
        (FALCON, 41.3),
        (GRANITE, 32.2),
        (JAMBA, 51.6),
        (GPT_2, 0.124),
    ],
    ids=["nemotron-h-56b", "qwen3-next-80b-a3b", "dbrx", "falcon-40b", "granite-4-small", "jamba-mini", "gpt2"],
)
def test_the_weights_of_odd_families_are_what_is_published(config: dict[str, Any], billions: float):
    """Without layers that guess ahead."""
    assert shape(config).parameters / 1e9 == pytest.approx(billions, rel=5e-3)


@pytest.mark.parametrize(("config", "billions"), [(QWEN_NEXT, 3), (DBRX, 36), (GRANITE, 9), (JAMBA, 12)])
def test_a_token_meets_as_many_weights_as_is_published(config: dict[str, Any], billions: float):
    """Vendors say whole billions."""
    assert shape(config).active_parameters / 1e9 == pytest.approx(billions, abs=0.5)


def test_an_encoder_beside_the_decoder_is_seen():
    config = {"model_type": "t5", "d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8, "num_layers": 6,
              "vocab_size": 32128, "is_encoder_decoder": True}  # fmt: skip
    assert shape(config).encoder_decoder


def test_only_every_fourth_layer_of_qwen3_next_caches_tokens():
    found = shape(QWEN_NEXT)
    assert (found.layers, found.state_layers, found.attention_layers) == (48, 36, 12)
    # 32 heads x 128 x 128 numbers and the last 3 inputs of 8192 channels, all in 16 bits
    assert found.state_bytes == 36 * (32 * 128 * 128 * 2 + 3 * (2 * 16 * 128 + 32 * 128) * 2)
    assert found.shared_experts == 1


def test_a_feed_forward_layer_of_nemotron_is_no_layer_that_mixes():
    found = shape(NEMOTRON_H)
    assert (found.layers, found.attention_layers, found.state_layers, found.feed_forward_layers) == (64, 10, 54, 54)
    assert not found.gated


@pytest.mark.parametrize(
    ("changes", "sliding"),
    [
        ({"sliding_window": 4096}, 32),
        ({"sliding_window": None}, 0),
        ({"sliding_window": 4096, "use_sliding_window": False}, 0),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, 4),
        ({"sliding_window": 4096, "sliding_window_pattern": 6}, 27),
        ({"sliding_window": 4096, "layer_types": ["sliding_attention"] * 8 + ["full_attention"] * 24}, 8),
        ({"sliding_window": 128, "hybrid_layer_pattern": [0, 1] * 16}, 16),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, 24),
    ],
)
def test_layers_with_a_window(changes: dict[str, Any], sliding: int):
    found = shape(LLAMA, **changes)
    assert found.sliding_layers == sliding
    assert (found.sliding_window_tokens > 0) == (sliding > 0)


MOE = {"num_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 1024}


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({}, 0),
        ({"first_k_dense_replace": 3}, 3),
        ({"decoder_sparse_step": 2}, 16),
        ({"mlp_only_layers": [0, 1]}, 2),
        ({"mlp_layer_types": ["dense"] * 5 + ["sparse"] * 27}, 5),
        ({"moe_layer_freq": [0] * 4 + [1] * 28}, 4),
        ({"interleave_moe_layer_step": 2}, 16),
        ({"expert_layer_period": 4, "expert_layer_offset": 1}, 24),
    ],
)
def test_layers_of_a_mixture_that_are_dense(changes: dict[str, Any], dense: int):
    found = shape(LLAMA, **MOE, **changes)
    assert (found.experts, found.experts_per_token, found.intermediate) == (64, 4, 1024)
    assert (found.dense_layers, found.dense_intermediate) == (dense, 14336 if dense else 0)


GROUP = {"weights": {"type": "float", "num_bits": 4, "group_size": 16}}
TENSORS = {"quant_method": "compressed-tensors"}


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]},
         Quantisation(weights="fp8", activations="fp8", block=(128, 128))),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, Quantisation(weights="int4")),
        ({"quant_method": "gptq", "bits": 8}, Quantisation(weights="int8")),
        ({**TENSORS, "config_groups": {"g": GROUP}}, Quantisation(weights="nvfp4")),
        ({**TENSORS, "config_groups": {"g": {"weights": {"type": "float", "num_bits": 4, "group_size": 32}}}},
         Quantisation(weights="mxfp4")),
        ({**TENSORS, "config_groups": {"g": {"weights": {"type": "int", "num_bits": 4}, "input_activations": None}},
          "ignore": ["lm_head", "re:.*self_attn.*"]}, Quantisation(weights="int4", experts_only=True)),
        ({**TENSORS, "config_groups": {"g": {"weights": {"type": "float", "num_bits": 8},
                                             "input_activations": {"type": "float", "num_bits": 8}}},
          "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
         Quantisation(weights="fp8", activations="fp8", kv_scales=True)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
         Quantisation(weights="nvfp4", activations="nvfp4", kv_scales=True)),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
            "a.self_attn": {"quant_algo": "FP8"}, "b.self_attn": {"quant_algo": "FP8"},
            "a.mlp": {"quant_algo": "NVFP4"}}},
         Quantisation(weights="nvfp4", activations="nvfp4")),
    ],
)  # fmt: skip
def test_how_weights_are_stored(stated: dict[str, Any], wanted: Quantisation):
    assert shape(LLAMA, quantization_config=stated).quantisation == wanted


def test_a_norm_that_is_left_alone_is_not_attention():
    stated = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["model.layers.0.self_attn.q_norm", "visual.blocks.0.attn"],
    }
    found = shape(LLAMA, quantization_config=stated).quantisation
    assert found is not None
    assert not found.experts_only


def test_a_folder_is_read_with_its_quantisation(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    for where in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/config.json"):
        model = tandem.Model.from_config(where, name="model")
        assert model.architecture is not None
        assert model.architecture.quantisation == Quantisation(weights="fp8", activations="fp8")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("{", "cannot be read"), ("[]", "no JSON object")]
)
def test_a_file_that_is_no_config_is_told_by_its_path(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(tandem.DeclarationError) as caught:
        tandem.Model.from_config(str(tmp_path), name="model")
    (finding,) = caught.value.findings
    assert message in finding.message
    assert finding.path.startswith(str(tmp_path))


def test_everything_that_is_wrong_is_told_at_once():
    broken = {
        **LLAMA,
        "hidden_size": None,
        "num_hidden_layers": "many",
        "num_key_value_heads": 5,
        "torch_dtype": "int3",
    }
    with pytest.raises(tandem.DeclarationError) as caught:
        tandem.Model.from_config(broken, name="model")
    told = {finding.path: finding.message for finding in caught.value.findings}
    assert told["config.json.hidden_size"].startswith("is missing")
    assert told["config.json.num_hidden_layers"] == "'many' is no whole number of at least 1 and at most 1,000,000,000"
    assert told["config.json.num_key_value_heads"] == "32 attention heads cannot share 5 heads of keys and values"
    assert "'int3'" in told["config.json.dtype"]
    assert {finding.code for finding in caught.value.findings} == {"TND0007"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"compress_ratios": [0, 4, 128]}, "compress_ratios"),
        ({"model_type": "mamba2"}, "model_type"),
        ({"num_hidden_layers": 6842879783}, "num_hidden_layers"),
        ({"num_hidden_layers": 684287}, "num_hidden_layers"),
        ({"layer_types": ["full_attention"] * 31}, "layer_types"),
        ({"layer_types": ["whatever"] * 32}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding_window"),
        ({"layer_types": ["linear_attention"] * 31 + ["full_attention"]}, "layer_types"),
        ({"quantization_config": {"quant_method": "magic"}}, "quantization_config.quant_method"),
        ({"num_experts": 8}, "num_experts_per_tok"),
        ({"num_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"kv_lora_rank": 512}, "qk_rope_head_dim"),
        ({"num_attention_heads": 24, "num_key_value_heads": 8}, "hidden_size"),
    ],
)
def test_a_config_that_contradicts_itself_names_the_key(changes: dict[str, Any], key: str):
    with pytest.raises(tandem.DeclarationError) as caught:
        tandem.Model.from_config({**LLAMA, **changes}, name="model")
    assert f"config.json.{key}" in {finding.path for finding in caught.value.findings}


REAL = (LLAMA, GPT_OSS, DEEPSEEK, GEMMA, QWEN_NEXT, NEMOTRON_H)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 200_000) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
SPOILT = st.sampled_from(REAL).flatmap(
    lambda config: st.fixed_dictionaries(
        {"config": st.just(config), "spoilt": st.dictionaries(st.sampled_from(sorted(config)), JSON, max_size=4)}
    )
)


@settings(max_examples=150, deadline=None)
@given(SPOILT)
def test_a_spoilt_config_is_understood_or_refused_in_words(case: dict[str, dict[str, Any]]):
    try:
        found = shape(case["config"], **case["spoilt"])
    except tandem.DeclarationError as error:
        told = error.findings
    else:
        told = ()
        assert found.parameters > 0
        assert found.weights_bytes(found.dtype) > 0
    assert all(finding.path.startswith("config.json") and finding.message for finding in told)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_any_object_is_understood_or_refused_in_words(config: dict[str, Any]):
    with pytest.raises(tandem.DeclarationError):
        tandem.Model.from_config(config, name="model")
