"""The cluster itself: a real scheduler that counts GPUs, names that resolve, groups that live and die together."""

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.api import CORE, GROUPS, Api, Namespace, is_ready, until

PAUSE = "tandem.local/pause:test"


@pytest.fixture(scope="module")
def place(namespace: Callable[..., Namespace]) -> Namespace:
    return namespace()


def pausing(gpus: int) -> dict[str, Any]:
    """A pod's spec that `restricted` admits and that does nothing on so many GPUs."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    return {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "pause", "image": PAUSE, "securityContext": security, "resources": resources}],
    }


def pod(name: str, gpus: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": pausing(gpus)}


def test_the_node_has_eight_gpus(api: Api) -> None:
    (node,) = api.ask("GET", f"{CORE}/nodes")["items"]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert is_ready(node)


def test_pods_get_gpus_as_far_as_there_are_any(place: Namespace) -> None:
    place.create(CORE, "pods", pod("two", 2))
    place.create(CORE, "pods", pod("nine", 9))
    until(lambda: is_ready(place.get(CORE, "pods/two")))
    refused = until(lambda: place.get(CORE, "pods/nine")["status"].get("conditions"))
    assert "Insufficient nvidia.com/gpu" in refused[0]["message"]


def test_a_pod_that_restricted_refuses_is_refused(place: Namespace) -> None:
    rooted = pod("root", 0)
    del rooted["spec"]["securityContext"]
    status, answer = place.call("POST", CORE, "pods", rooted)
    assert status == 403
    assert "violates PodSecurity" in answer["message"]


def test_names_of_services_resolve_to_their_pods(place: Namespace) -> None:
    place.create(CORE, "pods", pod("named", 0))
    spec = {"clusterIP": "None", "selector": {"app": "named"}, "ports": [{"port": 80}]}
    place.create(CORE, "services", {"metadata": {"name": "named"}, "spec": spec})
    address = until(lambda: is_ready(found := place.get(CORE, "pods/named")) and found["status"]["podIP"])
    until(lambda: address in resolved(f"named.{place.name}.svc.cluster.local"))


def resolved(name: str) -> list[str]:
    """Addresses that the cluster's DNS gives; the few lines of RFC 1035 that a question takes."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        asker.sendto(query, ("10.244.0.1", 53))
        answer = asker.recv(4096)
    count = struct.unpack(">H", answer[6:8])[0]
    return [".".join(map(str, answer[len(answer) - 4 :]))] if count == 1 else []


@pytest.mark.parametrize("dead", ["0", "0-1"], ids=["leader", "follower"])
def test_a_group_lives_and_dies_together(dead: str, place: Namespace) -> None:
    name = f"group{len(dead)}"
    template = {"metadata": {"labels": {"app": name}}, "spec": pausing(1)}
    spec = {
        "replicas": 1,
        "leaderWorkerTemplate": {
            "size": 2,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "workerTemplate": template,
        },
    }
    kind = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}
    place.create(GROUPS, "leaderworkersets", {**kind, "metadata": {"name": name}, "spec": spec})

    def members() -> dict[str, str]:
        found = place.get(CORE, f"pods?labelSelector=app={name}")["items"]
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found if is_ready(one)}

    before = until(lambda: found if len(found := members()) == 2 else {})
    assert sorted(before) == [f"{name}-0", f"{name}-0-1"]
    place.delete(CORE, f"pods/{name}-{dead}")
    until(lambda: len(found := members()) == 2 and set(found.values()).isdisjoint(before.values()))
