"""A service in the test cluster: a Pulumi project of its own, the namespace it is in, and its front door."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.cluster.api import APPS, CORE, Namespace, is_ready, until
from tests.standin import plugin

PROGRAM = Path(__file__).parent / "program"
STACK = "test"
TIMEOUT_S = 360.0
"""Of one command: two real engines that start together take most of a minute each, on an idle machine."""


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

    def await_whole(self) -> None:
        """Until every pool has a worker again, and a gateway is there."""
        gone = until(lambda: self.workers("prefill") and self.workers("decode"))
        assert gone
