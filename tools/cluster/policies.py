"""NetworkPolicies enforced: the first packet of each connection of a pod is judged by kube-network-policies.

The controller would add its rules itself, by nftables. Its rules take `CONFIG_NFT_QUEUE`, which kernels of small
machines lack; these take iptables' own NFQUEUE, and the controller, which goes on without its own, judges what they
send to its queue. Without the controller nothing new gets through.
"""

from pathlib import Path

from cluster.host import Host
from cluster.network import add_chain, remove_chain
from cluster.place import POD_RANGE
from steps.programs import POLICIES

QUEUE = 100
READY_TIMEOUT_S = 30.0
_JUDGED = ("-j", "NFQUEUE", "--queue-num", str(QUEUE))
_KNOWN = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN")
CHAINS = {
    # Before addresses are hidden, and after those of Services have become those of pods. Probes of kubelets, which
    # no policy may forbid, are root's.
    ("POSTROUTING", "TANDEM-POLICIES"): (
        _KNOWN,
        ("-m", "owner", "--uid-owner", "0", "-j", "RETURN"),
        ("-s", POD_RANGE, *_JUDGED),
        ("-d", POD_RANGE, *_JUDGED),
    ),
    # The API server and DNS are this machine's own.
    ("INPUT", "TANDEM-POLICIES-IN"): (_KNOWN, ("-s", POD_RANGE, *_JUDGED)),
}
"""Built-in chain of the table `mangle` and name of ours to its rules."""


def start(host: Host) -> None:
    """The controller, then the rules.

    Raises: Failure.
    """
    kubeconfig = host.site.keys / "kubeconfig"
    command = (POLICIES.binary(host.place), "--kubeconfig", kubeconfig, "--queue", str(QUEUE))
    host.processes.start("policies", command)
    host.processes.until("policies are judged", _listens, name="policies", timeout_s=READY_TIMEOUT_S)
    for (builtin, name), rules in CHAINS.items():
        add_chain(host.run, "mangle", builtin, rules, name)


def end(host: Host) -> None:
    """The rules first: what they queue for nobody is lost."""
    for builtin, name in CHAINS:
        remove_chain(host.run, "mangle", builtin, name)
    host.processes.stop("policies")


def _listens() -> bool:
    """Source: nfnetlink_queue's seq_show in the kernel: the queue's number stands first."""
    queues = Path("/proc/net/netfilter/nfnetlink_queue")
    return queues.exists() and any(line.split()[0] == str(QUEUE) for line in queues.read_text().splitlines())
