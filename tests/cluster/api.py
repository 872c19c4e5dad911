"""The test cluster's API server, asked as its administrator, beside Pulumi."""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.standin import kubeconfig

CORE, APPS, BATCH = "api/v1", "apis/apps/v1", "apis/batch/v1"
GROUPS = "apis/leaderworkerset.x-k8s.io/v1"
WAIT_S = 120.0
_Found = TypeVar("_Found")


class Api:
    """Requests to one API server."""

    def __init__(self, config: str) -> None:
        access = kubeconfig.access({"kubeconfig": config})
        address = urlsplit(access.server)
        self._host, self._port, self._tls = str(address.hostname), address.port, access.tls
        self._headers = access.headers

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, Any]:
        """Status and answer."""
        status, text = self.send(method, path, body, content)
        return status, json.loads(text)

    def send(self, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, bytes]:
        """Status and the answer as it came."""
        assert not isinstance(self._tls, bool), "a test's API server speaks TLS"
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=30)
        try:
            headers = {**self._headers, "Content-Type": content}
            connection.request(method, f"/{path}", body and json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """The answer, which must be none of an error."""
        status, answer = self.call(method, path, body, content)
        assert status < 400, answer
        return answer

    def merge(self, path: str, change: Any) -> Any:
        return self.ask("PATCH", path, change, "application/merge-patch+json")


class Namespace:
    """One namespace, and what is in it."""

    def __init__(self, api: Api, name: str, level: str = "restricted") -> None:
        """`level`: the Pod Security level that it enforces."""
        self.api, self.name = api, name
        labels = {"pod-security.kubernetes.io/enforce": level}
        api.ask("POST", f"{CORE}/namespaces", {"metadata": {"name": name, "labels": labels}})
        until(lambda: self.call("GET", CORE, "serviceaccounts/default")[0] == 200)

    def call(self, method: str, group: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.api.call(method, f"{group}/namespaces/{self.name}/{path}", body)

    def get(self, group: str, path: str) -> Any:
        return self.api.ask("GET", f"{group}/namespaces/{self.name}/{path}")

    def text(self, group: str, path: str) -> str:
        """What is no object: a pod's log."""
        status, answer = self.api.send("GET", f"{group}/namespaces/{self.name}/{path}")
        assert status == 200, answer
        return answer.decode()

    def create(self, group: str, plural: str, body: Any) -> Any:
        return self.api.ask("POST", f"{group}/namespaces/{self.name}/{plural}", body)

    def delete(self, group: str, path: str) -> Any:
        return self.api.ask("DELETE", f"{group}/namespaces/{self.name}/{path}")

    def merge(self, group: str, path: str, change: Any) -> Any:
        return self.api.merge(f"{group}/namespaces/{self.name}/{path}", change)

    def pods(self, **labels: str) -> list[Any]:
        """Pods that have these labels of ours and are not on their way out."""
        selector = ",".join(f"tandem.serving/{key}={value}" for key, value in labels.items())
        found = self.get(CORE, f"pods?labelSelector={selector}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def end(self) -> None:
        """Gone, with everything in it."""
        self.api.call("DELETE", f"{CORE}/namespaces/{self.name}")


def until(found: Callable[[], _Found], wait_s: float = WAIT_S) -> _Found:
    """What `found` gives once it is true; the cluster takes its own time."""
    deadline_s = time.monotonic() + wait_s
    while not (value := found()):
        assert time.monotonic() < deadline_s, f"the condition never came true within {wait_s:.0f} s"
        time.sleep(0.1)
    return value


def is_ready(pod: Any) -> bool:
    """Whether its kubelet says so."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
