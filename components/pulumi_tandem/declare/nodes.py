"""Machines of a cluster: what they are, where they stand, how they are paid for, who may run there."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.noun import Noun

TaintEffect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class Taint(Noun):
    """What keeps pods off a node that do not tolerate it, in Kubernetes' words."""

    key: str = Field(min_length=1)
    value: str = ""
    effect: TaintEffect = "NoSchedule"


class Toleration(Noun):
    """Leave to run on nodes with a taint, in Kubernetes' words."""

    key: str | None = None
    """None, with `Exists`: every key."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Exists` matches every value."""
    value: str = ""
    effect: TaintEffect | None = None
    """None: every effect."""

    def covers(self, taint: Taint) -> bool:
        """Whether a pod with this may run on a node with the taint. Source: Kubernetes, taints and tolerations."""
        if self.effect not in {None, taint.effect}:
            return False
        if self.key is None:
            return self.operator == "Exists"
        return self.key == taint.key and (self.operator == "Exists" or self.value == taint.value)


class NetworkInterface(Noun):
    """One network interface of a launch template."""

    card: int = Field(default=0, ge=0)
    """EC2's network card index."""
    device: int = Field(default=0, ge=0)
    """EC2's device index on that card."""
    type: Literal["interface", "efa", "efa-only"] = "interface"
    """`efa` has an address beside its EFA device, `efa-only` has none, `interface` has no EFA device."""


class Capacity(Noun):
    """How machines are had from the cloud."""

    type: Literal["on-demand", "spot", "reservation", "capacity-block"] = "on-demand"
    id: str | None = None
    """Of the reservation."""
    nodes: int | None = Field(default=None, ge=0)
    """Machines that are reserved. Default: not known."""
    placement_group: str | None = None
    """Name or ARN of the placement group that the reservation was made in. Default: none."""


class PlacementGroup(Noun):
    """How close together EC2 puts the machines of a pool."""

    name: str | None = None
    """Name or ARN of a group that exists. Default: a new one is made for the pool."""
    strategy: Literal["cluster", "partition", "spread"] = "cluster"


class NodePool(Noun):
    """Equal machines; everything is optional, and what is not said is not judged."""

    name: str = Field(default="gpu", min_length=1)
    instance_type: str | None = None
    """EC2's name: `p5.48xlarge`."""
    gpu: str | None = None
    """Catalog name. Default: what the instance type has."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """Default: what the instance type has."""
    managed_by: Literal["managed-node-group", "karpenter", "auto-mode", "other"] = "other"
    """Who starts and stops the machines."""
    nodes: int | None = Field(default=None, ge=0)
    """Machines that the pool starts with."""
    nodes_max: int | None = Field(default=None, ge=0)
    """Default: `nodes` where nobody starts more (`managed_by='other'`); else not known."""
    gpus_max: int | None = Field(default=None, ge=0)
    """GPUs that the pool can have in all: Karpenter's limit of `nvidia.com/gpu`, or the size of what is there."""
    zones: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    """Names or ids."""
    subnet_cidrs: tuple[str, ...] = ()
    capacity: Capacity | None = None
    """Default: not said, and not judged."""
    placement_group: PlacementGroup | None = None
    network_interfaces: tuple[NetworkInterface, ...] = ()
    """Of each machine. Default: the layout that the instance type needs for EFA."""
    public_ip: bool = False
    """Whether each machine is given a public address when it starts."""
    ami_family: str | None = None
    """EKS' AMI type: `AL2023_x86_64_NVIDIA`, `BOTTLEROCKET_x86_64_NVIDIA`."""
    ami_release: str | None = None
    """As EKS names it: `1.34-v20251108`."""
    nvidia_driver: str | None = None
    """Version of the driver on the machines."""
    taints: tuple[Taint, ...] = ()
    root_volume_gib: float | None = Field(default=None, gt=0)
    nvme_raid0: bool = False
    """Whether the machine's own NVMe disks hold images and the pods' scratch space, in place of the root volume."""
    gpu_sharing: Literal["none", "time-slicing", "mps"] = "none"
    """How several pods are given one GPU; slices of MIG are declared by the pool that uses them (`Pool.mig`)."""
    rdma_devices: int | None = Field(default=None, ge=0)
    """InfiniBand or RoCE devices of each machine that pods can ask for. Default: not known."""
    nvlink_domain: str | None = None
    """Rack whose GPUs reach each other over NVLink (GB200 NVL72). Default: one machine."""
    consolidation: Literal["WhenEmpty", "WhenEmptyOrUnderutilized"] | None = None
    """Karpenter's consolidationPolicy. Default: Tandem's, `WhenEmpty`."""
    disruption_budget_nodes: int | None = Field(default=None, ge=0)
    """Machines that Karpenter may take away at once by its own will; 0: none."""
