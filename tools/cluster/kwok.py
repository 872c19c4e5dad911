"""Nodes that do not exist: KWOK's controller plays the kubelets of those that are annotated for it, and of no others.

It says of their pods that they run, and gives each an address of `FAKE_POD_RANGE`. Those addresses are this machine's
own, so a process that listens at one of them is what answers for the pod.
"""

import json

from cluster.host import Host
from cluster.probe import answers
from steps.frame import write_whole
from steps.programs import KWOK

ANNOTATION = "kwok.x-k8s.io/node=fake"
FAKE_POD_RANGE = "10.245.0.0/16"
SERVER = "127.0.0.1:10247"
LEASE_S = 120
"""KWOK renews a node's lease after a quarter of it; the controllers give a node up after 50 s without."""
PARALLEL = 4
READY_TIMEOUT_S = 60.0
ROUTE = ("local", FAKE_POD_RANGE, "dev", "lo")


def start(host: Host) -> None:
    """Start the controller, and make the pods' addresses this machine's own.

    Raises: Failure.
    """
    host.run("ip", "route", "replace", *ROUTE, why="make the addresses of fake pods this machine's own")
    options: dict[str, str | int] = {
        "manageNodesWithAnnotationSelector": ANNOTATION,
        "cidr": FAKE_POD_RANGE,
        "nodeLeaseDurationSeconds": LEASE_S,
        **{f"{what}Parallelism": PARALLEL for what in ("nodeLease", "nodePlayStage", "podPlayStage", "podsOnNodeSync")},
        "serverAddress": SERVER,
    }
    config = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
    binaries, site = KWOK.cached(host.place), host.site
    write_whole(site.home / "kwok.yaml", json.dumps(config))
    host.processes.start(
        "kwok",
        [
            *(binaries / "kwok", f"--kubeconfig={site.keys / 'kubeconfig'}"),
            *(f"--config={site.home / 'kwok.yaml'}", f"--config={binaries / 'stages.yaml'}"),
        ],
    )
    host.processes.until(
        "KWOK answers", lambda: answers(f"http://{SERVER}/healthz"), name="kwok", timeout_s=READY_TIMEOUT_S
    )


def end(host: Host) -> None:
    """End the controller, and take the route away."""
    host.processes.stop("kwok")
    host.run.attempt("ip", "route", "delete", *ROUTE)
