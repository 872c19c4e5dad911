"""A factory that does not exist: GPU nodes that KWOK plays, and services on them, made on a real API server.

The objects are those that our component registers, but the proof's Job: pods that nobody runs can prove nothing. So
what a proof does in the end, naming the generation that serves, is done here.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.scale.services import rendered
from pulumi_tandem.manifest import Manifest, Manifests
from tandem_worker.contract import ServiceState
from tests.cluster.api import APPS, CORE, Api, Namespace, is_ready, until

RBAC, NETWORK, POLICY = "apis/rbac.authorization.k8s.io/v1", "apis/networking.k8s.io/v1", "apis/policy/v1"
SLICES = "apis/discovery.k8s.io/v1"
PLURALS = {
    "ConfigMap": (CORE, "configmaps"),
    "Deployment": (APPS, "deployments"),
    "NetworkPolicy": (NETWORK, "networkpolicies"),
    "PodDisruptionBudget": (POLICY, "poddisruptionbudgets"),
    "Role": (RBAC, "roles"),
    "RoleBinding": (RBAC, "rolebindings"),
    "Service": (CORE, "services"),
    "ServiceAccount": (CORE, "serviceaccounts"),
}
FAKE = "kwok.x-k8s.io/node"
GPUS = 8
ROOM = {"cpu": "192", "memory": "2Ti", "pods": "110", "ephemeral-storage": "28Ti", "nvidia.com/gpu": str(GPUS)}
"""Of a machine with eight H100, as a cloud sells it."""
WAIT_S = 300.0
Tell = Callable[[str], None]


@dataclass
class Factory:
    """Services in a namespace of their own."""

    namespace: Namespace
    services: list[Manifests] = field(default_factory=list[Manifests])

    def add(self, number: int) -> None:
        """Make a service's objects, one worker in each pool, and let its generation serve."""
        here = dict.fromkeys(("gateway", "prefill", "decode"), _on_fake_nodes)
        service = rendered(number, self.namespace.name, **here)
        for child in service.children:
            if child.key != "proof":
                self.namespace.create(*PLURALS[child.manifest["kind"]], child.manifest)
        state = ServiceState(service=name_of(service), active_generation=service.generation)
        change = {"data": {"service.json": state.model_dump_json()}}
        self.namespace.merge(CORE, f"configmaps/{service.child('state').name}", change)
        self.services.append(service)

    def await_pods(self, pods: int) -> None:
        """Until so many run, and no others are left."""
        until(lambda: [is_ready(pod) for pod in self.pods()] == [True] * pods, WAIT_S)

    def resize(self, service: Manifests, workers: int) -> None:
        """Give a service so many workers, half of them in each pool, and wait for them."""
        for pool in ("prefill", "decode"):
            change = {"spec": {"replicas": workers // 2}}
            self.namespace.merge(APPS, f"deployments/{service.child(pool).name}", change)
        until(lambda: len(self.workers(service)) == workers and all(map(is_ready, self.workers(service))), WAIT_S)
        until(lambda: self.endpoints(service) == workers, WAIT_S)

    def pods(self, **labels: str) -> list[Any]:
        """Pods that are not on their way out."""
        return self.namespace.pods(**labels)

    def workers(self, service: Manifests) -> list[Any]:
        """The pods of a service's workers."""
        found = self.pods(service=name_of(service))
        return [pod for pod in found if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"]

    def endpoints(self, service: Manifests) -> int:
        """How many workers the endpoint slices name."""
        selector = f"tandem.serving/service={name_of(service)},app.kubernetes.io/component=worker"
        found = self.namespace.get(SLICES, f"endpointslices?labelSelector={selector}")["items"]
        return sum(len(one["endpoints"] or ()) for one in found)


@contextmanager
def factory(api: Api, nodes: int, services: int, tell: Tell) -> Iterator[Factory]:
    """So many nodes and services, all running; nothing of them is left afterwards."""
    begun_s = time.monotonic()
    made = Factory(Namespace(api, f"scale-{uuid.uuid4().hex[:8]}"))
    try:
        for number in range(nodes):
            api.ask("POST", f"{CORE}/nodes", _node(number))
        until(lambda: all(map(is_ready, _nodes(api))), WAIT_S)
        tell(f"{nodes} nodes are ready, {time.monotonic() - begun_s:.0f} s")
        for number in range(services):
            made.add(number)
        replicas = (child.manifest["spec"]["replicas"] for one in made.services for child in _deployments(one))
        pods = sum(replicas)
        made.await_pods(pods)
        tell(f"{services} services with {pods} pods run, {time.monotonic() - begun_s:.0f} s")
        yield made
    finally:
        tell("taking it all away")
        made.namespace.end()
        until(lambda: api.call("GET", f"{CORE}/namespaces/{made.namespace.name}")[0] == 404, WAIT_S)
        api.ask("DELETE", f"{CORE}/nodes?labelSelector={FAKE}")
        until(lambda: not _nodes(api), WAIT_S)


def name_of(service: Manifests) -> str:
    """The service's own name."""
    return service.child("gateway").manifest["metadata"]["labels"]["tandem.serving/service"]


def worker_spec(service: Manifests, pool: str) -> dict[str, Any]:
    """What the agents of a pool are started with."""
    return json.loads(service.child(f"{pool}-spec").manifest["data"]["worker.json"])


def _deployments(service: Manifests) -> list[Any]:
    return [child for child in service.children if child.manifest["kind"] == "Deployment"]


def _nodes(api: Api) -> list[Any]:
    return api.ask("GET", f"{CORE}/nodes?labelSelector={FAKE}")["items"]


def _node(number: int) -> dict[str, Any]:
    name = f"fake-{number:04}"
    labels = {
        FAKE: "fake",
        "kubernetes.io/hostname": name,
        "node.kubernetes.io/instance-type": "p5.48xlarge",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "topology.kubernetes.io/zone": f"fake-1{'abc'[number % 3]}",
    }
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {FAKE: "fake"}},
        "spec": {"taints": [{"key": FAKE, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": ROOM, "allocatable": ROOM},
    }


def _on_fake_nodes(workload: Manifest) -> Manifest:
    """A transform: no real machine is to run these pods."""
    pod = workload["spec"]["template"]["spec"]
    pod["nodeSelector"] = {**pod.get("nodeSelector", {}), FAKE: "fake"}
    pod["tolerations"] = [*pod.get("tolerations", ()), {"key": FAKE, "operator": "Exists"}]
    return workload
