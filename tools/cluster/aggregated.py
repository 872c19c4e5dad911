"""Groups of the API that a process of this machine serves: the API server reaches it over loopback.

The API server has judged by then who may ask. It has no certificate by which the process would believe it that, so
nobody has a name there, and whoever has none may read.
"""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.api import Refused
from cluster.host import Host
from cluster.keys import authority, certificate
from steps.frame import Failure

READY_TIMEOUT_S = 60.0
VERSION = "v1beta1"
_RBAC, _REGISTRATION = "rbac.authorization.k8s.io/v1", "apiregistration.k8s.io/v1"


@dataclass(frozen=True)
class Group:
    """One group, the port of its server, and the names of what registers it."""

    name: str
    namespace: str
    service: str
    port: int

    @property
    def path(self) -> str:
        """Where it is asked."""
        return f"/apis/{self.name}/{VERSION}"

    @property
    def server_name(self) -> str:
        """What its server's certificate must be for."""
        return f"{self.service}.{self.namespace}.svc"

    def register(self, host: Host, *, process: str) -> None:
        """Tell the API server of it, and wait until it answers.

        Raises: Failure, also where another server has the group.
        """
        if (owner := self._owner(host)) not in {None, self.namespace}:
            raise Failure(f"{self.name} is served by {owner} already; end that first: down --with {owner}")
        for path, body in zip(self._places, self._objects(host), strict=True):
            host.api.apply(path, json.dumps(body).encode())
        answers = lambda: host.api.answers(self.path)  # noqa: E731 - one use
        host.processes.until(f"{self.name} answers", answers, name=process, timeout_s=READY_TIMEOUT_S)

    def remove(self, host: Host) -> None:
        """First of all: while a group has no server, no namespace of the cluster can be removed."""
        mine = self._owner(host) == self.namespace
        for path in reversed(self._places if mine else self._places[:-1]):
            with contextlib.suppress(Refused):
                host.api.ask("DELETE", path)

    @property
    def _reader(self) -> str:
        return f"{self.service}-reader"

    @property
    def _places(self) -> tuple[str, ...]:
        """Of what registers it, each after what it needs."""
        return (
            f"/api/v1/namespaces/{self.namespace}",
            f"/api/v1/namespaces/{self.namespace}/services/{self.service}",
            f"/apis/{_RBAC}/clusterroles/{self._reader}",
            f"/apis/{_RBAC}/clusterrolebindings/{self._reader}",
            f"/apis/{_REGISTRATION}/apiservices/{VERSION}.{self.name}",
        )

    def _owner(self, host: Host) -> str | None:
        """The namespace of the Service that has it now."""
        try:
            return host.api.ask("GET", self._places[-1])["spec"]["service"]["namespace"]
        except Refused:
            return None

    def _objects(self, host: Host) -> tuple[dict[str, Any], ...]:
        """What is at those places."""
        spec = {
            "group": self.name,
            "version": VERSION,
            "service": {"name": self.service, "namespace": self.namespace, "port": self.port},
            "caBundle": authority(host.site),
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        local = {"type": "ExternalName", "externalName": "localhost"}
        may = [{"apiGroups": [self.name], "resources": ["*"], "verbs": ["get", "list"]}]
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self._reader}
        nobody = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]
        return (
            _object("v1", "Namespace", self.namespace),
            _object("v1", "Service", self.service, spec=local),
            _object(_RBAC, "ClusterRole", self._reader, rules=may),
            _object(_RBAC, "ClusterRoleBinding", self._reader, roleRef=role, subjects=nobody),
            _object(_REGISTRATION, "APIService", f"{VERSION}.{self.name}", spec=spec),
        )


def _object(api: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **rest}


def serving_keys(host: Host, name: str, groups: tuple[Group, ...]) -> Path:
    """A folder of the site's keys with `tls.crt` and `tls.key` for the servers of these groups, and `ca.crt`."""
    folder = host.site.keys / name
    if not (folder / "tls.crt").exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        alternatives = ",".join(("IP:127.0.0.1", *(f"DNS:{group.server_name}" for group in groups)))
        certificate(host.site.keys, f"{name}/tls", name, alternatives, host.run)
        shutil.copyfile(host.site.keys / "ca.crt", folder / "ca.crt")
    return folder


def serving_flags(host: Host, keys: Path, group: Group) -> tuple[str, ...]:
    """Those of every server that is made of Kubernetes' own library."""
    kubeconfig = host.site.keys / "kubeconfig"
    return (
        *(f"--cert-dir={keys}", f"--tls-cert-file={keys / 'tls.crt'}", f"--tls-private-key-file={keys / 'tls.key'}"),
        *("--bind-address=127.0.0.1", f"--secure-port={group.port}"),
        *(f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}"),
        *("--authentication-skip-lookup", "--authorization-always-allow-paths=/apis,/apis/*,/openapi/*"),
    )
