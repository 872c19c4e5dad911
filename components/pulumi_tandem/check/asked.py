"""What the pods of a pool ask of their machines and of the network; questions that several groups of rules have."""

from collections.abc import Iterator

from pulumi_tandem.catalog import Nodes
from pulumi_tandem.declare import Taint, TensorRtLlm
from pulumi_tandem.resolve import Resolved, ResolvedPool

EFA = "vpc.amazonaws.com/efa"
"""Resource of AWS' EFA device plugin."""
GPU = "nvidia.com/gpu"
"""Resource of NVIDIA's device plugin."""
RDMA_PREFIX = "rdma/"
"""Resources of the RDMA shared device plugin begin so; the rest is the name that the cluster gave it."""
SIDE_CHANNEL_PORT = 5600
"""First port of vLLM's handshakes; the data-parallel rank is added. Source: vLLM 0.33 envs.py."""


def efa_devices(pool: ResolvedPool) -> int:
    """EFA devices that one pod asks for."""
    return pool.pod.resources.get(EFA, 0)


def rdma_devices(pool: ResolvedPool) -> int:
    """Devices of any RDMA fabric that one pod asks for."""
    asked = (count for name, count in pool.pod.resources.items() if name == EFA or name.startswith(RDMA_PREFIX))
    return sum(asked)


def backends(resolved: Resolved, pool: ResolvedPool) -> tuple[str, ...]:
    """NIXL's backends on one side: what is written by hand, else what the transport needs."""
    if isinstance(pool.engine, TensorRtLlm):
        if pool.engine.transceiver in {"UCX", "MPI", "MOONCAKE"}:
            return (pool.engine.transceiver,)
        given = dict(pool.env).get("TRTLLM_NIXL_KVCACHE_BACKEND")
        return (given,) if given else _needed(resolved)
    return pool.connector.backends or _needed(resolved)


def backends_path(pool: ResolvedPool) -> str:
    """The field that decides on the backend."""
    if pool.connector.backends or "backends" in pool.connector.extra:
        return f"{pool.name}.connector.extra"
    return "transfer.transport"


def mlx5_beside_efa(pool: ResolvedPool) -> bool:
    """Whether machines of a pool have mlx5 devices, which manage their NVLink switches, beside EFA's own.

    Source: aws-samples/aws-do-eks#63 (B200); aws/sagemaker-hyperpod-cli#282 (B300).
    """
    return bool(pool.nodes and pool.nodes.instance and pool.nodes.instance.name.startswith("p6-b"))


def over_efa(resolved: Resolved, pool: ResolvedPool) -> bool:
    """Whether KV of the pool is meant to travel over EFA."""
    return efa_devices(pool) > 0 or resolved.transfer.transport == "efa"


def has_efa(resolved: Resolved, pool: ResolvedPool) -> bool | None:
    """Whether the machines of a pool have EFA; None: not known."""
    if pool.nodes and pool.nodes.instance:
        return pool.nodes.instance.efa_interfaces > 0
    fabric = resolved.cluster.fabric if resolved.cluster else None
    return None if fabric is None else fabric == "efa"


def kv_lease_s(resolved: Resolved) -> tuple[float, str]:
    """How long prefill keeps KV that nobody fetches, and the field that says so. Raises KeyError: no prefill pool."""
    by_hand = resolved.pool("prefill").connector.extra.get("kv_lease_duration")
    if isinstance(by_hand, int | float):
        return float(by_hand), "prefill.connector.extra.kv_lease_duration"
    return float(resolved.transfer.lease_s), "transfer.lease_s"


def alone_in_its_network(resolved: Resolved) -> bool:
    """Whether every worker is in pods whose network no other worker shares."""
    on_host = any(pool.pod.host_network for pool in resolved.pools)
    return resolved.cluster is not None and not resolved.paired_pods and not on_host


def gpus_per_pod(pool: ResolvedPool) -> int:
    """GPUs of one pod: a worker has one pod on each of its machines."""
    return -(-pool.gpus_per_worker // pool.nodes_per_worker)


def gpus_of_pool(pool: ResolvedPool, workers: int | None = None) -> int:
    """GPUs of so many workers; default: as many as are declared."""
    return pool.gpus_per_worker * (pool.workers if workers is None else workers)


def pools_by_nodes(resolved: Resolved) -> Iterator[tuple[Nodes, list[ResolvedPool]]]:
    """Every node pool with the pools whose pods go there; a node pool that gets none is left out."""
    for nodes in resolved.node_pools:
        here = [pool for pool in resolved.pools if pool.nodes and pool.nodes.name == nodes.name and not pool.on_cpu]
        if here:
            yield nodes, here


def nodes_path(resolved: Resolved, nodes: Nodes) -> str:
    """Where a node pool stands in the declaration."""
    return f"cluster.node_pools.{resolved.node_pools.index(nodes)}"


def repelling(nodes: Nodes) -> list[Taint]:
    """Taints that keep off pods that do not tolerate them; `PreferNoSchedule` only discourages."""
    return [taint for taint in nodes.declared.taints if taint.effect != "PreferNoSchedule"]


def taint_words(taint: Taint) -> str:
    """The taint as kubectl prints it."""
    value = f"={taint.value}" if taint.value else ""
    return f"{taint.key}{value}:{taint.effect}"


def _needed(resolved: Resolved) -> tuple[str, ...]:
    return ("LIBFABRIC",) if resolved.transfer.transport == "efa" else ("UCX",)
