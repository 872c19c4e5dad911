"""Feed-forward blocks: dense, mixtures of experts, or some of each."""

from typing import Any

from pulumi_tandem.declare.config_json.keys import Keys, mapping

UNGATED = frozenset(
    {"gpt2", "opt", "bloom", "falcon", "gpt_neox", "gptj", "phi", "starcoder2", "nemotron", "mpt", "t5"}
)
"""Families whose feed-forward block has two matrices and no gate; with an activation `relu2` all have."""
FOUR_TIMES = frozenset({"gpt2", "falcon", "bloom", "gptj", "mpt"})
"""Families whose block is four times as wide as the model where nothing else is said."""


def feed_forward(keys: Keys, layers: int) -> dict[str, Any]:
    """Fields of the feed-forward blocks."""
    gated = keys.text("model_type") not in UNGATED and keys.text("mlp_hidden_act", "hidden_act") != "relu2"
    if keys.has("block_configs"):
        return {"gated": gated, **_searched(keys, layers), **_MOE_NONE}
    own: dict[str, Any] = {"gated": gated}
    dense = _alternating(keys, "-", "mlp")
    mixed = _alternating(keys, "E", "moe")
    if dense or mixed:
        own["feed_forward_layers"] = dense + mixed
    experts = keys.number("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", default=1, least=0)
    if experts <= 1 or keys.values.get("enable_moe_block") is False:
        return {**own, "intermediate": _width(keys), **_MOE_NONE}
    dense = dense if dense or mixed else _dense_layers(keys, layers)
    return {**own, **_mixture(keys, experts, dense)}


_MOE_NONE: dict[str, Any] = {"experts": 1, "experts_per_token": 1, "dense_layers": 0}


def _width(keys: Keys) -> int:
    names = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "d_ff", "decoder_ffn_dim")
    default = 4 * keys.number("hidden_size", "n_embd", "d_model") if keys.text("model_type") in FOUR_TIMES else None
    return keys.number(*names, default=default)


def _alternating(keys: Keys, letter: str, word: str) -> int:
    """Blocks of one kind where they alternate with the layers that mix tokens (Nemotron-H)."""
    words = keys.sequence("layers_block_type") or ()
    return keys.text("hybrid_override_pattern").count(letter) + words.count(word)


def _mixture(keys: Keys, experts: int, dense: int) -> dict[str, Any]:
    whole = keys.number("intermediate_size", "ffn_hidden_size", default=0)
    width = keys.number("moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size", default=whole)
    names = ("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size")
    return {
        "intermediate": width or keys.number("moe_intermediate_size", "intermediate_size"),
        "experts": experts,
        "experts_per_token": keys.number(
            "num_experts_per_tok",
            "num_experts_per_token",
            "experts_per_token",
            "top_k_experts",
            "moe_topk",
            "moe_top_k",
            "moe_k",
        ),
        "shared_experts": _shared(keys, width or 1, whole),
        "dense_layers": dense,
        "dense_intermediate": keys.number(*names, default=0) if dense else 0,
        "expert_hidden": keys.number("moe_latent_size", "routed_expert_hidden_size", default=0, least=0),
    }


def _shared(keys: Keys, width: int, whole: int) -> int:
    """Shared experts as multiples of one expert's width."""
    if keys.values.get("enable_moe_block") is True:
        return whole // width  # Gemma 4: a dense block runs beside the experts in every layer
    if "llama4" in keys.text("model_type"):
        return 1
    widths = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")
    if keys.has(*widths):
        times = keys.number("n_shared_experts", default=1, least=0)
        return round(times * keys.number(*widths, least=0) / width)
    return keys.number("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0, least=0)


def _dense_layers(keys: Keys, layers: int) -> int:
    """Layers whose block is dense, by the rule that the family has for them."""
    if (words := keys.per_layer("mlp_layer_types", layers)) is not None:
        return sum(word == "dense" for word in words)
    if isinstance(keys.values.get("moe_layer_freq"), list | tuple):
        return sum(not each for each in keys.per_layer("moe_layer_freq", layers) or ())
    if keys.has("interleave_moe_layer_step"):
        step = keys.number("interleave_moe_layer_step")
        return layers - layers // step
    if keys.has("expert_layer_period"):
        period, offset = keys.number("expert_layer_period"), keys.number("expert_layer_offset", default=0, least=0)
        return sum(layer % period != offset for layer in range(layers))
    first = keys.number("first_k_dense_replace", "moe_layer_start_index", default=0, least=0)
    step = keys.number("decoder_sparse_step", "moe_layer_freq", default=1)
    always = {layer for layer in keys.sequence("mlp_only_layers") or () if isinstance(layer, int)}
    every = [layer % step if keys.has("moe_layer_freq") else (layer + 1) % step for layer in range(layers)]
    return first + sum(layer in always or every[layer] != 0 for layer in range(first, layers))


def _searched(keys: Keys, layers: int) -> dict[str, Any]:
    """Nemotron-NAS: blocks of many widths, taken as so many of their mean width.

    Source: DeciLM's configuration, _ffn_mult_to_intermediate_size: two thirds of mult times the width, in 256s.
    """
    hidden = keys.number("hidden_size")
    widths: list[int] = []
    for block in keys.per_layer("block_configs", layers) or ():
        ffn = mapping((mapping(block) or {}).get("ffn")) or {}
        times = ffn.get("ffn_mult")
        if isinstance(times, int | float) and 0 < times < 1000 and not ffn.get("no_op"):
            widths.append(-(-int(2 * times * hidden / 3) // 256) * 256)
    if not widths:
        keys.wrong("block_configs", "no block has a feed-forward block with ffn_mult")
        return {"intermediate": 1, "feed_forward_layers": 0}
    return {"intermediate": round(sum(widths) / len(widths)), "feed_forward_layers": len(widths)}
