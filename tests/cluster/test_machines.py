"""A server over two pods that starts by `mpirun`, in a namespace that enforces `restricted`.

Open MPI, LeaderWorkerSet and the pods' network are the real ones; TensorRT-LLM's two programs are stand-ins.
"""

from typing import Any

from steps.images import RECIPES
from tests.cluster.api import CORE, GROUPS, is_ready, until
from tests.cluster.bringup import built, run_tool
from tests.cluster.service import InCluster, Stacks

IMAGE = "worker-mpi"
OVER_TWO_PODS: dict[str, Any] = {
    "worker": IMAGE,
    "tensorrt_llm": True,
    "pools": ["serve"],
    "serve": {"gpu": "H100", "pipeline_parallel": 2, "nodes_per_worker": 2, "host_memory_gib": 0.5},
}


def test_a_server_over_two_pods_starts_by_mpirun_and_comes_back_whole_when_a_pod_is_lost(stacks: Stacks) -> None:
    built(RECIPES[IMAGE].step_name)
    assert run_tool("-m", "cluster", "up", "--image", IMAGE) == 0
    with stacks(**OVER_TWO_PODS) as service:
        (group,) = service.namespace.get(GROUPS, "leaderworkersets")["items"]
        assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
        leader, follower = sorted(service.workers("serve"))
        said = service.namespace.text(CORE, f"pods/{leader}/log")
        for rank, pod in enumerate((leader, follower)):
            assert f"rank {rank} of 2 has met the others on {pod}\n" in said
        assert service.ask(max_tokens=3).text == "one two three "

        before = members(service)
        service.namespace.delete(CORE, f"pods/{follower}")
        until(lambda: len(after := members(service)) == 2 and not before & after)
        until(lambda: service.ask(max_tokens=3).status == 200)


def members(service: InCluster) -> set[str]:
    """The ready pods of the group; a new one has the name of the one that it replaces."""
    return {pod["metadata"]["uid"] for pod in service.namespace.pods(pool="serve") if is_ready(pod)}
