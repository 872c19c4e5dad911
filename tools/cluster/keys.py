"""Keys and certificates of the cluster, made once by openssl; the administrator's token is random and for its owner."""

import json
import secrets
import shutil
from base64 import b64encode
from pathlib import Path

from cluster.place import API_PORT, API_SERVICE, Site
from steps.frame import Run, write_whole

DAYS = "3650"
CONTEXT = "tandem"


def make_keys(site: Site, address: str, run: Run) -> None:
    """Everything that the control plane and the webhooks need, unless it was made for this very address."""
    made_for = site.keys / "address"
    if not made_for.exists() or made_for.read_text() != address:
        shutil.rmtree(site.keys, ignore_errors=True)
        site.keys.mkdir(parents=True, mode=0o700)
        _authority(site.keys, run)
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        names += ("kubernetes.default.svc.cluster.local",)
        numbers = ("127.0.0.1", address, API_SERVICE)
        alternatives = ",".join([*(f"IP:{one}" for one in numbers), *(f"DNS:{name}" for name in names)])
        certificate(site.keys, "api", "kube-apiserver", alternatives, run)
        (site.keys / "lws").mkdir()
        certificate(site.keys, "lws/tls", "webhooks", "IP:127.0.0.1", run)
        run("openssl", "genrsa", "-out", site.keys / "accounts.key", "2048", why="make the service accounts' key")
        write_whole(site.keys / "token", secrets.token_urlsafe(32), mode=0o600)
        rows = f"{token(site)},admin,admin,system:masters\n"
        write_whole(site.keys / "tokens.csv", rows, mode=0o600)
        made_for.write_text(address)
    write_kubeconfig(site, site.kubeconfig)
    write_kubeconfig(site, site.keys / "kubeconfig")


def token(site: Site) -> str:
    """The administrator's."""
    return (site.keys / "token").read_text().strip()


def authority(site: Site) -> str:
    """The certificate that vouches for the cluster's others, as base64."""
    return b64encode((site.keys / "ca.crt").read_bytes()).decode()


def write_kubeconfig(site: Site, target: Path) -> None:
    """JSON is YAML; everything that a client needs is in it."""
    cluster = {"server": f"https://127.0.0.1:{API_PORT}", "certificate-authority-data": authority(site)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": CONTEXT, "user": {"token": token(site)}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    write_whole(target, json.dumps(config, indent=1), mode=0o600)


def _authority(folder: Path, run: Run) -> None:
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS, "-subj", "/CN=tandem-test"),
        *("-keyout", folder / "ca.key", "-out", folder / "ca.crt"),
        why="make the certificate authority",
    )


def certificate(folder: Path, name: str, subject: str, alternatives: str, run: Run) -> None:
    """A key `NAME.key`, and `NAME.crt` for those alternative names, signed by the cluster's authority."""
    key, request, extension = (folder / f"{name}.{end}" for end in ("key", "csr", "ext"))
    extension.write_text(f"subjectAltName={alternatives}\n")
    run(
        *("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={subject}"),
        *("-keyout", key, "-out", request),
        why=f"make the key of {subject}",
    )
    run(
        *("openssl", "x509", "-req", "-in", request, "-days", DAYS, "-extfile", extension),
        *("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-out", folder / f"{name}.crt"),
        why=f"sign the certificate of {subject}",
    )
