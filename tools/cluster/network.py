"""The pods' network: a bridge for each node, which the kernel routes between; kube-proxy's Services; DNS."""

from pathlib import Path

from cluster.control import component_links
from cluster.host import Host
from cluster.place import API_PORT, DNS_ADDRESS, FIRST, NODES, POD_RANGE, WEBHOOK_PORT, Node, Site
from cluster.probe import answers
from cluster.processes import Processes
from steps.frame import Run, write_whole

READY_TIMEOUT_S = 60.0
CHAIN = "TANDEM-CLUSTER"
CLOSED = (API_PORT, WEBHOOK_PORT, *(node.kubelet_port for node in NODES))
RULES: dict[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    # Pods reach the API server; nobody else from outside reaches it, a kubelet or the webhooks.
    ("filter", "INPUT"): (
        ("-i", "lo", "-j", "RETURN"),
        ("-s", POD_RANGE, "-p", "tcp", "--dport", str(API_PORT), "-j", "RETURN"),
        ("-p", "tcp", "-m", "multiport", "--dports", ",".join(map(str, CLOSED)), "-j", "DROP"),
    ),
    # Pods see each other's own addresses, on another node too; the rest of the world sees the machine's.
    ("nat", "POSTROUTING"): (("-s", POD_RANGE, "!", "-d", POD_RANGE, "-j", "MASQUERADE"),),
}
"""Table and built-in chain to the rules of ours."""


def start_network(host: Host) -> None:
    """The first bridge, the rules, DNS and kube-proxy; it is there once names are answered."""
    add_bridge(FIRST, host.run)
    for (table, builtin), rules in RULES.items():
        add_chain(host.run, table, builtin, rules)
    _dns(host.site, host.processes)
    _proxy(host.site, host.processes)


def await_dns(processes: Processes) -> None:
    """Raises: Failure."""
    processes.until(
        "DNS answers", lambda: answers(f"http://{DNS_ADDRESS}:8181/ready"), name="dns", timeout_s=READY_TIMEOUT_S
    )


def add_bridge(node: Node, run: Run) -> None:
    """The bridge is CNI's at the first pod, but DNS listens on one before there is a pod."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if not Path(f"/sys/class/net/{node.bridge}").exists():
        run("ip", "link", "add", node.bridge, "type", "bridge", why="make the pods' bridge")
        run("ip", "addr", "add", f"{node.bridge_address}/24", "dev", node.bridge, why="give it its address")
        run("ip", "link", "set", node.bridge, "up", why="bring it up")


def add_chain(run: Run, table: str, builtin: str, rules: tuple[tuple[str, ...], ...], name: str = CHAIN) -> None:
    """A chain of exactly these rules, whoever may have left others in it; a built-in one jumps to it first."""
    chain = ("iptables", "-w", "-t", table)
    run.attempt(*chain, "-N", name)
    for words in (("-F", name), *(("-A", name, *rule) for rule in rules)):
        run(*chain, *words, why=f"set the rules of {name} in {table}")
    if run.attempt(*chain, "-C", builtin, "-j", name)[0]:
        run(*chain, "-I", builtin, "1", "-j", name, why=f"let {builtin} jump to {name}")


def remove_chain(run: Run, table: str, builtin: str, name: str = CHAIN) -> None:
    """Nothing where it is not there."""
    run.attempt("iptables", "-w", "-t", table, "-D", builtin, "-j", name)
    run.attempt("iptables", "-w", "-t", table, "-F", name)
    run.attempt("iptables", "-w", "-t", table, "-X", name)


def _proxy(site: Site, processes: Processes) -> None:
    """One for the machine, whose rules hold for the pods of both nodes."""
    processes.start(
        "proxy",
        [
            component_links(site)["kube-proxy"],
            *(f"--kubeconfig={site.keys / 'kubeconfig'}", f"--hostname-override={FIRST.name}"),
            *("--proxy-mode=iptables", f"--cluster-cidr={POD_RANGE}", "--conntrack-max-per-core=0"),
            # What a container's kernel may not set.
            *("--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"),
            *("--bind-address=127.0.0.1", "--metrics-bind-address=127.0.0.1:10249"),
        ],
    )


def _dns(site: Site, processes: Processes) -> None:
    corefile = f"""\
.:53 {{
    bind {DNS_ADDRESS}
    errors
    ready {DNS_ADDRESS}:8181
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
