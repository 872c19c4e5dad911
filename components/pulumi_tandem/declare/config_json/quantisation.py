"""How a checkpoint's weights are stored, as quantization_config or hf_quant_config.json say it."""

import re
from collections.abc import Mapping
from typing import Any

from pulumi_tandem.declare.architecture import Quantisation
from pulumi_tandem.declare.config_json.keys import Keys, mapping

ATTENTION = re.compile(r"(?:self_attn|\.attn)(?:[.*\\]*$|\.(?:q|k|v|o|kv|qkv)_\w*proj)")
"""An entry of the lists of modules left alone that means attention, and not a norm in it or a picture's encoder."""
FEED_FORWARD = re.compile(r"mlp|ffn|expert")

ALGORITHMS: dict[str, dict[str, Any]] = {
    "FP8": {"weights": "fp8", "activations": "fp8"},
    "FP8_PB_WO": {"weights": "fp8", "activations": "fp8", "block": (128, 128)},
    "FP8_PER_CHANNEL_PER_TOKEN": {"weights": "fp8", "activations": "fp8"},
    "NVFP4": {"weights": "nvfp4", "activations": "nvfp4"},
    "NVFP4_AWQ": {"weights": "nvfp4", "activations": "nvfp4"},
    "W4A16_NVFP4": {"weights": "nvfp4"},
    "MXFP4": {"weights": "mxfp4"},
    "MXFP8": {"weights": "fp8", "activations": "mxfp8"},
    "W4A8_AWQ": {"weights": "int4", "activations": "fp8"},
    "W4A16_AWQ": {"weights": "int4"},
    "W8A8_SQ_PER_CHANNEL": {"weights": "int8", "activations": "int8"},
}
"""Names of ModelOpt (`quant_algo`)."""
METHODS: dict[str, dict[str, Any]] = {
    "fbgemm_fp8": {"weights": "fp8", "activations": "fp8"},
    "mxfp4": {"weights": "mxfp4"},
    "experts_int8": {"weights": "int8", "experts_only": True},
}
"""Methods that have nothing to choose."""
BY_BITS = frozenset(
    {"awq", "gptq", "auto-round", "awq_marlin", "gptq_marlin", "intel/auto-round", "auto_gptq", "auto_awq"}
)
"""Methods with weights in `bits` and activations in 16 bits."""
LEFT_ALONE = ("modules_to_not_convert", "ignore", "exclude_modules")


def quantisation(keys: Keys, modelopt: Mapping[str, object] | None) -> Quantisation | None:
    """The checkpoint's quantisation, None where it has none; what is not understood becomes a finding."""
    inside = Keys(modelopt, keys.findings, "hf_quant_config.json").below("quantization") if modelopt else None
    stated = inside or keys.below("quantization_config") or keys.below("compression_config")
    if stated is None:
        return None
    found = _algorithm(stated)
    if found is None:
        return None
    alone = [name for name in stated.strings(*LEFT_ALONE) if "vis" not in name]
    found.setdefault("experts_only", any(ATTENTION.search(name) for name in alone))
    found["kv_scales"] = _has_kv_scales(stated)
    return Quantisation(**found)


def _algorithm(stated: Keys) -> dict[str, Any] | None:
    if stated.has("quant_algo"):
        return _modelopt(stated)
    method = stated.text("quant_method").lower()
    if method == "fp8":
        block = stated.sequence("weight_block_size")
        return {"weights": "fp8", "activations": "fp8", "block": _block(stated, block)}
    if method == "compressed-tensors":
        return _groups(stated)
    if method in METHODS:
        return dict(METHODS[method])
    if method == "bitsandbytes":
        return {"weights": "int4" if stated.flag("load_in_4bit") else "int8"}
    if method in BY_BITS:
        bits = stated.number("bits", "w_bit", default=4)
        return _known(stated, "bits", {4: "int4", 8: "int8"}.get(bits), "bfloat16")
    stated.wrong(
        "quant_method", f"{method!r} is no method that is known", "give weights_gib and an architecture by hand"
    )
    return None


def _modelopt(stated: Keys) -> dict[str, Any] | None:
    """One algorithm, or several by layer: then that of most feed-forward layers, which are most of the weights."""
    name = stated.text("quant_algo").upper()
    if name == "MIXED_PRECISION":
        layers = stated.below("quantized_layers")
        by_layer: Mapping[str, object] = layers.values if layers else {}
        large = [each for each in by_layer if FEED_FORWARD.search(each)] or list(by_layer)
        names = [str((mapping(by_layer[each]) or {}).get("quant_algo", "")).upper() for each in large]
        name = max(sorted(set(names)), key=names.count, default="")
    if name in ALGORITHMS:
        return dict(ALGORITHMS[name])
    stated.wrong("quant_algo", f"{name!r} is no algorithm of ModelOpt that is known", "give weights_gib by hand")
    return None


def _groups(stated: Keys) -> dict[str, Any] | None:
    """Groups of compressed-tensors; the one with the fewest bits is that of the large weights."""
    groups = stated.below("config_groups")
    schemes = [group for name in groups.values if (group := groups.below(name))] if groups else []
    readable = [group for group in schemes if group.below("weights")]
    if not readable:
        stated.wrong("config_groups", "has no group with weights")
        return None
    group = min(readable, key=lambda each: _bits(each.below("weights")))
    weights, inputs = group.below("weights"), group.below("input_activations")
    assert weights is not None
    wording = f"{weights.text('type')}{_bits(weights)}"
    small = "mxfp4" if weights.number("group_size", default=16) == 32 else "nvfp4"
    kind = {"float8": "fp8", "float4": small, "int4": "int4", "int8": "int8"}.get(wording)
    activations = "bfloat16"
    if inputs is not None:
        of_inputs = f"{inputs.text('type')}{_bits(inputs)}"
        activations = {"float8": "fp8", "float4": "nvfp4", "int8": "int8"}.get(of_inputs, "bfloat16")
    found = _known(weights, "num_bits", kind, activations)
    if found is not None:
        found["block"] = _block(weights, weights.sequence("block_structure"))
    return found


def _known(stated: Keys, key: str, weights: str | None, activations: str) -> dict[str, Any] | None:
    if weights is None:
        stated.wrong(key, f"{stated.values.get(key)!r} is no number of bits that is known", "give weights_gib by hand")
        return None
    return {"weights": weights, "activations": activations}


def _bits(keys: Keys | None) -> int:
    return keys.number("num_bits") if keys else 16


def _block(stated: Keys, block: tuple[object, ...] | None) -> tuple[int, int] | None:
    if block is None:
        return None
    rows_columns = [each for each in block if isinstance(each, int) and not isinstance(each, bool) and each > 0]
    if len(block) != 2 or len(rows_columns) != 2:
        stated.wrong("weight_block_size", f"{list(block)} is no pair of rows and columns")
        return None
    return rows_columns[0], rows_columns[1]


def _has_kv_scales(stated: Keys) -> bool:
    return any(stated.values.get(name) not in (None, "", {}) for name in ("kv_cache_scheme", "kv_cache_quant_algo"))
