"""KEDA: its operator makes a HorizontalPodAutoscaler of each ScaledObject, its adapter tells that the figures.

Both run beside the cluster, as everything does here. The API server reaches the adapter over loopback and has judged by
then who may ask; the operator asks for names of Services where pods do.
"""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from cluster.api import Refused, kinds_in
from cluster.host import Host
from cluster.keys import authority, certificate
from cluster.network import add_chain, remove_chain
from cluster.place import DNS_ADDRESS, Site
from cluster.probe import listens
from cluster.processes import Processes
from steps.frame import Run, write_whole
from steps.programs import KEDA

READY_TIMEOUT_S = 60.0
NAMESPACE = "keda"
SERVICE = "keda-metrics-apiserver"
GRPC_PORT, ADAPTER_PORT, METRICS_PORT, HEALTH_PORT = 9666, 9667, 9668, 9669
CHAIN = "TANDEM-KEDA"
_GROUP, _RBAC = "external.metrics.k8s.io", "rbac.authorization.k8s.io/v1"
READER = "keda-reader"
_PLACES = (
    f"/api/v1/namespaces/{NAMESPACE}",
    f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}",
    f"/apis/{_RBAC}/clusterroles/{READER}",
    f"/apis/{_RBAC}/clusterrolebindings/{READER}",
    f"/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.{_GROUP}",
)
"""Of what it registers, each after what it needs."""
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
    _keys(host.site, host.run)
    add_chain(host.run, "filter", "INPUT", RULES, CHAIN)
    _operator(host.site, host.processes, binaries / "operator")
    _adapter(host.site, host.processes, binaries / "adapter")
    for path, body in _registered(host.site).items():
        api.apply(path, json.dumps(body).encode())
    host.processes.until(
        "metrics can be asked for",
        lambda: api.answers(f"/apis/{_GROUP}/v1beta1"),
        name="keda-adapter",
        timeout_s=READY_TIMEOUT_S,
    )


def end(host: Host) -> None:
    """What it registered first: while a group has no server, no namespace of the cluster can be removed."""
    for path in (*reversed(_PLACES), *kinds_in(KEDA.cached(host.place) / "crds")):
        with contextlib.suppress(Refused):
            host.api.ask("DELETE", path)
    for name in ("keda-adapter", "keda-operator"):
        host.processes.stop(name)
    remove_chain(host.run, "filter", "INPUT", CHAIN)


def _keys(site: Site, run: Run) -> None:
    """One certificate for both ends: the adapter proves itself to the operator by it, too."""
    folder = site.keys / "keda"
    if not (folder / "tls.crt").exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        certificate(site.keys, "keda/tls", "keda", f"IP:127.0.0.1,DNS:{SERVICE}.{NAMESPACE}.svc", run)
        shutil.copyfile(site.keys / "ca.crt", folder / "ca.crt")


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
    spec = {
        "group": _GROUP,
        "version": "v1beta1",
        "service": {"name": SERVICE, "namespace": NAMESPACE, "port": ADAPTER_PORT},
        "caBundle": authority(site),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    namespace, service, role, binding, group = _PLACES
    return {
        namespace: {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        service: {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        role: {
            "apiVersion": _RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": READER},
            "rules": [{"apiGroups": [_GROUP], "resources": ["*"], "verbs": ["get", "list"]}],
        },
        # This API server has no certificate by which the adapter would believe it who asks, so nobody has a name there.
        binding: {
            "apiVersion": _RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": READER},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": READER},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}],
        },
        group: {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{_GROUP}"},
            "spec": spec,
        },
    }
