"""Rows for TensorRT-LLM (codes 010x and TND0119)."""

from typing import Any

import pulumi_tandem as tandem
from tests.builders import llama_pair
from tests.check.cases import Broken

EAGLE = tandem.Speculation(method="Eagle3", tokens=3)


def trt(**fields: Any) -> dict[str, Any]:
    """A pool's engine as a context server needs it, but for what is given."""
    engine: dict[str, Any] = {"overlap_scheduler": False, **fields}
    return {"engine": tandem.TensorRtLlm(**engine)}


def servers(prefill: dict[str, Any], decode: dict[str, Any], **changes: Any) -> tandem.Service:
    """A context and a generation server."""
    return llama_pair(trt() | prefill, trt() | decode, **changes)


BROKEN = [
    Broken(
        "TND0126",
        servers({"extra_args": ("--tp_size=2",)}, {"extra_args": ("--config", "/etc/own.yaml")}),
        ("llama.prefill.extra_args", "llama.decode.extra_args"),
        "--tp-size is set by Tandem",
    ),
    Broken(
        "TND0127",
        servers({}, {"env": {"TRTLLM_USE_UCX_KVCACHE": "1"}}),
        ("llama.decode.env.TRTLLM_USE_UCX_KVCACHE",),
        "makes the transceiver UCX",
    ),
    Broken("TND0100", servers({}, trt(transceiver=None)), ("llama.decode.engine.transceiver",), "no cache transceiver"),
    Broken(
        "TND0101",
        servers(trt(transceiver="UCX"), {}),
        ("llama.decode.engine.transceiver",),
        "NIXL on decode and UCX on prefill",
    ),
    Broken(
        "TND0102",
        servers({}, trt(max_tokens_in_buffer=4100)),
        ("llama.decode.engine.max_tokens_in_buffer",),
        "4100 tokens in the buffer are no multiple of a block of 32",
    ),
    Broken(
        "TND0103",
        servers({}, trt(max_tokens_in_buffer=2048), prompt_tokens_max=8000),
        ("llama.decode.engine.max_tokens_in_buffer",),
        "prompts have up to 8000 tokens and the buffer 2048",
    ),
    Broken(
        "TND0104",
        servers(trt(overlap_scheduler=True), {}),
        ("llama.prefill.engine.overlap_scheduler",),
        "refuses context-only requests",
    ),
    Broken(
        "TND0105",
        servers({"batch_tokens": 3501}, {}, prompt_tokens_max=3533),
        ("llama.prefill.batch_tokens",),
        "prompts have up to 3533 tokens, a step 3501",
    ),
    Broken("TND0106", servers({}, trt(speculation=EAGLE)), ("llama.decode.engine.speculation",), "'Eagle3' on decode"),
    Broken(
        "TND0107",
        servers(trt(attention_backend="FLASHINFER") | {"tensor_parallel": 2}, trt(attention_backend="FLASHINFER")),
        ("llama.prefill.engine.attention_backend", "llama.decode.engine.attention_backend"),
        "scramble heads",
    ),
    Broken("TND0108", servers({"kv_dtype": "fp8"}, {}), ("llama.decode.kv_dtype",), "'auto' on decode and 'fp8'"),
    Broken("TND0108", servers({}, {"block_tokens": 64}), ("llama.decode.block_tokens",), "64 on decode and 32"),
    Broken("TND0109", servers({}, trt(beams=4)), ("llama.decode.engine.beams",), "4 beams"),
    Broken(
        "TND0119",
        servers({}, trt(server_role="CONTEXT")),
        ("llama.decode.engine.server_role",),
        "wait for a GENERATION server",
    ),
    Broken(
        "TND0123",
        servers({}, trt(moe_backend="CUTEDSL")),
        ("llama.decode.engine.moe_backend",),
        "kernels CUTEDSL do not run on H100",
    ),
    Broken(
        "TND0122",
        servers(trt(perf_metrics=True) | {"metrics_path": "/metrics"}, {"metrics_path": "/prometheus/metrics"}),
        ("llama.prefill.metrics_path", "llama.decode.engine.perf_metrics"),
        "TensorRT-LLM has no Prometheus metrics at '/metrics'",
    ),
    Broken(
        "TND0013",
        llama_pair(decode=trt()),
        ("llama.decode.engine",),
        "decode runs TensorRT-LLM and prefill vLLM",
    ),
    Broken(
        "TND0091",
        servers(
            {},
            {},
            model=tandem.Model(
                name="Llama-3.1-8B-Instruct",
                weights_gib=6,
                architecture=tandem.Architecture(
                    layers=32,
                    attention_heads=32,
                    kv_heads=8,
                    head_dim=128,
                    hidden=4096,
                    intermediate=14336,
                    vocabulary=128256,
                    positions_max=131072,
                    quantisation=tandem.Quantisation(weights="nvfp4", activations="nvfp4"),
                ),
            ),
        ),
        ("llama.prefill.gpu", "llama.decode.gpu"),
        "TensorRT-LLM 1.2.1 has no kernels for nvfp4",
    ),
]

FINE = [
    ("TND0100", servers({}, {})),
    ("TND0101", servers(trt(transceiver="NIXL"), {})),
    ("TND0102", servers({}, trt(max_tokens_in_buffer=4096))),
    ("TND0103", servers({}, trt(max_tokens_in_buffer=8192), prompt_tokens_max=8000)),
    ("TND0103", servers(trt(transceiver="UCX", max_tokens_in_buffer=2048), trt(transceiver="UCX"),
                        prompt_tokens_max=8000)),
    ("TND0104", servers({}, trt(overlap_scheduler=True))),
    ("TND0105", servers(trt(chunked_prefill=True) | {"batch_tokens": 3501}, {}, prompt_tokens_max=3533)),
    ("TND0105", servers({}, {"batch_tokens": 256}, prompt_tokens_max=3533)),
    ("TND0106", servers(trt(speculation=EAGLE), trt(speculation=EAGLE))),
    ("TND0107", servers({"tensor_parallel": 2}, {})),
    ("TND0107", servers(trt(attention_backend="FLASHINFER"), trt(attention_backend="FLASHINFER"))),
    ("TND0108", servers({"kv_dtype": "fp8"}, {"kv_dtype": "fp8"})),
    ("TND0109", servers({}, {})),
    ("TND0126", servers({"extra_args": ("--num_postprocess_workers", "4")}, {})),
    ("TND0126", llama_pair({"extra_args": ("--config=x",)})),
    ("TND0127", servers({"env": {"TRTLLM_USE_NIXL_KVCACHE": "1"}}, {"env": {"TRTLLM_USE_MPI_KVCACHE": "0"}})),
    ("TND0122", servers(trt(perf_metrics=True) | {"metrics_path": "/prometheus/metrics"}, {})),
    ("TND0123", servers({}, trt(moe_backend="CUTLASS"))),
    ("TND0123", servers({"gpu": "B200"}, trt(moe_backend="TRTLLM") | {"gpu": "B200"})),
    ("TND0122", llama_pair({"metrics_path": "/metrics"})),
    ("TND0119", servers(trt(server_role="CONTEXT"), trt(server_role="GENERATION"))),
    ("TND0010", servers({"model_path": "/a"}, {"model_path": "/b"})),
    ("TND0022", servers({"tensor_parallel": 8}, {"tensor_parallel": 1})),
]  # fmt: skip
