"""Which API server, as whom, in which namespace: a kubeconfig as `pulumi_kubernetes.Provider` takes it."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class Unusable(Exception):
    """The kubeconfig names no API server that can be spoken to."""


@dataclass(frozen=True)
class Access:
    server: str
    namespace: str
    headers: dict[str, str]
    tls: ssl.SSLContext | bool


def access(settings: Mapping[str, str]) -> Access:
    """Access by the provider's settings `kubeconfig` (contents or path), `context`, `cluster` and `namespace`."""
    config = _load(settings.get("kubeconfig", ""))
    try:
        context = _named(config, "contexts", settings.get("context") or config["current-context"])["context"]
        cluster = _named(config, "clusters", settings.get("cluster") or context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"] if context.get("user") else {}
        return Access(
            server=cluster["server"].rstrip("/"),
            namespace=settings.get("namespace") or context.get("namespace") or "default",
            headers=_headers(user),
            tls=_tls(cluster, user),
        )
    except (KeyError, TypeError) as error:
        raise Unusable(f"the kubeconfig lacks {error}") from error


def _load(path_or_contents: str) -> dict[str, Any]:
    if not path_or_contents:
        paths = os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
        path_or_contents = next((path for path in paths if Path(path).expanduser().is_file()), "")
        if not path_or_contents:
            raise Unusable("no configuration has been provided: set kubeconfig, KUBECONFIG or ~/.kube/config")
    if "\n" not in path_or_contents and Path(path_or_contents).expanduser().is_file():
        path_or_contents = Path(path_or_contents).expanduser().read_text()
    try:
        config = yaml.safe_load(path_or_contents)
    except yaml.YAMLError as error:
        raise Unusable(f"failed to parse kubeconfig data in `kubernetes:config:kubeconfig`: {error}") from error
    if not isinstance(config, dict):
        raise Unusable("failed to parse kubeconfig data in `kubernetes:config:kubeconfig`: neither a file nor a config")
    return config


def _named(config: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    for entry in config.get(key) or ():
        if entry["name"] == name:
            return entry
    raise Unusable(f"the kubeconfig has no entry {name!r} among its {key}")


def _headers(user: dict[str, Any]) -> dict[str, str]:
    if "exec" in user or "auth-provider" in user:
        raise Unusable("the stand-in takes client certificates and tokens only, no credential plugins")
    token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if user.get("tokenFile") else "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext | bool:
    if not cluster["server"].startswith("https:"):
        return False
    authority = _content(cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _content(user, "client-certificate"), _content(user, "client-key")
    if certificate and key:
        with tempfile.NamedTemporaryFile() as both:  # the ssl module takes files only
            both.write(certificate + b"\n" + key)
            both.flush()
            context.load_cert_chain(both.name)
    return context


def _content(entry: dict[str, Any], key: str) -> bytes | None:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data)
    return Path(entry[key]).read_bytes() if entry.get(key) else None
