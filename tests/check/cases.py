"""For every rule: a declaration that breaks it, and ones that look alike and do not.

A broken row gives the paths where the rule must speak; nothing else may be said of it, so that each row shows
one mistake.
"""

from dataclasses import dataclass

import pulumi_tandem as tandem
from tests.builders import laptop_pair, laptop_single, llama_pair

LLAMA = "Llama-3.1-8B-Instruct"
BIG = tandem.Model(name="Llama-3.3-70B-Instruct", path="/models/70b")
EAGLE = tandem.Speculation(method="eagle3", model="draft", tokens=1)
DEEPER = tandem.Speculation(method="eagle3", model="draft", tokens=4)
MIXED = tandem.Vllm(attention_backend="FLASHINFER")


@dataclass(frozen=True)
class Broken:
    """A service that breaks a rule at `paths`, with a piece of what must be said."""

    code: str
    service: tandem.Service
    paths: tuple[str, ...]
    says: str
    also: tuple[str, ...] = ()
    """Other rules that the same mistake breaks."""


BROKEN = [
    Broken(
        "TND0010", llama_pair(decode={"model_path": "/weights/llama"}), ("llama.decode.model_path",), "'/weights/llama'"
    ),
    Broken(
        "TND0010", llama_pair(decode={"model_path": "/models/llama/"}), ("llama.decode.model_path",), "'/models/llama/'"
    ),
    Broken("TND0011", llama_pair({"dtype": "float16"}), ("llama.decode.dtype",), "'bfloat16' on decode and 'float16'"),
    Broken(
        "TND0012", llama_pair({"kv_dtype": "fp8"}, {"kv_dtype": "fp8_e4m3"}), ("llama.decode.kv_dtype",), "'fp8_e4m3'"
    ),
    Broken("TND0012", llama_pair({"kv_dtype": "auto"}, {"kv_dtype": "bfloat16"}), ("llama.decode.kv_dtype",), "'auto'"),
    Broken(
        "TND0013",
        llama_pair(decode={"engine": tandem.Vllm(version="0.32.0")}),
        ("llama.decode.engine.version",),
        "0.32.0",
    ),
    Broken(
        "TND0014", llama_pair({"gpu": "H100"}, {"gpu": "B200"}), ("llama.decode.gpu",), "B200 decodes with FLASHINFER"
    ),
    Broken("TND0014", laptop_pair(prefill=tandem.Pool(gpu="H100", block_tokens=128)), ("chat.decode.gpu",), "CPU_ATTN"),
    Broken(
        "TND0014",
        llama_pair({"gpu": "H100", "kv_dtype": "fp8"}, {"gpu": "L40S", "kv_dtype": "fp8"}),
        ("llama.decode.gpu",),
        "L40S decodes with FLASHINFER",
    ),
    Broken(
        "TND0015",
        llama_pair({"engine": tandem.Vllm(hybrid_kv_cache=False)}),
        ("llama.decode.engine.hybrid_kv_cache",),
        "'True' on decode",
    ),
    Broken(
        "TND0016",
        llama_pair(decode={"engine": tandem.Vllm(speculation=EAGLE)}),
        ("llama.decode.engine.speculation",),
        "'eagle3 draft' on decode and 'none' on prefill",
    ),
    Broken(
        "TND0017",
        llama_pair({"kv_dtype": "fp9"}, {"kv_dtype": "fp9"}),
        ("llama.prefill.kv_dtype", "llama.decode.kv_dtype"),
        "'fp9'",
    ),
    Broken(
        "TND0017", laptop_single(serve=tandem.Pool(gpu="cpu", kv_dtype="nvfp4")), ("chat.serve.kv_dtype",), "on a CPU"
    ),
    Broken(
        "TND0020",
        llama_pair({"block_tokens": 64}, {"block_tokens": 32}),
        ("llama.decode.block_tokens",),
        "32 tokens on decode and 64",
    ),
    Broken(
        "TND0020",
        llama_pair({"block_tokens": 32}, {"block_tokens": 48}),
        ("llama.decode.block_tokens",),
        "does not divide",
    ),
    Broken(
        "TND0020",
        llama_pair({"block_tokens": 32, "tensor_parallel": 2}, {"block_tokens": 64}),
        ("llama.decode.block_tokens",),
        "split over more GPUs (2 against 1)",
    ),
    Broken(
        "TND0021",
        laptop_single(serve=tandem.Pool(gpu="cpu", block_tokens=16)),
        ("chat.serve.block_tokens",),
        "no multiple of 32",
    ),
    Broken(
        "TND0022",
        # 12 attention and 12 KV heads, so that 4 and 6 both divide them
        llama_pair(
            {"tensor_parallel": 4},
            {"tensor_parallel": 6},
            model=tandem.Model(
                name="twelve",
                architecture=tandem.Architecture(
                    layers=12,
                    attention_heads=12,
                    kv_heads=12,
                    head_dim=64,
                    hidden=768,
                    intermediate=3072,
                    vocabulary=50_000,
                    positions_max=8192,
                ),
            ),
        ),
        ("llama.decode.tensor_parallel",),
        "over 6 GPUs and prefill over 4",
    ),
    Broken(
        "TND0023",
        llama_pair({"tensor_parallel": 16}, {"tensor_parallel": 8}),
        ("llama.prefill.tensor_parallel",),
        "8 KV heads",
    ),
    Broken(
        "TND0024",
        llama_pair({"tensor_parallel": 6}, {"tensor_parallel": 6}),
        ("llama.prefill.tensor_parallel", "llama.decode.tensor_parallel"),
        "32 attention heads",
    ),
    Broken(
        "TND0024",
        laptop_single(serve=tandem.Pool(gpu="H100", tensor_parallel=2)),
        ("chat.serve.tensor_parallel",),
        "9 attention heads cannot be dealt out evenly over 2",
    ),
    Broken(
        "TND0025",
        llama_pair({"gpus_per_worker": 2, "tensor_parallel": 4}),
        ("llama.prefill.gpus_per_worker",),
        "a worker has 2 GPUs",
    ),
    Broken(
        "TND0026",
        llama_pair({"gpus_per_worker": 4, "tensor_parallel": 1}),
        ("llama.prefill.gpus_per_worker",),
        "3 of a worker's 4",
    ),
    Broken(
        "TND0027",
        laptop_single(serve=tandem.Pool(gpu="cpu", cpu_cores="0|1")),
        ("chat.serve.cpu_cores",),
        "2 lists of cores for 1",
    ),
    Broken("TND0028", llama_pair({"cpu_cores": "0-3"}), ("llama.prefill.cpu_cores",), "H100 is no CPU"),
    Broken(
        "TND0030",
        laptop_pair(context_tokens=8193),
        ("chat.prefill.context_tokens", "chat.decode.context_tokens"),
        "8193 tokens",
    ),
    Broken(
        "TND0031",
        llama_pair(decode={"context_tokens": 4096}),
        ("llama.decode.context_tokens",),
        "between 4096 and 8192",
    ),
    Broken("TND0032", llama_pair({"batch_tokens": 128}), ("llama.prefill.batch_tokens",), "128 tokens cannot hold 256"),
    Broken("TND0033", llama_pair(model=BIG), ("llama.prefill.gpu", "llama.decode.gpu"), "131.4 GiB of weights"),
    Broken(
        "TND0034",
        llama_pair({"memory_fraction": 0.195}),
        ("llama.prefill.context_tokens",),
        "8192 tokens takes 1.00 GiB",
    ),
    Broken(
        "TND0034",
        laptop_single(context_tokens=8192, serve=tandem.Pool(gpu="cpu", kv_cache_gib=0.1)),
        ("chat.serve.context_tokens",),
        "0.18 GiB",
    ),
    Broken("TND0035", llama_pair({"kv_cache_gib": 70}), ("llama.prefill.kv_cache_gib",), "more than H100's 79.6 GiB"),
    Broken(
        "TND0036",
        llama_pair(prompt_tokens_max=9000),
        ("llama.prefill.context_tokens", "llama.decode.context_tokens"),
        "prompts have up to 9000 tokens and the context is 8192",
    ),
    Broken(
        "TND0037",
        llama_pair({"memory_fraction": 0.21}),
        ("llama.prefill.context_tokens",),
        "leave 0.8 GiB per GPU, and activations of 1536 tokens and graphs take about 1.1",
    ),
    Broken(
        "TND0038",
        llama_pair({"batch_tokens": 2048, "extra_args": ("--no-enable-chunked-prefill",)}),
        ("llama.prefill.batch_tokens",),
        "a batch of 2048 tokens is smaller than the context of 8192",
    ),
    Broken(
        "TND0039",
        llama_pair(
            workload=tandem.Workload(requests_per_s=5, prompt_tokens=4000, output_tokens=200),
            transfer=tandem.Transfer(lease_s=60),
        ),
        ("llama.transfer.lease_s",),
        "146.5 GiB of KV per GPU in a lease of 60 s",
    ),
    Broken("TND0040", laptop_pair(transfer=tandem.Transfer(transport="rdma")), ("chat.transfer.transport",), "'rdma'"),
    Broken(
        "TND0041",
        llama_pair(grace=tandem.Grace(drain_timeout_s=30)),
        ("llama.grace.drain_timeout_s",),
        "drains for 30 s",
    ),
    Broken(
        "TND0050",
        llama_pair({"env": {"VLLM_NIXL_SIDE_CHANNEL_HOST": "0.0.0.0"}}),
        ("llama.prefill.env.VLLM_NIXL_SIDE_CHANNEL_HOST",),
        "set by Tandem",
    ),
    Broken("TND0050", llama_pair({"env": {"TANDEM_X": "1"}}), ("llama.prefill.env.TANDEM_X",), "'TANDEM_'"),
    Broken(
        "TND0051",
        llama_pair(decode={"env": {"VLLM_NIXL_ABORT_REQUEST_TIMEOUT": "60"}}),
        ("llama.decode.env.VLLM_NIXL_ABORT_REQUEST_TIMEOUT",),
        "no longer reads",
    ),
    Broken(
        "TND0052",
        llama_pair(decode={"env": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}}),
        ("llama.decode.env.PYTORCH_CUDA_ALLOC_CONF",),
        "together with KV transfer",
    ),
    Broken(
        "TND0053",
        llama_pair(decode={"extra_args": ("--max_num_seqs=4",)}),
        ("llama.decode.extra_args",),
        "'--max-num-seqs'",
    ),
    Broken("TND0053", llama_pair(decode={"extra_args": ("-tp", "2")}), ("llama.decode.extra_args",), "'-tp'"),
    Broken(
        "TND0053",
        llama_pair(decode={"extra_args": ("--enable-prefix-caching",)}),
        ("llama.decode.extra_args",),
        "prefix",
    ),
    Broken(
        "TND0053",
        llama_pair(decode={"extra_args": ("--kv-transfer-config.kv_role", "kv_both")}),
        ("llama.decode.extra_args",),
        "kv-role",
    ),
    Broken(
        "TND0053", llama_pair(decode={"extra_args": ("-dp", "2")}), ("llama.decode.extra_args",), "cannot be served"
    ),
    Broken(
        "TND0054",
        llama_pair({"env": {"NIXL_TELEMETRY_PROMETHEUS_PORT": "9090"}, "workers": 2}),
        ("llama.prefill.env.NIXL_TELEMETRY_PROMETHEUS_PORT",),
        "port 9090 is fixed for 2 workers",
    ),
    Broken(
        "TND0054",
        llama_pair({"env": {"X_PORT": "9090"}}, {"extra_args": ("--ray-port=9090",)}),
        ("llama.prefill.env.X_PORT", "llama.decode.extra_args"),
        "port 9090 is fixed for 2 workers",
    ),
    Broken(
        "TND0303",
        llama_pair(workload=tandem.Workload(requests_per_s=1, prompt_tokens=8000, output_tokens=200)),
        ("llama.workload",),
        "prompts of 8000 and answers of 200 tokens are together more than the context of 8192",
    ),
]

FINE = [
    ("TND0010", llama_pair(decode={"model_path": "/models/llama"})),
    ("TND0010", llama_pair(prefill={"model_path": "/a"}, decode={"model_path": "/a"})),
    ("TND0011", llama_pair({"dtype": "bfloat16"})),
    ("TND0011", llama_pair({"dtype": "float16"}, {"dtype": "float16"})),
    ("TND0012", llama_pair({"kv_dtype": "fp8"}, {"kv_dtype": "fp8"})),
    ("TND0013", llama_pair(decode={"engine": tandem.Vllm(version="0.33.0", tool_call_parser="hermes")})),
    ("TND0014", llama_pair({"gpu": "H100"}, {"gpu": "H200"})),
    ("TND0014", llama_pair({"gpu": "H100"}, {"gpu": "L40S"})),
    ("TND0014", llama_pair({"gpu": "H100"}, {"gpu": "B200"}, engine=MIXED)),
    ("TND0014", llama_pair({"gpu": "H100", "engine": MIXED}, {"gpu": "B200"})),
    ("TND0015", llama_pair(engine=tandem.Vllm(hybrid_kv_cache=False))),
    ("TND0016", llama_pair({"engine": tandem.Vllm(speculation=EAGLE)}, {"engine": tandem.Vllm(speculation=DEEPER)})),
    ("TND0016", llama_pair(decode={"engine": tandem.Vllm(speculation=tandem.Speculation(method="ngram", tokens=3))})),
    (
        "TND0017",
        laptop_pair(prefill=tandem.Pool(gpu="cpu", kv_dtype="fp8"), decode=tandem.Pool(gpu="cpu", kv_dtype="fp8")),
    ),
    ("TND0017", llama_pair({"kv_dtype": "nvfp4"}, {"kv_dtype": "nvfp4"})),
    ("TND0020", llama_pair({"block_tokens": 32}, {"block_tokens": 64})),
    ("TND0020", llama_pair({"block_tokens": 32}, {"block_tokens": 64, "tensor_parallel": 2})),
    ("TND0021", laptop_single(serve=tandem.Pool(gpu="cpu", block_tokens=96))),
    ("TND0021", llama_pair({"block_tokens": 16}, {"block_tokens": 16})),
    ("TND0022", llama_pair({"tensor_parallel": 4}, {"tensor_parallel": 2})),
    ("TND0022", llama_pair({"tensor_parallel": 1}, {"tensor_parallel": 8})),
    ("TND0023", llama_pair({"tensor_parallel": 8}, {"tensor_parallel": 4})),
    ("TND0023", llama_pair({"tensor_parallel": 16}, {"tensor_parallel": 16})),
    ("TND0023", llama_pair({"tensor_parallel": 8}, {"tensor_parallel": 16})),
    ("TND0024", llama_pair({"tensor_parallel": 16}, {"tensor_parallel": 16})),
    ("TND0024", laptop_single(serve=tandem.Pool(gpu="H100", tensor_parallel=9))),
    ("TND0025", llama_pair({"gpus_per_worker": 4})),
    ("TND0026", llama_pair({"gpus_per_worker": 4, "tensor_parallel": 4})),
    ("TND0026", laptop_single(serve=tandem.Pool(gpu="cpu", gpus_per_worker=1))),
    ("TND0027", laptop_single(serve=tandem.Pool(gpu="cpu", cpu_cores="0-3,5"))),
    ("TND0027", laptop_single(serve=tandem.Pool(gpu="cpu", cpu_cores="auto", tensor_parallel=3))),
    ("TND0028", laptop_single(serve=tandem.Pool(gpu="cpu", cpu_cores="0-3"))),
    ("TND0030", laptop_pair(context_tokens=8192)),
    (
        "TND0030",
        laptop_single(context_tokens=9000, serve=tandem.Pool(gpu="cpu", env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"})),
    ),
    (
        "TND0030",
        laptop_single(context_tokens=9000, serve=tandem.Pool(gpu="cpu", extra_args=('--hf-overrides={"x":1}',))),
    ),
    ("TND0031", llama_pair({"context_tokens": 4096}, {"context_tokens": 4096})),
    ("TND0032", llama_pair({"batch_tokens": 256})),
    ("TND0033", llama_pair({"tensor_parallel": 2}, {"tensor_parallel": 2}, model=BIG, context_tokens=8192)),
    ("TND0033", llama_pair(model=BIG.model_copy(update={"weights_gib": 40.0}))),
    ("TND0033", laptop_pair(prefill=tandem.Pool(gpu="cpu", memory_fraction=0.01))),
    ("TND0034", llama_pair({"memory_fraction": 0.21})),
    ("TND0034", laptop_single(context_tokens=8192, serve=tandem.Pool(gpu="cpu", kv_cache_gib=0.18))),
    ("TND0035", llama_pair({"kv_cache_gib": 60})),
    ("TND0035", laptop_single(serve=tandem.Pool(gpu="cpu", kv_cache_gib=100))),
    ("TND0036", llama_pair(prompt_tokens_max=8192)),
    ("TND0037", llama_pair({"memory_fraction": 0.24})),
    ("TND0037", llama_pair({"memory_fraction": 0.21, "batch_tokens": 512, "eager": True})),
    ("TND0038", llama_pair({"batch_tokens": 2048})),
    ("TND0038", llama_pair({"extra_args": ("--no-enable-chunked-prefill",)})),
    ("TND0039", llama_pair(workload=tandem.Workload(requests_per_s=1, prompt_tokens=4000, output_tokens=200))),
    (
        "TND0039",
        llama_pair({"workers": 4}, workload=tandem.Workload(requests_per_s=5, prompt_tokens=4000, output_tokens=200)),
    ),
    ("TND0040", laptop_pair(transfer=tandem.Transfer(transport="shm"))),
    ("TND0040", llama_pair(transfer=tandem.Transfer(transport="rdma"))),
    ("TND0040", laptop_single(transfer=tandem.Transfer(transport="rdma"))),
    ("TND0041", llama_pair(grace=tandem.Grace(drain_timeout_s=30.5))),
    ("TND0041", laptop_single(grace=tandem.Grace(drain_timeout_s=5))),
    ("TND0050", llama_pair({"env": {"VLLM_LOGGING_LEVEL": "DEBUG", "MY_TANDEM_X": "1", "UCX_LOG_LEVEL": "info"}})),
    ("TND0051", llama_pair({"env": {"VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": "60"}})),
    ("TND0052", llama_pair({"env": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}})),
    (
        "TND0052",
        laptop_single(serve=tandem.Pool(gpu="cpu", env={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})),
    ),
    (
        "TND0052",
        llama_pair(
            {"env": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, "extra_args": ("--enable-sleep-mode",)}
        ),
    ),
    ("TND0053", llama_pair({"extra_args": ("--max-num-queued-reqs", "64", "--seed=1", "--no-async-scheduling")})),
    ("TND0053", llama_pair({"extra_args": ("--hf-overrides", "--max-num-seqs-of-mine")})),
    ("TND0054", llama_pair({"env": {"X_PORT": "9090"}}, {"env": {"X_PORT": "9091"}})),
    ("TND0054", llama_pair({"env": {"X_PORT": "auto", "SUPPORTED": "1"}, "workers": 2})),
    ("TND0303", llama_pair(workload=tandem.Workload(requests_per_s=1, prompt_tokens=8000, output_tokens=192))),
]
