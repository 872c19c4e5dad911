"""From the keys of a config.json to an `Architecture`."""

from collections.abc import Mapping
from typing import Any, get_args

from pulumi_tandem.declare.architecture import Architecture, Dtype
from pulumi_tandem.declare.config_json.feed_forward import feed_forward
from pulumi_tandem.declare.config_json.keys import Keys, mapping
from pulumi_tandem.declare.config_json.mixers import Mixers, mixers
from pulumi_tandem.declare.config_json.quantisation import quantisation
from pulumi_tandem.finding import DeclarationError, Finding

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models that also see or hear keep the keys of their language model."""
INHERITED = ("model_type", "dtype", "torch_dtype", "tie_word_embeddings", "quantization_config", "sliding_window")
"""Keys that count for the nested object too where it does not have them."""

_GEMMA_3: dict[str, object] = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 131_072, "sliding_window_pattern": 6, "sliding_window": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip
FAMILIES: dict[str, dict[str, object]] = {
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True, "sliding_window_pattern": 2},
    "gemma3": _GEMMA_3,
    "gemma3_text": _GEMMA_3,
    "gemma4_text": {"tie_word_embeddings": True},
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window_pattern": 4},
    "falcon": {"tie_word_embeddings": True, "multi_query": True, "max_position_embeddings": 2048},
    "gpt2": {"tie_word_embeddings": True},
    "opt": {"tie_word_embeddings": True},
    "bloom": {"tie_word_embeddings": True},
    "t5": {"tie_word_embeddings": True, "max_position_embeddings": 512},
    "qwen3_next": {"full_attention_interval": 4},
}
"""What transformers' classes have as default and checkpoints therefore leave out."""

SECTIONS = ("attn_config", "ffn_config")
"""Objects whose keys count as the config's own (DBRX, MPT)."""

LAYERS_MAX = 10_000
"""Kinds of layers are listed layer by layer; the largest models have some hundred."""

WITHOUT_ATTENTION = frozenset({"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"})

REFUSED = {
    "compress_ratios": "keys and values that are compressed along the sequence (DeepSeek V4) have no formula here",
    "num_kv_shared_layers": "layers that share the keys and values of another layer have no formula here",
}
"""Mechanisms that would make every number wrong; 0, null and an empty list mean that the model has none of it."""

POSITIONS_SCALED = frozenset({"linear", "dynamic", "yarn", "deepseek_yarn", "ntk"})
"""Kinds of rope scaling that lengthen the context by their factor; with the others, max_position_embeddings counts.

Source: vLLM 0.33 config/model.py, _get_and_verify_max_len; Gemma 3's linear scaling is in its positions already.
"""


def architecture(config: Mapping[str, object], quantised: Mapping[str, object] | None = None) -> Architecture:
    """The shape that a config.json states; `quantised` is the content of its hf_quant_config.json.

    Raises DeclarationError with every key that is missing, contradicts another or is not understood.
    """
    findings: list[Finding] = []
    keys = _language_model(config, findings)
    if keys.text("model_type") in WITHOUT_ATTENTION:
        keys.wrong("model_type", "has no attention, so there is no KV to hand over", "serve another kind of model")
        raise DeclarationError(findings)
    for key, reason in REFUSED.items():
        if keys.values.get(key):
            keys.wrong(key, reason, "declare tandem.Architecture(...) by hand, as what caches at least as much")
    words = keys.sequence("layers_block_type")
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
    layers = keys.number(*names, default=len(words) if words else None)
    if layers > LAYERS_MAX:
        keys.wrong("num_hidden_layers", f"{layers} layers are more than any model has")
        raise DeclarationError(findings)
    found = mixers(keys, layers)
    fields: dict[str, Any] = {
        **_attention(keys),
        **_mixer_fields(found),
        **feed_forward(keys, layers),
        "vocabulary": keys.number("vocab_size", "padded_vocab_size"),
        "positions_max": _positions(keys),
        "tied_embeddings": keys.flag("tie_word_embeddings"),
        "encoder_decoder": keys.flag("is_encoder_decoder"),
        "dtype": _dtype(keys),
        "quantisation": quantisation(keys, quantised),
    }
    _contradictions(keys, fields)
    if findings:
        raise DeclarationError(dict.fromkeys(findings))
    return Architecture(**fields)


def _language_model(config: Mapping[str, object], findings: list[Finding]) -> Keys:
    """The keys of the language model, defaults of its family included."""
    values, prefix = config, "config.json"
    while name := next((each for each in NESTED if mapping(values.get(each)) is not None), None):
        inner = mapping(values[name]) or {}
        above = {key: values[key] for key in INHERITED if values.get(key) is not None}
        values, prefix = {**above, **inner}, f"{prefix}.{name}"
    family = values.get("model_type")
    defaults = FAMILIES.get(family, {}) if isinstance(family, str) else {}
    given = {key: value for key, value in values.items() if value is not None}
    inside = {key: value for name in SECTIONS for key, value in (mapping(values.get(name)) or {}).items()}
    return Keys({**defaults, **inside, **given}, findings, prefix)


def _attention(keys: Keys) -> dict[str, int | None]:
    """Widths and heads; grouped or latent attention."""
    hidden = keys.number("hidden_size", "n_embd", "d_model", "dim")
    heads = keys.number("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
    latent = keys.number("kv_lora_rank", default=0, least=0)
    if latent:
        rope = keys.number("qk_rope_head_dim")
        return {
            "hidden": hidden,
            "attention_heads": heads,
            "kv_heads": heads,
            "head_dim": keys.number("qk_nope_head_dim") + rope,
            "latent_dim": latent + rope,
            "latent_rope_dim": rope,
            "query_latent_dim": keys.number("q_lora_rank", default=0, least=0),
            "value_head_dim": keys.number("v_head_dim"),
            "index_bytes_per_token": _index_bytes(keys),
        }
    head_dim = keys.number("head_dim", "attention_head_dim", "d_kv", "kv_channels", default=hidden // heads or 1)
    return {
        "hidden": hidden,
        "attention_heads": heads,
        "kv_heads": _kv_heads(keys, heads),
        "head_dim": head_dim,
    }


def _kv_heads(keys: Keys, heads: int) -> int:
    if keys.values.get("multi_query") is True and not keys.values.get("new_decoder_architecture"):
        return 1
    if keys.has("block_configs"):
        groups = {group for group in _groups(keys) if isinstance(group, int) and group > 0}
        return heads // min(groups, default=1) or 1
    return keys.number(
        "num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "multi_query_group_num", default=heads
    )


def _groups(keys: Keys) -> list[object]:
    """Query heads that share keys in each block of a model from a search of architectures (Nemotron-NAS)."""
    blocks = [mapping(each) or {} for each in keys.sequence("block_configs") or ()]
    return [(mapping(block.get("attention")) or {}).get("n_heads_in_group") for block in blocks]


def _index_bytes(keys: Keys) -> int:
    """What the indexer of sparse attention caches, in every layer that has its own.

    FP8 numbers, and one 4-byte scale per 128 of them.
    Source: vLLM 0.33 models/deepseek_v2.py, DeepseekV32IndexerCache.
    """
    dim = keys.number("index_head_dim", default=0, least=0)
    layers = keys.number("num_hidden_layers", default=1)
    own = [kind == "full" for kind in keys.sequence("indexer_types") or ()]
    return (dim + dim // 128 * 4) * (sum(own[:layers]) if own else layers)


def _mixer_fields(found: Mixers) -> dict[str, int]:
    return {
        "layers": found.layers,
        "state_layers": found.state_layers,
        "state_bytes": found.state_layers * found.state_bytes,
        "state_parameters": found.state_parameters,
        "sliding_layers": found.sliding_layers,
        "sliding_window_tokens": found.window_tokens if found.sliding_layers else 0,
    }


def _positions(keys: Keys) -> int:
    longest = keys.number(
        "max_position_embeddings",
        "n_positions",
        "max_target_positions",
        "max_sequence_length",
        "max_seq_len",
        "seq_length",
        "n_ctx",
    )
    scaling = keys.below("rope_scaling") or keys.below("rope_parameters")
    if scaling is None or "gemma3" in keys.text("model_type"):
        return longest
    if scaling.text("rope_type", "type") not in POSITIONS_SCALED:
        return longest
    before = scaling.number("original_max_position_embeddings", default=longest)
    return int(before * scaling.ratio("factor", 1.0))


def _dtype(keys: Keys) -> str:
    """The checkpoint's type; bfloat16 where nothing is said, as checkpoints that say nothing are (gpt-oss, GLM)."""
    dtype = keys.text("dtype", "torch_dtype", default="bfloat16").removeprefix("torch.")
    if dtype not in get_args(Dtype):
        keys.wrong(
            "dtype", f"{dtype!r} is none of {', '.join(get_args(Dtype))}", "state the type of what is not quantised"
        )
    return dtype


def _contradictions(keys: Keys, fields: dict[str, Any]) -> None:
    """Keys that cannot all be true."""
    heads, kv_heads = fields["attention_heads"], fields["kv_heads"]
    if heads % kv_heads:
        keys.wrong("num_key_value_heads", f"{heads} attention heads cannot share {kv_heads} heads of keys and values")
    if fields["experts_per_token"] > fields["experts"]:
        message = f"a token goes to {fields['experts_per_token']} experts, and there are {fields['experts']}"
        keys.wrong("num_experts_per_tok", message)
    if fields["dense_layers"] > fields["layers"]:
        keys.wrong("first_k_dense_replace", f"{fields['dense_layers']} dense layers are more than {fields['layers']}")
    stated = "latent_dim" in fields or keys.has("head_dim", "attention_head_dim", "d_kv", "kv_channels")
    if not stated and keys.has("hidden_size") and fields["hidden"] % heads:
        message = f"{fields['hidden']} do not divide into {heads} heads, and no head_dim is given"
        keys.wrong("hidden_size", message)
