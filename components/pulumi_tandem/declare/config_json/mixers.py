"""Which layers cache every token, which a window, and which keep a state of fixed size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pulumi_tandem.declare.config_json.keys import Keys, mapping
from pulumi_tandem.declare.config_json.state import state

Kind = Literal["full", "sliding", "state", "none"]
"""`none`: a layer that is a feed-forward block only."""

WORDS: dict[object, Kind] = {
    "full_attention": "full", "attention": "full", "global": "full", "full": "full", "hybrid": "full",
    "deepseek_sparse_attention": "full", "sparse_attention": "full",
    "sliding_attention": "sliding", "chunked_attention": "sliding", "local": "sliding", "sliding_window": "sliding",
    "linear_attention": "state", "mamba": "state", "mamba2": "state", "conv": "state", "recurrent": "state",
    "rwkv": "state", "mlp": "none", "moe": "none",
}  # fmt: skip
"""Words of `layer_types` and its like; a `hybrid` layer has a state and attention."""
LETTERS: dict[str, Kind] = {"M": "state", "*": "full", "-": "none", "E": "none"}
"""Letters of Nemotron-H's pattern: Mamba, attention, feed-forward block, mixture of experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixers:
    """Layers that mix tokens, by what they keep of each."""

    layers: int
    sliding_layers: int
    state_layers: int
    window_tokens: int
    state_bytes: int
    """Of one request in one layer."""
    state_parameters: int
    feed_forward_only: int
    """Entries of the pattern that are no mixers but feed-forward blocks of their own."""


def mixers(keys: Keys, layers: int) -> Mixers:
    """Counts the kinds of layers by whatever the config says of them."""
    kinds = next((kinds for kinds in (read(keys, layers) for read in _READERS) if kinds is not None), None)
    kinds = kinds or ["full"] * layers
    window = keys.number("sliding_window", "sliding_window_size", "attention_chunk_size", default=0, least=0)
    if "sliding" in kinds and not window:
        keys.wrong("sliding_window", "is missing, and there are layers that have a window")
    state_bytes, state_parameters = state(keys) if "state" in kinds else (0, 0)
    mixing = sum(kind != "none" for kind in kinds)
    if "full" not in kinds and "sliding" not in kinds:
        keys.wrong(
            "num_attention_heads", "no layer has attention, so there is no KV to hand over", "serve it aggregated"
        )
    return Mixers(
        layers=mixing,
        sliding_layers=kinds.count("sliding"),
        state_layers=kinds.count("state"),
        window_tokens=window,
        state_bytes=state_bytes,
        state_parameters=state_parameters,
        feed_forward_only=len(kinds) - mixing,
    )


def _pattern(keys: Keys, layers: int) -> list[Kind] | None:
    letters = keys.text("hybrid_override_pattern")
    if not letters:
        return None
    unknown = sorted(set(letters) - set(LETTERS))
    if unknown or len(letters) != layers:
        keys.wrong("hybrid_override_pattern", f"{letters!r} is no pattern of {layers} layers in {', '.join(LETTERS)}")
    return [LETTERS.get(letter, "full") for letter in letters]


def _words(keys: Keys, layers: int) -> list[Kind] | None:
    for name in ("layer_types", "layers_block_type", "block_types"):
        words = keys.per_layer(name, layers)
        if words is None:
            continue
        unknown = sorted({repr(word) for word in words if not isinstance(word, str) or word not in WORDS})
        if unknown:
            keys.wrong(name, f"{', '.join(unknown[:3])} is no kind of layer that is known")
        return [WORDS.get(word, "full") if isinstance(word, str) else "full" for word in words]
    return None


def _linear_attention(keys: Keys, layers: int) -> list[Kind] | None:
    """Kimi's lists of layers, which count from 1."""
    linear = keys.below("linear_attn_config")
    full = linear.sequence("full_attn_layers") if linear else None
    return None if full is None else ["full" if layer in full else "state" for layer in range(1, layers + 1)]


def _every_nth(keys: Keys, layers: int) -> list[Kind] | None:
    """One layer of several has attention, the others a state: Qwen3-Next, Jamba, Bamba."""
    if keys.has("attn_layer_indices"):
        chosen = keys.sequence("attn_layer_indices") or ()
        return ["full" if layer in chosen else "state" for layer in range(layers)]
    if keys.has("full_attention_interval"):
        period = keys.number("full_attention_interval")
        return ["full" if (layer + 1) % period == 0 else "state" for layer in range(layers)]
    if keys.has("attn_layer_period"):
        period, offset = keys.number("attn_layer_period"), keys.number("attn_layer_offset", default=0, least=0)
        return ["full" if layer % period == offset else "state" for layer in range(layers)]
    return None


def _numbers(keys: Keys, layers: int) -> list[Kind] | None:
    """MiMo's list: 1 is a layer with a window."""
    numbers = keys.per_layer("hybrid_layer_pattern", layers)
    return None if numbers is None else ["sliding" if number == 1 else "full" for number in numbers]


def _blocks(keys: Keys, layers: int) -> list[Kind] | None:
    """Nemotron-NAS, whose search took attention out of some blocks."""
    blocks = keys.per_layer("block_configs", layers)
    if blocks is None:
        return None
    attention = [mapping((mapping(block) or {}).get("attention")) or {} for block in blocks]
    return ["none" if each.get("no_op") or each.get("replace_with_linear") else "full" for each in attention]


def _windows(keys: Keys, layers: int) -> list[Kind] | None:
    """A window and a rule for the layers that have it."""
    if keys.has("attention_chunk_size") and "llama4" in keys.text("model_type"):
        step = keys.number("no_rope_layer_interval", default=4)
        return ["full" if (layer + 1) % step == 0 else "sliding" for layer in range(layers)]
    if not keys.values.get("sliding_window") or keys.values.get("use_sliding_window") is False:
        return None
    if keys.has("sliding_window_pattern", "_sliding_window_pattern"):
        step = keys.number("sliding_window_pattern", "_sliding_window_pattern")
        return ["full" if (layer + 1) % step == 0 else "sliding" for layer in range(layers)]
    if keys.has("max_window_layers"):
        first = keys.number("max_window_layers", least=0)
        return ["sliding" if layer >= first else "full" for layer in range(layers)]
    every: list[Kind] = ["sliding"]
    return every * layers


_READERS: tuple[Callable[[Keys, int], list[Kind] | None], ...] = (
    _pattern, _words, _linear_attention, _every_nth, _numbers, _blocks, _windows,
)  # fmt: skip
