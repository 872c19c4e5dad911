"""Codes 0290 to 0293: network devices that pods are given, and the plugin that gives them."""

from collections.abc import Iterator

from pulumi_tandem import catalog
from pulumi_tandem.check.asked import efa_devices, gpus_per_pod, mlx5_beside_efa, over_efa, rdma_devices
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved

_PLUGIN_TELLS_THEM_APART = (0, 5, 10)


@rule(
    code="TND0290",
    title="pods with InfiniBand or RoCE devices may lock memory",
    story="""Verbs register memory by locking it, all of an engine's KV. A container without the capability IPC_LOCK may
    lock as much as its runtime's limit allows, 64 KiB or 8 MiB by default: registration fails while the engine
    starts. (Machines of EKS for EFA come without that limit.)""",
    source="llm-d docs/infrastructure/rdma/README.md; ibv_reg_mr(3); mlock(2), RLIMIT_MEMLOCK",
)
def verbs_may_lock(resolved: Resolved) -> Iterator[Breach]:
    """Written capabilities of a pod with RDMA devices other than EFA have IPC_LOCK."""
    for pool in resolved.pools:
        given = pool.pod.capabilities
        verbs = rdma_devices(pool) - efa_devices(pool)
        if given is not None and "IPC_LOCK" not in given and verbs and not pool.pod.privileged:
            message = "the pod has RDMA devices, and without IPC_LOCK it may not lock the memory that they read"
            yield Breach(path=f"{pool.name}.pod.capabilities", message=message, fix="add 'IPC_LOCK'")


@rule(
    code="TND0291",
    title="pods on machines with mlx5 devices beside EFA see EFA's only",
    story="""p6-b200 and p6-b300 have mlx5 devices that manage NVLink switches. libfabric's EFA provider opens every
    device that it sees, fails on those, and gives up: no EFA in that pod, and everything goes over TCP. A mounted
    /dev/infiniband shows them; what the device plugin hands out does not.""",
    source="aws-samples/aws-do-eks#63 (measured on p6-b200.48xlarge: fi_info -p efa ends in -61 with the mount)",
)
def no_mount_beside_efa(resolved: Resolved) -> Iterator[Breach]:
    """/dev/infiniband is not mounted on such machines where KV goes over EFA."""
    for pool in resolved.pools:
        mounted = [path for path in pool.pod.host_paths if path.startswith("/dev/infiniband")]
        if mounted and mlx5_beside_efa(pool) and over_efa(resolved, pool):
            message = f"{mounted[0]} shows mlx5 devices that libfabric cannot open; the pod would have no EFA"
            fix = "drop it: the EFA plugin gives pods what they need"
            yield Breach(path=f"{pool.name}.pod.host_paths", message=message, fix=fix)


@rule(
    code="TND0292",
    title="the EFA plugin tells EFA devices from NVLink's",
    story="""Before 0.5.10 the plugin counts the mlx5 devices that manage NVLink switches on p6 machines as EFA: the
    machine offers 10 devices in place of 8, and pods that are given one of the others fail in NCCL or libfabric,
    sooner or later and not all of them.""",
    source="aws/sagemaker-hyperpod-cli#282; aws-ia/terraform-aws-eks-data-addons#53",
)
def plugin_is_new(resolved: Resolved) -> Iterator[Breach]:
    """efa_plugin.version is at least 0.5.10 where such machines' pods ask for EFA."""
    plugin = resolved.cluster.efa_plugin if resolved.cluster else None
    given = catalog.version(plugin.version or "") if plugin and plugin.installed else ()
    asks = any(mlx5_beside_efa(pool) and efa_devices(pool) for pool in resolved.pools)
    if plugin and given and asks and given < _PLUGIN_TELLS_THEM_APART:
        message = f"the EFA plugin {plugin.version} hands out NVLink's management devices of these machines as EFA"
        yield Breach(path="cluster.efa_plugin.version", message=message, fix="use 0.5.10 or later")


@rule(
    code="TND0293",
    severity="warning",
    title="pods on a part of a machine take that part of its EFA devices",
    story="""EFA devices are counted per machine and not shared. A pod with half of a machine's GPUs and all of its
    devices leaves the other half to nobody: the next pod finds GPUs and no device, and stays Pending.""",
    source="Karpenter documentation, vpc.amazonaws.com/efa; EC2 DescribeInstanceTypes (p5.48xlarge: 4 devices per GPU)",
)
def devices_are_shared(resolved: Resolved) -> Iterator[Breach]:
    """A pod's share of a machine's EFA devices is at most its share of the GPUs, rounded up."""
    for pool in resolved.pools:
        nodes = pool.nodes
        if not (nodes and nodes.instance and nodes.gpus_per_node):
            continue
        has, gpus = nodes.instance.efa_interfaces, gpus_per_pod(pool)
        share = -(-has * gpus // nodes.gpus_per_node)
        if gpus < nodes.gpus_per_node and share < efa_devices(pool) <= has:
            message = (
                f"a pod takes {gpus} of a machine's {nodes.gpus_per_node} GPUs and {efa_devices(pool)} of its {has} "
                "EFA devices; GPUs would be left that no pod can use"
            )
            yield Breach(path=f"{pool.name}.pod.resources", message=message, fix=f"ask for {share}")
