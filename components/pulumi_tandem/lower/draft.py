"""What lowering says of a worker whatever its engine is."""

from typing import Any

from pulumi_tandem.check.asked import gpus_per_pod
from pulumi_tandem.resolve import Resolved, ResolvedPool
from tandem_worker.contract import WorkerSpec

UCX_TLS_GPU = {
    "tcp": "tcp,cuda_copy",
    "shm": "sm,tcp,cuda_copy",
    "cuda_ipc": "cuda_ipc,cuda_copy,tcp",
    "rdma": "rc,cuda_copy,cuda_ipc,tcp",
}
"""UCX's transports between GPUs, by the declared one: those that it needs beside it, and no other."""
EFA_ENV = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1"}
"""What libfabric needs to go over EFA."""


def draft(resolved: Resolved, pool: ResolvedPool, **own: Any) -> WorkerSpec:  # noqa: ANN401 - fields of the spec
    """The worker of one pool without its hashes; `own` are the fields that its engine decides."""
    return WorkerSpec(
        service=resolved.name,
        pool=pool.name,
        phase=pool.phase,
        phases=pool.phases,
        generation="",
        pair_key="",
        model_path=pool.model_path,
        served_names=resolved.served_names,
        gpus=gpus_per_pod(pool),
        gpu_memory_gib=pool.gpu.memory_gib,
        memory_gib=pool.host_memory_gib,
        kv_transport=resolved.transfer.transport,
        kv_gb_per_s_min=resolved.transfer.kv_gb_per_s_min,
        start_timeout_s=resolved.grace.start_timeout_s,
        settle_s=resolved.grace.settle_s,
        drain_timeout_s=resolved.grace.drain_timeout_s,
        stop_timeout_s=resolved.grace.stop_timeout_s,
        **own,
    )
