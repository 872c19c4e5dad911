"""Codes 0210 to 0219: domains, kernels, locked memory, policies and speed of the network."""

import math
from collections.abc import Iterator

from pulumi_tandem import catalog
from pulumi_tandem.check.asked import (
    SIDE_CHANNEL_PORT,
    efa_devices,
    over_efa,
    rdma_devices,
)
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.declare import TensorRtLlm
from pulumi_tandem.estimate.memory import KvCache, kv_bytes
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

_LOCKED_KIB_MIN = 1024 * 1024
"""Less than 1 GiB cannot hold even the provider's receive buffers; engines register all of their KV."""
_BAD_LIBFABRIC = (1, 21)
_LINE_SHARE = 0.6
"""Of the line's speed, as estimate.transfer takes it."""


@rule(
    code="TND0210",
    severity="warning",
    title="workers in two NVLink domains are told so",
    story="""UCX takes NVLink between machines for granted where it finds the hardware. Between two domains there is
    none, and the workers hang or crawl until they give up on it.""",
    source="NVIDIA/TensorRT-LLM docs/source/features/disagg-serving.md, troubleshooting",
)
def nvlink_domains(resolved: Resolved) -> Iterator[Breach]:
    """Pools of two NVLink domains have UCX_CUDA_IPC_ENABLE_MNNVL=n."""
    domains = {pool.nodes.declared.nvlink_domain for pool in resolved.pools if pool.nodes}
    apart = len(domains - {None}) > 1
    for pool in resolved.pools if apart and resolved.disaggregated else ():
        if dict(pool.env).get("UCX_CUDA_IPC_ENABLE_MNNVL", "").lower() not in {"n", "no", "0"}:
            message = f"prefill and decode are in two NVLink domains, and {pool.name} would try NVLink between them"
            fix = "set UCX_CUDA_IPC_ENABLE_MNNVL='n' in the env of both pools"
            yield Breach(path=f"{pool.name}.env", message=message, fix=fix)


@rule(
    code="TND0211",
    title="no kernel asks EFA for what only InfiniBand can do",
    story="""DeepEP's own kernels between machines start transfers from the GPU through mlx5 devices (IBGDA). EFA
    has no such devices, and the group cannot start.""",
    source="vllm-project/vllm#27898; NVSHMEM, NVSHMEM_REMOTE_TRANSPORT",
)
def no_ibgda_on_efa(resolved: Resolved) -> Iterator[Breach]:
    """No expert group over several machines with EFA uses IBGDA."""
    for pool in resolved.pools:
        env = dict(pool.env)
        asks = env.get("NVSHMEM_REMOTE_TRANSPORT") == "ibgda" or env.get("NVSHMEM_IB_ENABLE_IBGDA") in {"1", "true"}
        if pool.nodes_per_worker > 1 and asks and _on_efa(resolved, pool):
            name = "NVSHMEM_REMOTE_TRANSPORT" if "NVSHMEM_REMOTE_TRANSPORT" in env else "NVSHMEM_IB_ENABLE_IBGDA"
            message = f"{name} asks for InfiniBand started by the GPU, which EFA does not have; no worker would start"
            fix = "use kernels that are made for EFA, or keep an expert group on one machine"
            yield Breach(path=f"{pool.name}.env.{name}", message=message, fix=fix)


@rule(
    code="TND0212",
    severity="warning",
    title="an all-to-all backend works between machines with EFA",
    story="""vLLM lists pplx among its all-to-all backends between machines; over EFA it is reported to fail at
    start, and later releases dropped it.""",
    source="vllm-project/vllm#27633",
)
def no_pplx_on_efa(resolved: Resolved) -> Iterator[Breach]:
    """pplx is not used between machines with EFA."""
    for pool in resolved.pools:
        flags = {flag[0]: flag[1:] for flag in split_flags(pool.extra_args)}
        chosen = flags.get("--all2all-backend") or (dict(pool.env).get("VLLM_ALL2ALL_BACKEND", ""),)
        if pool.nodes_per_worker > 1 and chosen[0] == "pplx" and _on_efa(resolved, pool):
            message = "pplx between machines is reported to fail over EFA"
            fix = "use another backend, or one machine per worker"
            yield Breach(path=f"{pool.name}.extra_args", message=message, fix=fix)


@rule(
    code="TND0213",
    severity="warning",
    title="no list of interfaces hides EFA from NCCL",
    story="""A list of interfaces to use, in place of ones to leave out, is said to hide EFA from NCCL in some
    stacks: collectives drop to TCP, 28 times slower by the report's own measurement.""",
    source="awsome-distributed-ai 3.test_cases/pytorch/vllm/dsv3-uccl-nixl manifests",
)
def nccl_finds_efa(resolved: Resolved) -> Iterator[Breach]:
    """NCCL_SOCKET_IFNAME, where EFA is asked for, begins with ^."""
    for pool in resolved.pools:
        given = dict(pool.env).get("NCCL_SOCKET_IFNAME", "^")
        if efa_devices(pool) and not given.startswith("^"):
            message = f"NCCL_SOCKET_IFNAME={given} may hide EFA from NCCL; collectives would go over TCP"
            fix = "leave interfaces out instead: '^lo,docker'"
            yield Breach(path=f"{pool.name}.env.NCCL_SOCKET_IFNAME", message=message, fix=fix)


@rule(
    code="TND0214",
    title="pods with network devices may lock the memory that they register",
    story="""Memory that a network card reads by itself must stay where it is. The provider locks its own buffers
    and all of the engine's KV; under a limit of 64 MiB, a common default, it cannot even post its receive buffers
    and aborts.""",
    source="awslabs/awsome-distributed-ai#647; libfabric fi_efa(7)",
)
def memory_can_be_locked(resolved: Resolved) -> Iterator[Breach]:
    """memlock_kib is not small where EFA or RDMA devices are asked for."""
    for pool in resolved.pools:
        limit = pool.pod.memlock_kib
        if limit is not None and limit < _LOCKED_KIB_MIN and _registers(resolved, pool):
            message = (
                f"{limit} KiB of memory may be locked, and the network's buffers and all KV must be; it would abort"
            )
            yield Breach(path=f"{pool.name}.pod.memlock_kib", message=message, fix="drop the limit")


@rule(
    code="TND0215",
    title="network policies let the workers reach each other",
    story="""Decode asks prefill's side channel for its memory layout (port 5600 plus the data-parallel rank), and
    over TCP the data itself goes over further ports. A policy that lets in the HTTP port only leaves everything
    healthy, and every hand-off times out.""",
    source="vLLM docs/features/nixl_connector_usage.md; vLLM 0.33 nixl/base_scheduler.py",
)
def policy_opens_side_channel(resolved: Resolved) -> Iterator[Breach]:
    """Where ingress is denied by default, the side channel is open."""
    policy = resolved.cluster.network_policy if resolved.cluster else None
    if policy is None or policy.default == "allow" or policy.add_rules or not resolved.disaggregated:
        return
    for pool in resolved.pools:
        first = pool.pod.ports.get("side_channel", SIDE_CHANNEL_PORT)
        closed = [port for port in range(first, first + pool.data_parallel) if port not in policy.ingress_ports]
        if closed and not resolved.paired_pods:
            message = (
                f"only the ports {_list(policy.ingress_ports)} are let in, and {pool.name}'s "
                f"side channel is {closed[0]}"
            )
            fix = "drop add_rules=False, or let the workers reach each other on all ports"
            yield Breach(path="cluster.network_policy", message=f"{message}; every hand-off would time out", fix=fix)
            return


@rule(
    code="TND0216",
    title="nodes of prefill and decode reach each other on all ports",
    story="""The side channel and, over TCP, the data use ports beyond the few that node groups open to each other
    by default. Pods on one node group work; between two they time out.""",
    source="terraform-aws-modules/terraform-aws-eks#2213; #2513",
)
def nodes_reach_each_other(resolved: Resolved) -> Iterator[Breach]:
    """The side channel is among the open ports of the nodes' security group."""
    group = resolved.cluster.security_group if resolved.cluster else None
    if group is None or group.tcp_ports is None or not resolved.disaggregated or resolved.paired_pods:
        return
    needed = {pool.pod.ports.get("side_channel", SIDE_CHANNEL_PORT) for pool in resolved.pools}
    if not needed <= set(group.tcp_ports):
        message = f"nodes reach each other on the ports {_list(group.tcp_ports)} only, and hand-offs use more"
        fix = "let all TCP through between the nodes of both pools"
        yield Breach(path="cluster.security_group.tcp_ports", message=f"{message}; they would time out", fix=fix)


@rule(
    code="TND0217",
    severity="warning",
    title="the network moves a prompt's KV within the objective",
    story="""Decode writes its first token once it holds the prompt's KV, so the transfer is part of the time to
    first token. Where it alone takes longer than the objective, no number of workers helps: only a faster network,
    smaller KV, or one engine that does both.""",
    source="llm-d/llm-d#87 (at least 100 Gb/s); NVIDIA/TensorRT-LLM#9212; pulumi_tandem.estimate.transfer",
)
def network_is_fast(resolved: Resolved) -> Iterator[Breach]:
    """KV of a prompt over the network's speed is less than objectives.ttft_ms."""
    objectives, workload = resolved.objectives, resolved.workload
    if not (resolved.disaggregated and objectives and workload) or resolved.paired_pods:
        return
    pool = resolved.pool("prefill")
    declared = resolved.cluster.network_gbit_per_s if resolved.cluster else None
    line = declared or (pool.nodes and pool.nodes.instance and pool.nodes.instance.network_gbit_per_s)
    if not line:
        return
    tokens = math.ceil(workload.prompts.at(objectives.quantile))
    cache = KvCache(kv_dtype=pool.kv_dtype, dtype=pool.dtype, block_tokens=pool.block_tokens)
    moved = kv_bytes(resolved.architecture, cache, tokens)
    moved_ms = moved * 8 / (line * 1e9 * _LINE_SHARE) * 1e3
    if moved_ms > objectives.ttft_ms:
        message = (
            f"KV of {tokens} tokens is {moved / 1e9:.1f} GB and takes about {moved_ms / 1e3:.1f} s at {line:g} Gbit/s; "
            f"the first token is wanted after {objectives.ttft_ms / 1e3:g} s"
        )
        fix = "use a faster network, kv_dtype='fp8', or serve=... in place of two pools"
        yield Breach(path="transfer.transport", message=message, fix=fix)


@rule(
    code="TND0218",
    severity="warning",
    title="the image's libfabric is not known to crash with GPU memory",
    story="""libfabric is part of the image, and not always that of the EFA installer. 1.21 as built from source is
    reported to initialise and to crash at the first transfer between GPUs.""",
    source="ofiwg/libfabric#11628",
)
def libfabric_is_good(resolved: Resolved) -> Iterator[Breach]:
    """image_libfabric is not 1.21 where KV goes from GPU memory over EFA."""
    for pool in resolved.pools:
        given = pool.pod.image_libfabric or ""
        from_gpu = pool.connector.buffer_device != "cpu"
        if catalog.version(given)[:2] == _BAD_LIBFABRIC and from_gpu and over_efa(resolved, pool):
            message = f"libfabric {given} is reported to crash at the first transfer of GPU memory over EFA"
            fix = "use the libfabric of a current EFA installer"
            yield Breach(path=f"{pool.name}.pod.image_libfabric", message=message, fix=fix)


@rule(
    code="TND0219",
    severity="warning",
    title="the fast network that the cluster has carries KV",
    story="""TCP works everywhere and is the default. Where machines have InfiniBand, RoCE or EFA, it leaves the
    fast network idle: a hand-off takes a hundred times as long, and every answer waits for it.""",
    source="ai-dynamo, disaggregated communication guide (Llama-3.1-8B on EFA: 1 s, over TCP: 98 s)",
)
def fast_network_is_used(resolved: Resolved) -> Iterator[Breach]:
    """transport 'tcp' goes with an ordinary network."""
    fabric = resolved.cluster.fabric if resolved.cluster else None
    transport = {"efa": "efa", "infiniband": "rdma", "roce": "rdma"}.get(fabric or "")
    by_hand = any(pool.connector.backends or isinstance(pool.engine, TensorRtLlm) for pool in resolved.pools)
    asked = any(efa_devices(pool) for pool in resolved.pools)  # TND0200 tells of EFA devices that would be idle
    on_tcp = resolved.disaggregated and resolved.transfer.transport == "tcp" and not resolved.paired_pods
    if transport and on_tcp and not by_hand and not asked:
        message = f"the cluster's network is {fabric!r}, and KV is to travel over TCP, a hundred times slower"
        yield Breach(path="transfer.transport", message=message, fix=f"use Transfer(transport={transport!r})")


def _on_efa(resolved: Resolved, pool: ResolvedPool) -> bool:
    return over_efa(resolved, pool) or bool(resolved.cluster and resolved.cluster.fabric == "efa")


def _registers(resolved: Resolved, pool: ResolvedPool) -> bool:
    return rdma_devices(pool) > 0 or resolved.transfer.transport in {"efa", "rdma"}


def _list(ports: tuple[int, ...]) -> str:
    return ", ".join(str(port) for port in ports) or "none"
