"""The control plane: etcd, the API server, its controllers and the scheduler."""

from cluster.api import Api
from cluster.place import API_PORT, ETCD_PORT, SERVICE_RANGE, Site
from cluster.processes import Processes

READY_TIMEOUT_S = 60.0


def start_control_plane(site: Site, processes: Processes, address: str) -> None:
    """Start what does not run yet, and wait until the API server is ready."""
    keys, links = site.keys, component_links(site)
    etcd = f"http://127.0.0.1:{ETCD_PORT}"
    (site.home / "etcd").mkdir(mode=0o700, exist_ok=True)
    processes.start(
        "etcd",
        [
            *("etcd", "--data-dir", site.home / "etcd", "--unsafe-no-fsync", "--log-level", "error"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{ETCD_PORT + 1}"),
        ],
    )
    processes.start(
        "apiserver",
        [
            links["kube-apiserver"],
            *(f"--etcd-servers={etcd}", f"--secure-port={API_PORT}", "--bind-address=0.0.0.0"),
            *(f"--advertise-address={address}", f"--cert-dir={site.home / 'certs'}"),
            *(f"--tls-cert-file={keys / 'api.crt'}", f"--tls-private-key-file={keys / 'api.key'}"),
            *(f"--service-account-key-file={keys / 'accounts.key'}",),
            *(f"--service-account-signing-key-file={keys / 'accounts.key'}",),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--token-auth-file={keys / 'tokens.csv'}", "--authorization-mode=RBAC"),
            *(f"--service-cluster-ip-range={SERVICE_RANGE}", "--allow-privileged=true"),
            "--kubelet-preferred-address-types=InternalIP",
            # WatchList needs an etcd of 3.5, Debian 12 has 3.4; with it, watches from version 0 (KWOK's) are refused.
            # ImageVolume is off by default in 1.34, and its field would be dropped.
            "--feature-gates=WatchList=false,ImageVolume=true",
        ],
    )
    api = Api(site)
    processes.until(
        "the API server is ready", lambda: api.answers("/readyz"), name="apiserver", timeout_s=READY_TIMEOUT_S
    )
    kubeconfig = keys / "kubeconfig"
    processes.start(
        "controllers",
        [
            links["kube-controller-manager"],
            *(f"--kubeconfig={kubeconfig}", f"--root-ca-file={keys / 'ca.crt'}"),
            *(f"--service-account-private-key-file={keys / 'accounts.key'}", "--use-service-account-credentials=false"),
            *("--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={site.home / 'certs'}"),
            *("--allocate-node-cidrs=false", "--controllers=*,-node-ipam-controller"),
        ],
    )
    processes.start(
        "scheduler",
        [
            links["kube-scheduler"],
            *(f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"),
            f"--cert-dir={site.home / 'certs'}",
        ],
    )


def component_links(site: Site) -> dict[str, str]:
    """The one binary under the names of its components."""
    folder = site.home / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
    for name in names:
        link = folder / name
        if link.resolve() != (site.binaries / "kube").resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(site.binaries / "kube")
    return {name: str(folder / name) for name in names}
