"""What a cluster is given for one door in front of several services: whom it finds, who counts it, what it may."""

import json
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.manifest import Child, Images, NotOneDoor, Setting, front
from tests.builders import laptop_pair
from tests.manifest.test_manifests import made

SETTING = Setting(images=Images(worker="worker:1", gateway="gateway:1"), namespace="llm")


def service(name: str, **changes: Any) -> tandem.Service:
    return laptop_pair(name=name, served_names=(f"{name}-model",), **changes)


def models(*services: tandem.Service) -> dict[str, Child]:
    """The objects of the front `models`, by their keys."""
    chosen = services or (service("chat"), service("code"))
    return {child.key: child for child in front("models", [made(one).gateway for one in chosen], SETTING)}


def pod(of: dict[str, Child]) -> dict[str, Any]:
    return of["front"].manifest["spec"]["template"]


def container(of: dict[str, Child]) -> dict[str, Any]:
    (only,) = pod(of)["spec"]["containers"]
    return only


def test_every_service_is_mounted_and_served() -> None:
    of = models()
    specs = [word for word in container(of)["args"] if word.endswith(".json")]
    assert specs == ["/etc/tandem/chat.json", "/etc/tandem/code.json"]
    data = of["front-spec"].manifest["data"]
    assert {file: json.loads(text)["service"] for file, text in data.items()} == {
        "chat.json": "chat",
        "code.json": "code",
    }
    assert pod(of)["spec"]["volumes"][0]["configMap"]["name"] == of["front-spec"].name


def test_pods_leave_as_slowly_as_the_most_patient_service_asks() -> None:
    slow = service("code", limits=tandem.Limits(request_timeout_s=1800))
    assert pod(models(service("chat"), slow))["spec"]["terminationGracePeriodSeconds"] == 1815


@pytest.mark.parametrize("name", ["chat", "code"])
def test_the_gateways_of_each_service_count_the_fronts_pods(name: str) -> None:
    peers = models()[f"front-{name}"].manifest
    of_gateways = made(service(name)).child("gateway-service").manifest["metadata"]["labels"]
    for label in ("tandem.serving/service", "app.kubernetes.io/component"):
        assert peers["metadata"]["labels"][label] == of_gateways[label]
    assert peers["spec"]["selector"].items() <= pod(models())["metadata"]["labels"].items()
    assert not peers["spec"]["selector"].items() <= pod(models(service("other")))["metadata"]["labels"].items()


def test_no_service_takes_the_fronts_pods_for_its_own() -> None:
    labels = pod(models())["metadata"]["labels"].items()
    for name in ("chat", "code", "models"):
        for child in made(service(name)).children:
            chosen = child.manifest.get("spec", {}).get("selector") or child.manifest.get("spec", {}).get("podSelector")
            if chosen:
                assert not chosen.get("matchLabels", chosen).items() <= labels, child.key


@pytest.mark.parametrize("component", ["worker", "gateway"])
def test_the_policies_of_a_service_let_its_fronts_in_and_no_other(component: str) -> None:
    policy = made(service("chat")).child(f"{component}-network").manifest["spec"]
    peers = [peer for rule in policy["ingress"] for peer in rule.get("from", ())]
    let_in = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    of = [models(), models(service("code"))]
    found = [any(peer.items() <= pod(one)["metadata"]["labels"].items() for peer in let_in) for one in of]
    assert found == [True, False]


def test_the_front_reaches_the_workers_of_its_services() -> None:
    egress = models()["front-network"].manifest["spec"]["egress"][0]["to"]
    reached = [peer["podSelector"]["matchLabels"] for peer in egress]
    for name in ("chat", "code"):
        assert {"tandem.serving/service": name, "app.kubernetes.io/component": "worker"} in reached


def test_the_front_may_read_exactly_the_states_of_its_services() -> None:
    slices, states = models()["front-role"].manifest["rules"]
    assert slices["resources"] == ["endpointslices"]
    assert states["resourceNames"] == ["chat-state", "code-state"]
    assert {verb for rule in (slices, states) for verb in rule["verbs"]} == {"get", "list", "watch"}


def test_the_front_tells_its_load_to_the_gateways_of_a_service_that_scales() -> None:
    scaled = tandem.Pool(gpu="cpu", cpu_cores="1", autoscalers=(tandem.Autoscaler(workers_max=4),))
    of = models(service("chat"), service("code", decode=scaled))
    assert "--scale-listen" in container(of)["args"]
    ports = {
        key: [port["name"] for port in child.manifest["spec"]["ports"]]
        for key, child in of.items()
        if child.manifest["kind"] == "Service"
    }
    assert ports == {"front-service": ["http"], "front-chat": ["http"], "front-code": ["http", "scale"]}
    assert "--scale-listen" not in container(models())["args"]


@pytest.mark.parametrize(
    ("name", "services", "says"),
    [
        ("models", [laptop_pair(name="chat"), laptop_pair(name="code")], "both serve the model"),
        ("models", [service("chat"), service("chat")], "the service 'chat' is there twice"),
        ("models", [], "the front 'models' has no service behind it"),
        ("My_Models", [service("chat")], "is not a name that Kubernetes takes"),
        ("m" * 30, [service("c" * 40)], "is longer than 63 characters"),
    ],
)
def test_what_cannot_be_one_door_is_refused(name: str, services: list[tandem.Service], says: str) -> None:
    with pytest.raises(NotOneDoor, match=says):
        front(name, [made(one).gateway for one in services], SETTING)
