"""The cluster's end: pods first, while somebody can stop them; then every process, mount, rule and link of ours."""

import contextlib
import shutil
import time
from pathlib import Path

from cluster.api import Api, Refused
from cluster.host import Host
from cluster.network import CHAIN, RULES, remove_chain
from cluster.node import remove_control_group
from cluster.place import FIRST, Node
from steps.frame import Run

PODS_GONE_TIMEOUT_S = 60.0
BEFORE_PODS = ("lws", "scheduler", "controllers")
"""With these gone nobody makes new pods of the deleted ones."""
LAST = ("proxy", "dns", "apiserver", "etcd")
LEFT = {
    ("filter", "INPUT"): ("KUBE-FIREWALL", "KUBE-KUBELET-CANARY"),
    ("filter", "OUTPUT"): ("KUBE-FIREWALL",),
    ("nat", "OUTPUT"): ("KUBE-KUBELET-CANARY",),
    ("mangle", "OUTPUT"): ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"),
}
"""What a kubelet leaves; another kubelet of this machine would make its own again in a minute."""
FORGOTTEN = ("kubelet", "certs", "pod-logs", "addresses")
"""Folders of a node that another start makes anew; what stays are keys, images and logs."""


def end(host: Host) -> None:
    """Leave nothing that runs, nothing mounted, no rule and no link; images stay. Parts that were added end before."""
    running = host.processes.running()
    for name in BEFORE_PODS:
        host.processes.stop(name)
    if {"apiserver", "kubelet"} <= set(running):
        _remove_hooks(host.api)
        _delete_pods(host.api, FIRST)
    for name in ("kubelet", *LAST):
        host.processes.stop(name)
    end_node(host, FIRST)
    _rules(host)
    shutil.rmtree(host.site.home / "etcd", ignore_errors=True)
    host.site.kubeconfig.unlink(missing_ok=True)


def leave(host: Host, node: Node) -> None:
    """End one node of a cluster that goes on: its pods move, as far as others have room for them."""
    if node.process("kubelet") in host.processes.running():
        with contextlib.suppress(Refused):
            host.api.merge(f"/api/v1/nodes/{node.name}", {"spec": {"unschedulable": True}})
        _delete_pods(host.api, node)
    end_node(host, node)
    with contextlib.suppress(Refused):
        host.api.ask("DELETE", f"/api/v1/nodes/{node.name}")


def end_node(host: Host, node: Node) -> None:
    """Everything of one node but its images."""
    containerd = node.process("containerd")
    host.processes.stop(node.process("kubelet"))
    if containerd in host.processes.running():
        _end_containers(node, host.run)
    host.processes.stop(containerd)
    _unmount((node.home(host.site), node.run), host.run)
    host.run.attempt("ip", "link", "delete", node.bridge)
    remove_control_group(node)
    for folder in (node.run, *(node.home(host.site) / name for name in FORGOTTEN)):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_hooks(api: Api) -> None:
    """A hook that would be asked of each deleted pod is gone with its controller."""
    for kind in ("mutating", "validating"):
        with contextlib.suppress(Refused):
            api.ask("DELETE", f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/lws-{kind}")


def _delete_pods(api: Api, node: Node) -> None:
    """All of them, by a kubelet that still runs."""
    deadline_s = time.monotonic() + PODS_GONE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            pods = api.ask("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={node.name}")["items"]
            if not pods:
                return
            for pod in pods:
                where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
                with contextlib.suppress(Refused):
                    api.ask("DELETE", f"{where}?gracePeriodSeconds=1")
        except Refused:
            return
        time.sleep(0.5)


def _end_containers(node: Node, run: Run) -> None:
    """What the kubelet left, if it was killed."""
    for task in run.attempt(*node.ctr, "tasks", "list", "-q")[1].split():
        run.attempt(*node.ctr, "tasks", "delete", "--force", task)
    for container in run.attempt(*node.ctr, "containers", "list", "-q")[1].split():
        run.attempt(*node.ctr, "containers", "delete", container)


def _unmount(folders: tuple[Path, ...], run: Run) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    ours = [path for path in mounted if path.startswith(tuple(f"{folder}/" for folder in folders))]
    for path in sorted(ours, reverse=True):
        run.attempt("umount", "-l", path)


def _rules(host: Host) -> None:
    proxy = host.site.home / "bin" / "kube-proxy"
    if proxy.exists():
        host.run.attempt(proxy, "--cleanup", "--proxy-mode=iptables")
    for table, builtin in RULES:
        remove_chain(host.run, table, builtin, CHAIN)
    for (table, builtin), chains in LEFT.items():
        for chain in chains:
            remove_chain(host.run, table, builtin, chain)
