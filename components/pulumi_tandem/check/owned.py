"""What lowering sets by itself, and what stands in its place in a declaration.

A test holds the two tables against what lowering emits, so that neither can forget the other.
"""

RESERVED_ENV_PREFIX = "TANDEM_"

OWNED_FLAGS = {
    "--model": "Model(name=..., path=...)",
    "--served-model-name": "Service(served_names=...)",
    "--host": "nothing: the target gives every worker its address",
    "--port": "nothing: the target gives every worker its ports",
    "--uds": "nothing: the target gives every worker its ports",
    "--dtype": "Model(dtype=...)",
    "--revision": "Model(revision=...)",
    "--max-model-len": "Service(context_tokens=...)",
    "--max-num-seqs": "Pool(sequences=...)",
    "--max-num-batched-tokens": "Pool(batch_tokens=...)",
    "--block-size": "Pool(block_tokens=...)",
    "--kv-cache-dtype": "Pool(kv_dtype=...)",
    "--kv-cache-memory-bytes": "Pool(kv_cache_gib=...)",
    "--gpu-memory-utilization": "Pool(memory_fraction=...)",
    "--device-memory-utilization": "Pool(memory_fraction=...)",
    "--tensor-parallel-size": "Pool(tensor_parallel=...)",
    "--pipeline-parallel-size": "Pool(pipeline_parallel=...)",
    "--enable-expert-parallel": "Pool(expert_parallel=True)",
    "--speculative-config": "Vllm(speculation=tandem.Speculation(...))",
    "--attention-backend": "Vllm(attention_backend=...)",
    "--tool-call-parser": "Vllm(tool_call_parser=...)",
    "--enable-auto-tool-choice": "Vllm(tool_call_parser=...)",
    "--reasoning-parser": "Vllm(reasoning_parser=...)",
    "--shutdown-timeout": "Grace(stop_timeout_s=...)",
    "--kv-transfer-config": "Transfer(...), Vllm(kv_load_failure=...), Pool(connector=tandem.Connector(...))",
    "--enforce-eager": "Pool(eager=...)",
    "--enable-prefix-caching": "Vllm(prefix_caching=...)",
    "--disable-hybrid-kv-cache-manager": "Vllm(hybrid_kv_cache=...)",
    "--disable-uvicorn-access-log": "nothing: the gateway tells of requests",
}
"""Flag of vLLM, without `--no-`: what to declare instead."""

REFUSED_FLAGS = {
    "--data-parallel-size": "its ranks need GPUs that are declared, as Pool(data_parallel=...)",
    "--enable-lora": "adapters are not declared: the gateway knows no names of theirs; merge one into the weights",
    "--lora-modules": "adapters are not declared: the gateway knows no names of theirs; merge one into the weights",
    "--kv-offloading-size": "it puts another connector in the place of the one that moves KV between the pools",
    "--kv-offloading-backend": "it puts another connector in the place of the one that moves KV between the pools",
    "--api-key": "keys are the front door's; the gateway and the prover ask engines without one",
    "--ssl-certfile": "the gateway speaks plain HTTP to its workers",
    "--ssl-keyfile": "the gateway speaks plain HTTP to its workers",
    "--headless": "the gateway needs the worker's HTTP server",
    "--root-path": "the gateway asks for paths at the root",
}
"""Flag of vLLM: why a worker of ours cannot have it."""

OWNED_ENV = {
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "drop it: it is each worker's own address",
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "drop it: the target gives every worker its ports",
    "VLLM_PORT": "drop it: engines find free ports for themselves",
    "VLLM_HOST_IP": "drop it: it is each worker's own address",
    "VLLM_API_KEY": "drop it: keys are the front door's",
    "VLLM_CPU_KVCACHE_SPACE": "use Pool(kv_cache_gib=...)",
    "VLLM_CPU_OMP_THREADS_BIND": "use Pool(cpu_cores=...)",
    "UCX_TLS": "use Transfer(transport=...)",
    "UCX_NET_DEVICES": "use Transfer(net_devices=...)",
    "UCX_TCP_PORT_RANGE": "drop it: the target gives every worker its ports",
    "FI_PROVIDER": "use Transfer(transport=...)",
    "FI_EFA_USE_DEVICE_RDMA": "use Transfer(transport=...)",
    "UCX_PROTO_INFO": "drop it: the proof reads the transport from what it makes UCX print",
    "HF_HUB_OFFLINE": "drop it: it is set where Model(path=...) is",
    "VLLM_NO_USAGE_STATS": "drop it: it is always set",
    "DO_NOT_TRACK": "drop it: it is always set",
}
"""Variable: what to do instead."""

_ADDRESS = ("fieldRef:status.podIP", "status.podIP", "$(POD_IP)", "$(TANDEM_ADDRESS)")
OWN_ADDRESS = {"VLLM_NIXL_SIDE_CHANNEL_HOST": _ADDRESS, "VLLM_HOST_IP": _ADDRESS}
"""Values that say what Tandem sets anyhow: the worker's own address, as manifests spell it."""

READ_FROM = (0, 32)
"""First vLLM whose variables were read."""

REMOVED_ENV = {
    "VLLM_NIXL_ABORT_REQUEST_TIMEOUT": "use Transfer(lease_s=...): it became the lease of a prompt's KV",
    "VLLM_ATTENTION_BACKEND": "use Vllm(attention_backend=...)",
    "VLLM_USE_V1": "drop it: there is no other engine any more",
}
"""Variable that vLLM 0.32 and 0.33 do not read: what took its place."""

BREAKING_ENV = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""Variable: the part of its value that a KV connector refuses."""
