"""The component under Pulumi's mocks: what it registers, in which order of checks, and what lands in state."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@functools.cache
def constructed(case: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.kubernetes.construct", case]
    ran = subprocess.run(command, cwd=ROOT, text=True, check=False, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_service_becomes_objects_and_evidence() -> None:
    made = constructed("plain")
    assert made["outputs"] == [{"generation": "g"}, "http://chat-gateway.llm.svc"]
    kinds = {kind for kind, _, _ in made["resources"]}
    assert {"kubernetes:apps/v1:Deployment", "kubernetes:batch/v1:Job"} <= kinds
    assert "pulumi:providers:kubernetes" not in kinds
    namespaces = {
        inputs["metadata"]["namespace"]
        for kind, _, inputs in made["resources"]
        if kind.startswith("kubernetes:") and "metadata" in inputs
    }
    assert namespaces == {"llm"}
    (component,) = [inputs for kind, _, inputs in made["resources"] if kind == "tandem:kubernetes:Inference"]
    assert component == {}


def test_every_object_is_a_child_of_the_component() -> None:
    urns = constructed("plain")["urns"]
    assert {"prefill", "decode", "gateway", "proof", "worker-network"} <= set(urns)
    assert [urn for urn in urns.values() if "tandem:kubernetes:Inference$kubernetes:" not in urn] == []


def test_a_cluster_of_its_own_gets_a_provider() -> None:
    made = constructed("access")
    (provider,) = [inputs for kind, _, inputs in made["resources"] if kind == "pulumi:providers:kubernetes"]
    assert provider["clusterIdentifier"] == "mine"


def test_a_wrong_declaration_registers_nothing() -> None:
    made = constructed("wrong")
    assert all(f"chat.decode.{field}" in made["error"] for field in ("block_tokens", "dtype"))
    assert made["resources"] == []


def scalers(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [inputs for kind, _, inputs in made["resources"] if kind == "kubernetes:keda.sh/v1alpha1:ScaledObject"]


def test_an_object_whose_names_are_not_known_yet_can_be_transformed() -> None:
    (scaler,) = scalers(constructed("changed"))
    assert scaler["spec"]["maxReplicaCount"] == 2
    assert scaler["metadata"]["namespace"] == "llm"


def test_an_autoscaler_reads_the_figures_of_its_own_service() -> None:
    made = constructed("scaled")
    (scaler,) = scalers(made)
    urls = {trigger["metadata"]["url"] for trigger in scaler["spec"]["triggers"]}
    assert urls == {"http://chat-scale.llm.svc:8081/scale"}


def test_a_pool_that_nothing_would_wake_is_refused() -> None:
    made = constructed("asleep")
    assert "chat.decode.autoscalers.0.workers_min" in made["error"]
    assert made["resources"] == []


def test_a_pool_of_one_pod_is_warned_of_unless_it_is_meant() -> None:
    warned = constructed("plain")["warned"]
    assert [text.count("TND0274") for text in warned] == [1, 1]
    assert "chat.prefill.workers" in warned[0]
    assert "the other pool serves both phases" in warned[0]
    assert constructed("staying")["warned"] == []


def test_an_unknown_transform_is_one_message() -> None:
    made = constructed("transform")
    assert "'decoder'" in made["error"]
    assert "did you mean 'decode'" in made["error"]
    assert made["resources"] == []


def test_a_front_stands_in_the_namespace_of_its_services() -> None:
    made = constructed("front")
    assert made["outputs"] == ["http://models-front.llm.svc"]
    objects = {name: inputs for _, name, inputs in made["resources"] if name.startswith("models-front")}
    assert {"models-front", "models-front-chat", "models-front-code"} <= set(objects)
    assert {inputs["metadata"]["namespace"] for inputs in objects.values()} == {"llm"}
    assert [urn for urn in made["urns"].values() if "tandem:kubernetes:Front$kubernetes:" not in urn] == []


def test_services_of_several_namespaces_get_no_front() -> None:
    made = constructed("apart")
    assert "'chat' in 'llm', 'code' in 'elsewhere'" in made["error"]
    assert not [name for _, name, _ in made["resources"] if name.startswith("models")]
