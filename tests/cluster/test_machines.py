"""A server over two pods that starts by `mpirun`: the real Open MPI, LeaderWorkerSet and pod network, TensorRT-LLM's
stand-ins, in a namespace that enforces `restricted`."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steps.images import RECIPES
from tests.cluster.api import CORE, GROUPS, Namespace, is_ready, until
from tests.cluster.bringup import built, run_tool
from tests.cluster.service import STACK, InCluster

IMAGE = "worker-mpi"
OVER_TWO_PODS: dict[str, Any] = {
    "worker": IMAGE,
    "tensorrt_llm": True,
    "pools": ["serve"],
    "serve": {"gpu": "H100", "pipeline_parallel": 2, "nodes_per_worker": 2, "host_memory_gib": 0.5},
}


@pytest.fixture
def project(cluster_kubeconfig: str, namespace: Callable[..., Namespace], tmp_path: Path) -> Iterator[InCluster]:
    built(RECIPES[IMAGE].step_name)
    assert run_tool("-m", "cluster", "up", "--image", IMAGE) == 0
    made = InCluster(tmp_path / "project", cluster_kubeconfig, namespace())
    yield made
    made.run("destroy", "--stack", STACK, "--yes", "--skip-preview")


def test_a_server_over_two_pods_starts_by_mpirun_and_comes_back_whole_when_a_pod_is_lost(project: InCluster) -> None:
    up = project.up(**OVER_TWO_PODS)
    assert up.returncode == 0, up.stdout
    (group,) = project.namespace.get(GROUPS, "leaderworkersets")["items"]
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    leader, follower = sorted(project.workers("serve"))
    for rank, pod in enumerate((leader, follower)):
        assert f"rank {rank} of 2 has met the others on {pod}\n" in project.namespace.text(CORE, f"pods/{leader}/log")
    assert answer(project.url) == "one two three "

    before = members(project)
    project.namespace.delete(CORE, f"pods/{follower}")
    until(lambda: len(after := members(project)) == 2 and not before & after)
    assert until(lambda: answer(project.url)) == "one two three "


def members(project: InCluster) -> set[str]:
    """The ready pods of the group; a new one has the name of the one that it replaces."""
    return {pod["metadata"]["uid"] for pod in project.namespace.pods(pool="serve") if is_ready(pod)}


def answer(url: str) -> str:
    """What the service answers; nothing while it cannot."""
    body = json.dumps({"model": "SmolLM2-135M-Instruct", "prompt": "count", "max_tokens": 3}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)["choices"][0]["text"]
    except OSError:
        return ""
