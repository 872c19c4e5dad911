"""Where the cluster's files lie, and its fixed addresses: one cluster a machine, of one node or two."""

import socket
from dataclasses import dataclass
from pathlib import Path

from steps import kubernetes
from steps.frame import Place

POD_RANGE = "10.244.0.0/16"
"""Of all nodes; each has a part of it."""
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
API_PORT = 6443
ETCD_PORT = 12379
WEBHOOK_PORT = 9443
GPUS = 8


@dataclass(frozen=True)
class Node:
    """One node of this machine: a kubelet and a containerd of its own, and a bridge for its pods."""

    name: str
    bridge: str
    bridge_address: str
    pod_range: str
    kubelet_port: int
    health_port: int
    run: Path
    """What containerd keeps while it runs; also its socket, whose path may have 107 bytes, and a cache may lie deep."""
    part: str = ""
    """Tells its files and its processes from those of the first node, which have plain names."""

    @property
    def socket(self) -> Path:
        """Of containerd."""
        return self.run / "containerd.sock"

    @property
    def ctr(self) -> tuple[str, ...]:
        """The command that manages this node's images."""
        return ("ctr", "-a", str(self.socket), "-n", "k8s.io")

    @property
    def control_group(self) -> str:
        """Its pods' groups lie below: a kubelet ends what it finds in its own and does not know."""
        return f"tandem-cluster-{self.name}"

    def process(self, program: str) -> str:
        """The name of one of its processes."""
        return f"{program}-{self.part}" if self.part else program

    def home(self, site: "Site") -> Path:
        """The folder of its files."""
        return site.home / self.part


FIRST = Node(
    name="tandem",
    bridge="tnd0",
    bridge_address="10.244.0.1",
    pod_range="10.244.0.0/24",
    kubelet_port=10250,
    health_port=10248,
    run=Path("/run/tandem-containerd"),
)
SECOND = Node(
    name="tandem-second",
    bridge="tnd1",
    bridge_address="10.244.1.1",
    pod_range="10.244.1.0/24",
    kubelet_port=10350,
    health_port=10348,
    run=Path("/run/tandem-containerd-second"),
    part="second",
)
NODES = (FIRST, SECOND)
DNS_ADDRESS = FIRST.bridge_address
"""Where CoreDNS answers the pods of every node."""


@dataclass(frozen=True)
class Site:
    """The cluster of this machine, as seen from one checkout."""

    home: Path
    """Everything that is the machine's: keys, etcd, containers, logs."""
    binaries: Path
    kubeconfig: Path
    """For whoever works in the checkout."""

    @classmethod
    def of(cls, place: Place) -> "Site":
        """The cluster that a checkout starts."""
        return cls(
            home=place.cache / "cluster",
            binaries=kubernetes.cached(place),
            kubeconfig=place.private / "cluster" / "kubeconfig",
        )

    @property
    def keys(self) -> Path:
        """Certificates, keys, the administrator's token."""
        return self.home / "keys"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.home / "logs"


def node_address() -> str:
    """This machine's own address, by which pods reach it. Nothing is sent: a route is looked up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostbyname(socket.gethostname())
