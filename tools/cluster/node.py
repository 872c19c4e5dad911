"""The node: the pods' network, containerd, kubelet, the Services' rules, and DNS."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from cluster.api import Api, Refused
from cluster.control import component_links
from cluster.place import (
    API_PORT,
    BRIDGE,
    BRIDGE_ADDRESS,
    GPUS,
    KUBELET_PORT,
    NODE,
    POD_RANGE,
    RUN,
    WEBHOOK_PORT,
    Site,
)
from cluster.processes import Processes
from steps.frame import Run, write_whole
from steps.kubernetes import CNI_BIN, PAUSE

READY_TIMEOUT_S = 120.0
CHAIN = "TANDEM-CLUSTER"
LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.count": str(GPUS),
    "node.kubernetes.io/instance-type": "p5.48xlarge",
    "topology.kubernetes.io/zone": "test-1a",
}
"""What GPU feature discovery and a cloud would say of such a machine."""


def start_node(site: Site, processes: Processes, address: str, run: Run) -> None:
    """Start what does not run yet, and wait until the node takes pods and DNS answers."""
    _network(run)
    _close_ports(run)
    _containerd(site, processes, run)
    _kubelet(site, processes, address)
    _dns(site, processes)
    api = Api(site)
    processes.until("the node has joined", lambda: _joined(api), name="kubelet", timeout_s=READY_TIMEOUT_S)
    processes.until("the node is ready", lambda: _ready(api), name="kubelet", timeout_s=READY_TIMEOUT_S)
    processes.until("DNS answers", _dns_ready, name="dns", timeout_s=READY_TIMEOUT_S)


def _network(run: Run) -> None:
    """The bridge is CNI's at the first pod, but DNS listens on it before there is one."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        run("ip", "link", "add", BRIDGE, "type", "bridge", why="make the pods' bridge")
        run("ip", "addr", "add", f"{BRIDGE_ADDRESS}/24", "dev", BRIDGE, why="give it its address")
        run("ip", "link", "set", BRIDGE, "up", why="bring it up")


def _close_ports(run: Run) -> None:
    """Pods reach the API server; nobody else from outside reaches it, the kubelet or the webhooks."""
    if run.attempt("iptables", "-w", "-n", "-L", CHAIN)[0] == 0:
        return
    ports = f"{API_PORT},{KUBELET_PORT},{WEBHOOK_PORT}"
    rules = (
        ("-N", CHAIN),
        ("-A", CHAIN, "-i", "lo", "-j", "RETURN"),
        ("-A", CHAIN, "-s", POD_RANGE, "-p", "tcp", "--dport", str(API_PORT), "-j", "RETURN"),
        ("-A", CHAIN, "-p", "tcp", "-m", "multiport", "--dports", ports, "-j", "DROP"),
        ("-I", "INPUT", "1", "-j", CHAIN),
    )
    for rule in rules:
        run("iptables", "-w", *rule, why="close the cluster's ports to other machines")


def _containerd(site: Site, processes: Processes, run: Run) -> None:
    config = site.home / "cni"
    network = {
        "cniVersion": "0.4.0",
        "name": "tandem",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(site.home / "addresses"),
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    write_whole(config / "10-tandem.conflist", json.dumps(network))
    toml = f"""\
version = 2
root = "{site.home}/containerd"
state = "{RUN}"
[grpc]
  address = "{site.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_BIN}"
    conf_dir = "{config}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
    write_whole(site.home / "containerd.toml", toml)
    processes.start("containerd", ["containerd", "-c", site.home / "containerd.toml", "--log-level", "warn"])
    processes.until(
        "containerd answers",
        lambda: run.attempt(*site.ctr, "version")[0] == 0,
        name="containerd",
        timeout_s=READY_TIMEOUT_S,
    )
    if PAUSE not in run.attempt(*site.ctr, "images", "list", "-q")[1]:
        run(*site.ctr, "images", "import", site.binaries / "pause.tar", why="import the pause image")


def _kubelet(site: Site, processes: Processes, address: str) -> None:
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # Its port is closed to other machines and to pods.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{site.socket}",
        "clusterDomain": "cluster.local",
        "clusterDNS": [BRIDGE_ADDRESS],
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": str(site.home / "pod-logs"),
        "serializeImagePulls": False,
        # A test machine's disk is as full as it is; images are imported, so none is ever collected.
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    }
    write_whole(site.home / "kubelet.json", json.dumps(config))
    links, kubeconfig = component_links(site), site.keys / "kubeconfig"
    labels = ",".join(f"{key}={value}" for key, value in LABELS.items() if ".kubernetes.io/" not in key)
    processes.start(
        "kubelet",
        [
            links["kubelet"],
            *(f"--config={site.home / 'kubelet.json'}", f"--kubeconfig={kubeconfig}"),
            *(f"--root-dir={site.home / 'kubelet'}", f"--cert-dir={site.home / 'certs'}"),
            *(f"--hostname-override={NODE}", f"--node-ip={address}", f"--node-labels={labels}"),
        ],
    )
    processes.start(
        "proxy",
        [
            links["kube-proxy"],
            *(f"--kubeconfig={kubeconfig}", f"--hostname-override={NODE}", "--proxy-mode=iptables"),
            *(f"--cluster-cidr={POD_RANGE}", "--conntrack-max-per-core=0"),
            # What a container's kernel may not set.
            *("--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"),
            *("--bind-address=127.0.0.1", "--metrics-bind-address=127.0.0.1:10249"),
        ],
    )


def _dns(site: Site, processes: Processes) -> None:
    corefile = f"""\
.:53 {{
    bind {BRIDGE_ADDRESS}
    errors
    ready {BRIDGE_ADDRESS}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {site.keys / "kubeconfig"} tandem
        pods insecure
        ttl 2
    }}
    cache 2
    forward . /etc/resolv.conf
}}
"""
    write_whole(site.home / "Corefile", corefile)
    processes.start("dns", [site.binaries / "coredns", "-conf", site.home / "Corefile"])


def _dns_ready() -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{BRIDGE_ADDRESS}:8181/ready", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _joined(api: Api) -> bool:
    """Whether the node is there, which then gets its GPUs and labels."""
    capacity = {"nvidia.com/gpu": str(GPUS)}
    try:
        api.merge(f"/api/v1/nodes/{NODE}/status", {"status": {"capacity": capacity, "allocatable": capacity}})
        api.merge(f"/api/v1/nodes/{NODE}", {"metadata": {"labels": LABELS}, "spec": {"unschedulable": None}})
    except Refused:
        return False
    return True


def _ready(api: Api) -> bool:
    status = api.ask("GET", f"/api/v1/nodes/{NODE}")["status"]
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status["conditions"])
    if status["allocatable"].get("nvidia.com/gpu") != str(GPUS):
        _joined(api)
        return False
    return ready
