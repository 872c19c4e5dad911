"""Codes 0220 to 0233: node pools, what EC2 launches, and how many machines there can be."""

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network

from pulumi_tandem.catalog import Nodes, names
from pulumi_tandem.check.asked import efa_devices, gpus_of_pool, gpus_per_pod, nodes_path, pools_by_nodes
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.declare import NetworkInterface
from pulumi_tandem.finding import nearest
from pulumi_tandem.resolve import Resolved

_AWS_ADDRESSES_KEPT = 5
"""Addresses of every subnet that AWS keeps. Source: VPC User Guide, subnet sizing."""
_ULTRASERVERS = "p6e-"
"""Sold as whole UltraServers; their network cards are not published like those of other types."""
_SCARCE_FAMILY = "p"


@rule(
    code="TND0220",
    severity="warning",
    title="instance types are in the catalog",
    story="""Interfaces, GPUs and memory of a machine are judged by the catalog's row. A type that it does not have
    is used as it is written, and nothing about it can be checked.""",
    source="pulumi_tandem.catalog",
)
def known_types(resolved: Resolved) -> Iterator[Breach]:
    """Every instance type is known."""
    for nodes in resolved.node_pools:
        given = nodes.declared.instance_type
        if given and nodes.instance is None and not given.startswith(_ULTRASERVERS):
            near = nearest(given, names("instances"))
            fix = f"write {near!r}, if that is meant" if near else "give gpu and gpus_per_node"
            message = f"the catalog has no instance type {given!r}; nothing about it can be checked"
            yield Breach(path=f"{nodes_path(resolved, nodes)}.instance_type", message=message, fix=fix)


@rule(
    code="TND0221",
    title="a pool's pods go to a node pool that is declared",
    story="""A node selector that no machine has keeps pods Pending, without an error anywhere.""",
    source="Kubernetes documentation, assigning pods to nodes",
)
def known_node_pools(resolved: Resolved) -> Iterator[Breach]:
    """pod.node_pool names one of cluster.node_pools."""
    known = [nodes.name for nodes in resolved.node_pools]
    for pool in resolved.pools if resolved.cluster else ():
        name = pool.pod.node_pool
        if name is not None and name not in known:
            near = nearest(name, known)
            fix = f"write {near!r}" if near else f"add a NodePool called {name!r} to the cluster"
            message = f"no node pool is called {name!r}; the pods would stay Pending"
            yield Breach(path=f"{pool.name}.pod.node_pool", message=message, fix=fix)


@rule(
    code="TND0222",
    title="machines have the GPU that their pool is planned for",
    story="""Memory, attention backend and time limits are computed for the declared GPU. On machines with another
    one the engine does not start, or the pair does not shake hands.""",
    source="EC2 DescribeInstanceTypes, GpuInfo; pulumi_tandem.catalog",
)
def right_gpu(resolved: Resolved) -> Iterator[Breach]:
    """A pool's GPU is that of its node pool, and a pod's GPUs fit one machine."""
    for nodes, pools in pools_by_nodes(resolved):
        where = nodes.declared.instance_type or f"a machine of {nodes.name!r}"
        for pool in pools:
            if nodes.gpu and nodes.gpu != pool.gpu.name:
                message = f"the pool is planned for {pool.gpu.name}, and {where} has {nodes.gpu}"
                yield Breach(
                    path=f"{pool.name}.gpu", message=message, fix=f"use gpu={nodes.gpu!r}, or another node pool"
                )
            elif nodes.gpus_per_node is not None and gpus_per_pod(pool) > nodes.gpus_per_node:
                message = (
                    f"a pod needs {gpus_per_pod(pool)} GPUs, and {where} has {nodes.gpus_per_node}; "
                    "it would stay Pending"
                )
                fix = f"use at most {nodes.gpus_per_node} GPUs per machine, or nodes_per_worker"
                yield Breach(path=f"{pool.name}.gpus_per_worker", message=message, fix=fix)


@rule(
    code="TND0223",
    title="network interfaces stand where the instance type takes them",
    story="""EC2 launches a machine only with a layout that its network cards take. The first interface is card 0,
    device 0, and cannot be EFA-only. Card 0 of a p6-b300.48xlarge takes ordinary interfaces only: its 16 EFA
    devices are on cards 1 to 16, at device 0. Layouts that are made by counting cards fail there.""",
    source="aws/aws-parallelcluster#7143; EC2 DescribeInstanceTypes, NetworkCards; EC2 User Guide, EFA",
)
def interface_layout(resolved: Resolved) -> Iterator[Breach]:
    """Every interface has a place of its own on a card that takes its kind."""
    for nodes in resolved.node_pools:
        faults = list(_layout_faults(nodes)) if nodes.declared.network_interfaces else []
        if faults:
            path = f"{nodes_path(resolved, nodes)}.network_interfaces"
            fix = "drop network_interfaces: the layout that the type needs is the default"
            yield Breach(path=path, message=f"{faults[0]}; the machine would not launch", fix=fix)


def _layout_faults(nodes: Nodes) -> Iterator[str]:
    """What is wrong with a layout, in words."""
    interfaces = nodes.declared.network_interfaces
    places = Counter((each.card, each.device) for each in interfaces)
    for (card, device), count in places.items():
        if count > 1:
            yield f"{count} interfaces stand on card {card}, device {device}"
    primary = next((each for each in interfaces if (each.card, each.device) == (0, 0)), None)
    if primary is None:
        yield "no interface stands on card 0, device 0"
    elif primary.type == "efa-only":
        yield "the first interface is efa-only, and has no address"
    if nodes.instance:
        yield from _type_faults(nodes, interfaces)


def _type_faults(nodes: Nodes, interfaces: tuple[NetworkInterface, ...]) -> Iterator[str]:
    assert nodes.instance
    instance = nodes.instance
    for each in interfaces:
        if each.card >= instance.network_cards:
            yield f"card {each.card} is not there: {instance.name} has {instance.network_cards}"
        elif each.card == 0 and each.type not in instance.card0:
            takes = " and ".join(instance.card0)
            yield f"card 0 of {instance.name} takes {takes}, and {each.type!r} stands on it"
    devices = Counter(each.card for each in interfaces if each.type != "interface")
    if devices.total() > instance.efa_interfaces:
        yield f"{devices.total()} EFA devices are declared, and {instance.name} takes {instance.efa_interfaces}"
    for card, count in devices.items():
        if count > 1:
            yield f"{count} EFA devices stand on card {card}, which takes one"


@rule(
    code="TND0224",
    severity="warning",
    title="machines have the EFA devices that their pods ask for",
    story="""The device plugin offers what was attached at launch. Pods that ask for more than that stay Pending.""",
    source="aws-efa-k8s-device-plugin; kubernetes-sigs/karpenter#2440",
)
def interfaces_are_enough(resolved: Resolved) -> Iterator[Breach]:
    """A written layout has as many EFA devices as a pod asks for."""
    for nodes, pools in pools_by_nodes(resolved):
        has = sum(each.type != "interface" for each in nodes.declared.network_interfaces)
        for pool in pools:
            if nodes.declared.network_interfaces and efa_devices(pool) > has:
                message = f"a pod asks for {efa_devices(pool)} EFA devices, and the layout of {nodes.name!r} has {has}"
                yield Breach(
                    path=f"{nodes_path(resolved, nodes)}.network_interfaces",
                    message=f"{message}; it would stay Pending",
                    fix="drop network_interfaces: the layout that the type needs is the default",
                )


@rule(
    code="TND0225",
    title="a machine with several interfaces gets no public address",
    story="""EC2 gives a public address at launch only to machines with one interface, and refuses the launch
    otherwise. Machines with EFA stand in private subnets, with NAT or endpoints.""",
    source="aws/aws-parallelcluster#7457; aws/karpenter-provider-aws#5666",
)
def no_public_ip(resolved: Resolved) -> Iterator[Breach]:
    """public_ip is not asked for together with several interfaces."""
    for nodes in resolved.node_pools:
        count = _interfaces(resolved, nodes)
        if nodes.declared.public_ip and count > 1:
            message = (
                f"a public address is asked for on machines with {count} network interfaces; EC2 refuses the launch"
            )
            path = f"{nodes_path(resolved, nodes)}.public_ip"
            yield Breach(path=path, message=message, fix="drop public_ip; use private subnets with NAT")


@rule(
    code="TND0226",
    title="subnets have an address for every interface",
    story="""Interfaces of the kinds `interface` and `efa` take an address each, `efa-only` takes none, and AWS
    keeps five of every subnet. A p5.48xlarge with 32 of kind `efa` takes 32 addresses before its first pod.""",
    source="dstackai/dstack#1804; VPC User Guide, subnet sizing",
)
def subnets_are_large(resolved: Resolved) -> Iterator[Breach]:
    """Addresses of a node pool's subnets are enough for its machines."""
    for nodes in resolved.node_pools:
        declared = nodes.declared
        taken = sum(each.type != "efa-only" for each in declared.network_interfaces) or 1
        count = declared.nodes or declared.nodes_max or 1
        try:
            networks = [ip_network(cidr, strict=False) for cidr in declared.subnet_cidrs]
        except ValueError:
            message = f"{', '.join(declared.subnet_cidrs)} are not all ranges of addresses"
            yield Breach(path=f"{nodes_path(resolved, nodes)}.subnet_cidrs", message=message, fix="write 10.0.0.0/20")
            continue
        free = sum(max(0, network.num_addresses - _AWS_ADDRESSES_KEPT) for network in networks)
        if networks and count * taken > free:
            message = (
                f"{count} machines take {count * taken} addresses, and the subnets have {free}; "
                "machines would not launch"
            )
            fix = "use a larger range (/20), or efa-only interfaces"
            yield Breach(path=f"{nodes_path(resolved, nodes)}.subnet_cidrs", message=message, fix=fix)


@rule(
    code="TND0227",
    title="machines of a capacity block are in no placement group",
    story="""Machines of a capacity block stand close together already, and EC2 refuses to launch them into a
    placement group.""",
    source="aws/aws-parallelcluster#6311; EC2 User Guide, Capacity Blocks",
)
def no_group_in_block(resolved: Resolved) -> Iterator[Breach]:
    """No placement group together with a capacity block."""
    for nodes in resolved.node_pools:
        capacity, group = nodes.declared.capacity, nodes.declared.placement_group
        if capacity and capacity.type == "capacity-block" and group:
            message = "a placement group is asked for in a capacity block, which takes none; machines would not launch"
            path = f"{nodes_path(resolved, nodes)}.placement_group"
            yield Breach(path=path, message=message, fix="drop placement_group: a block's machines are close together")


@rule(
    code="TND0228",
    title="a reservation is used in the placement group that it was made in, or in none",
    story="""Reserved capacity that was not made in a placement group does not stand where the group wants its
    machines: some launch, the rest end in InsufficientInstanceCapacity, with the reservation half used and wholly
    paid for.""",
    source="eksctl-io/eksctl#7949; #8220; terraform-aws-modules/terraform-aws-eks#3730",
)
def group_of_reservation(resolved: Resolved) -> Iterator[Breach]:
    """A cluster placement group with a reservation is the reservation's own."""
    for nodes in resolved.node_pools:
        capacity, group = nodes.declared.capacity, nodes.declared.placement_group
        if capacity is None or group is None or capacity.type != "reservation" or group.strategy != "cluster":
            continue
        if capacity.placement_group is None or group.name != capacity.placement_group:
            made = f"in {capacity.placement_group!r}" if capacity.placement_group else "in no placement group"
            message = f"the reservation was made {made}, and machines are asked for in {group.name or 'a new one'!r}"
            fix = f"use PlacementGroup(name={capacity.placement_group!r})" if capacity.placement_group else "drop it"
            path = f"{nodes_path(resolved, nodes)}.placement_group"
            yield Breach(path=path, message=f"{message}; some would not launch", fix=fix)


@rule(
    code="TND0229",
    title="the account's quota holds the machines",
    story="""EC2 counts the vCPUs of running on-demand machines by family. Beyond the quota machines do not start,
    and pods stay Pending; raising it takes days. Capacity blocks and spot have quotas of their own.""",
    source="aws-samples/deepseek-using-vllm-on-eks#3; EC2 User Guide, on-demand instance quotas",
)
def quota_holds(resolved: Resolved) -> Iterator[Breach]:
    """vCPUs of all machines of a family are within vcpu_quota."""
    asked: Counter[str] = Counter()
    for nodes, pools in pools_by_nodes(resolved):
        kind = nodes.declared.capacity.type if nodes.declared.capacity else "on-demand"
        if nodes.instance and nodes.gpus_per_node and kind in {"on-demand", "reservation"}:
            machines = max(nodes.declared.nodes or 0, -(-sum(map(gpus_of_pool, pools)) // nodes.gpus_per_node))
            asked[_family(nodes.instance.name)] += machines * nodes.instance.vcpus
    for family, quota in resolved.cluster.vcpu_quota.items() if resolved.cluster else ():
        if asked[family.upper()] > quota:
            message = f"the machines take {asked[family.upper()]} vCPUs of family {family}, and the quota is {quota}"
            fix = "have the quota raised, or use fewer machines"
            yield Breach(path="cluster.vcpu_quota", message=f"{message}; some would not start", fix=fix)


@rule(
    code="TND0230",
    title="node pools can hold the workers of their pools",
    story="""Workers beyond what a node pool can grow to stay Pending. A worker of one role alone serves nothing of
    a pair, so the first missing machine takes the whole service with it.""",
    source="aws/karpenter-provider-aws#8068",
)
def workers_have_room(resolved: Resolved) -> Iterator[Breach]:
    """GPUs of all workers are at most those of their node pool."""
    for nodes, pools in pools_by_nodes(resolved):
        needed = sum(gpus_of_pool(pool) for pool in pools)
        if nodes.gpus_max is not None and needed > nodes.gpus_max:
            counts = " and ".join(f"{pool.workers} x {pool.gpus_per_worker} of {pool.name}" for pool in pools)
            message = f"the workers need {needed} GPUs ({counts}), and {nodes.name!r} can have {nodes.gpus_max}"
            fix = f"raise its limit to {needed} GPUs, or use fewer workers"
            yield Breach(path=nodes_path(resolved, nodes), message=f"{message}; some would stay Pending", fix=fix)


@rule(
    code="TND0231",
    severity="warning",
    title="a managed node group of scarce machines starts empty, or from a reservation",
    story="""Creating a managed node group waits for its machines. When EC2 has none of the type, the whole group
    ends as CREATE_FAILED and blocks later updates. A group that starts empty is made at once and grows when there
    is capacity.""",
    source="aws/containers-roadmap#2204",
)
def scarce_starts_empty(resolved: Resolved) -> Iterator[Breach]:
    """No managed group starts with on-demand or spot machines of the P family."""
    for nodes in resolved.node_pools:
        declared = nodes.declared
        free = declared.capacity is not None and declared.capacity.type in {"on-demand", "spot"}
        scarce = bool(declared.instance_type and declared.instance_type.startswith(_SCARCE_FAMILY))
        if declared.managed_by == "managed-node-group" and scarce and free and declared.nodes:
            message = f"the group starts with {declared.nodes} {declared.instance_type}, which nobody has reserved"
            fix = "use nodes=0 and let it grow, or reserve capacity"
            path = f"{nodes_path(resolved, nodes)}.nodes"
            yield Breach(path=path, message=f"{message}; without capacity its creation fails as a whole", fix=fix)


@rule(
    code="TND0232",
    severity="warning",
    title="nobody takes machines away from under running workers to save money",
    story="""Karpenter's consolidation moves pods together as soon as a machine looks underused, several times a
    day. A worker takes minutes to load its weights and holds KV of live requests; each move is an outage of its
    share.""",
    source="aws/karpenter-provider-aws#6129; Karpenter documentation, disruption",
)
def consolidation_waits(resolved: Resolved) -> Iterator[Breach]:
    """Consolidation of a node pool is WhenEmpty, or has a budget of none."""
    for nodes, _ in pools_by_nodes(resolved):
        declared = nodes.declared
        if declared.consolidation == "WhenEmptyOrUnderutilized" and declared.disruption_budget_nodes != 0:
            path = f"{nodes_path(resolved, nodes)}.consolidation"
            message = "Karpenter would move workers to other machines whenever one looks underused"
            yield Breach(path=path, message=message, fix="use 'WhenEmpty', or disruption_budget_nodes=0")


@rule(
    code="TND0233",
    title="machines are bought in a way that their type is sold in",
    story="""Not every type can be had in every way: capacity blocks are sold for the P families, and some sizes not
    as spot. The launch is refused otherwise.""",
    source="EC2 DescribeInstanceTypes, SupportedUsageClasses",
)
def capacity_is_sold(resolved: Resolved) -> Iterator[Breach]:
    """capacity.type is among those of the instance type."""
    for nodes in resolved.node_pools:
        kind = nodes.declared.capacity.type if nodes.declared.capacity else None
        sold_as = "on-demand" if kind == "reservation" else kind
        if nodes.instance and sold_as and sold_as not in nodes.instance.capacity:
            message = f"{nodes.instance.name} is not sold as {kind}; machines would not launch"
            fix = f"use one of: {', '.join(nodes.instance.capacity)}"
            yield Breach(path=f"{nodes_path(resolved, nodes)}.capacity.type", message=message, fix=fix)


def _interfaces(resolved: Resolved, nodes: Nodes) -> int:
    """Interfaces of a machine: as declared, else what EFA for its pods takes."""
    asked = max((efa_devices(pool) for pool in resolved.pools if pool.nodes == nodes), default=0)
    return len(nodes.declared.network_interfaces) or max(1, asked)


def _family(instance: str) -> str:
    """Name of EC2's limit that a type counts towards: its first letter."""
    return instance[0].upper()
