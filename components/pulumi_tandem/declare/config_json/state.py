"""What a layer without keys and values keeps of a request, and what it weighs."""

from pulumi_tandem.declare.config_json.keys import Keys

STATE_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def state(keys: Keys) -> tuple[int, int]:
    """Bytes of one request's state and the weights, of one layer; the kind is known by its keys.

    The convolution's last inputs are kept in 16 bits; the state itself in what the config says, else in 16 bits too
    (vLLM 0.33: mamba_cache_dtype and mamba_ssm_cache_dtype `auto`).
    """
    if keys.has("linear_num_value_heads"):
        return _gated_delta_net(keys)
    if keys.has("linear_attn_config"):
        return _kimi_delta(keys)
    if keys.has("mamba_num_heads", "mamba_n_heads"):
        return _mamba_2(keys)
    if keys.has("mamba_d_state", "state_size"):
        return _mamba_1(keys)
    if keys.has("conv_L_cache"):
        hidden, kernel = keys.number("hidden_size"), keys.number("conv_L_cache")
        return (kernel - 1) * hidden * 2, hidden * (4 * hidden + kernel)
    keys.wrong("layer_types", "has layers with a state, and no key says how large it is")
    return 0, 0


def _number_bytes(keys: Keys) -> int:
    return STATE_DTYPE_BYTES.get(keys.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype", default="bfloat16"), 2)


def _gated_delta_net(keys: Keys) -> tuple[int, int]:
    """Qwen3-Next and Qwen3.5. Source: vLLM 0.33 model_executor/layers/mamba/mamba_utils.py."""
    hidden, kernel = keys.number("hidden_size"), keys.number("linear_conv_kernel_dim", default=4)
    heads = keys.number("linear_num_value_heads")
    key_dim, value_dim = keys.number("linear_key_head_dim"), keys.number("linear_value_head_dim")
    all_keys, all_values = keys.number("linear_num_key_heads") * key_dim, heads * value_dim
    mixed = 2 * all_keys + all_values
    kept = heads * key_dim * value_dim * _number_bytes(keys) + (kernel - 1) * mixed * 2
    return kept, hidden * (mixed + all_values + 2 * heads) + kernel * mixed + all_values * hidden


def _kimi_delta(keys: Keys) -> tuple[int, int]:
    """Kimi's delta attention: queries, keys and values of one width, a gate of low rank, the state in 32 bits."""
    inner = keys.below("linear_attn_config")
    assert inner is not None
    hidden, kernel = keys.number("hidden_size"), inner.number("short_conv_kernel_size", default=4)
    heads, head_dim = inner.number("num_heads"), inner.number("head_dim")
    width = heads * head_dim
    gates = hidden * width if inner.values.get("use_full_rank_gate") else head_dim * (hidden + width)
    weights = hidden * 4 * width + gates + head_dim * (hidden + width) + hidden * heads + 3 * kernel * width
    return heads * head_dim * head_dim * 4 + (kernel - 1) * 3 * width * 2, weights


def _mamba_2(keys: Keys) -> tuple[int, int]:
    """Nemotron-H, Bamba, Falcon-H1. Source: Mamba-2, arXiv 2405.21060, and vLLM's mamba_utils.py."""
    hidden = keys.number("hidden_size")
    heads, head_dim = keys.number("mamba_num_heads", "mamba_n_heads"), keys.number("mamba_head_dim", "mamba_d_head")
    groups, size = keys.number("n_groups", "mamba_n_groups", default=1), keys.number("ssm_state_size", "mamba_d_state")
    kernel, inner = keys.number("conv_kernel", "mamba_d_conv", default=4), heads * head_dim
    mixed = inner + 2 * groups * size
    kept = heads * head_dim * size * _number_bytes(keys) + (kernel - 1) * mixed * 2
    return kept, hidden * (inner + mixed + heads) + kernel * mixed + inner * hidden


def _mamba_1(keys: Keys) -> tuple[int, int]:
    """Jamba. Source: Mamba, arXiv 2312.00752."""
    hidden, size = keys.number("hidden_size"), keys.number("mamba_d_state", "state_size")
    kernel, inner = (
        keys.number("mamba_d_conv", "conv_kernel", default=4),
        keys.number("mamba_expand", "expand", default=2),
    )
    inner *= hidden
    rank = keys.number("mamba_dt_rank", "time_step_rank", default=-(-hidden // 16))
    kept = inner * size * _number_bytes(keys) + (kernel - 1) * inner * 2
    return kept, inner * (3 * hidden + kernel + 2 * rank + 3 * size)
