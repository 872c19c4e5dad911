"""The component under Pulumi's mocks: what it registers, in which order of checks, and what lands in state."""

from typing import Any

import pytest

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes
from tests.builders import laptop_pair

ARGS: dict[str, Any] = {"images": kubernetes.Images(worker="worker:1", gateway="gateway:1")}


class Recorder(pulumi.runtime.Mocks):
    """Remembers what is registered; a ConfigMap that is read has some evidence."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.seen[args.typ, args.name] = args.inputs
        data = {"data": {"evidence.json": '{"generation": "g"}'}} if args.name.endswith("-read") else {}
        return f"{args.name}-id", {**args.inputs, **data}

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[str, Any]:
        raise AssertionError(args)


@pytest.fixture
def recorder() -> Recorder:
    mocks = Recorder()
    pulumi.runtime.set_mocks(mocks, project="p", stack="s", preview=False)
    return mocks


def test_a_service_becomes_objects_and_evidence(recorder: Recorder) -> None:
    evidence: list[Any] = []

    @pulumi.runtime.test
    def program() -> pulumi.Output[None]:
        args = kubernetes.InferenceArgs(service=laptop_pair(), namespace=pulumi.Output.from_input("llm"), **ARGS)
        made = kubernetes.Inference("chat", args)
        return pulumi.Output.all(made.evidence, made.url).apply(evidence.extend)

    program()
    assert evidence == [{"generation": "g"}, "http://chat-gateway.llm.svc"]
    kinds = {kind for kind, _ in recorder.seen}
    assert {"kubernetes:apps/v1:Deployment", "kubernetes:batch/v1:Job"} <= kinds
    assert "pulumi:providers:kubernetes" not in kinds
    assert {
        inputs["metadata"]["namespace"]
        for (kind, _), inputs in recorder.seen.items()
        if kind.startswith("kubernetes:") and "metadata" in inputs
    } == {"llm"}


def test_a_cluster_of_its_own_gets_a_provider(recorder: Recorder) -> None:
    @pulumi.runtime.test
    def program() -> None:
        access = kubernetes.Access(kubeconfig="/home/me/.kube/config", identifier="mine")
        kubernetes.Inference("chat", kubernetes.InferenceArgs(service=laptop_pair(), cluster=access, **ARGS))

    program()
    provider = recorder.seen["pulumi:providers:kubernetes", "chat-cluster"]
    assert provider["clusterIdentifier"] == "mine"


def test_a_wrong_declaration_registers_nothing(recorder: Recorder) -> None:
    wrong = laptop_pair(decode=tandem.Pool(gpu="cpu", cpu_cores="1", block_tokens=64))
    with pytest.raises(pulumi.RunError, match="block"):
        kubernetes.Inference("chat", kubernetes.InferenceArgs(service=wrong, **ARGS))
    assert recorder.seen == {}


def test_an_unknown_transform_is_one_message(recorder: Recorder) -> None:
    args = kubernetes.InferenceArgs(service=laptop_pair(), transforms={"decoder": dict}, **ARGS)
    with pytest.raises(pulumi.RunError, match=r"'decoder'.*did you mean 'decode'"):
        kubernetes.Inference("chat", args)
    assert recorder.seen == {}
