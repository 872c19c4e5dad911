"""Rows for connectors, kinds of layers, and what does not go with a hand-over (codes 006x, 007x, 011x)."""

from typing import Any

import pulumi_tandem as tandem
from tests.builders import llama_pair
from tests.check.cases import Broken

SHAPE: dict[str, Any] = {
    "layers": 32,
    "attention_heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "hidden": 4096,
    "intermediate": 14336,
    "vocabulary": 128256,
    "positions_max": 131072,
}
LATENT: dict[str, Any] = {"kv_heads": 1, "latent_dim": 576}


def model(**shape: Any) -> tandem.Model:
    """A model of Llama 3.1 8B's shape, but for what is given."""
    return tandem.Model(name="mine", weights_gib=15.0, architecture=tandem.Architecture(**(SHAPE | shape)))


STATES = model(state_layers=24)
WINDOWS = model(sliding_layers=16, sliding_window_tokens=128)
DS = {"env": {"VLLM_SSM_CONV_STATE_LAYOUT": "DS"}}
SLEEP = {"extra_args": ("--enable-sleep-mode",)}


def on(version: str, **fields: Any) -> tandem.Vllm:
    """vLLM of a release."""
    return tandem.Vllm(version=version, **fields)


def connector(name: str | None = "NixlConnector", **fields: Any) -> dict[str, Any]:
    """A pool's connector."""
    return {"connector": tandem.Connector(name=name, **fields)}


def both(**fields: Any) -> tandem.Transfer:
    """A connector for both pools."""
    return tandem.Transfer(connector=tandem.Connector(**fields))


LMCACHE = both(name="LMCacheConnectorV1")
SEED = {"env": {"PYTHONHASHSEED": "0"}}

BROKEN = [
    Broken("TND0060", llama_pair(connector(None)), ("llama.prefill.connector",), "no KV connector"),
    Broken(
        "TND0060",
        llama_pair(connector(None), connector(None)),
        ("llama.prefill.connector", "llama.decode.connector"),
        "with 200 OK",
    ),
    Broken(
        "TND0061",
        llama_pair(connector("NixlPushConnector")),
        ("llama.decode.connector.name",),
        "decode uses NixlConnector and prefill NixlPushConnector",
    ),
    Broken(
        "TND0062",
        llama_pair(transfer=both(name="SharedStorageConnector")),
        ("llama.prefill.connector.name", "llama.decode.connector.name"),
        "has no connector 'SharedStorageConnector'",
    ),
    Broken(
        "TND0063",
        llama_pair(decode=connector(role="kv_producer")),
        ("llama.decode.connector.role",),
        "needs a producer and a consumer",
    ),
    Broken(
        "TND0064",
        llama_pair(decode=connector("MooncakeConnector", role="kv_producer"), transfer=both(name="MooncakeConnector")),
        ("llama.decode.connector.role",),
        "'kv_producer'",
    ),
    Broken(
        "TND0065",
        llama_pair(transfer=both(role="kv_both")),
        ("llama.prefill.connector.role", "llama.decode.connector.role"),
        "deprecated since vLLM 0.23",
    ),
    Broken(
        "TND0066",
        llama_pair(connector(fields={"kv_extra_config": {"backends": ["UCX"]}})),
        ("llama.prefill.connector.fields.kv_extra_config",),
        "has no key 'kv_extra_config'",
    ),
    Broken(
        "TND0066",
        llama_pair(connector(fields={"kv_rank": 0})),
        ("llama.prefill.connector.fields.kv_rank",),
        "no longer has key 'kv_rank'",
    ),
    Broken(
        "TND0067",
        llama_pair(connector(extra={"kv_lease_seconds": 60})),
        ("llama.prefill.connector.extra.kv_lease_seconds",),
        "does not read 'kv_lease_seconds'",
    ),
    Broken(
        "TND0068",
        llama_pair(connector(extra={"backends": ["LIBFABRIC"]})),
        ("llama.decode.connector.extra.backends",),
        "None on decode and ['LIBFABRIC'] on prefill",
    ),
    Broken(
        "TND0068",
        llama_pair(connector(extra={"enable_cross_layers_blocks": True}), engine=on("0.21.0")),
        ("llama.decode.connector.extra.enable_cross_layers_blocks",),
        "None on decode and True on prefill",
    ),
    Broken(
        "TND0069",
        llama_pair(engine=on("0.33.0", nixl_version="1.4.1")),
        ("llama.prefill.engine.nixl_version", "llama.decode.engine.nixl_version"),
        "needs NIXL 1.5.0",
    ),
    Broken("TND0070", llama_pair(model=model(encoder_decoder=True)), ("llama.model.architecture",), "has an encoder"),
    Broken(
        "TND0071",
        llama_pair({"pipeline_parallel": 2}, {"tensor_parallel": 2}, engine=on("0.19.0")),
        ("llama.prefill.pipeline_parallel",),
        "2 pipeline stages on prefill",
    ),
    Broken(
        "TND0071",
        llama_pair(decode={"pipeline_parallel": 2}),
        ("llama.decode.pipeline_parallel",),
        "2 pipeline stages on decode",
    ),
    Broken(
        "TND0071",
        llama_pair({"pipeline_parallel": 2}, model=WINDOWS),
        ("llama.prefill.pipeline_parallel",),
        "several kinds of layers",
    ),
    Broken(
        "TND0072",
        llama_pair(DS, model=STATES),
        ("llama.decode.env.VLLM_SSM_CONV_STATE_LAYOUT",),
        "is not set",
    ),
    Broken(
        "TND0073",
        llama_pair(DS, DS | {"tensor_parallel": 2}, model=STATES),
        ("llama.decode.tensor_parallel",),
        "few models were tried so",
    ),
    Broken(
        "TND0074",
        llama_pair(decode={"tensor_parallel": 2}, model=STATES, engine=on("0.18.0", hybrid_kv_cache=True)),
        ("llama.decode.tensor_parallel",),
        "their transfer would be wrong",
    ),
    Broken(
        "TND0075",
        llama_pair({"block_tokens": 64}, {"block_tokens": 128}, model=WINDOWS),
        ("llama.decode.block_tokens",),
        "several kinds of layers",
    ),
    Broken(
        "TND0075",
        llama_pair({"block_tokens": 64}, {"block_tokens": 128}, transfer=both(buffer_device="cpu")),
        ("llama.decode.block_tokens",),
        "host memory",
    ),
    Broken(
        "TND0075",
        llama_pair({"block_tokens": 64}, {"block_tokens": 128}, engine=on("0.11.0")),
        ("llama.decode.block_tokens",),
        "cannot remap",
    ),
    Broken(
        "TND0076",
        llama_pair({"env": {"VLLM_KV_CACHE_LAYOUT": "NHD"}}),
        ("llama.decode.env.VLLM_KV_CACHE_LAYOUT",),
        "is None on decode and NHD on prefill",
    ),
    Broken(
        "TND0076",
        llama_pair(
            {"env": {"VLLM_KV_CACHE_LAYOUT": "NHD"}},
            {"env": {"VLLM_KV_CACHE_LAYOUT": "NHD"}, "tensor_parallel": 2},
        ),
        ("llama.prefill.env.VLLM_KV_CACHE_LAYOUT", "llama.decode.env.VLLM_KV_CACHE_LAYOUT"),
        "split over 1 and 2 GPUs",
    ),
    Broken(
        "TND0077",
        llama_pair({"tensor_parallel": 4}, engine=on("0.11.0")),
        ("llama.decode.tensor_parallel",),
        "no decode that is split less",
    ),
    Broken(
        "TND0077",
        llama_pair({"tensor_parallel": 8}, {"tensor_parallel": 16}, engine=on("0.21.0")),
        ("llama.decode.tensor_parallel",),
        "the model's 8 KV heads",
    ),
    Broken(
        "TND0077",
        llama_pair({"gpu": "B200", "kv_dtype": "nvfp4"}, {"gpu": "B200", "kv_dtype": "nvfp4", "tensor_parallel": 2}),
        ("llama.decode.tensor_parallel",),
        "NVFP4",
    ),
    Broken(
        "TND0078",
        llama_pair(model=WINDOWS, engine=on("0.20.0")),
        ("llama.prefill.engine.hybrid_kv_cache", "llama.decode.engine.hybrid_kv_cache"),
        "turns the hybrid KV cache manager off",
    ),
    Broken(
        "TND0078",
        llama_pair(SEED, SEED, model=WINDOWS, transfer=LMCACHE),
        ("llama.prefill.engine.hybrid_kv_cache", "llama.decode.engine.hybrid_kv_cache"),
        "LMCacheConnectorV1",
    ),
    Broken(
        "TND0079",
        llama_pair(SEED, SEED, engine=on("0.33.0", hybrid_kv_cache=True), transfer=LMCACHE),
        ("llama.prefill.engine.hybrid_kv_cache", "llama.decode.engine.hybrid_kv_cache"),
        "LMCacheConnectorV1 cannot move several kinds",
    ),
    Broken(
        "TND0079",
        llama_pair(engine=on("0.16.0", hybrid_kv_cache=True)),
        ("llama.prefill.engine.hybrid_kv_cache", "llama.decode.engine.hybrid_kv_cache"),
        "vLLM 0.16.0's NixlConnector",
    ),
    Broken(
        "TND0110",
        llama_pair(SEED | {"tensor_parallel": 2}, SEED, transfer=LMCACHE),
        ("llama.decode.tensor_parallel",),
        "ranks of one number",
    ),
    Broken(
        "TND0111",
        llama_pair(transfer=LMCACHE),
        ("llama.prefill.env.PYTHONHASHSEED", "llama.decode.env.PYTHONHASHSEED"),
        "is not set",
    ),
    Broken(
        "TND0112",
        llama_pair(SLEEP, SLEEP, transfer=both(extra={"backends": ["LIBFABRIC"]})),
        ("llama.prefill.extra_args", "llama.decode.extra_args"),
        "NixlConnector over LIBFABRIC",
    ),
    Broken("TND0112", llama_pair(SLEEP, engine=on("0.32.0")), ("llama.prefill.extra_args",), "over UCX"),
    Broken(
        "TND0113",
        llama_pair(decode={"tensor_parallel": 2}, model=WINDOWS, transfer=both(extra={"bidirectional_kv_xfer": True})),
        ("llama.decode.tensor_parallel",),
        "both ways",
    ),
    Broken(
        "TND0114",
        llama_pair(connector(extra={"bidirectional_kv_xfer": True})),
        ("llama.decode.connector.extra.bidirectional_kv_xfer",),
        "is False on decode and True on prefill",
    ),
    Broken(
        "TND0114",
        llama_pair(transfer=both(name="NixlPushConnector", extra={"bidirectional_kv_xfer": True})),
        ("llama.decode.connector.extra.bidirectional_kv_xfer",),
        "pull protocol only",
    ),
    Broken(
        "TND0115",
        llama_pair(engine=on("0.33.0", speculation=tandem.Speculation(method="dspark"))),
        ("llama.prefill.engine.speculation", "llama.decode.engine.speculation"),
        "DSpark",
    ),
    Broken("TND0116", llama_pair({"model_revision": "abc"}), ("llama.decode.model_revision",), "'abc'"[1:4]),
    Broken(
        "TND0117",
        llama_pair(decode=connector(extra={"enforce_handshake_compat": False})),
        ("llama.decode.connector.extra.enforce_handshake_compat",),
        "comparison is off",
    ),
    Broken(
        "TND0118",
        llama_pair({"extra_args": ("--hf-overrides={}",)}),
        ("llama.decode.extra_args",),
        "decode has none and prefill --hf-overrides {}",
    ),
]

MULTI = both(
    name="MultiConnector",
    extra={"connectors": [{"kv_connector": "NixlConnector"}, {"kv_connector": "LMCacheConnectorV1"}]},
)
MOONCAKE = both(name="MooncakeConnector")
BROKEN += [
    Broken(
        "TND0120",
        llama_pair({"tensor_parallel": 2}, engine=on("0.18.0"), transfer=MOONCAKE),
        ("llama.decode.tensor_parallel",),
        "Mooncake cannot transfer between",
    ),
    Broken(
        "TND0121",
        llama_pair(engine=on("0.9.1"), transfer=MULTI),
        ("llama.prefill.connector.extra.connectors", "llama.decode.connector.extra.connectors"),
        "lose the other engine's id",
    ),
]
PUSH = both(name="NixlPushConnector")

FINE = [
    ("TND0060", llama_pair()),
    ("TND0060", tandem.Service(name="one", model=model(), serve=tandem.Pool(gpu="H100", **connector(None)))),
    ("TND0061", llama_pair(transfer=PUSH)),
    ("TND0061", llama_pair(connector("NixlPullConnector"))),
    (
        "TND0061",
        llama_pair(connector("MultiConnector", extra={"connectors": [{"kv_connector": "NixlConnector"}]})),
    ),
    ("TND0062", llama_pair(transfer=both(name="Mine", fields={"kv_connector_module_path": "mine"}))),
    ("TND0062", llama_pair(transfer=both(name="P2pNcclConnector"), engine=on("0.21.0"))),
    ("TND0063", llama_pair(transfer=both(role="kv_both"))),
    ("TND0064", llama_pair(transfer=both(name="MooncakeConnector"))),
    ("TND0065", llama_pair(transfer=both(role="kv_both"), engine=on("0.21.0"))),
    ("TND0066", llama_pair(transfer=both(fields={"kv_port": 14579, "engine_id": "x"}))),
    ("TND0066", llama_pair(transfer=both(fields={"kv_rank": 0}), engine=on("0.11.0"))),
    ("TND0067", llama_pair(transfer=both(extra={"kv_lease_duration": 60, "num_threads": 8}))),
    ("TND0068", llama_pair(connector(extra={"backends": ["UCX"]}))),
    ("TND0068", llama_pair(connector(extra={"kv_lease_duration": 60}))),
    ("TND0069", llama_pair(engine=on("0.33.0", nixl_version="1.5.1"))),
    ("TND0069", llama_pair(engine=on("0.32.0", nixl_version="1.4.1"))),
    ("TND0070", tandem.Service(name="one", model=model(encoder_decoder=True), serve=tandem.Pool(gpu="H100"))),
    ("TND0071", llama_pair({"pipeline_parallel": 2}, {"tensor_parallel": 2}, transfer=PUSH)),
    ("TND0071", llama_pair({"pipeline_parallel": 2})),
    ("TND0072", llama_pair(DS, DS, model=STATES)),
    ("TND0072", llama_pair()),
    ("TND0073", llama_pair(DS | {"tensor_parallel": 2}, DS | {"tensor_parallel": 2}, model=STATES)),
    ("TND0074", llama_pair(DS, DS | {"tensor_parallel": 2}, model=STATES)),
    ("TND0075", llama_pair({"block_tokens": 16}, {"block_tokens": 64, "tensor_parallel": 2})),
    ("TND0075", llama_pair({"block_tokens": 64}, {"block_tokens": 64}, model=WINDOWS)),
    ("TND0076", llama_pair({"env": {"VLLM_KV_CACHE_LAYOUT": "HND"}}, {"tensor_parallel": 2})),
    ("TND0076", llama_pair({"env": {"VLLM_KV_CACHE_LAYOUT": "NHD"}}, model=model(**LATENT))),
    ("TND0077", llama_pair({"tensor_parallel": 4})),
    ("TND0077", llama_pair({"tensor_parallel": 8}, {"tensor_parallel": 16})),
    ("TND0077", llama_pair({"tensor_parallel": 2}, {"tensor_parallel": 4}, engine=on("0.11.0"))),
    ("TND0078", llama_pair(model=WINDOWS)),
    ("TND0078", llama_pair(model=WINDOWS, engine=on("0.20.0", hybrid_kv_cache=True))),
    ("TND0079", llama_pair(engine=on("0.33.0", hybrid_kv_cache=True))),
    ("TND0110", llama_pair(SEED | {"tensor_parallel": 2}, SEED | {"tensor_parallel": 2}, transfer=LMCACHE)),
    ("TND0111", llama_pair(SEED, SEED, transfer=LMCACHE)),
    ("TND0110", llama_pair({"tensor_parallel": 2}, transfer=both(name="LMCacheMPConnector"))),
    ("TND0112", llama_pair(SLEEP, SLEEP)),
    ("TND0112", llama_pair(SLEEP, SLEEP, engine=on("0.20.0"))),
    ("TND0113", llama_pair(decode={"tensor_parallel": 2}, model=WINDOWS)),
    ("TND0114", llama_pair(transfer=both(extra={"bidirectional_kv_xfer": True}))),
    ("TND0115", llama_pair(engine=on("0.33.0", speculation=tandem.Speculation(method="eagle3", model="draft")))),
    ("TND0116", llama_pair({"model_revision": "abc"}, {"model_revision": "abc"})),
    ("TND0117", llama_pair(transfer=both(extra={"enforce_handshake_compat": True}))),
    ("TND0120", llama_pair({"tensor_parallel": 2}, transfer=MOONCAKE)),
    ("TND0121", llama_pair(transfer=MULTI)),
    ("TND0121", llama_pair(engine=on("0.9.1"))),
    ("TND0118", llama_pair({"extra_args": ("--hf-overrides={}",)}, {"extra_args": ("--hf-overrides", "{}")})),
]
