"""Constructs one service under Pulumi's mocks, which are the process's own, and prints what was registered as JSON.

python -m tests.kubernetes.construct front|apart|plain|access|wrong|scaled|changed|asleep|transform|staying
"""

import json
import sys
from typing import Any

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes
from tests.builders import laptop_pair

IMAGES = kubernetes.Images(worker="worker:1", gateway="gateway:1")
WRONG = tandem.Pool(gpu="cpu", cpu_cores="1", block_tokens=64, dtype="float32")
SCALED = tandem.Pool(gpu="cpu", cpu_cores="1", autoscalers=(tandem.Autoscaler(workers_max=4),))
ASLEEP = tandem.Pool(gpu="cpu", cpu_cores="1", autoscalers=(tandem.Autoscaler(workers_min=0, workers_max=4),))
TWO = tandem.Pool(gpu="cpu", workers=2)
MEANT = tandem.Pool(gpu="cpu", pod=tandem.Pod(disruption_min_available=0))


def at_most_two(manifest: dict[str, Any]) -> dict[str, Any]:
    manifest["spec"]["maxReplicaCount"] = 2
    return manifest


CASES: dict[str, dict[str, Any]] = {
    "plain": {"namespace": pulumi.Output.from_input("llm")},
    "access": {"cluster": kubernetes.Access(kubeconfig="/home/me/.kube/config", identifier="mine")},
    "wrong": {"service": laptop_pair(decode=WRONG)},
    "scaled": {"service": laptop_pair(decode=SCALED), "namespace": pulumi.Output.from_input("llm")},
    "changed": {
        "service": laptop_pair(decode=SCALED),
        "namespace": pulumi.Output.from_input("llm"),
        "transforms": {"decode-scaling": at_most_two},
    },
    "asleep": {"service": laptop_pair(prefill=ASLEEP, decode=ASLEEP)},
    "staying": {"service": laptop_pair(prefill=TWO, decode=MEANT)},
    "transform": {"transforms": {"decoder": dict}},
}

FRONTS: dict[str, dict[str, pulumi.Input[str]]] = {
    "front": {"chat": pulumi.Output.from_input("llm"), "code": pulumi.Output.from_input("llm")},
    "apart": {"chat": "llm", "code": "elsewhere"},
}
"""Namespaces of the services behind a front."""


class Recorder(pulumi.runtime.Mocks):
    """Remembers what is registered; a ConfigMap that is read has some evidence."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.seen.append((args.typ, args.name, args.inputs))
        data = {"data": {"evidence.json": '{"generation": "g"}'}} if args.name.endswith("-read") else {}
        return f"{args.name}-id", {**args.inputs, **data}

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(args)


def main(case: str) -> None:
    recorder = Recorder()
    pulumi.runtime.set_mocks(recorder, project="p", stack="s", preview=False)
    told: dict[str, Any] = {"error": None, "outputs": None, "warned": [], "urns": {}}
    pulumi.log.warn = told["warned"].append

    @pulumi.runtime.test
    def program() -> pulumi.Output[None] | None:
        if case in FRONTS:
            return fronted(told, FRONTS[case])
        args = kubernetes.InferenceArgs(**{"service": laptop_pair(), "images": IMAGES, **CASES[case]})
        try:
            made = kubernetes.Inference("chat", args)
        except pulumi.RunError as error:
            told["error"] = str(error)
            return None
        urns = pulumi.Output.all(**{key: resource.urn for key, resource in made.resources.items()})
        return pulumi.Output.all(evidence=made.evidence, url=made.url, urns=urns).apply(
            lambda known: told.update(outputs=[known["evidence"], known["url"]], urns=known["urns"])
        )

    program()
    sys.stdout.write(json.dumps({**told, "resources": recorder.seen}) + "\n")


def fronted(told: dict[str, Any], namespaces: dict[str, pulumi.Input[str]]) -> pulumi.Output[None] | None:
    """One front of services in these namespaces."""
    services = [
        kubernetes.Inference(
            name,
            kubernetes.InferenceArgs(
                service=laptop_pair(name=name, served_names=(name,)), images=IMAGES, namespace=namespace
            ),
        )
        for name, namespace in namespaces.items()
    ]
    try:
        made = kubernetes.Front("models", kubernetes.FrontArgs(services=services, images=IMAGES))
    except pulumi.RunError as error:
        told["error"] = str(error)
        return None
    urns = pulumi.Output.all(**{key: resource.urn for key, resource in made.resources.items()})
    return pulumi.Output.all(url=made.url, urns=urns).apply(
        lambda known: told.update(outputs=[known["url"]], urns=known["urns"])
    )


if __name__ == "__main__":
    main(sys.argv[1])
