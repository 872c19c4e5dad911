"""Every object of every shape, GPUs and TensorRT-LLM too, judged by a real API server in a `restricted` namespace."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.manifest import Gateway, HostPath, Images, ImageVolume, Route, Setting, front
from tests.builders import laptop_pair, llama_flexible, llama_pair
from tests.cluster.api import CORE, Api, Namespace
from tests.examples.test_cluster_stacks import BYO, OWN, registered
from tests.examples.test_cluster_stacks import IMAGES as STACK_IMAGES
from tests.manifest.test_manifests import ON_P5, SHAPES, made, pod_specs

IMAGES = Images(worker="tandem.local/worker-fake:test", gateway="tandem.local/gateway:test")
LLAMA = tandem.Model(name="Llama-3.3-70B-Instruct", path="/model")
EVERY: dict[str, Callable[[], tandem.Service]] = {
    **SHAPES,
    "tensorrt-llm": lambda: llama_pair(
        {"tensor_parallel": 4}, {"tensor_parallel": 4}, model=LLAMA, engine=tandem.TensorRtLlm(version="1.2.1")
    ),
    "flexible": lambda: llama_flexible(cluster=ON_P5),
}
STACKS = [
    ("stacks/gpt_oss_120b.py", STACK_IMAGES, "restricted"),
    ("stacks/llama_70b.py", STACK_IMAGES, "restricted"),
    ("stacks/llama_70b.py", {**STACK_IMAGES, "llama:two-machines": "true"}, "privileged"),
    ("stacks/llama_70b_nvfp4_b200.py", STACK_IMAGES, "restricted"),
    (BYO, OWN, "restricted"),
]
PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}


@pytest.fixture(scope="module")
def restricted(namespace: Callable[..., Namespace]) -> Namespace:
    return namespace("restricted")


@pytest.mark.parametrize("shape", EVERY)
def test_a_real_api_server_takes_every_object(shape: str, restricted: Namespace, api: Api) -> None:
    of = made(EVERY[shape](), Setting(images=IMAGES, namespace=restricted.name))
    assert refused(api, restricted, [child.manifest for child in of.children]) == []


def test_a_real_api_server_takes_every_object_of_a_front(restricted: Namespace, api: Api) -> None:
    route = Gateway(replicas_max=4, keys_secret="keys", route=Route(host="models.example.com"))
    services = [laptop_pair(name=name, served_names=(name,)) for name in ("chat", "code")]
    setting = Setting(images=IMAGES, namespace=restricted.name, gateway=route)
    of = front("models", [made(one).gateway for one in services], setting)
    assert refused(api, restricted, [child.manifest for child in of]) == []
    (template,) = [child.manifest["spec"]["template"] for child in of if child.key == "front"]
    status, answer = ask_for(restricted, template)
    assert status == 201, answer


@pytest.mark.parametrize(
    ("stack", "config", "level"), STACKS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_real_api_server_takes_every_object_of_every_stack_for_gpus(
    stack: str, config: dict[str, str], level: str, namespace: Callable[..., Namespace], api: Api
) -> None:
    """In a namespace of the level that the stack declares."""
    there = namespace(level)
    objects = [one for one in registered(stack, config).values() if "apiVersion" in one]
    for one in objects:
        one["metadata"]["namespace"] = there.name
    assert refused(api, there, objects) == []
    templates = [one["spec"]["template"] for one in objects if one["kind"] in {"Deployment", "Job"}]
    assert [answer for status, answer in (ask_for(there, one) for one in templates) if status != 201] == []


@pytest.mark.parametrize("shape", EVERY)
def test_pod_security_admits_every_pod(shape: str, restricted: Namespace) -> None:
    """Of a workload it only warns; so the pods themselves are asked for."""
    restricted_pods = pod_specs(made(EVERY[shape](), Setting(images=IMAGES, namespace=restricted.name)))
    for key, template in restricted_pods.items():
        status, answer = ask_for(restricted, template)
        assert status == 201, f"{key}: {answer}"


@pytest.mark.parametrize("asked", [{"capabilities": ("IPC_LOCK",)}, {"host_paths": ("/dev/infiniband",)}])
def test_restricted_refuses_what_rdma_asks_for(asked: dict[str, Any], restricted: Namespace) -> None:
    service = llama_pair({"pod": tandem.Pod(**asked)}, {"pod": tandem.Pod(**asked)})
    pods = pod_specs(made(service, Setting(images=IMAGES, namespace=restricted.name)))
    status, answer = ask_for(restricted, pods["prefill"])
    assert status == 403
    assert "violates PodSecurity" in answer["message"]


def test_restricted_refuses_weights_of_the_machine(restricted: Namespace) -> None:
    setting = Setting(images=IMAGES, namespace=restricted.name, weights=HostPath(path="/nvme"))
    status, answer = ask_for(restricted, pod_specs(made(llama_pair(model=LLAMA), setting))["decode"])
    assert status == 403
    assert "hostPath" in answer["message"]


def test_restricted_admits_weights_of_an_image(restricted: Namespace, api: Api) -> None:
    """By the API server alone: this machine's containerd is 1.6, which cannot mount an image."""
    setting = Setting(images=IMAGES, namespace=restricted.name, weights=ImageVolume(reference="registry.example/w:1"))
    of = made(llama_pair(model=LLAMA), setting)
    assert refused(api, restricted, [child.manifest for child in of.children]) == []
    status, answer = ask_for(restricted, pod_specs(of)["decode"])
    assert status == 201, answer
    (image,) = [each["image"] for each in answer["spec"]["volumes"] if each["name"] == "model"]
    assert image["reference"] == "registry.example/w:1"


def refused(api: Api, namespace: Namespace, objects: Sequence[Any]) -> list[Any]:
    """What the API server says against objects that it would not take."""
    found: list[Any] = []
    for manifest in objects:
        if manifest["apiVersion"].startswith("keda.sh/"):
            continue  # the test cluster has no KEDA
        group = manifest["apiVersion"] if "/" not in manifest["apiVersion"] else ""
        path = f"api/{group}" if group else f"apis/{manifest['apiVersion']}"
        plural = PLURALS.get(manifest["kind"], manifest["kind"].lower() + "s")
        query = "?dryRun=All&fieldValidation=Strict"
        status, answer = api.call("POST", f"{path}/namespaces/{namespace.name}/{plural}{query}", manifest)
        if status != 201:
            found.append((manifest["kind"], manifest["metadata"]["name"], answer))
    return found


def ask_for(namespace: Namespace, template: dict[str, Any]) -> tuple[int, Any]:
    """What becomes of a pod of this template; its service account need not be there."""
    spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
    spec.setdefault("restartPolicy", "Always")
    pod = {"metadata": {"generateName": "asked-", "labels": template["metadata"]["labels"]}, "spec": spec}
    return namespace.call("POST", CORE, "pods?dryRun=All", pod)
