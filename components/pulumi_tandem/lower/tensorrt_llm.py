"""TensorRT-LLM's context and generation servers: command, configuration file, environment. Not run on hardware.

`trtllm-serve MODEL --backend pytorch --config FILE`; what is a property of the engine goes into the file, whose keys
are those of `TorchLlmArgs` (llmapi/llm_args.py). A server's role is no flag of ours: `--server_role` registers with a
metadata server or a disaggregated cluster, and here the gateway says with each request what it is for.
Source: TensorRT-LLM 1.2's documentation (disaggregated serving, trtllm-serve) and its repository.

Over several machines the server is one MPI job with a rank for each GPU: rank 0 has the HTTP server, all others are
workers (`trtllm-llmapi-launch`). `mpirun` runs on the first machine; the others start Open MPI's daemon, which they
fetch from there (`tandem_worker.agent.launch`).
"""

import json
from typing import Any

from pulumi_tandem.declare import Speculation, TensorRtLlm
from pulumi_tandem.declare.model import GIB
from pulumi_tandem.lower.draft import EFA_ENV, UCX_TLS_GPU, draft
from pulumi_tandem.resolve import Resolved, ResolvedPool
from tandem_worker.contract import Port, WorkerSpec

TRANSFER_PORTS = 64
"""Listening ports for UCX of one worker: each rank of a server has a transfer agent of its own."""
CONFIG = "config.yaml"
RANK_PORTS = 2
"""Ports for each rank's connections to the others, twice as many as they open: those of a group that was killed may
take a minute to be free again."""
PERF_METRICS_REQUESTS = 4096
"""Requests whose timings the server keeps until the agent asks, every two seconds."""


def worker(resolved: Resolved, pool: ResolvedPool) -> WorkerSpec:
    """The worker of one pool, without its hashes."""
    ports = (Port(name="http"), Port(name="agent"))
    if resolved.disaggregated:
        ports += (Port(name="transfer", count=TRANSFER_PORTS),)
    several = pool.nodes_per_worker > 1
    if several:
        ports += (Port(name="group"), Port(name="ranks", count=_rank_ports(pool)))
    return draft(
        resolved,
        pool,
        dialect="trtllm-disagg",
        engine=f"tensorrt-llm {pool.engine.version}",
        argv=(*_mpirun(pool), *_argv(pool)) if several else _argv(pool),
        nodes=pool.nodes_per_worker,
        follower_argv=_JOIN if several else (),
        env=_env(resolved, pool),
        files={CONFIG: json.dumps(_config(resolved, pool), indent=2, sort_keys=True) + "\n"},
        ports=ports,
        factors=_factors(resolved, pool),
    )


def _argv(pool: ResolvedPool) -> tuple[str, ...]:
    return (
        *("trtllm-serve", pool.model_ref, "--backend", "pytorch"),
        *("--host", "$(TANDEM_ADDRESS)", "--port", "$(TANDEM_PORT_HTTP)"),
        *("--config", "$(TANDEM_FILE_CONFIG_YAML)"),
        *pool.extra_args,
    )


_JOIN = (
    *("tandem-worker", "join", "--leader-address", "$(TANDEM_LEADER_ADDRESS)"),
    *("--agent-port", "$(TANDEM_PORT_AGENT)", "--node-rank", "$(TANDEM_NODE_RANK)"),
)
"""What machines after the first run, until they know what `mpirun` wants of them."""
_LAUNCH = {
    "plm_rsh_agent": "tandem-worker launch $(TANDEM_LAUNCH_DIR)",
    "plm_rsh_no_tree_spawn": "1",  # all daemons are asked for on the first machine, not by each other
    "plm_rsh_pass_environ_mca_params": "0",  # each machine has its own environment, from its own agent
    "orte_leave_session_attached": "1",  # the daemon stays in the foreground, where its agent sees it end
}
"""Parameters of `mpirun` alone. Source: `ompi_info --all` of Open MPI 4.1.4."""


def _mpirun(pool: ResolvedPool) -> tuple[str, ...]:
    """As many ranks as the engine's parallelism has, which waits for no other number, dealt out evenly.

    They are not bound to cores, since the engine places its own threads. The names of the other machines are only
    handed back, to `tandem-worker launch`.
    """
    ranks = _ranks_per_node(pool)
    hosts = ["localhost", *(f"node-{number}" for number in range(1, pool.nodes_per_worker))]
    return (
        *("mpirun", "-n", str(pool.ranks), "-H", ",".join(f"{host}:{ranks}" for host in hosts)),
        *("--bind-to", "none"),
        *(word for name, value in _LAUNCH.items() for word in ("--mca", name, value)),
        "trtllm-llmapi-launch",
    )


def _ranks_per_node(pool: ResolvedPool) -> int:
    return -(-pool.ranks // pool.nodes_per_worker)


def _rank_ports(pool: ResolvedPool) -> int:
    return RANK_PORTS * _ranks_per_node(pool)


def _mpi_env(pool: ResolvedPool) -> dict[str, str]:
    """Messages between ranks go over TCP, at ports that a policy can name; tensors go over NCCL.

    The daemons' own connections are at `group`. `vader` copies by shared memory alone: reading another process's
    memory (CMA) takes a right that containers may lack (open-mpi/ompi#4948). A pool's own environment may set all of
    these otherwise.
    """
    return {
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,vader,tcp",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
        "OMPI_MCA_oob_tcp_dynamic_ipv4_ports": "$(TANDEM_PORT_GROUP)",
        "OMPI_MCA_btl_tcp_port_min_v4": "$(TANDEM_PORT_RANKS)",
        "OMPI_MCA_btl_tcp_port_range_v4": str(_rank_ports(pool)),
        "OMPI_MCA_btl_tcp_port_min_v6": "$(TANDEM_PORT_RANKS)",
        "OMPI_MCA_btl_tcp_port_range_v6": str(_rank_ports(pool)),
    }


def _config(resolved: Resolved, pool: ResolvedPool) -> dict[str, Any]:
    """The configuration file; JSON, which every reader of YAML takes."""
    engine = _engine(pool)
    experts = pool.tensor_parallel if pool.expert_parallel else None
    given: dict[str, Any] = {
        "tensor_parallel_size": pool.tensor_parallel,
        "pipeline_parallel_size": pool.pipeline_parallel,
        "moe_expert_parallel_size": experts,
        "enable_attention_dp": engine.attention_data_parallel,
        "max_batch_size": pool.sequences,
        "max_num_tokens": pool.batch_tokens,
        "max_seq_len": pool.context_tokens,
        "max_beam_width": engine.beams,
        "dtype": pool.dtype,
        "revision": pool.model_revision if pool.model_path is None else None,
        "attn_backend": engine.attention_backend,
        "disable_overlap_scheduler": not engine.overlap_scheduler,
        "enable_chunked_prefill": engine.chunked_prefill,
        "cuda_graph_config": _cuda_graphs(pool),
        "kv_cache_config": _kv_cache(pool),
        "cache_transceiver_config": _transceiver(resolved, pool, engine) if resolved.disaggregated else None,
        "moe_config": {"backend": engine.moe_backend} if engine.moe_backend else None,
        "speculative_config": _speculation(engine.speculation) if engine.speculation else None,
        # What the agent reads: progress, load and the KV that was moved.
        "enable_iter_perf_stats": True,
        "return_perf_metrics": True,
        "perf_metrics_max_requests": PERF_METRICS_REQUESTS,
    }
    # A null is a meaning of its own for CUDA graphs: it turns them off.
    return {key: value for key, value in given.items() if value is not None or key == "cuda_graph_config"}


def _cuda_graphs(pool: ResolvedPool) -> dict[str, Any] | None:
    """Graphs are of decode steps: a context server makes none."""
    if pool.eager or pool.name == "prefill":
        return None
    return {"enable_padding": True, "max_batch_size": pool.sequences}


def _kv_cache(pool: ResolvedPool) -> dict[str, Any]:
    given = {
        "dtype": pool.kv_dtype,
        "enable_block_reuse": True,
        "tokens_per_block": pool.block_tokens,
        "free_gpu_memory_fraction": pool.memory_fraction,
        "max_gpu_total_bytes": int(pool.kv_cache_gib * GIB) if pool.kv_cache_gib else None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _transceiver(resolved: Resolved, pool: ResolvedPool, engine: TensorRtLlm) -> dict[str, Any]:
    """A hand-off that nobody reads is given up after the lease: without a limit it would hold its KV for ever."""
    longest = resolved.prompt_tokens_max or pool.context_tokens
    whole_blocks = -(-longest // pool.block_tokens) * pool.block_tokens
    return {
        "backend": engine.transceiver,
        "max_tokens_in_buffer": engine.max_tokens_in_buffer or whole_blocks,
        "kv_transfer_timeout_ms": int(resolved.transfer.lease_s * 1000),
    }


def _speculation(speculation: Speculation) -> dict[str, Any]:
    config = {
        "decoding_type": speculation.method,
        "max_draft_len": None if speculation.method.lower() == "mtp" else speculation.tokens,
        "num_nextn_predict_layers": speculation.tokens if speculation.method.lower() == "mtp" else None,
        "speculative_model_dir": speculation.model,
    }
    return {key: value for key, value in config.items() if value is not None}


def _env(resolved: Resolved, pool: ResolvedPool) -> dict[str, str]:
    env = {"TRTLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if pool.model_path is not None:
        env["HF_HUB_OFFLINE"] = "1"
    if resolved.disaggregated:
        env |= _transfer_env(resolved)
    given = (_mpi_env(pool) if pool.nodes_per_worker > 1 else {}) | dict(pool.env)
    return dict(sorted({**given, **env}.items()))


def _transfer_env(resolved: Resolved) -> dict[str, str]:
    transfer = resolved.transfer
    if transfer.transport == "efa":
        # The image has to bring NIXL's LIBFABRIC plugin: NVIDIA's own has none (TensorRT-LLM PR#17208).
        return {"TRTLLM_NIXL_KVCACHE_BACKEND": "LIBFABRIC", **EFA_ENV}
    env = {
        "TRTLLM_NIXL_KVCACHE_BACKEND": "UCX",
        "UCX_TLS": UCX_TLS_GPU[transfer.transport],
        "UCX_TCP_PORT_RANGE": "$(TANDEM_PORT_TRANSFER)-$(TANDEM_PORT_TRANSFER_LAST)",
    }
    if transfer.net_devices is not None:
        env["UCX_NET_DEVICES"] = transfer.net_devices
    return env


def _engine(pool: ResolvedPool) -> TensorRtLlm:
    assert isinstance(pool.engine, TensorRtLlm)
    return pool.engine


def _factors(resolved: Resolved, pool: ResolvedPool) -> dict[str, str]:
    """What the servers compare before they exchange KV (the cache's state), and the revision of the weights."""
    shape, engine = resolved.architecture, _engine(pool)
    transceiver = (engine.transceiver or "none").upper()
    return {
        "engine": f"tensorrt-llm {engine.version}",
        "transceiver": "NIXL" if transceiver == "DEFAULT" else transceiver,
        "model": pool.model_ref,
        "revision": pool.model_revision or "",
        "dtype": pool.dtype,
        "kv_heads": str(shape.kv_heads),
        "head_dim": str(shape.head_dim),
        "layers": str(shape.layers),
        "attention_backend": pool.attention_backend,
        "kv_dtype": pool.kv_dtype,
        "block_tokens": str(pool.block_tokens),
        "speculation": pool.draft_kv or "none",
    }
