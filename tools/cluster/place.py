"""Where the cluster's files lie, and its fixed addresses: one cluster a machine."""

import socket
from dataclasses import dataclass
from pathlib import Path

from steps import kubernetes
from steps.frame import Place

NODE = "tandem"
BRIDGE = "tnd0"
POD_RANGE = "10.244.0.0/24"
BRIDGE_ADDRESS = "10.244.0.1"
"""Also where CoreDNS answers."""
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
API_PORT = 6443
ETCD_PORT = 12379
KUBELET_PORT = 10250
WEBHOOK_PORT = 9443
GPUS = 8
RUN = Path("/run/tandem-containerd")
"""What containerd keeps while it runs."""


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

    @property
    def socket(self) -> Path:
        """Of containerd; a socket's path may have 107 bytes, and a cache may lie deep."""
        return RUN / "containerd.sock"

    @property
    def ctr(self) -> tuple[str, ...]:
        """The command that manages this cluster's images."""
        return ("ctr", "-a", str(self.socket), "-n", "k8s.io")


def node_address() -> str:
    """This machine's own address, by which pods reach it. Nothing is sent: a route is looked up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostbyname(socket.gethostname())
