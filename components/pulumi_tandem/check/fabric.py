"""Codes 0200 to 0219: whether KV finds its way between the pools over the network that is declared."""

import math
from collections.abc import Iterator

from pulumi_tandem import catalog
from pulumi_tandem.check.asked import (
    SIDE_CHANNEL_PORT,
    backends,
    backends_path,
    efa_devices,
    has_efa,
    over_efa,
    rdma_devices,
)
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.estimate.memory import KvCache, kv_bytes
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

_FABRICS_OF = {"efa": {"efa"}, "rdma": {"infiniband", "roce"}}
"""Transport: networks that carry it; the others are carried by any, or need none."""
_LOCKED_KIB_MIN = 1024 * 1024
"""Less than 1 GiB cannot hold even the provider's receive buffers; engines register all of their KV."""
_BAD_LIBFABRIC = (1, 21)
_LINE_SHARE = 0.6
"""Of the line's speed, as estimate.transfer takes it."""
_EKS_SELF_EGRESS_SINCE = 33
"""Minor version of Kubernetes from which on EKS' own security group has the rule for EFA."""


@rule(
    code="TND0200",
    title="pods that ask for EFA move KV with NIXL's LIBFABRIC backend",
    story="""NIXL's default backend is UCX, and UCX has no path over EFA: KV goes over TCP, or the two sides find no
    transport in common when only one of them has LIBFABRIC. The devices are reserved, paid for and idle. No
    environment variable changes the backend of vLLM's connector; transfer.transport='efa' does, on both sides.""",
    source="vllm-project/vllm#41814; vLLM 0.33 nixl/base_worker.py (backends default to UCX); llm-d RDMA guide",
)
def efa_has_libfabric(resolved: Resolved) -> Iterator[Breach]:
    """No pool asks for EFA and moves KV otherwise."""
    chosen = {backends(resolved, pool) for pool in resolved.pools}
    if not resolved.disaggregated or len(chosen) > 1:  # TND0068 tells of a pair that differs
        return
    told: set[str] = set()
    for pool in resolved.pools:
        given, path = backends(resolved, pool), backends_path(pool)
        if efa_devices(pool) and "LIBFABRIC" not in given and path not in told:
            told.add(path)
            message = (
                f"{pool.name} asks for {efa_devices(pool)} EFA devices and moves KV with {', '.join(given)}, which "
                "cannot use them; KV would crawl over TCP, or not move at all"
            )
            yield Breach(path=path, message=message, fix="use transfer=Transfer(transport='efa')")


@rule(
    code="TND0201",
    title="without EFA, LIBFABRIC moves KV from and to the machine's memory only",
    story="""Where there is no EFA device, libfabric is left with its TCP provider, which cannot register GPU
    memory. The engine stops when it registers its KV. With the buffer on the CPU it works, at the speed of TCP.""",
    source="ai-dynamo/dynamo examples/deployments/EKS/manifests/vllm/v1beta1/disagg-tcp.yaml; libfabric fi_tcp(7)",
)
def libfabric_without_efa(resolved: Resolved) -> Iterator[Breach]:
    """LIBFABRIC without EFA has a buffer in host memory."""
    for pool in resolved.pools if resolved.disaggregated else ():
        missing = has_efa(resolved, pool) is False and not efa_devices(pool)  # TND0203 tells of devices asked for
        if missing and "LIBFABRIC" in backends(resolved, pool) and pool.connector.buffer_device != "cpu":
            message = (
                f"{pool.name} moves KV with LIBFABRIC from GPU memory, and its machines have no EFA; what is left "
                "of libfabric cannot register GPU memory, and the engine would stop"
            )
            fix = "use transfer=Transfer(transport='tcp'), or machines with EFA"
            yield Breach(path=backends_path(pool), message=message, fix=fix)


@rule(
    code="TND0202",
    title="the cluster has the network that the transport needs",
    story="""A transport that its network cannot carry is replaced by a slower one, and answers still come with 200.
    RDMA verbs need InfiniBand or RoCE; EFA is a network of its own, which speaks libfabric and no verbs that UCX
    could use at speed.""",
    source="NIXL 1.5.1 and UCX 1.22 transports; AWS EFA documentation",
)
def fabric_carries_transport(resolved: Resolved) -> Iterator[Breach]:
    """transfer.transport is carried by cluster.fabric."""
    transport = resolved.transfer.transport
    fabric = resolved.cluster.fabric if resolved.cluster else None
    if resolved.disaggregated and fabric and fabric not in _FABRICS_OF.get(transport, {fabric}):
        message = f"KV is to travel over {transport!r}, and the cluster's network is {fabric!r}; it would go over TCP"
        fix = {"efa": "use 'efa'", "infiniband": "use 'rdma'", "roce": "use 'rdma'"}.get(fabric, "use 'tcp'")
        yield Breach(path="transfer.transport", message=message, fix=f"{fix}, or another cluster.fabric")


@rule(
    code="TND0203",
    title="pods do not ask for more network devices than one of their machines has",
    story="""Kubernetes places a pod on a machine that has all it asks for. When no machine has, the pod stays
    Pending for good, with its GPUs unused. EC2 types differ much: 32 EFA devices on a p5.48xlarge, 16 on a
    p5en.48xlarge and a p6-b300.48xlarge, 8 on a p6-b200.48xlarge, and none below a certain size in the g families.""",
    source="EC2 DescribeInstanceTypes, NetworkInfo; awsome-distributed-training EFA cheat sheet",
)
def devices_are_there(resolved: Resolved) -> Iterator[Breach]:
    """EFA and RDMA devices of a pod are at most those of a machine."""
    for pool in resolved.pools:
        nodes = pool.nodes
        path = f"{pool.name}.pod.resources"
        if nodes and nodes.instance and efa_devices(pool) > nodes.instance.efa_interfaces:
            has = nodes.instance.efa_interfaces
            message = f"a pod asks for {efa_devices(pool)} EFA devices and a {nodes.instance.name} has {has or 'none'}"
            fix = f"ask for at most {has}" if has else "use a type with EFA, or transport='tcp' and no EFA devices"
            yield Breach(path=path, message=f"{message}; it would stay Pending", fix=fix)
        asked = rdma_devices(pool) - efa_devices(pool)
        if nodes and nodes.declared.rdma_devices is not None and asked > nodes.declared.rdma_devices:
            message = f"a pod asks for {asked} RDMA devices and its machines have {nodes.declared.rdma_devices}"
            fix = "ask for what there is, or transport='tcp' and no RDMA devices"
            yield Breach(path=path, message=f"{message}; it would stay Pending", fix=fix)


@rule(
    code="TND0204",
    title="workers that exchange KV over EFA are in one zone",
    story="""EFA's own packets do not leave a zone. Workers of a pair in two zones cannot connect. Node pools over
    several zones are fine when the pods of both roles are tied to one zone by required affinity.""",
    source="llm-d/llm-d#1554; AWS EFA documentation, limitations",
)
def efa_in_one_zone(resolved: Resolved) -> Iterator[Breach]:
    """Over EFA, both pools are in the same single zone, or tied together."""
    pools = _efa_pair(resolved)
    zones = {zone for pool in pools for zone in (pool.nodes.declared.zones if pool.nodes else ())}
    if len(zones) < 2:
        return
    wide = next((pool for pool in pools if pool.nodes and len(pool.nodes.declared.zones) > 1), None)
    if wide is None:
        message = f"prefill and decode stand in {' and '.join(sorted(zones))}, and EFA does not cross zones"
        fix = "put the node pools of both into one zone"
        yield Breach(path="decode.pod.node_pool", message=f"{message}; no KV would move", fix=fix)
    elif any(pool.pod.same_zone is False for pool in pools):
        message = f"machines may start in {' and '.join(sorted(zones))}, nothing ties the roles to one of them"
        fix = "drop same_zone=False, or use one zone"
        yield Breach(path=f"{wide.name}.pod.same_zone", message=f"{message}, and EFA does not cross zones", fix=fix)


@rule(
    code="TND0205",
    severity="warning",
    title="workers that exchange KV over EFA are in one subnet",
    story="""AWS documented EFA's OS-bypass traffic as limited to one subnet, and not routable. Some subnets of one
    zone are reported to work; one subnet always does.""",
    source="AWS EFA documentation, limitations; devopsacademyau/academy#277",
)
def efa_in_one_subnet(resolved: Resolved) -> Iterator[Breach]:
    """Over EFA, the node pools of both pools have the same subnet."""
    subnets = [pool.nodes.declared.subnets for pool in _efa_pair(resolved) if pool.nodes]
    if len(subnets) == 2 and all(subnets) and subnets[0] != subnets[1]:
        names = f"{', '.join(subnets[0])} and {', '.join(subnets[1])}"
        message = f"prefill and decode stand in the subnets {names}; EFA traffic between them may not pass"
        yield Breach(path="decode.pod.node_pool", message=message, fix="put the node pools of both into one subnet")


@rule(
    code="TND0206",
    title="for EFA, the security group lets all traffic in from itself and out to itself",
    story="""EFA's traffic is checked against rules that name the group; ranges of addresses do not match it, not
    even 0.0.0.0/0. Without both rules the devices are there, and the handshake ends in 'unresponsive receiver' or
    hangs for minutes.""",
    source="aws/aws-ofi-nccl#663; gardener/gardener-extension-provider-aws#1832",
)
def efa_rules(resolved: Resolved) -> Iterator[Breach]:
    """self_ingress and self_egress hold where KV goes over EFA."""
    group = resolved.cluster.security_group if resolved.cluster else None
    if group is None or not any(over_efa(resolved, pool) for pool in resolved.pools):
        return
    for name, holds, way in (
        ("self_ingress", group.self_ingress, "in from"),
        ("self_egress", group.self_egress, "out to"),
    ):
        if not holds:
            message = f"the security group does not let all traffic {way} itself; EFA would not connect"
            fix = "add a rule for all protocols that names the group itself; a rule for addresses does not count"
            yield Breach(path=f"cluster.security_group.{name}", message=message, fix=fix)


@rule(
    code="TND0207",
    severity="warning",
    title="EKS' own security group is known to have the rules for EFA",
    story="""The group that EKS makes lets everything in from itself. The rule that lets everything out to itself,
    which EFA needs, came later: clusters that were made before Kubernetes 1.33 may lack it.""",
    source="EKS User Guide, security group requirements (the page of December 2024 has no such rule)",
)
def eks_group_is_new(resolved: Resolved) -> Iterator[Breach]:
    """EFA relies on EKS' own group from 1.33 on only."""
    cluster = resolved.cluster
    if (
        cluster is None
        or cluster.version is None
        or not (cluster.security_group and cluster.security_group.eks_default)
    ):
        return
    old = int(cluster.version.partition(".")[2]) < _EKS_SELF_EGRESS_SINCE
    if old and any(over_efa(resolved, pool) for pool in resolved.pools):
        message = (
            f"EKS' own security group of a {cluster.version} cluster may not let traffic out to itself, as EFA needs"
        )
        fix = "add the rule, all protocols to the group itself"
        yield Breach(path="cluster.security_group.eks_default", message=message, fix=fix)


@rule(
    code="TND0208",
    title="KV goes from GPU to GPU of one machine only inside one pod",
    story="""CUDA's memory handles are opened by processes that share a process namespace. Containers of two pods do
    not: the transfer library falls back to TCP, answers come with 200, and the NVLink that was paid for is idle.
    Machines of one NVLink domain (GB200) use handles of another kind, which do cross pods.""",
    source="ai-dynamo/nixl#1195; vLLM PR#55906; openucx/ucx#11978",
)
def cuda_ipc_in_one_pod(resolved: Resolved) -> Iterator[Breach]:
    """transport 'cuda_ipc' in a cluster has paired pods, or NVLink between machines."""
    cluster = resolved.cluster
    if cluster is None or resolved.paired_pods or cluster.fabric == "mnnvl" or not resolved.disaggregated:
        return
    if resolved.transfer.transport == "cuda_ipc":
        message = "KV is to go from GPU to GPU, and prefill and decode are in pods of their own; it would go over TCP"
        yield Breach(path="transfer.transport", message=message, fix="use pods='paired', or 'efa' or 'rdma'")


@rule(
    code="TND0209",
    severity="warning",
    title="on GPUs without NVLink, KV between two of one machine is pushed",
    story="""Between GPUs that are joined by PCIe only, NIXL's UCX serves remote reads over TCP, while remote writes
    take the direct path: about half a gigabyte per second against tens. vLLM's connector reads by default.""",
    source="vllm-project/vllm#52607; ai-dynamo/nixl#2208",
)
def pcie_is_pushed(resolved: Resolved) -> Iterator[Breach]:
    """Without NVLink, transport 'cuda_ipc' has the push connector."""
    plain = [pool for pool in resolved.pools if not pool.on_cpu and not pool.gpu.nvlink_gb_per_s]
    pulls = [pool for pool in plain if pool.connector.name in {"NixlConnector", "NixlPullConnector"}]
    if resolved.disaggregated and resolved.transfer.transport == "cuda_ipc" and pulls:
        message = f"{pulls[0].gpu.name} has no NVLink, and reads between two of one machine would go over TCP"
        fix = "use Connector(name='NixlPushConnector')"
        yield Breach(path="transfer.transport", message=message, fix=fix)


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
    title="NCCL is not tied to one interface where it could use EFA",
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
    tokens = math.ceil(workload.prompt_tokens.at(objectives.quantile))
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


def _efa_pair(resolved: Resolved) -> list[ResolvedPool]:
    """Both pools, where KV between them is to go over EFA; else none."""
    pair = list(resolved.pools) if resolved.disaggregated else []
    return pair if any(over_efa(resolved, pool) for pool in pair) else []


def _on_efa(resolved: Resolved, pool: ResolvedPool) -> bool:
    return over_efa(resolved, pool) or bool(resolved.cluster and resolved.cluster.fabric == "efa")


def _registers(resolved: Resolved, pool: ResolvedPool) -> bool:
    return rdma_devices(pool) > 0 or resolved.transfer.transport in {"efa", "rdma"}


def _list(ports: tuple[int, ...]) -> str:
    return ", ".join(str(port) for port in ports) or "none"
