"""vLLM's CPU engines as pods: stacks/cluster.py, an engine over two pods, and a pair whose KV cannot move."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steps.frame import Place
from tests.cluster.api import CORE, GROUPS, Api
from tests.cluster.service import InCluster, Stacks, ask
from tests.standin import plugin

ROOT = Path(__file__).parents[2]
REAL: dict[str, Any] = {
    "worker": "worker-cpu",
    "model": {"path": "/model"},
    "weights": str(Place.here().model),
    "prefill": {"cpu_cores": "0"},
    "decode": {"cpu_cores": "1"},
    "pool": {"host_memory_gib": None, "pod": {}},
    "service": {"grace": {"start_timeout_s": 300, "drain_timeout_s": 5}},
    "transfer": {"net_devices": "eth0"},
}
CAPITAL = "What is the capital of France?"
OVER_TWO_PODS = {"pools": ["serve"], "serve": {"data_parallel": 2, "nodes_per_worker": 2}, "transfer": {}}


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

    def destroy(self) -> None:
        self.run("destroy", "--yes", "--skip-preview", "--non-interactive")


@pytest.fixture(scope="module")
def stack(cluster_kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("backend"), cluster_kubeconfig)
    subprocess.run(["pulumi", "stack", "init", "cluster"], cwd=ROOT, env=made.environment, check=True)
    yield made
    made.destroy()


def test_real_engines_as_pods_are_proved_and_answer(stack: Stack, api: Api) -> None:
    stack.run("up", "--yes", "--skip-preview", "--non-interactive")
    outputs = json.loads(stack.run("stack", "output", "--json"))
    evidence = outputs["evidence"]
    assert evidence["path"] == "disaggregated"
    assert evidence["transport"] == "tcp"
    assert "Paris" in evidence["answer"]
    assert all(pair["kv_bytes"] > 0 for pair in evidence["pairs"])
    service = api.ask("GET", f"{CORE}/namespaces/{outputs['namespace']}/services/chat-gateway")
    reply = ask(f"http://{service['spec']['clusterIP']}", question=CAPITAL, max_tokens=16)
    assert reply.path == "disaggregated"
    assert "Paris" in reply.text
    stack.run("preview", "--expect-no-changes", "--non-interactive")


@pytest.fixture
def project(stacks: Stacks, stack: Stack) -> Iterator[InCluster]:
    """A service of the test's own; the shipped stack has left the machine to it."""
    stack.destroy()
    with stacks("privileged") as made:  # its weights are the machine's
        yield made


def test_a_real_engine_over_two_pods_is_one_group_and_answers(project: InCluster) -> None:
    """Data parallel: a rank in each pod of a LeaderWorkerSet, one front door at the leader's."""
    up = project.up(**REAL | OVER_TWO_PODS)
    assert up.returncode == 0, up.stdout
    (group,) = project.namespace.get(GROUPS, "leaderworkersets")["items"]
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    assert len(project.workers("serve")) == 2
    assert "Paris" in project.ask(question=CAPITAL, max_tokens=16).text


def test_the_proof_fails_where_kv_of_real_engines_cannot_move(project: InCluster) -> None:
    up = project.up(**REAL | {"fault": "alone"})
    assert up.returncode != 0
    assert "must not serve" in up.stdout, up.stdout
    assert project.state["active_generation"] is None
