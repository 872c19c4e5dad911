"""A service in the test cluster: a Pulumi project of its own, the namespace it is in, and its front door."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api import APPS, CORE, Namespace, is_ready
from tests.standin import plugin

PROGRAM = Path(__file__).parent / "program"
STACK = "test"
TIMEOUT_S = 360.0
"""Of one command: two real engines that start together take most of a minute each, on an idle machine."""

MODEL = "SmolLM2-135M-Instruct"
Stacks = Callable[..., AbstractContextManager["InCluster"]]
"""Gives a service in a namespace of its own, up as declared; it is destroyed at the end."""


@pytest.fixture(scope="module")
def stacks(
    cluster_kubeconfig: str, namespace: Callable[..., Namespace], tmp_path_factory: pytest.TempPathFactory
) -> Stacks:
    @contextmanager
    def give(level: str = "restricted", **declaration: Any) -> Generator["InCluster"]:
        made = InCluster(tmp_path_factory.mktemp("stack") / "project", cluster_kubeconfig, namespace(level))
        try:
            if declaration:
                up = made.up(**declaration)
                assert up.returncode == 0, up.stdout
            yield made
        finally:
            made.run("destroy", "--stack", STACK, "--yes", "--skip-preview")

    return give


@dataclass(frozen=True)
class Reply:
    """What a front door answers."""

    status: int
    path: str | None
    """How the request went: disaggregated or aggregated."""
    body: Any

    @property
    def text(self) -> str:
        return self.body["choices"][0]["message"]["content"]


def ask(url: str, model: str = MODEL, question: str = "Hello", *, max_tokens: int = 8, **headers: str) -> Reply:
    """One question to the front door at the URL; a refusal is an answer too."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return Reply(response.status, response.headers["x-tandem-path"], json.load(response))
    except urllib.error.HTTPError as refusal:
        return Reply(refusal.code, None, json.load(refusal))


class InCluster:
    """One stack whose declaration changes from update to update."""

    def __init__(self, folder: Path, kubeconfig: str, namespace: Namespace) -> None:
        shutil.copytree(PROGRAM, folder)
        (folder / "backend").mkdir()
        self.folder, self.namespace = folder, namespace
        self.environment = plugin.cli(
            folder / "backend", TANDEM_CLUSTER_KUBECONFIG=kubeconfig, TANDEM_TEST_NAMESPACE=namespace.name
        )
        self.run("stack", "init", STACK)

    def start(self, *words: str, **declaration: Any) -> subprocess.Popen[str]:
        """Start a command of the CLI."""
        return subprocess.Popen(
            ["pulumi", *words, "--non-interactive"],
            cwd=self.folder,
            env={**self.environment, "TANDEM_TEST_DECLARATION": json.dumps(declaration)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *words: str, **declaration: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = self.start(*words, **declaration)
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # it cancels the update; a second signal would leave its lock
            output, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def up(self, **declaration: Any) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--stack", STACK, "--yes", "--skip-preview", **declaration)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.run("stack", "output", "--stack", STACK, "--json").stdout)

    def ask(self, model: str = MODEL, question: str = "Hello", **more: Any) -> Reply:
        return ask(self.url, model, question, **more)

    @property
    def url(self) -> str:
        """The gateway's Service, which this machine reaches as any pod does."""
        return f"http://{self.namespace.get(CORE, 'services/chat-gateway')['spec']['clusterIP']}"

    @property
    def state(self) -> dict[str, Any]:
        """What the gateways watch."""
        return json.loads(self.namespace.get(CORE, "configmaps/chat-state")["data"]["service.json"])

    def workers(self, pool: str) -> list[str]:
        """Names of the ready workers of a pool, of every generation."""
        return [pod["metadata"]["name"] for pod in self.namespace.pods(pool=pool) if is_ready(pod)]

    def generations(self) -> set[str]:
        """Generations that have a Deployment with workers."""
        found = self.namespace.get(APPS, "deployments?labelSelector=app.kubernetes.io/component=worker")["items"]
        return {one["metadata"]["labels"]["tandem.serving/generation"] for one in found if one["spec"]["replicas"]}
