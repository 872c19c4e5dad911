"""What plain HorizontalPodAutoscalers read: gateways' figures as external metrics, CPU and memory as resource metrics.

Prometheus scrapes the gateways, its adapter tells the API server what it has by the rule of docs/kubernetes.md, and
metrics-server tells what the kubelets measure. All run beside the cluster, as everything does here.
"""

import shutil

from cluster.aggregated import Group, serving_flags, serving_keys
from cluster.host import Host
from cluster.probe import answers
from steps.frame import write_whole
from steps.programs import HPA, PROMETHEUS

READY_TIMEOUT_S = 60.0
NAMESPACE = "hpa"
PROMETHEUS_PORT, ADAPTER_PORT, RESOURCES_PORT = 9676, 9677, 9678
FIGURES = Group("external.metrics.k8s.io", NAMESPACE, "prometheus-adapter", ADAPTER_PORT)
RESOURCES = Group("metrics.k8s.io", NAMESPACE, "metrics-server", RESOURCES_PORT)
GROUPS = (FIGURES, RESOURCES)
RESOLUTION_S, PATIENCE_S = 10, 5
"""Of CPU figures, and with a kubelet; metrics-server allows no less of the first, and less of the second alone."""
_PAST_PROXIES = {"NO_PROXY": "*", "no_proxy": "*"}


def start(host: Host) -> None:
    """Start what does not run yet, and wait until metrics can be asked for.

    Raises: Failure.
    """
    _prometheus(host)
    keys, binaries = serving_keys(host, "hpa", GROUPS), HPA.cached(host.place)
    kubeconfig = host.site.keys / "kubeconfig"
    host.processes.start(
        FIGURES.service,
        [
            *(binaries / "adapter", *serving_flags(host, keys, FIGURES), f"--lister-kubeconfig={kubeconfig}"),
            *(
                f"--prometheus-url=http://127.0.0.1:{PROMETHEUS_PORT}/",
                f"--config={HPA.sources(host.place)}/adapter.yaml",
            ),
            # It asks every ten minutes which metrics there are, unless it is told otherwise.
            *("--metrics-relist-interval=5s", "--metrics-max-age=60s"),
        ],
        _PAST_PROXIES,
    )
    host.processes.start(
        RESOURCES.service,
        [
            *(binaries / "metrics-server", *serving_flags(host, keys, RESOURCES), f"--kubeconfig={kubeconfig}"),
            *(
                "--kubelet-insecure-tls",
                "--kubelet-use-node-status-port",
                "--kubelet-preferred-address-types=InternalIP",
            ),
            *(f"--metric-resolution={RESOLUTION_S}s", f"--kubelet-request-timeout={PATIENCE_S}s"),
        ],
        _PAST_PROXIES,
    )
    for group in GROUPS:
        group.register(host, process=group.service)


def end(host: Host) -> None:
    """Whatever it made."""
    for group in GROUPS:
        group.remove(host)
    for name in (*(group.service for group in GROUPS), "prometheus"):
        host.processes.stop(name)
    shutil.rmtree(host.site.home / "prometheus", ignore_errors=True)


def _prometheus(host: Host) -> None:
    """The page's own configuration; only where the API server is, a pod would know by itself."""
    home = host.site.home / "prometheus"
    home.mkdir(exist_ok=True)
    inside = (HPA.sources(host.place) / "prometheus.yaml").read_text()
    role = "  - role: pod\n"
    write_whole(
        home / "prometheus.yaml", inside.replace(role, f"{role}    kubeconfig_file: {host.site.keys / 'kubeconfig'}\n")
    )
    host.processes.start(
        "prometheus",
        [
            *(PROMETHEUS.binary(host.place), f"--config.file={home / 'prometheus.yaml'}", "--log.level=warn"),
            *(f"--storage.tsdb.path={home / 'data'}", f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"),
        ],
    )
    host.processes.until(
        "Prometheus is ready",
        lambda: answers(f"http://127.0.0.1:{PROMETHEUS_PORT}/-/ready"),
        name="prometheus",
        timeout_s=READY_TIMEOUT_S,
    )
