"""A node: containerd, its kubelet, and what GPUs it says that it has."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path

from cluster.api import Api, Refused
from cluster.control import component_links
from cluster.host import Host
from cluster.network import add_bridge
from cluster.place import DNS_ADDRESS, GPUS, Node
from steps.frame import write_whole
from steps.kubernetes import CNI_BIN, PAUSE

READY_TIMEOUT_S = 120.0
CONTROL_GROUPS = Path("/sys/fs/cgroup")
LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.count": str(GPUS),
    "node.kubernetes.io/instance-type": "p5.48xlarge",
    "topology.kubernetes.io/zone": "test-1a",
}
"""What GPU feature discovery and a cloud would say of such a machine."""


def start_node(host: Host, node: Node) -> None:
    """Start what does not run yet, and wait until the node takes pods."""
    add_bridge(node, host.run)
    _containerd(host, node)
    _kubelet(host, node)
    api, kubelet = host.api, node.process("kubelet")
    until = host.processes.until
    until(f"{node.name} has joined", lambda: _joined(api, node), name=kubelet, timeout_s=READY_TIMEOUT_S)
    until(f"{node.name} is ready", lambda: _ready(api, node), name=kubelet, timeout_s=READY_TIMEOUT_S)


def _containerd(host: Host, node: Node) -> None:
    home, run = node.home(host.site), host.run
    network = {
        "cniVersion": "0.4.0",
        "name": node.name,
        "plugins": [
            {
                "type": "bridge",
                "bridge": node.bridge,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(home / "addresses"),
                    "ranges": [[{"subnet": node.pod_range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    write_whole(home / "cni" / "10-tandem.conflist", json.dumps(network))
    toml = f"""\
version = 2
root = "{home}/containerd"
state = "{node.run}"
[grpc]
  address = "{node.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_BIN}"
    conf_dir = "{home / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
    write_whole(home / "containerd.toml", toml)
    name = node.process("containerd")
    host.processes.start(name, ["containerd", "-c", home / "containerd.toml", "--log-level", "warn"])
    answers = lambda: run.attempt(*node.ctr, "version")[0] == 0  # noqa: E731 - one use
    host.processes.until(f"{name} answers", answers, name=name, timeout_s=READY_TIMEOUT_S)
    if PAUSE not in run.attempt(*node.ctr, "images", "list", "-q")[1]:
        run(*node.ctr, "images", "import", host.site.binaries / "pause.tar", why="import the pause image")


def _kubelet(host: Host, node: Node) -> None:
    home, site = node.home(host.site), host.site
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # Its port is closed to other machines and to pods.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "port": node.kubelet_port,
        "healthzPort": node.health_port,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.control_group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_ADDRESS],
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": str(home / "pod-logs"),
        "serializeImagePulls": False,
        # A test machine's disk is as full as it is; images are imported, so none is ever collected.
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    }
    write_whole(home / "kubelet.json", json.dumps(config))
    for hierarchy in hierarchies():
        (hierarchy / node.control_group).mkdir(exist_ok=True)
    labels = ",".join(f"{key}={value}" for key, value in LABELS.items() if ".kubernetes.io/" not in key)
    host.processes.start(
        node.process("kubelet"),
        [
            component_links(site)["kubelet"],
            *(f"--config={home / 'kubelet.json'}", f"--kubeconfig={site.keys / 'kubeconfig'}"),
            *(f"--root-dir={home / 'kubelet'}", f"--cert-dir={home / 'certs'}"),
            *(f"--hostname-override={node.name}", f"--node-ip={host.address}", f"--node-labels={labels}"),
        ],
    )


def hierarchies() -> Generator[Path]:
    """The roots of this machine's control groups: one, or one for each controller in version 1."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        yield CONTROL_GROUPS
        return
    for folder in CONTROL_GROUPS.iterdir():
        if (folder / "cgroup.procs").exists() and not folder.is_symlink():
            yield folder


def remove_control_group(node: Node) -> None:
    """Folders of its pods, deepest first; one that still holds a process stays, and is told by that."""
    for hierarchy in hierarchies():
        top = hierarchy / node.control_group
        folders = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
        for folder in (*folders, top):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _joined(api: Api, node: Node) -> bool:
    """Whether the node is there, which then gets its GPUs and labels."""
    capacity = {"nvidia.com/gpu": str(GPUS)}
    path = f"/api/v1/nodes/{node.name}"
    try:
        api.merge(f"{path}/status", {"status": {"capacity": capacity, "allocatable": capacity}})
        api.merge(path, {"metadata": {"labels": LABELS}, "spec": {"unschedulable": None}})
    except Refused:
        return False
    return True


def _ready(api: Api, node: Node) -> bool:
    status = api.ask("GET", f"/api/v1/nodes/{node.name}")["status"]
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status["conditions"])
    if status["allocatable"].get("nvidia.com/gpu") != str(GPUS):
        _joined(api, node)
        return False
    return ready
