"""Shapes of the measured models, read off the config.json files of aiconfigurator-core."""

import json
from pathlib import Path
from typing import Any

from pulumi_tandem.declare.model import Architecture

CONFIGS = {
    "DeepSeek-V3": "deepseek-ai--DeepSeek-V3",
    "GLM-5": "zai-org--GLM-5",
    "Kimi-K2.5": "moonshotai--Kimi-K2.5",
    "Llama-3.1-70B": "meta-llama--Meta-Llama-3.1-70B",
    "Llama-3.1-8B": "meta-llama--Meta-Llama-3.1-8B",
    "MiniMax-M2.5": "MiniMaxAI--MiniMax-M2.5",
    "Qwen3-235B": "Qwen--Qwen3-235B-A22B-FP8",
    "Qwen3-32B": "Qwen--Qwen3-32B",
    "Qwen3.5-397B": "Qwen--Qwen3.5-397B-A17B",
    "gpt-oss-120b": "openai--gpt-oss-120b",
}
"""By family: R1, V3 and V3.1 are one shape, and so are checkpoints of one model in several types."""


def shape(family: str, configs: Path) -> Architecture:
    """The family's shape."""
    config = json.loads((configs / f"{CONFIGS[family]}_config.json").read_text("utf-8"))
    text: dict[str, Any] = config.get("text_config", config)
    heads, layers = text["num_attention_heads"], text["num_hidden_layers"]
    moe = "num_experts_per_tok" in text
    interval = text.get("full_attention_interval", 1)
    rope = text.get("qk_rope_head_dim", 0)
    width = text.get("moe_intermediate_size") or text["intermediate_size"]
    return Architecture(
        layers=layers,
        attention_heads=heads,
        kv_heads=text.get("num_key_value_heads", heads),
        head_dim=text["qk_nope_head_dim"] + rope if rope else text.get("head_dim", text["hidden_size"] // heads),
        hidden=text["hidden_size"],
        intermediate=width,
        vocabulary=text["vocab_size"],
        positions_max=text["max_position_embeddings"],
        experts=text.get("n_routed_experts") or text.get("num_experts") or text.get("num_local_experts", 1),
        experts_per_token=text.get("num_experts_per_tok", 1),
        shared_experts=text.get("n_shared_experts") or text.get("shared_expert_intermediate_size", 0) // width,
        dense_layers=text.get("first_k_dense_replace", 0),
        dense_intermediate=text["intermediate_size"] if moe and text.get("first_k_dense_replace") else 0,
        latent_dim=text["kv_lora_rank"] + rope if rope else 0,
        query_latent_dim=text.get("q_lora_rank", 0) if rope else 0,
        value_head_dim=text.get("v_head_dim") if rope else None,
        sliding_window_tokens=text.get("sliding_window") or 0 if moe else 0,
        sliding_layers=sum(kind == "sliding_attention" for kind in text.get("layer_types", ())),
        state_layers=layers - layers // interval,
    )
