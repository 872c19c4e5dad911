"""stacks/cluster.py with vLLM's CPU engines as pods that ask for fake GPUs."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import CORE, Api
from tests.standin import plugin

ROOT = Path(__file__).parents[2]


class Stack:
    """The shipped stack, with a backend of the test's own."""

    def __init__(self, folder: Path, kubeconfig: str) -> None:
        self.environment = plugin.cli(folder, TANDEM_CLUSTER_KUBECONFIG=kubeconfig)

    def run(self, *words: str) -> str:
        command = ["pulumi", *words, "--stack", "cluster"]
        ran = subprocess.run(
            command, cwd=ROOT, env=self.environment, text=True, check=False, capture_output=True, timeout=600
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def stack(cluster_kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("backend"), cluster_kubeconfig)
    subprocess.run(["pulumi", "stack", "init", "cluster"], cwd=ROOT, env=made.environment, check=True)
    yield made
    made.run("destroy", "--yes", "--skip-preview", "--non-interactive")


def test_real_engines_as_pods_are_proved_and_answer(stack: Stack, api: Api) -> None:
    stack.run("up", "--yes", "--skip-preview", "--non-interactive")
    outputs = json.loads(stack.run("stack", "output", "--json"))
    evidence = outputs["evidence"]
    assert evidence["path"] == "disaggregated"
    assert evidence["transport"] == "tcp"
    assert "Paris" in evidence["answer"]
    assert all(pair["kv_bytes"] > 0 for pair in evidence["pairs"])
    service = api.ask("GET", f"{CORE}/namespaces/{outputs['namespace']}/services/chat-gateway")
    body = {
        "model": "SmolLM2-135M-Instruct",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    request = urllib.request.Request(
        f"http://{service['spec']['clusterIP']}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        assert response.headers["x-tandem-path"] == "disaggregated"
        assert "Paris" in json.load(response)["choices"][0]["message"]["content"]
    stack.run("preview", "--expect-no-changes", "--non-interactive")
