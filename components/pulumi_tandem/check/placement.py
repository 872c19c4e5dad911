"""Codes 0234 to 0243: Kubernetes' version, machine images, device plugins, taints and shared GPUs."""

from collections.abc import Iterator

from pulumi_tandem import catalog
from pulumi_tandem.catalog import Nodes
from pulumi_tandem.check.asked import EFA, efa_devices, nodes_path, pools_by_nodes, repelling, taint_words
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.declare import DevicePlugin, Taint
from pulumi_tandem.resolve import Resolved

_DRA_SINCE = 34
"""Minor version of Kubernetes with Dynamic Resource Allocation in v1. Source: Kubernetes 1.34 release notes."""
_DRIVER_OF_CUDA = {12: 525, 13: 580}
"""Major version of CUDA: first major version of the driver that runs it. Source: CUDA Compatibility, minor version
compatibility."""
_AL2_UNTIL = 32
"""Last minor version of Kubernetes with an Amazon Linux 2 image on EKS."""
_BOTTLEROCKET, _AL2023 = "BOTTLEROCKET", "AL2023"


@rule(
    code="TND0234",
    title="the version of Kubernetes is still kept by EKS",
    story="""EKS keeps a version for 26 months, the last 12 at six times the price. After that no cluster of it can
    be made, and clusters that are left are upgraded by AWS at a time of its choosing. The dates are data of the
    catalog, with the day on which they were looked up.""",
    source="Amazon EKS User Guide, Kubernetes release calendar; awslabs/awsome-distributed-ai#1110",
)
def version_is_kept(resolved: Resolved) -> Iterator[Breach]:
    """cluster.version is not past EKS' extended support."""
    cluster = resolved.cluster
    if cluster is None or cluster.provider != "eks" or cluster.version is None:
        return
    release = catalog.eks_release(cluster.version)
    if release and release.is_over:
        message = (
            f"Kubernetes {cluster.version} left extended support on {release.extended_until}; "
            "no such cluster can be made"
        )
        yield Breach(path="cluster.version", message=message, fix="use a version in standard support")


@rule(
    code="TND0235",
    title="claims of devices (Dynamic Resource Allocation) are there where they are used",
    story="""Claims of resource.k8s.io/v1 exist from Kubernetes 1.34 on. NVLink between machines is reached through
    a ComputeDomain only, which is such a claim: without it the GPUs of an NVL72 rack see their own machine, and KV
    goes over TCP.""",
    source="Kubernetes 1.34 release notes; NVIDIA DRA driver, ComputeDomains; EKS User Guide, UltraServers",
)
def dra_is_there(resolved: Resolved) -> Iterator[Breach]:
    """dra needs 1.34, and NVLink between machines needs dra."""
    cluster = resolved.cluster
    if cluster is None:
        return
    if cluster.dra and cluster.version and int(cluster.version.partition(".")[2]) < _DRA_SINCE:
        message = f"Kubernetes {cluster.version} has no resource.k8s.io/v1; claims would be refused"
        yield Breach(path="cluster.dra", message=message, fix=f"use 1.{_DRA_SINCE} or later, or device plugins")
    if cluster.dra is False and cluster.fabric == "mnnvl":
        message = "NVLink between machines needs a ComputeDomain, which needs dra; KV would go over TCP"
        yield Breach(path="cluster.dra", message=message, fix="use dra=True, or another fabric")


@rule(
    code="TND0236",
    title="one thing installs the driver, the toolkit and the device plugin on a machine",
    story="""Bottlerocket's NVIDIA images bring all three, Amazon Linux 2023's the driver and the toolkit. A GPU
    operator that installs them again fights with the image: two device plugins register one resource, and GPUs
    vanish.""",
    source="awsdocs/amazon-eks-user-guide#1143; bottlerocket-os/bottlerocket#1799; NVIDIA/aicr#2743",
)
def one_installer(resolved: Resolved) -> Iterator[Breach]:
    """The GPU operator leaves out what the machine image has."""
    operator = resolved.cluster.gpu_operator if resolved.cluster else None
    for nodes in resolved.node_pools if operator else ():
        has = _brought(nodes)
        doubled = [part for part in has if getattr(operator, part)]
        if doubled:
            message = (
                f"{nodes.declared.ami_family} brings its own {' and '.join(doubled)}, and the GPU "
                "operator installs it again"
            )
            fix = f"use GpuOperator({', '.join(f'{part}=False' for part in has)})"
            yield Breach(path=f"cluster.gpu_operator.{doubled[0]}", message=message, fix=fix)


@rule(
    code="TND0237",
    title="something tells Kubernetes of the devices that pods ask for",
    story="""GPUs and EFA devices exist for Kubernetes once a device plugin (or a DRA driver) has told of them.
    Amazon Linux 2023's NVIDIA image has none, Bottlerocket's has one for GPUs. The EFA plugin's chart leaves out
    the machines of EKS Auto Mode. Without a plugin pods stay Pending, and no error says why.""",
    source="aws/eks-charts#1358; NVIDIA/aicr#2743; aws-efa-k8s-device-plugin chart, values.yaml",
)
def plugins_are_there(resolved: Resolved) -> Iterator[Breach]:
    """GPUs and EFA devices that are asked for have a plugin on their machines."""
    cluster = resolved.cluster
    if cluster is None or cluster.dra:
        return
    in_image = any("device_plugin" in _brought(nodes) for nodes in resolved.node_pools)
    by_operator = cluster.gpu_operator is not None and cluster.gpu_operator.device_plugin
    if cluster.gpu_plugin and not cluster.gpu_plugin.installed and not in_image and not by_operator:
        message = "nothing tells Kubernetes of the GPUs; every worker would stay Pending"
        yield Breach(path="cluster.gpu_plugin", message=message, fix="install NVIDIA's device plugin")
    if not any(efa_devices(pool) for pool in resolved.pools) or cluster.efa_plugin is None:
        return
    if not cluster.efa_plugin.installed:
        message = f"nothing tells Kubernetes of {EFA}; pods that ask for it would stay Pending"
        yield Breach(path="cluster.efa_plugin", message=message, fix="install AWS' EFA device plugin")
    for nodes, pools in pools_by_nodes(resolved):
        if nodes.declared.managed_by == "auto-mode" and any(efa_devices(pool) for pool in pools):
            message = f"the EFA plugin does not run on machines of Auto Mode, and pods on {nodes.name!r} ask for {EFA}"
            fix = "use a managed node group for these pods"
            path = f"{nodes_path(resolved, nodes)}.managed_by"
            yield Breach(path=path, message=f"{message}; they would stay Pending", fix=fix)


@rule(
    code="TND0238",
    severity="warning",
    title="machines run an image that is not known to fail on them",
    story="""Now and then a release of a machine image does not bring up the hardware of some instance type.
    Releases that are reported so are a table of the catalog.""",
    source="awslabs/amazon-eks-ami#2554",
)
def image_is_good(resolved: Resolved) -> Iterator[Breach]:
    """No node pool has a release of the table on an instance of the table."""
    for nodes in resolved.node_pools:
        for bad in catalog.bad_amis():
            declared = nodes.declared
            if (declared.ami_release, declared.ami_family) == (bad.release, bad.family) and (
                declared.instance_type in bad.instances
            ):
                message = f"{bad.release} is reported to fail on {declared.instance_type}: {bad.symptom}"
                path = f"{nodes_path(resolved, nodes)}.ami_release"
                yield Breach(path=path, message=message, fix="pin a release that is known to work")


@rule(
    code="TND0239",
    title="the driver runs the CUDA of the image",
    story="""A driver runs programs of its own major version of CUDA and of older ones. On an older driver the
    engine stops at its first call: the driver version is insufficient for the CUDA runtime version.""",
    source="NVIDIA CUDA Compatibility guide: 13.x needs driver 580, 12.x needs 525",
)
def driver_runs_cuda(resolved: Resolved) -> Iterator[Breach]:
    """nvidia_driver is new enough for image_cuda."""
    for pool in resolved.pools:
        driver = catalog.version(pool.nodes.declared.nvidia_driver or "") if pool.nodes else ()
        cuda = catalog.version(pool.pod.image_cuda or "")
        least = _DRIVER_OF_CUDA.get(cuda[0]) if cuda else None
        if driver and least and driver[0] < least:
            assert pool.nodes
            given = pool.nodes.declared.nvidia_driver
            message = (
                f"the image has CUDA {pool.pod.image_cuda}, which needs driver {least}, and the machines have {given}"
            )
            fix = f"use machines with driver {least} or later, or an image with an older CUDA"
            yield Breach(path=f"{pool.name}.pod.image_cuda", message=message, fix=fix)


@rule(
    code="TND0240",
    title="pods tolerate the taints of their machines",
    story="""A toleration matches a taint when key and effect do, and the value too unless its operator is Exists. A
    pod that misses one taint stays Pending, while the autoscaler may go on adding machines for it.""",
    source="Kubernetes documentation, taints and tolerations",
)
def pods_tolerate(resolved: Resolved) -> Iterator[Breach]:
    """Written tolerations of a pool cover every taint of its node pool."""
    for pool in resolved.pools:
        given = pool.pod.tolerations
        for taint in repelling(pool.nodes) if pool.nodes and given is not None else ():
            if not any(toleration.covers(taint) for toleration in given or ()):
                message = f"no toleration covers {taint_words(taint)}; the pods would stay Pending"
                fix = f"add Toleration(key={taint.key!r}, operator='Exists')"
                yield Breach(path=f"{pool.name}.pod.tolerations", message=message, fix=fix)


@rule(
    code="TND0241",
    title="device plugins run on the machines whose devices pods ask for",
    story="""Device plugins are pods too. The charts of AWS' EFA plugin and of NVIDIA's plugin with feature
    discovery tolerate nothing, or one value of one taint: on tainted GPU machines they never start, the resource
    never shows up, and workers stay Pending although machines are there. Nothing logs an error.""",
    source="NVIDIA/k8s-device-plugin#1934; aws-samples/aws-efa-eks#3",
)
def plugins_tolerate(resolved: Resolved) -> Iterator[Breach]:
    """Tolerations of plugins cover every taint of the node pools that need them."""
    cluster = resolved.cluster
    if cluster is None:
        return
    wants_efa = any(efa_devices(pool) for pool in resolved.pools)
    plugins = {
        "gpu_plugin": cluster.gpu_plugin,
        "feature_discovery": cluster.feature_discovery,
        "efa_plugin": cluster.efa_plugin if wants_efa else None,
    }
    for name, plugin in plugins.items():
        taint = _uncovered(resolved, plugin) if plugin and plugin.installed else None
        if taint:
            message = f"it does not tolerate {taint_words(taint)} of the GPU machines, and would not run there"
            fix = f"add Toleration(key={taint.key!r}, operator='Exists')"
            path = f"cluster.{name}.tolerations"
            yield Breach(path=path, message=f"{message}; workers would stay Pending", fix=fix)


@rule(
    code="TND0242",
    title="the machine image is made for the version of Kubernetes",
    story="""Amazon Linux 2 ended with Kubernetes 1.32: EKS makes no image of it for later versions, and a node
    group that asks for one is refused when it is created, or when the cluster is upgraded.""",
    source="EKS User Guide, Amazon Linux 2 AMI deprecation; Karpenter documentation (AL2 dropped at 1.33)",
)
def image_is_made(resolved: Resolved) -> Iterator[Breach]:
    """No AL2_ family from 1.33 on."""
    version = resolved.cluster.version if resolved.cluster else None
    for nodes in resolved.node_pools if version else ():
        family = nodes.declared.ami_family or ""
        if version and family.startswith("AL2_") and int(version.partition(".")[2]) > _AL2_UNTIL:
            message = f"there is no {family} for Kubernetes {version}; the last was 1.{_AL2_UNTIL}"
            path = f"{nodes_path(resolved, nodes)}.ami_family"
            yield Breach(path=path, message=message, fix="use 'AL2023_x86_64_NVIDIA'")


@rule(
    code="TND0243",
    severity="warning",
    title="engines that may be given one GPU ask for no more than it has",
    story="""Time slicing and MPS hand one GPU to several pods, and neither divides its memory. An engine takes its
    fraction of the whole card, whoever else is on it: which one finds too little is a matter of who starts second,
    and changes with every restart.""",
    source="NVIDIA k8s-device-plugin, shared access to GPUs; vLLM 0.33 v1/worker/gpu_worker.py",
)
def shared_gpus_hold(resolved: Resolved) -> Iterator[Breach]:
    """The two largest memory fractions of workers on shared GPUs are at most 1 together."""
    for nodes, pools in pools_by_nodes(resolved):
        fractions = sorted(share for pool in pools for share in [pool.memory_fraction] * min(pool.workers, 2))
        if nodes.declared.gpu_sharing != "none" and len(fractions) > 1 and sum(fractions[-2:]) > 1:
            message = (
                f"with {nodes.declared.gpu_sharing} two engines may be given one GPU, and they would take "
                f"{sum(fractions[-2:]):g} of its memory"
            )
            fix = "use gpu_sharing='none', or memory_fraction of at most 0.5"
            yield Breach(path=f"{nodes_path(resolved, nodes)}.gpu_sharing", message=message, fix=fix)


def _uncovered(resolved: Resolved, plugin: DevicePlugin) -> Taint | None:
    """The first taint of a used node pool that keeps a plugin off."""
    taints = [taint for nodes, _ in pools_by_nodes(resolved) for taint in repelling(nodes)]
    given = plugin.tolerations
    return None if given is None else next((t for t in taints if not any(each.covers(t) for each in given)), None)


def _brought(nodes: Nodes) -> tuple[str, ...]:
    """What a machine image has installed, by the names of GpuOperator's fields."""
    family = nodes.declared.ami_family or ""
    if "NVIDIA" not in family:
        return ()
    if family.startswith(_BOTTLEROCKET):
        return ("driver", "toolkit", "device_plugin")
    return ("driver", "toolkit") if family.startswith(_AL2023) else ()
