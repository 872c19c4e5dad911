"""vLLM with its NIXL connector in pull mode: flags, environment, ports.

Read in the wheels of vLLM 0.32.0 and 0.33.0: engine/arg_utils.py, entrypoints/launchers/cli_args.py,
config/kv_transfer.py, platforms/cpu.py, envs.py. `vllm serve` needs package metadata that the CPU
wheel names differently, so the server module is started instead.
"""

import json
from typing import Any

from pulumi_tandem.declare import Speculation, Vllm
from pulumi_tandem.declare.model import GIB
from pulumi_tandem.lower.draft import EFA_ENV, UCX_TLS_GPU, draft
from pulumi_tandem.resolve import Resolved, ResolvedPool
from tandem_worker.contract import Port, WorkerSpec

TRANSFER_PORTS = 16
"""Listening ports for UCX of one worker: one per transfer thread and rank, with room to reconnect."""

_UCX_TLS_CPU = {"tcp": "tcp,self", "shm": "tcp,sm,self"}


def worker(resolved: Resolved, pool: ResolvedPool) -> WorkerSpec:
    """The worker of one pool, without its hashes."""
    ports = (Port(name="http"), Port(name="agent"))
    if pool.nodes_per_worker > 1:
        ports += (Port(name="group"),)
    if resolved.disaggregated:
        # A rank's side channel is as many ports after the first as its number among all (data_parallel_index).
        ports += (Port(name="side_channel", count=pool.data_parallel),)
        ports += (Port(name="transfer", count=TRANSFER_PORTS * ranks_per_node(pool)),)
    return draft(
        resolved,
        pool,
        dialect="vllm-nixl-pull",
        engine=f"vllm {pool.engine.version}",
        argv=_argv(resolved, pool),
        nodes=pool.nodes_per_worker,
        ranks_per_node=ranks_per_node(pool),
        follower_argv=_argv(resolved, pool, follower=True) if pool.nodes_per_worker > 1 else (),
        env=_env(resolved, pool),
        ports=ports,
        factors=_factors(resolved, pool),
    )


def _argv(resolved: Resolved, pool: ResolvedPool, *, follower: bool = False) -> tuple[str, ...]:
    engine = pool.engine
    assert isinstance(engine, Vllm)
    options: list[tuple[str, str | None]] = [
        ("--host", "$(TANDEM_ADDRESS)"),
        ("--port", "$(TANDEM_PORT_HTTP)"),
        ("--dtype", pool.dtype),
        ("--max-model-len", str(pool.context_tokens)),
        ("--max-num-seqs", str(pool.sequences)),
        ("--max-num-batched-tokens", str(pool.batch_tokens)),
        ("--block-size", str(pool.block_tokens)),
        ("--kv-cache-dtype", None if pool.kv_dtype == "auto" else pool.kv_dtype),
        ("--kv-cache-memory-bytes", str(int(pool.kv_cache_gib * GIB)) if pool.kv_cache_gib else None),
        ("--gpu-memory-utilization", None if pool.on_cpu else str(pool.memory_fraction)),
        ("--tensor-parallel-size", str(pool.tensor_parallel) if pool.tensor_parallel > 1 else None),
        ("--pipeline-parallel-size", str(pool.pipeline_parallel) if pool.pipeline_parallel > 1 else None),
        ("--speculative-config", _speculation(engine.speculation) if engine.speculation else None),
        ("--attention-backend", engine.attention_backend),
        ("--revision", pool.model_revision if pool.model_path is None else None),
        ("--tool-call-parser", engine.tool_call_parser),
        ("--reasoning-parser", engine.reasoning_parser),
        ("--shutdown-timeout", str(shutdown_timeout_s(resolved.grace.stop_timeout_s))),
        ("--kv-transfer-config", _transfer(resolved, pool) if resolved.disaggregated else None),
        *_ranks(pool, follower=follower),
    ]
    switches = [
        ("--enforce-eager", pool.eager),
        ("--no-enable-prefix-caching", not engine.prefix_caching),
        ("--disable-hybrid-kv-cache-manager", engine.hybrid_kv_cache is False),
        ("--enable-expert-parallel", pool.expert_parallel),
        ("--enable-auto-tool-choice", engine.tool_call_parser is not None),
        ("--disable-uvicorn-access-log", True),
        ("--headless", follower),
    ]
    return (
        *_program(pool),
        *("--served-model-name", *resolved.served_names),
        *(word for flag, value in options if value is not None for word in (flag, value)),
        *(flag for flag, wanted in switches if wanted),
        *pool.extra_args,
    )


def ranks_per_node(pool: ResolvedPool) -> int:
    """Data-parallel ranks of each machine; 1 where one engine spans several."""
    return max(1, pool.data_parallel // pool.nodes_per_worker)


def _program(pool: ResolvedPool) -> tuple[str, ...]:
    """Only `vllm serve` knows machines without an HTTP server."""
    if pool.nodes_per_worker > 1:
        return ("python", "-m", "vllm.entrypoints.cli.main", "serve", pool.model_ref)
    return ("python", "-m", "vllm.entrypoints.openai.api_server", "--model", pool.model_ref)


def _ranks(pool: ResolvedPool, *, follower: bool) -> list[tuple[str, str | None]]:
    """How the engine's ranks lie over machines: whole data-parallel ranks on each, or one engine over all.

    A worker of data-parallel ranks has one API server, on the first machine, in front of all of them: over a
    LeaderWorkerSet of two CPU pods these flags gave right answers with tokens counted on both ranks (vLLM 0.32.0).
    One engine over machines (`--nnodes`) is not run on hardware.
    """
    several = pool.nodes_per_worker > 1
    if pool.data_parallel > 1:
        return [
            ("--data-parallel-size", str(pool.data_parallel)),
            ("--data-parallel-size-local", str(ranks_per_node(pool)) if several else None),
            ("--data-parallel-address", "$(TANDEM_LEADER_ADDRESS)" if several else None),
            ("--data-parallel-rpc-port", "$(TANDEM_PORT_GROUP)" if several else None),
            ("--data-parallel-start-rank", "$(TANDEM_FIRST_RANK)" if follower else None),
        ]
    return [
        ("--nnodes", str(pool.nodes_per_worker) if several else None),
        ("--node-rank", "$(TANDEM_NODE_RANK)" if several else None),
        ("--master-addr", "$(TANDEM_LEADER_ADDRESS)" if several else None),
        ("--master-port", "$(TANDEM_PORT_GROUP)" if several else None),
    ]


def shutdown_timeout_s(stop_timeout_s: float) -> int:
    """How long the engine itself may wait for running requests after SIGTERM; 0 would abort them at once.

    Half of the time to SIGKILL: the rest is for its processes to end. The agent has drained it before.
    """
    return max(1, int(stop_timeout_s / 2))


def _speculation(speculation: Speculation) -> str:
    """Value of --speculative-config."""
    config = {
        "method": speculation.method,
        "model": speculation.model,
        "num_speculative_tokens": speculation.tokens,
    }
    return json.dumps({key: value for key, value in config.items() if value is not None}, separators=(",", ":"))


def _transfer(resolved: Resolved, pool: ResolvedPool) -> str:
    """Value of --kv-transfer-config. A role is a default: in pull mode each request says what it wants."""
    connector = pool.connector
    extra = {
        "backends": ["LIBFABRIC" if resolved.transfer.transport == "efa" else "UCX"],
        "kv_lease_duration": resolved.transfer.lease_s,
    }
    config: dict[str, Any] = {
        "kv_connector": connector.name,
        "kv_role": connector.role,
        "kv_buffer_device": connector.buffer_device,
        "kv_load_failure_policy": connector.load_failure,
        "kv_connector_extra_config": {**extra, **connector.extra},
        **connector.fields,
    }
    return json.dumps(config, separators=(",", ":"))


def _env(resolved: Resolved, pool: ResolvedPool) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if pool.model_path is not None:
        env["HF_HUB_OFFLINE"] = "1"
    if pool.on_cpu:
        env["VLLM_CPU_OMP_THREADS_BIND"] = pool.cpu_cores
    if resolved.disaggregated:
        env |= _transfer_env(resolved, pool)
    return dict(sorted({**_default_env(pool), **dict(pool.env), **env}.items()))


def _default_env(pool: ResolvedPool) -> dict[str, str]:
    """Variables that the pool's own env may set otherwise.

    Eager in vLLM's sense leaves its samplers' torch.compile on: the first request that asks for log-probabilities
    stands still for minutes while a C++ compiler runs (vllm/v1/sample/ops/logprobs.py).
    """
    return {"TORCH_COMPILE_DISABLE": "1"} if pool.on_cpu and pool.eager else {}


def _transfer_env(resolved: Resolved, pool: ResolvedPool) -> dict[str, str]:
    transfer = resolved.transfer
    env = {
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "$(TANDEM_ADDRESS)",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": "$(TANDEM_PORT_SIDE_CHANNEL)",
    }
    if pool.on_cpu:
        env["TANDEM_KEEP_AFFINITY"] = (
            "1"  # see tandem_worker.vllm_plugin: the connector would put all engines on one core
        )
    if resolved.progress_delay_us is not None:
        env["TANDEM_NIXL_PROGRESS_DELAY_US"] = str(resolved.progress_delay_us)
    if transfer.transport == "efa":
        return env | EFA_ENV
    env["UCX_TLS"] = (_UCX_TLS_CPU if pool.on_cpu else UCX_TLS_GPU)[transfer.transport]
    env["UCX_TCP_PORT_RANGE"] = "$(TANDEM_PORT_TRANSFER)-$(TANDEM_PORT_TRANSFER_LAST)"
    if transfer.net_devices is not None:
        env["UCX_NET_DEVICES"] = transfer.net_devices
    return env


def _factors(resolved: Resolved, pool: ResolvedPool) -> dict[str, str]:
    """What vLLM hashes in its handshake, and the revision of the weights, which it does not.

    Source: compute_nixl_compatibility_hash in kv_connector/v1/nixl/metadata.py.
    """
    shape = resolved.architecture
    return {
        "engine": f"vllm {pool.engine.version}",
        "connector": str(pool.release.connector_version),
        "model": pool.model_ref,
        "revision": pool.model_revision or "",
        "dtype": pool.dtype,
        "kv_heads": str(shape.kv_heads),
        "head_dim": str(shape.head_dim),
        "layers": str(shape.layers),
        "attention_backend": pool.attention_backend,
        "kv_dtype": pool.kv_dtype,
        "hybrid_kv_cache": str(pool.hybrid_kv_cache).lower(),
        "speculation": pool.draft_kv or "none",
        "transfer_mode": "pull",
    }
