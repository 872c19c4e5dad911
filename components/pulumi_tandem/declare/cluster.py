"""The Kubernetes cluster that a service runs in: what it is and what it lets through."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.nodes import NodePool, Toleration
from pulumi_tandem.declare.noun import Noun

Fabric = Literal["tcp", "efa", "infiniband", "roce", "mnnvl"]
"""`tcp`: an ordinary network; `mnnvl`: NVLink between machines, and an ordinary network beside it."""


class SecurityGroup(Noun):
    """What the nodes' security group lets through between nodes."""

    self_ingress: bool = True
    """Whether all traffic may come in from the group itself."""
    self_egress: bool = True
    """Whether all traffic may go out to the group itself; a rule for 0.0.0.0/0 does not count for EFA."""
    eks_default: bool = False
    """Whether it is the cluster's own group, as EKS made it, with no rule added."""
    tcp_ports: tuple[int, ...] | None = None
    """TCP ports that are open between the pools' nodes. Default: all."""


class NetworkPolicy(Noun):
    """What the namespace's NetworkPolicies let in to pods beside what Tandem adds for its own."""

    default: Literal["allow", "deny"] = "allow"
    ingress_ports: tuple[int, ...] = ()
    """TCP ports that are let in where the default is `deny`."""
    add_rules: bool = True
    """Whether Tandem adds the rules that its gateway, prover and workers need between them."""


class DevicePlugin(Noun):
    """A DaemonSet that tells Kubernetes of devices on its nodes."""

    installed: bool = True
    version: str | None = None
    """Of the plugin itself, as its image is tagged, and not of its chart. Default: not known."""
    tolerations: tuple[Toleration, ...] | None = None
    """Default: as Tandem installs it, every taint."""


class GpuOperator(Noun):
    """Which parts NVIDIA's GPU operator installs on the nodes."""

    driver: bool = True
    toolkit: bool = True
    device_plugin: bool = True


class Cluster(Noun):
    """A Kubernetes cluster; everything is optional, and what is not said is not judged."""

    provider: Literal["eks", "other"] = "other"
    version: str | None = Field(default=None, pattern=r"^1\.\d+$")
    """Minor version of Kubernetes: `1.34`."""
    fabric: Fabric | None = None
    """Fastest network between nodes. Default: not known."""
    network_gbit_per_s: float | None = Field(default=None, gt=0)
    """Of one node. Default: the instance type's."""
    node_pools: tuple[NodePool, ...] = ()
    security_group: SecurityGroup | None = None
    network_policy: NetworkPolicy | None = None
    pod_security: Literal["privileged", "baseline", "restricted"] | None = None
    """Pod Security level that the service's namespace enforces."""
    gpu_plugin: DevicePlugin | None = None
    """NVIDIA's device plugin."""
    feature_discovery: DevicePlugin | None = None
    """Node Feature Discovery, whose labels the GPU plugin's chart selects nodes by."""
    efa_plugin: DevicePlugin | None = None
    """AWS' EFA device plugin."""
    gpu_operator: GpuOperator | None = None
    dra: bool | None = None
    """Whether devices are claimed through Dynamic Resource Allocation in place of device plugins."""
    vcpu_quota: dict[str, int] = Field(default_factory=dict)
    """EC2's limit of running on-demand vCPUs by family: `{"P": 192}`. Default: not known."""
    secrets: tuple[str, ...] | None = None
    """Names of the Secrets in the service's namespace. Default: not known."""
