"""What a cluster is given for a service: who finds whom, what changes a generation, what `restricted` admits."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.check import check
from pulumi_tandem.lower import lower
from pulumi_tandem.manifest import (
    Gateway,
    HostPath,
    Images,
    Manifests,
    Route,
    Setting,
    UnknownChild,
    manifests,
)
from pulumi_tandem.resolve import resolve
from tests.builders import laptop_pair, laptop_single, llama_pair
from tests.check.cases_tensorrt import servers

IMAGES = Images(worker="worker:1", gateway="gateway:1")
PLAIN = Setting(images=IMAGES)
ON_P5 = tandem.Cluster(node_pools=(tandem.NodePool(instance_type="p5.48xlarge", nodes=1),))
SHAPES: dict[str, Callable[[], tandem.Service]] = {
    "separate": laptop_pair,
    "aggregated": laptop_single,
    "in-place": lambda: laptop_pair(rollout="in_place"),
    "gpus": lambda: llama_pair(cluster=ON_P5),
    "paired": lambda: llama_pair(
        {"tensor_parallel": 4}, {"tensor_parallel": 4}, pods="paired", transfer=tandem.Transfer(transport="cuda_ipc")
    ),
    "over-nodes": lambda: llama_pair(
        {"data_parallel": 2, "nodes_per_worker": 2}, {"data_parallel": 2, "nodes_per_worker": 2}
    ),
    "over-nodes-by-mpirun": lambda: servers({"tensor_parallel": 8, "pipeline_parallel": 2, "nodes_per_worker": 2}, {}),
    "claimed": lambda: llama_pair(cluster=tandem.Cluster(dra=True)),
    "scaled": lambda: llama_pair(
        {"autoscalers": (tandem.Autoscaler(workers_max=20),)},
        {"autoscalers": (tandem.Autoscaler(workers_max=4, kind="HorizontalPodAutoscaler"),)},
        prefill_per_decode=tandem.Ratio(at_least=0.5, at_most=4),
        cluster=ON_P5,
    ),
}


def made(service: tandem.Service, setting: Setting = PLAIN, **transforms: Any) -> Manifests:
    resolved = resolve(service)
    return manifests(
        resolved, lower(resolved), setting, {key.replace("_", "-"): how for key, how in transforms.items()}
    )


def pod_specs(of: Manifests) -> dict[str, dict[str, Any]]:
    """Every pod that the objects make, by the key of what makes it."""
    found: dict[str, dict[str, Any]] = {}
    for child in of.children:
        spec = child.manifest.get("spec", {})
        template = spec.get("template") or spec.get("leaderWorkerTemplate", {}).get("workerTemplate")
        if template:
            found[child.key] = template
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_every_selector_finds_the_pods_that_it_is_for(shape: str) -> None:
    of = made(SHAPES[shape]())
    pods = {key: template["metadata"]["labels"].items() for key, template in pod_specs(of).items()}
    for child in of.children:
        selector = child.manifest.get("spec", {}).get("selector") or {}
        wanted = dict(selector.get("matchLabels", selector) if child.manifest["kind"] != "Service" else selector)
        wanted.pop("leaderworkerset.sigs.k8s.io/worker-index", None)
        if wanted:
            owner = child.key.removesuffix("-budget").removesuffix("-service").replace("scale", "gateway")
            found = [key for key, labels in pods.items() if wanted.items() <= labels]
            assert found in ([owner], ["pair"]), f"{child.key} finds {found}"


@pytest.mark.parametrize("shape", SHAPES)
def test_no_pod_may_more_than_restricted_admits(shape: str) -> None:
    for template in pod_specs(made(SHAPES[shape]())).values():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    "asked", [{}, {"capabilities": ("IPC_LOCK",)}, {"host_paths": ("/dev/infiniband",)}], ids=["none", "lock", "path"]
)
def test_a_pod_gets_what_its_pool_asks_for_and_no_other_pod_does(asked: dict[str, Any]) -> None:
    pods = pod_specs(made(llama_pair({"pod": tandem.Pod(**asked)})))
    given = {key: (_added(pod["spec"]), _machine_paths(pod["spec"])) for key, pod in pods.items()}
    assert given.pop("prefill") == (list(asked.get("capabilities", ())), list(asked.get("host_paths", ())))
    assert set(given) == {"decode", "gateway", "proof"}
    assert all(one == ([], []) for one in given.values())


def _added(spec: dict[str, Any]) -> list[str]:
    return [name for one in spec["containers"] for name in one["securityContext"]["capabilities"].get("add", ())]


def _machine_paths(spec: dict[str, Any]) -> list[str]:
    return [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("shape", SHAPES)
def test_children_stand_after_what_they_need_and_fit_into_names(shape: str) -> None:
    seen: set[str] = set()
    for child in made(SHAPES[shape]()).children:
        assert set(child.after) <= seen
        seen.add(child.key)
        assert len(child.name) <= 63
        json.dumps(child.manifest)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_are_accepted(shape: str) -> None:
    findings = check(resolve(SHAPES[shape]()))
    assert [finding for finding in findings if finding.severity == "error"] == []


def test_a_generation_is_a_matter_of_images_and_pods_and_not_of_numbers() -> None:
    first = made(laptop_pair()).generation
    assert made(laptop_pair(), Setting(images=Images(worker="worker:2", gateway="gateway:1"))).generation != first
    grown = laptop_pair(decode=tandem.Pool(gpu="cpu", cpu_cores="1", workers=3))
    assert made(grown).generation == first
    assert made(laptop_pair(), Setting(images=IMAGES, namespace="elsewhere")).generation == first
    mounted = tandem.Model(name="SmolLM2-135M-Instruct", path="/model")
    settings = [Setting(images=IMAGES, weights=HostPath(path=path)) for path in ("/nvme", "/nvme2")]
    assert len({made(laptop_pair(model=mounted), setting).generation for setting in settings}) == 2

    def elsewhere(manifest: dict[str, Any]) -> dict[str, Any]:
        manifest["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "nvme"}
        return manifest

    changed = made(laptop_pair(), decode=elsewhere)
    assert changed.generation != first
    assert changed.child("decode").manifest["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "nvme"}


def test_objects_of_two_generations_have_no_worker_name_in_common() -> None:
    first = made(laptop_pair())
    second = made(laptop_pair(served_names=("other",)))
    shared = {child.name for child in first.children} & {child.name for child in second.children}
    assert shared == {"chat-worker", "chat-gateway", "chat-prover", "chat-state"}
    kept = {child.name for child in made(laptop_pair(rollout="in_place")).children}
    assert {"chat-prefill", "chat-decode"} <= kept


@pytest.mark.parametrize("key", ["prefill", "prefill-spec", "prefill-service"])
def test_what_a_transform_makes_of_a_pool_is_another_generation(key: str) -> None:
    def marked(manifest: dict[str, Any]) -> dict[str, Any]:
        holder = manifest["spec"]["template"] if manifest["kind"] == "Deployment" else manifest
        holder["metadata"]["annotations"] = {"mine": "1"}
        return manifest

    assert made(laptop_pair(), PLAIN, **{key: marked}).generation != made(laptop_pair()).generation


def test_a_transform_of_an_unknown_child_names_those_that_there_are() -> None:
    with pytest.raises(UnknownChild, match=r"'prefil'.*did you mean 'prefill'.*gateway-service"):
        made(laptop_pair(), prefil=lambda manifest: manifest)


def test_a_pair_is_one_pod_that_shares_its_processes() -> None:
    of = made(SHAPES["paired"]())
    spec = pod_specs(of)["pair"]["spec"]
    assert spec["shareProcessNamespace"]
    assert [container["name"] for container in spec["containers"]] == ["prefill", "decode"]
    ports = [port["containerPort"] for container in spec["containers"] for port in container["ports"]]
    assert len(set(ports)) == 4
    assert [one["resources"]["limits"]["nvidia.com/gpu"] for one in spec["containers"]] == ["4", "4"]
    assert of.child("decode-service").manifest["spec"]["ports"][0]["targetPort"] == 9000


def test_a_worker_over_nodes_is_a_group_whose_leader_is_found() -> None:
    of = made(SHAPES["over-nodes"]())
    group = of.child("prefill").manifest
    assert group["kind"] == "LeaderWorkerSet"
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    selector = of.child("prefill-service").manifest["spec"]["selector"]
    assert selector["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    words = pod_specs(of)["prefill"]["spec"]["containers"][0]["args"]
    assert words[-4:] == ["--leader-address", "$(LWS_LEADER_ADDRESS)", "--node-rank", "$(LWS_WORKER_INDEX)"]


def test_devices_are_claimed_where_the_cluster_deals_them_out_so() -> None:
    of = made(SHAPES["claimed"]())
    spec = pod_specs(of)["prefill"]["spec"]
    assert spec["resourceClaims"][0]["resourceClaimTemplateName"] == of.child("prefill-claim").name
    assert "nvidia.com/gpu" not in spec["containers"][0]["resources"]["limits"]


def test_pods_go_to_the_machines_that_are_declared() -> None:
    spec = pod_specs(made(SHAPES["gpus"]()))["prefill"]["spec"]
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "p5.48xlarge"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_a_pod_may_take_as_long_to_leave_as_its_drain() -> None:
    grace = tandem.Grace(settle_s=3, drain_timeout_s=300, stop_timeout_s=30)
    spec = pod_specs(made(laptop_pair(grace=grace)))["decode"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= 333
    pod = tandem.Pod(termination_grace_s=500, pre_stop_s=5)
    asked = laptop_pair(decode=tandem.Pool(gpu="cpu", cpu_cores="1", pod=pod))
    spec = pod_specs(made(asked))["decode"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 500
    assert spec["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


def test_autoscalers_start_after_the_proof() -> None:
    of = made(SHAPES["scaled"]())
    assert "proof" in of.child("prefill-scaling").after
    assert "proof" in of.child("decode-scaling").after


def test_the_front_door_is_opened_as_asked() -> None:
    route = Route(host="llm.example", tls_secret="tls", ingress_class="nginx")
    gateway = Gateway(replicas_max=6, keys_secret="keys", route=route)
    of = made(laptop_pair(), Setting(images=Images(worker="w", gateway="g", pull_secrets=("p",)), gateway=gateway))
    ingress = of.child("gateway-route").manifest
    assert ingress["kind"] == "Ingress"
    assert ingress["spec"]["tls"] == [{"hosts": ["llm.example"], "secretName": "tls"}]
    assert of.child("gateway-scaling").manifest["spec"]["maxReplicas"] == 6
    spec = pod_specs(of)["gateway"]["spec"]
    assert "--api-keys-file" in spec["containers"][0]["args"]
    assert [one["secret"]["defaultMode"] for one in spec["volumes"] if "secret" in one] == [0o440]
    assert spec["imagePullSecrets"] == [{"name": "p"}]
    parented = Gateway(route=Route(host="llm.example", parent=("gateways", "public")))
    of = made(laptop_pair(), Setting(images=IMAGES, gateway=parented))
    assert of.child("gateway-route").manifest["kind"] == "HTTPRoute"


def test_the_hubs_token_is_named_and_never_held() -> None:
    secret = tandem.TokenSecret(name="hub")
    service = laptop_pair(model=tandem.Model(name="SmolLM2-135M-Instruct"), token_secret=secret)
    of = made(service)
    env = {one["name"]: one for one in pod_specs(of)["prefill"]["spec"]["containers"][0]["env"]}
    assert env["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    egress = of.child("worker-network").manifest["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]} in egress
