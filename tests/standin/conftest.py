"""Stacks of the real CLI on a real API server; what kubelets and foreign controllers would do, the test does."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import api as cluster_api
from tests.cluster.api import CORE, Api
from tests.standin import plugin

PROGRAM = Path(__file__).parent / "program"
PATIENCE_S = 30.0

until = partial(cluster_api.until, wait_s=PATIENCE_S)
"""What the API server and its controllers bring about, and no kubelet, comes sooner than pods."""


class Hands:
    """Acts on one namespace of the API server, beside the provider."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self.namespace = api, namespace

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """The answer, also when it is one of an error."""
        return self._api.call(method, path, body, content)[1]

    def get(self, group: str, plural: str, name: str = "") -> Any:
        return self.call("GET", f"{group}/namespaces/{self.namespace}/{plural}/{name}".rstrip("/"))

    def names(self, group: str, plural: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.get(group, plural)["items"]]

    def merge(self, group: str, plural: str, name: str, change: Any, manager: str = "somebody") -> Any:
        path = f"{group}/namespaces/{self.namespace}/{plural}/{name}?fieldManager={manager}"
        return self.call("PATCH", path, change, "application/merge-patch+json")

    def set_status(self, group: str, plural: str, name: str, status: Any) -> None:
        path = f"{group}/namespaces/{self.namespace}/{plural}/{name}/status"
        self.call("PATCH", path, {"status": status}, "application/merge-patch+json")

    def pods(self, count: int = 1) -> list[str]:
        """The names of the namespace's Pods, once there are so many."""
        return until(lambda: names if len(names := self.names(CORE, "pods")) >= count else [])

    def make_ready(self, pod: str) -> None:
        self.set_status(CORE, "pods", pod, {"phase": "Running", "conditions": conditions("True", "")})

    def make_crash(self, pod: str, message: str) -> None:
        """The Pod as its kubelet tells of a container that ended badly, for good."""
        ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": message, "finishedAt": FINISHED_AT}}
        status = {"phase": "Failed", "conditions": conditions("False", "PodFailed"), **container(ended)}
        self.set_status(CORE, "pods", pod, status)

    def make_crash_again(self, pod: str) -> None:
        """The Pod as its kubelet tells of a container that it starts again and again."""
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
        status = {"phase": "Running", "conditions": conditions("False", "ContainersNotReady"), **container(waiting)}
        self.set_status(CORE, "pods", pod, status)


FINISHED_AT = "2026-01-01T00:00:00Z"


def conditions(ready: str, reason: str) -> list[dict[str, str]]:
    return [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Initialized", "status": "True"},
        {"type": "ContainersReady", "status": ready},
        {"type": "Ready", "status": ready, **({"reason": reason, "message": "not ready: [main]. "} if reason else {})},
    ]


def container(state: Any) -> dict[str, Any]:
    told = {"name": "main", "ready": False, "restartCount": 1, "image": "none", "imageID": "", "state": state}
    return {"containerStatuses": [told]}


class Stack:
    """A stack whose objects the test declares; everything of it is in one folder."""

    def __init__(self, folder: Path, environment: dict[str, str], cluster_kubeconfig: str, namespace: str) -> None:
        self.folder = folder
        self.environment = environment
        self.namespace = namespace
        self.provider: dict[str, Any] = {
            "kubeconfig": cluster_kubeconfig,
            "namespace": namespace,
            "cluster_identifier": "test",
        }
        self.objects: dict[str, Any] = {}

    def declare(self, name: str, kind: str, inputs: Any, **options: Any) -> None:
        """Declare an object of a kind like apps/v1:Deployment, or declare it anew."""
        version, _, plain = kind.removeprefix("core/").partition(":")
        self.objects[name] = {
            "type": f"kubernetes:{kind}",
            "inputs": {"apiVersion": version, "kind": plain, **inputs},
            "options": options,
        }

    def start(self, *argv: str) -> subprocess.Popen[str]:
        declaration = {"provider": self.provider, "objects": self.objects}
        (self.folder / "declaration.json").write_text(json.dumps(declaration))
        return subprocess.Popen(
            ["pulumi", *argv, "--stack", "test", "--non-interactive"],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return finished(self.start(*argv))

    def up(self, *more: str) -> str:
        """What an update that succeeds prints."""
        return succeeded(self.run("up", "--yes", "--skip-preview", *more))

    def fail(self, *more: str) -> str:
        """What an update that fails prints."""
        return failed(self.run("up", "--yes", "--skip-preview", *more))

    def is_unchanged(self) -> bool:
        return self.run("preview", "--expect-no-changes").returncode == 0

    def state(self) -> dict[str, Any]:
        """The stack's resources in the CLI's own file, by name."""
        exported = json.loads((self.folder / "backend/.pulumi/stacks/standin/test.json").read_text())
        resources = exported["checkpoint"]["latest"]["resources"]
        return {resource["urn"].rpartition("::")[2]: resource for resource in resources}


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, _ = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def succeeded(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stdout
    return process.stdout


def failed(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode != 0, process.stdout
    return process.stdout


def settings(folder: Path) -> dict[str, str]:
    """The CLI's environment, with a backend in the folder."""
    return plugin.cli(folder / "backend")


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an empty stack, which each test copies."""
    folder = tmp_path_factory.mktemp("standin") / "project"
    shutil.copytree(PROGRAM, folder)
    (folder / "backend").mkdir()
    subprocess.run(["pulumi", "stack", "init", "test"], cwd=folder, env=settings(folder), check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, empty_project: Path) -> Path:
    return Path(shutil.copytree(empty_project, tmp_path / "project"))


@pytest.fixture
def hands(api: Api) -> Iterator[Hands]:
    """A namespace of the test's own."""
    name = f"standin-{uuid.uuid4().hex[:8]}"
    hands = Hands(api, name)
    hands.call("POST", "api/v1/namespaces", {"metadata": {"name": name}})
    yield hands
    hands.call("DELETE", f"api/v1/namespaces/{name}")


@pytest.fixture
def stack(project: Path, cluster_kubeconfig: str, hands: Hands) -> Stack:
    """An empty stack whose provider's namespace is the test's."""
    return Stack(project, settings(project), cluster_kubeconfig, hands.namespace)
