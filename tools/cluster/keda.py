"""KEDA: its operator makes a HorizontalPodAutoscaler of each ScaledObject, its adapter tells that the figures.

Both run beside the cluster, as everything does here. The API server reaches the adapter over loopback and has judged by
then who may ask; the operator asks for names of Services where pods do.
"""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

from cluster.api import Api
from cluster.keys import authority, certificate
from cluster.place import BRIDGE_ADDRESS, Site
from cluster.processes import Processes
from steps import keda
from steps.frame import Place, Run, write_whole

READY_TIMEOUT_S = 60.0
NAMESPACE = "keda"
SERVICE = "keda-metrics-apiserver"
GRPC_PORT, ADAPTER_PORT, METRICS_PORT, HEALTH_PORT = 9666, 9667, 9668, 9669
CHAIN = "TANDEM-KEDA"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_GROUP = "external.metrics.k8s.io"
WITH_CLUSTER_NAMES = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
"""In a mount namespace of its own: Go programs read no other file."""


def start_keda(place: Place, site: Site, processes: Processes, run: Run) -> None:
    """Start both once their kinds are served, and wait until metrics can be asked for."""
    api, binaries = Api(site), keda.cached(place)
    for file in sorted((binaries / "crds").glob("*.yaml")):
        group, _, plural = file.stem.partition("_")
        api.apply(f"{_CRDS}/{plural}.{group}", file.read_bytes())
    processes.until(
        "ScaledObjects are served",
        lambda: api.answers("/apis/keda.sh/v1alpha1/scaledobjects"),
        name="apiserver",
        timeout_s=READY_TIMEOUT_S,
    )
    _keys(site, run)
    _close_ports(run)
    _operator(site, processes, binaries / "operator")
    _adapter(site, processes, binaries / "adapter")
    for path, body in _registered(site).items():
        api.apply(path, json.dumps(body).encode())
    processes.until(
        "metrics can be asked for",
        lambda: api.answers(f"/apis/{_GROUP}/v1beta1"),
        name="keda-adapter",
        timeout_s=READY_TIMEOUT_S,
    )


def end_keda(run: Run) -> None:
    """Take the rules away; the processes are gone."""
    run.attempt("iptables", "-w", "-D", "INPUT", "-j", CHAIN)
    run.attempt("iptables", "-w", "-F", CHAIN)
    run.attempt("iptables", "-w", "-X", CHAIN)


def _keys(site: Site, run: Run) -> None:
    """One certificate for both ends: the adapter proves itself to the operator by it, too."""
    folder = site.keys / "keda"
    if not (folder / "tls.crt").exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        certificate(site.keys, "keda/tls", "keda", f"IP:127.0.0.1,DNS:{SERVICE}.{NAMESPACE}.svc", run)
        shutil.copyfile(site.keys / "ca.crt", folder / "ca.crt")


def _close_ports(run: Run) -> None:
    """The adapter's own metrics listen on every address."""
    if run.attempt("iptables", "-w", "-n", "-L", CHAIN)[0]:
        port = ("-p", "tcp", "--dport", str(METRICS_PORT))
        rules = (("-N", CHAIN), ("-A", CHAIN, "!", "-i", "lo", *port, "-j", "DROP"), ("-I", "INPUT", "1", "-j", CHAIN))
        for rule in rules:
            run("iptables", "-w", *rule, why="close KEDA's port to other machines")


def _environment(site: Site) -> dict[str, str]:
    everything = {"KUBECONFIG": str(site.keys / "kubeconfig"), "WATCH_NAMESPACE": "", "POD_NAMESPACE": NAMESPACE}
    return everything | {"KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE, "NO_PROXY": "*", "no_proxy": "*"}


def _operator(site: Site, processes: Processes, binary: Path) -> None:
    names = site.home / "keda-resolv.conf"
    write_whole(names, f"nameserver {BRIDGE_ADDRESS}\nsearch svc.cluster.local cluster.local\n")
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
    processes.until("KEDA's operator answers", _listens, name="keda-operator", timeout_s=READY_TIMEOUT_S)


def _listens() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", GRPC_PORT), timeout=1):
            return True
    except OSError:
        return False


def _adapter(site: Site, processes: Processes, binary: Path) -> None:
    keys, kubeconfig = site.keys / "keda", site.keys / "kubeconfig"
    processes.start(
        "keda-adapter",
        [
            *(binary, f"--cert-dir={keys}", f"--tls-cert-file={keys / 'tls.crt'}"),
            *(
                f"--tls-private-key-file={keys / 'tls.key'}",
                "--bind-address=127.0.0.1",
                f"--secure-port={ADAPTER_PORT}",
            ),
            *(f"--port={METRICS_PORT}", f"--metrics-service-address=127.0.0.1:{GRPC_PORT}"),
            *(f"--lister-kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}"),
            *(f"--authorization-kubeconfig={kubeconfig}", "--authentication-skip-lookup"),
            "--authorization-always-allow-paths=/apis,/apis/*,/openapi/*",
        ],
        _environment(site),
    )


def _registered(site: Site) -> dict[str, Any]:
    """What tells the API server where the group of external metrics is served, by path."""
    service = {"name": SERVICE, "namespace": NAMESPACE, "port": ADAPTER_PORT}
    spec = {
        "group": _GROUP,
        "version": "v1beta1",
        "service": service,
        "caBundle": authority(site),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    name, api = f"v1beta1.{_GROUP}", "apiregistration.k8s.io/v1"
    return {
        f"/api/v1/namespaces/{NAMESPACE}": {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE},
        },
        f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        f"/apis/{api}/apiservices/{name}": {
            "apiVersion": api,
            "kind": "APIService",
            "metadata": {"name": name},
            "spec": spec,
        },
    }
