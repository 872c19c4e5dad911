"""KEDA: its operator makes a HorizontalPodAutoscaler of each ScaledObject, its adapter tells that the figures.

Both run beside the cluster, as everything does here. The API server reaches the adapter over loopback and has judged by
then who may ask; the operator asks for names of Services where pods do.
"""

import contextlib
from pathlib import Path

from cluster.aggregated import Group, serving_flags, serving_keys
from cluster.api import Refused, kinds_in
from cluster.host import Host
from cluster.network import add_chain, remove_chain
from cluster.place import DNS_ADDRESS, Site
from cluster.probe import listens
from cluster.processes import Processes
from steps.frame import write_whole
from steps.programs import KEDA

READY_TIMEOUT_S = 60.0
NAMESPACE = "keda"
GRPC_PORT, ADAPTER_PORT, METRICS_PORT, HEALTH_PORT = 9666, 9667, 9668, 9669
FIGURES = Group("external.metrics.k8s.io", NAMESPACE, "keda-metrics-apiserver", ADAPTER_PORT)
CHAIN = "TANDEM-KEDA"
RULES = (("!", "-i", "lo", "-p", "tcp", "--dport", str(METRICS_PORT), "-j", "DROP"),)
"""The adapter's own metrics listen on every address."""
WITH_CLUSTER_NAMES = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
"""In a mount namespace of its own: Go programs read no other file."""


def start(host: Host) -> None:
    """Start both once their kinds are served, and wait until metrics can be asked for.

    Raises: Failure.
    """
    api, binaries = host.api, KEDA.cached(host.place)
    for path, file in kinds_in(binaries / "crds").items():
        api.apply(path, file.read_bytes())
    host.processes.until(
        "ScaledObjects are served",
        lambda: api.answers("/apis/keda.sh/v1alpha1/scaledobjects"),
        name="apiserver",
        timeout_s=READY_TIMEOUT_S,
    )
    keys = serving_keys(host, "keda", (FIGURES,))  # the adapter proves itself to the operator by the same
    add_chain(host.run, "filter", "INPUT", RULES, CHAIN)
    _operator(host.site, host.processes, binaries / "operator")
    _adapter(host, binaries / "adapter", keys)
    FIGURES.register(host, process="keda-adapter")


def end(host: Host) -> None:
    """Whatever it made."""
    FIGURES.remove(host)
    for path in kinds_in(KEDA.cached(host.place) / "crds"):
        with contextlib.suppress(Refused):
            host.api.ask("DELETE", path)
    for name in ("keda-adapter", "keda-operator"):
        host.processes.stop(name)
    remove_chain(host.run, "filter", "INPUT", CHAIN)


def _environment(site: Site) -> dict[str, str]:
    everything = {"KUBECONFIG": str(site.keys / "kubeconfig"), "WATCH_NAMESPACE": "", "POD_NAMESPACE": NAMESPACE}
    return everything | {"KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE, "NO_PROXY": "*", "no_proxy": "*"}


def _operator(site: Site, processes: Processes, binary: Path) -> None:
    names = site.home / "keda-resolv.conf"
    write_whole(names, f"nameserver {DNS_ADDRESS}\nsearch svc.cluster.local cluster.local\n")
    processes.start(
        "keda-operator",
        [
            *("unshare", "--mount", "sh", "-c", WITH_CLUSTER_NAMES, names),
            *(binary, f"--cert-dir={site.keys / 'keda'}", "--enable-prometheus-metrics=false"),
            *(f"--metrics-service-bind-address=127.0.0.1:{GRPC_PORT}",),
            *(f"--health-probe-bind-address=127.0.0.1:{HEALTH_PORT}", "--zap-log-level=info"),
        ],
        _environment(site),
    )
    processes.until(
        "KEDA's operator answers", lambda: listens(GRPC_PORT), name="keda-operator", timeout_s=READY_TIMEOUT_S
    )


def _adapter(host: Host, binary: Path, keys: Path) -> None:
    host.processes.start(
        "keda-adapter",
        [
            *(binary, *serving_flags(host, keys, FIGURES), f"--lister-kubeconfig={host.site.keys / 'kubeconfig'}"),
            *(f"--port={METRICS_PORT}", f"--metrics-service-address=127.0.0.1:{GRPC_PORT}"),
        ],
        _environment(host.site),
    )
