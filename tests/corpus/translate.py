"""A case of the corpus as the declaration that a user would write for it.

Only nouns are made here; what is wrong with them is the business of the same `resolve` and `check` as in a preview.
A missing key means the default of the engine or the platform; where Tandem's own default is another one, the engine's
is written out, so that the mistake of leaving it out stays one. Read are `engine`, `engine_version`, `prefill`,
`decode`, `cluster`, `model` and `workload`, and never what a case is called or meant to show.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, lcm
from typing import Any

import pulumi_tandem as tandem
from pulumi_tandem import catalog
from pulumi_tandem.declare.model import GIB
from tests.corpus import translate_cluster

Case = dict[str, Any]

SGLANG = frozenset({
    "transfer_backend", "dp_attention", "mem_fraction", "page_size", "context_length", "max_total_tokens",
    "max_running_requests", "bootstrap_port", "disaggregation_bootstrap_port", "attention_dp_size",
})  # fmt: skip
"""Settings that only SGLang has: a case with one of them is about an engine that Tandem does not know."""

VLLM_OF_DYNAMO = (((1, 5), "0.23.0"), ((99,), "0.31.0"))
"""Upper bounds of Dynamo's releases and the vLLM in their runtime, as far as read: 1.3.1 has 0.23, 1.6.1 0.31."""
NEWEST = {"vllm": "0.33.0", "tensorrt-llm": "1.2.1"}
CONTEXT_TOKENS = 8_192
"""A context that nobody declared is taken as one that fits: the corpus holds that all else follows good defaults."""
MIXTURE = 3.0
"""Times the parameters of a dense model of the same heads from which a model is a mixture of experts."""

GPUS = {
    "T4-16GB": "T4", "A10-24GB": "A10", "A10G-24GB": "A10G", "L4-24GB": "L4", "L40S-48GB": "L40S", "H100-80GB": "H100",
    "H200-141GB": "H200", "V100": "V100-32GB", "B200-180GB": "B200",
}  # fmt: skip
"""The corpus' names of GPUs that the catalog calls otherwise."""

POOL_FIELDS = {
    "block_size": "block_tokens", "tokens_per_block": "block_tokens", "data_parallel": "data_parallel",
    "dtype": "dtype", "enforce_eager": "eager", "expert_parallel": "expert_parallel",
    "free_gpu_memory_fraction": "memory_fraction", "gpu_memory_utilization": "memory_fraction",
    "gpus_per_worker": "gpus_per_worker", "image": "image", "image_arch": "image_arch", "kv_cache_dtype": "kv_dtype",
    "metrics.path": "metrics_path",
    "max_batch_size": "sequences", "max_model_len": "context_tokens", "max_num_batched_tokens": "batch_tokens",
    "max_num_seqs": "sequences", "max_num_tokens": "batch_tokens", "max_seq_len": "context_tokens",
    "model_revision": "model_revision", "nodes_per_worker": "nodes_per_worker",
    "pipeline_parallel": "pipeline_parallel", "replicas": "workers", "tensor_parallel": "tensor_parallel",
}  # fmt: skip
"""Key of a role: field of the pool that says the same."""

FLAGS = {
    "all2all_backend": "--all2all-backend", "calculate_kv_scales": "--calculate-kv-scales",
    "cudagraph_mode": "--compilation-config.cudagraph_mode", "data_parallel_local": "--data-parallel-size-local",
    "enable_cumem_allocator": "--enable-cumem-allocator", "enable_sleep_mode": "--enable-sleep-mode",
    "enable_chunked_prefill": "--enable-chunked-prefill",
    "executor": "--distributed-executor-backend", "moe_backend": "--moe-backend",
    "kv_events.endpoint": "--kv-events-config.endpoint",
}  # fmt: skip
"""Key of a role: flag of vLLM, which a user passes by hand."""
SWITCHED_OFF = frozenset({"enable_chunked_prefill"})
"""Keys whose False is another setting than leaving them out."""
BALANCERS = {name: f"--data-parallel-{name}" for name in ("hybrid-lb", "multi-port-external-lb")}

QUANTISATIONS = {
    "awq": {"weights": "int4"},
    "gptq": {"weights": "int4"},
    "int4": {"weights": "int4"},
    "int8": {"weights": "int8", "activations": "int8"},
    "fp8": {"weights": "fp8", "activations": "fp8"},
    "fp8-block128": {"weights": "fp8", "activations": "fp8", "block": (128, 128)},
    "fp4+fp8": {"weights": "mxfp4", "activations": "fp8"},
    "mxfp4": {"weights": "mxfp4"},
    "nvfp4": {"weights": "nvfp4", "activations": "nvfp4"},
}
"""Words of `model.quantisation`."""

TRANSPORTS = (
    *((word, "rdma") for word in ("rc", "rc_x", "rc_v", "rc_mlx5", "dc", "dc_x", "ud", "ib", "rdma")),
    ("cuda_ipc", "cuda_ipc"),
    *((word, "shm") for word in ("sm", "shm", "posix", "sysv", "cma")),
    ("tcp", "tcp"),
)
"""Words of UCX_TLS, in the order in which they decide, and the transport that stands for them."""


class LeftOut(Exception):
    """A case whose mechanism is not ours, with the reason."""


@dataclass
class Translation:
    """A case as a declaration."""

    service: Callable[[], tandem.Service]
    """Makes the nouns; what they refuse by themselves is a finding like any other."""
    unknown: list[str] = field(default_factory=list)
    """Keys that nobody translates."""


def translate(case: Case) -> Translation:
    """The declaration of a case. Raises LeftOut."""
    _leave_out(case)
    roles = {role: _flat(case.get(role) or {}) for role in ("prefill", "decode")}
    unknown = [f"{role}.{key}" for role, keys in roles.items() for key in keys if not _known(key)]
    unknown += [f"model.{key}" for key in _flat(case.get("model") or {}) if key not in MODEL_KEYS]
    unknown += translate_cluster.unknown(case)
    unknown += [f"workload.{key}" for key in case.get("workload") or {} if key not in WORKLOAD_KEYS]
    return Translation(service=lambda: _service(case, roles), unknown=unknown)


def _leave_out(case: Case) -> None:
    roles = [case.get(role) or {} for role in ("prefill", "decode")]
    mark = sorted({key for role in roles for key in role if key in SGLANG})
    images = [str(role.get("image")) for role in roles]
    if mark or any("sglang" in image for image in images):
        raise LeftOut(f"an engine that Tandem does not know: SGLang ({', '.join(mark) or images[0]})")
    for role in roles:
        gpu = str(role.get("gpu")).partition("-MIG-")[0]
        if GPUS.get(gpu, gpu) not in catalog.names("gpus"):
            raise LeftOut(f"a GPU that the catalog does not have: {gpu}")
    if reason := translate_cluster.left_out(case):
        raise LeftOut(reason)
    for product, reason in PRODUCTS.items():
        if any(product in _flat(part) or product in part for part in (*roles, case.get("cluster") or {})):
            raise LeftOut(reason)


PRODUCTS = {
    "stormservice": "a product that Tandem does not deploy: AIBrix's StormService",
    "disaggregatedset": "a product that Tandem does not deploy: LeaderWorkerSet's DisaggregatedSet",
    "dynamo": "a product that Tandem does not deploy: Dynamo's chart and operator",
}
"""Keys that only another product's objects have."""


def _service(case: Case, roles: dict[str, Case]) -> tandem.Service:
    around = translate_cluster.cluster_parts(case)
    transfer = {**_transfer(case, roles), **_fields(around.pop("transfer", None))}
    longest = (case.get("workload") or {}).get("max_isl")
    fields: dict[str, Any] = {
        "name": "case",
        "model": _model(case, roles),
        "context_tokens": _context(case, roles),
        "prompt_tokens_max": longest,
        **({"transfer": tandem.Transfer(**transfer)} if transfer else {}),
        **_workload(case.get("workload") or {}),
        **around,
    }
    fields |= {role: _pool(case, role, roles) for role in roles}
    return tandem.Service(**fields)


WORKLOAD_KEYS = frozenset({
    "api_path", "isl", "max_generation_s", "max_isl", "max_ttft_s", "osl", "prefill_tokens_per_s", "ttft_ms",
})  # fmt: skip


def _workload(workload: Case) -> dict[str, Any]:
    """The load, where the case says how much prefill reads."""
    if not (rate := workload.get("prefill_tokens_per_s")):
        return {}
    prompt = workload.get("isl") or workload.get("max_isl") or 1
    load = {"requests_per_s": rate / prompt, "prompt_tokens": prompt, "output_tokens": workload.get("osl") or 1}
    return {"workload": tandem.Workload(**load)}


def _fields(noun: Any) -> dict[str, Any]:
    return {name: getattr(noun, name) for name in noun.model_fields_set} if noun is not None else {}


# --- the model ------------------------------------------------------------------------------------

MODEL_KEYS = frozenset({
    "architecture", "attention", "attention_heads", "dtype", "experts", "gated", "head_dim", "hybrid",
    "intermediate_size", "kv_heads", "layers", "max_position", "moe_intermediate_size", "name", "params_b",
    "quantisation", "rope_override", "sliding_window", "weight_bytes_gb",
})  # fmt: skip


def _model(case: Case, roles: dict[str, Case]) -> tandem.Model:
    model = case["model"]
    gb = model.get("weight_bytes_gb") or model["params_b"] * 2
    fields: dict[str, Any] = {
        "name": model["name"],
        "weights_gib": gb * 1e9 / GIB,
        "architecture": _architecture(model, roles),
        **{key: model[key] for key in ("gated",) if key in tandem.Model.model_fields and key in model},
    }
    return tandem.Model(**fields)


def _architecture(model: Case, roles: dict[str, Case]) -> tandem.Architecture:
    """The shape that the case states."""
    layers, latent, hybrid = model["layers"], model.get("attention") == "MLA", model.get("hybrid", "")
    experts, hidden, width = _widths(model, roles)
    dense = model.get("intermediate_size") if experts > 1 else None
    quantisation = model.get("quantisation")
    return tandem.Architecture(
        layers=layers,
        attention_heads=model["attention_heads"],
        kv_heads=model["kv_heads"],
        head_dim=128 if latent else model["head_dim"],
        hidden=hidden,
        intermediate=width,
        vocabulary=128_000,
        positions_max=model["max_position"],
        experts=experts,
        dense_layers=3 if dense else 0,
        dense_intermediate=dense or 0,
        latent_dim=model["head_dim"] if latent else 0,
        sliding_window_tokens=model.get("sliding_window", 0) if "sliding" in hybrid else 0,
        sliding_layers=layers // 2 if "sliding" in hybrid else 0,
        state_layers=layers - layers // 4 if hybrid.startswith("attention+") else 0,
        encoder_decoder=model.get("architecture") == "encoder-decoder",
        quantisation=tandem.Quantisation(**QUANTISATIONS[quantisation]) if quantisation in QUANTISATIONS else None,
        dtype=model.get("dtype", "bfloat16"),
    )


def _widths(model: Case, roles: dict[str, Case]) -> tuple[int, int, int]:
    """Experts, width of the model and of one feed-forward block; what is not stated follows from the parameters.

    A width that is not stated is one that every split divides, so that no rule can trip over it. A model that has
    several times the parameters of a dense one of its heads is a mixture of experts, whether it says so or not.
    """
    hidden = model["attention_heads"] * (128 if model.get("attention") == "MLA" else model["head_dim"])
    splits = lcm(*(role.get("tensor_parallel", 1) * role.get("data_parallel", 1) for role in roles.values()))
    parameters = model["params_b"] * 1e9 / model["layers"]
    mixture = "experts" in model or "moe_intermediate_size" in model or parameters > MIXTURE * 12 * hidden**2
    if not mixture:
        return 1, hidden, model.get("intermediate_size") or _neutral(4 * hidden, splits)
    experts = model.get("experts") or splits * ceil(256 / splits)
    if stated := model.get("moe_intermediate_size"):
        return experts, max(128, round(parameters / (3 * stated * experts))), stated
    return experts, hidden, _neutral(parameters / (3 * hidden * experts), splits)


def _neutral(width: float, splits: int) -> int:
    return 128 * splits * max(1, round(width / (128 * splits)))


def _context(case: Case, roles: dict[str, Case]) -> int:
    """The engine's default where one role declares a context and the other does not; else one that fits."""
    longest = case["model"]["max_position"]
    if any("max_model_len" in role or "max_seq_len" in role for role in roles.values()):
        return longest
    workload = case.get("workload") or {}
    asked = (workload.get("max_isl") or workload.get("isl") or 0) + (workload.get("osl") or 1)
    return min(longest, max(CONTEXT_TOKENS, asked))


# --- pools and engines ----------------------------------------------------------------------------


def _pool(case: Case, role: str, roles: dict[str, Case]) -> tandem.Pool:
    keys = roles[role]
    fields: dict[str, Any] = {name: keys[key] for key, name in POOL_FIELDS.items() if keys.get(key) is not None}
    if "expert_parallel_size" in keys:
        fields["expert_parallel"] = keys["expert_parallel_size"] > 1
    gpu, _, slice_of = keys["gpu"].partition("-MIG-")
    fields["gpu"] = GPUS.get(gpu, gpu)
    if slice_of:
        fields["mig"] = slice_of
    if "gpu_index" in keys:
        fields["device"] = f"{keys.get('host', 'node')}:{keys['gpu_index']}"
    if (ref := keys.get("model_ref")) and ref != case["model"]["name"]:
        fields["model_path"] = ref
    if any("block_size" in other for other in roles.values()):
        fields.setdefault("block_tokens", 64 if case["model"].get("attention") == "MLA" else 16)
    if engine_of(case) == "vllm":
        fields |= _vllm(case, keys)
    elif engine_of(case) == "tensorrt-llm":
        fields["engine"] = _tensorrt_llm(case, keys)
    fields["env"] = _env(case, keys)
    fields |= translate_cluster.pod_parts(case, role)
    return tandem.Pool(**fields)


def engine_of(case: Case) -> str:
    """The engine; cases that hold for any are taken as vLLM's."""
    return "tensorrt-llm" if case["engine"] == "tensorrt-llm" else "vllm"


def _version(case: Case, keys: Case) -> str:
    """The release: the role's own, else the case's, else what the product of that version brings."""
    text = str(keys.get("engine_version") or case["engine_version"])
    kind = engine_of(case)
    product, _, release = text.rpartition(" ")
    if product == "dynamo" and kind == "vllm":
        return next(vllm for bound, vllm in VLLM_OF_DYNAMO if catalog.version(release) < bound)
    if text.startswith("0.2x"):
        return "0.29.0"
    return _nearest_release(kind, "" if product else text)


def _nearest_release(kind: Any, text: str) -> str:
    """The release as written where the catalog knows it; else the newest known that is not newer, else the newest."""
    try:
        return catalog.engine(kind, text).version
    except catalog.UnknownName as error:
        older = [each for each in error.known if (0, 6) < catalog.version(each) <= (*catalog.version(text), 0)]
        return older[-1] if older and catalog.version(text) else NEWEST[kind]


def _vllm(case: Case, keys: Case) -> dict[str, Any]:
    engine: dict[str, Any] = {"version": _version(case, keys)}
    if backend := keys.get("attention_backend"):
        engine["attention_backend"] = backend
    if manager := keys.get("hybrid_kv_cache_manager"):
        engine["hybrid_kv_cache"] = manager == "enabled"
    if nixl := keys.get("nixl_version"):
        engine["nixl_version"] = nixl
    if speculation := _speculation(keys):
        engine["speculation"] = speculation
    return {
        "engine": tandem.Vllm(**engine),
        "connector": _connector(case, keys),
        "extra_args": tuple(_flags(keys)),
    }


def _tensorrt_llm(case: Case, keys: Case) -> tandem.TensorRtLlm:
    names = {
        "attention_backend": "attention_backend",
        "attention_dp": "attention_data_parallel",
        "cache_transceiver_config.max_tokens_in_buffer": "max_tokens_in_buffer",
        "enable_chunked_prefill": "chunked_prefill",
        "max_beam_width": "beams",
        "moe_backend": "moe_backend",
        "metrics.return_perf_metrics": "perf_metrics",
        "server_role": "server_role",
    }
    engine: dict[str, Any] = {name: keys[key] for key, name in names.items() if keys.get(key) is not None}
    engine["version"] = _version(case, keys)
    engine["transceiver"] = keys.get("cache_transceiver_config.backend")
    engine["overlap_scheduler"] = not keys.get("disable_overlap_scheduler", False)
    if speculation := _speculation(keys):
        engine["speculation"] = speculation
    return tandem.TensorRtLlm(**engine)


def _speculation(keys: Case) -> tandem.Speculation | None:
    method = keys.get("speculative.method") or keys.get("speculative.decoding_type")
    tokens = [keys.get(f"speculative.{key}") for key in ("num_speculative_tokens", "max_draft_len", "layers")]
    if not method:
        return None
    return tandem.Speculation(
        method=method, model=keys.get("speculative.model"), tokens=next(filter(None, tokens), None)
    )


def _connector(case: Case, keys: Case) -> tandem.Connector | None:
    """As the manifest states it; None where the platform puts it in, or the case is no engine's."""
    injects = (case.get("cluster") or {}).get("injects") or ()
    given = {key.partition(".")[2]: value for key, value in keys.items() if key.startswith("kv_transfer_config.")}
    name = keys.get("kv_connector") or given.get("kv_connector")
    if name is None and ("kv_connector" in injects or case["engine"] != "vllm"):
        return None
    extra = _below(keys, "kv_connector_extra_config.")
    extra |= _below(given, "kv_connector_extra_config.")
    if connectors := extra.get("connectors"):
        extra["connectors"] = [{"kv_connector": each} for each in connectors]
    ours = ("kv_connector", "kv_role", "kv_connector_extra_config")
    further: Case = {}
    for key, value in given.items():
        first, _, rest = key.partition(".")
        if first in ours:
            continue
        if rest:
            further.setdefault(first, {})[rest] = value
        else:
            further[first] = value
    return tandem.Connector(
        name=name,
        role=keys.get("kv_role") or given.get("kv_role"),
        buffer_device=keys.get("kv_buffer_device"),
        load_failure=keys.get("kv_load_failure_policy"),
        extra=extra,
        fields=further,
    )


def _flags(keys: Case) -> list[str]:
    """What a user types behind the fields."""
    words: list[str] = list(keys.get("flags", ()))
    for key, flag in FLAGS.items():
        value = keys.get(key)
        if value is True:
            words.append(flag)
        elif value is False and key in SWITCHED_OFF:
            words.append(flag.replace("--", "--no-", 1))
        elif value not in (None, False):
            words += [flag, str(value)]
    if balancer := BALANCERS.get(str(keys.get("dp_mode"))):
        words.append(balancer)
    if rope := _below(keys, "rope_override."):
        config = {
            "rope_scaling": {"rope_type": rope.get("type"), "factor": rope.get("factor")},
            "max_position_embeddings": rope.get("max_position"),
        }
        words.append(f"--hf-overrides={json.dumps(config)}")
    return words


SAID_ELSEWHERE = {
    "UCX_TLS", "UCX_NET_DEVICES", "FI_PROVIDER", "FI_EFA_USE_DEVICE_RDMA", "VLLM_NIXL_SIDE_CHANNEL_PORT",
}  # fmt: skip
"""Variables that are said as the transfer, or as a port of the pod."""
SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_HOST"


def _env(case: Case, keys: Case) -> dict[str, str]:
    """The environment; a side channel that nobody sets listens on the engine's default."""
    env = {key: str(value) for key, value in _below(keys, "env.").items() if key not in SAID_ELSEWHERE}
    injects = (case.get("cluster") or {}).get("injects") or ()
    nixl = str(keys.get("kv_connector", "")).startswith("Nixl") and case["engine"] == "vllm"
    if nixl and "side_channel_host" not in injects:
        env.setdefault(SIDE_CHANNEL, "localhost")
    if "engine_ready_timeout_s" in keys:
        env["VLLM_ENGINE_READY_TIMEOUT_S"] = str(keys["engine_ready_timeout_s"])
    return env


def _transfer(case: Case, roles: dict[str, Case]) -> dict[str, Any]:
    """The transport that UCX takes of those that it is let: verbs only where there is no TCP, or a fabric for them."""
    fields: dict[str, Any] = {}
    fabric = (case.get("cluster") or {}).get("fabric")
    for keys in roles.values():
        words = set(str(keys.get("env.UCX_TLS", "")).split(","))
        falls_back = "tcp" in words and fabric not in {"infiniband", "roce", None}
        found = [to for word, to in TRANSPORTS if word in words and not (to == "rdma" and falls_back)]
        if found:
            fields["transport"] = found[0]
        if devices := keys.get("env.UCX_NET_DEVICES"):
            fields["net_devices"] = devices
        libfabric = "LIBFABRIC" in (keys.get("kv_connector_extra_config.backends") or ())
        if keys.get("env.FI_PROVIDER") == "efa" and libfabric:
            fields["transport"] = "efa"
    return fields


# --- keys -----------------------------------------------------------------------------------------

OPEN = {"env", "kv_connector_extra_config", "kv_transfer_config", "resources", "sidecar_env"}
"""Keys that hold a dictionary of any names."""

SAID = frozenset({
    *POOL_FIELDS, *FLAGS, "gpu", "gpu_index", "host", "model_ref", "engine_version", "attention_backend",
    "hybrid_kv_cache_manager", "nixl_version", "kv_connector", "kv_role", "kv_buffer_device", "kv_load_failure_policy",
    "flags", "dp_mode", "rope_override.type", "rope_override.factor", "rope_override.max_position", "server_role",
    "attention_dp", "cache_transceiver_config.backend", "cache_transceiver_config.max_tokens_in_buffer",
    "enable_chunked_prefill", "max_beam_width", "metrics.return_perf_metrics", "disable_overlap_scheduler",
    "speculative.method", "speculative.decoding_type", "speculative.model", "speculative.num_speculative_tokens",
    "speculative.max_draft_len", "speculative.layers", "expert_parallel_size", "cache_transceiver_config",
    "resource", "kv_scales",
})  # fmt: skip
"""Keys of a role that are said here. `resource` repeats the slice in `gpu`; `kv_scales: checkpoint` is the default."""


def _known(key: str) -> bool:
    first = key.partition(".")[0]
    return key in SAID or first in OPEN or key in SGLANG or first in translate_cluster.KEYS


def _flat(part: Case, above: str = "") -> Case:
    """Dictionaries in dictionaries as one, keys joined by dots, as VOCABULARY.md writes them."""
    flat: Case = {}
    for key, value in part.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _below(keys: Case, above: str) -> Case:
    """Keys that begin so, without their beginning; `backends` and the like stay whole."""
    return {key.removeprefix(above): value for key, value in keys.items() if key.startswith(above)}
