"""A second node on the same machine: what a drain, and pods that move, take.

Its pods reach those of the first by the kernel's own routes, as both bridges are of this machine.
"""

from cluster.down import leave
from cluster.host import Host
from cluster.node import start_node
from cluster.place import SECOND
from steps import images

IMAGES = ("gateway", "worker-fake")
"""What is worth its room twice; a pod of another image that lands here does not start."""


def start(host: Host) -> None:
    """Raises: Failure."""
    start_node(host, SECOND)
    images.import_missing(host.place, host.run, SECOND.ctr, IMAGES)


def end(host: Host) -> None:
    """Its pods move; nothing of it stays but its images."""
    leave(host, SECOND)
