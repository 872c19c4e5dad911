"""Codes 0200 to 0209: EFA, RDMA and NVLink between the pools."""

from collections.abc import Iterator

from pulumi_tandem.check.asked import (
    backends,
    backends_path,
    efa_devices,
    has_efa,
    over_efa,
    rdma_devices,
)
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool

_FABRICS_OF = {"efa": {"efa"}, "rdma": {"infiniband", "roce"}}
"""Transport: networks that carry it; the others are carried by any, or need none."""
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
    elif resolved.disaggregated and transport == "rdma":
        bare = [pool.name for pool in resolved.pools if pool.nodes and pool.nodes.declared.rdma_devices == 0]
        if bare:
            message = f"KV is to travel over 'rdma', and machines of {' and '.join(bare)} have no RDMA device"
            yield Breach(path="transfer.transport", message=message, fix="use 'tcp', or machines with RDMA devices")


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
    title="the security group that EKS made is known to have the rules for EFA",
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
    title="from GPU to GPU of one machine, KV goes inside one pod only",
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


def _efa_pair(resolved: Resolved) -> list[ResolvedPool]:
    """Both pools, where KV between them is to go over EFA; else none."""
    pair = list(resolved.pools) if resolved.disaggregated else []
    return pair if any(over_efa(resolved, pool) for pool in pair) else []
