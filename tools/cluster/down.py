"""The cluster's end: pods first, while somebody can stop them; then every process, mount, rule and link of ours."""

import contextlib
import shutil
import time
from pathlib import Path

from cluster.additions import ADDITIONS
from cluster.api import Api, Refused
from cluster.node import CHAIN
from cluster.place import BRIDGE, NODE, RUN, Site
from cluster.processes import Processes
from steps.frame import Run

PODS_GONE_TIMEOUT_S = 60.0
ORDER = ("lws", "scheduler", "controllers", "proxy", "kubelet", "dns", "apiserver", "etcd", "containerd")
CHAINS = {
    "filter": (CHAIN, "KUBE-FIREWALL", "KUBE-KUBELET-CANARY"),
    "nat": ("KUBE-KUBELET-CANARY",),
    "mangle": ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"),
}
"""Ours, and those that the kubelet leaves; another kubelet of this machine would make its own again in a minute."""
FORGOTTEN = ("etcd", "kubelet", "certs", "pod-logs", "addresses")
"""Folders that another start makes anew; what stays are keys, images and logs."""


def end(site: Site, processes: Processes, run: Run) -> None:
    """Leave nothing that runs, nothing mounted, no rule and no link; images stay."""
    for addition in ADDITIONS.values():
        for name in addition.processes:
            processes.stop(name)
        addition.end(run)
    running = processes.running()
    if "apiserver" in running and "kubelet" in running:
        # With the controllers gone nobody makes new pods of the deleted ones.
        for name in ("lws", "controllers", "scheduler"):
            processes.stop(name)
        _delete_pods(Api(site))
    for name in ORDER[:-1]:
        processes.stop(name)
    if "containerd" in running:
        _end_containers(site, run)
    processes.stop("containerd")
    _unmount(site, run)
    _rules(site, run)
    for folder in FORGOTTEN:
        shutil.rmtree(site.home / folder, ignore_errors=True)
    site.kubeconfig.unlink(missing_ok=True)


def _delete_pods(api: Api) -> None:
    """A hook that would be asked of each deleted pod is gone with its controller, so it is removed first."""
    deadline_s = time.monotonic() + PODS_GONE_TIMEOUT_S
    for kind in ("mutating", "validating"):
        with contextlib.suppress(Refused):
            api.ask("DELETE", f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/lws-{kind}")
    while time.monotonic() < deadline_s:
        try:
            pods = api.ask("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={NODE}")["items"]
            if not pods:
                return
            for pod in pods:
                where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
                with contextlib.suppress(Refused):
                    api.ask("DELETE", f"{where}?gracePeriodSeconds=1")
        except Refused:
            return
        time.sleep(0.5)


def _end_containers(site: Site, run: Run) -> None:
    """What the kubelet left, if it was killed."""
    for task in run.attempt(*site.ctr, "tasks", "list", "-q")[1].split():
        run.attempt(*site.ctr, "tasks", "delete", "--force", task)
    for container in run.attempt(*site.ctr, "containers", "list", "-q")[1].split():
        run.attempt(*site.ctr, "containers", "delete", container)


def _unmount(site: Site, run: Run) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    ours = [path for path in mounted if path.startswith((f"{site.home}/", f"{RUN}/"))]
    for path in sorted(ours, reverse=True):
        run.attempt("umount", "-l", path)


def _rules(site: Site, run: Run) -> None:
    proxy = site.home / "bin" / "kube-proxy"
    if proxy.exists():
        run.attempt(proxy, "--cleanup", "--proxy-mode=iptables")
    for table, chains in CHAINS.items():
        for chain in chains:
            for builtin in ("INPUT", "OUTPUT"):
                run.attempt("iptables", "-w", "-t", table, "-D", builtin, "-j", chain)
            run.attempt("iptables", "-w", "-t", table, "-F", chain)
            run.attempt("iptables", "-w", "-t", table, "-X", chain)
    run.attempt("ip", "link", "delete", BRIDGE)
    _control_groups(Path("/sys/fs/cgroup"))


def _control_groups(root: Path) -> None:
    """Folders of the pods, deepest first; those that still hold a process stay, and are somebody's."""
    for top in (*root.glob("kubepods*"), *root.glob("*/kubepods*")):
        for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()
