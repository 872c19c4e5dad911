"""The component: a service as pods of a cluster."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi_kubernetes as k8s

import pulumi
from pulumi_tandem import check
from pulumi_tandem.accept import accept
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.kubernetes.access import Access, provider_of
from pulumi_tandem.kubernetes.alone import alone
from pulumi_tandem.kubernetes.kinds import register
from pulumi_tandem.kubernetes.refused import not_served
from pulumi_tandem.lower import GatewaySpec, lower
from pulumi_tandem.manifest import (
    Gateway,
    Images,
    Manifests,
    Setting,
    Transform,
    UnknownChild,
    Weights,
    manifests,
)

TOKEN = "tandem:kubernetes:Inference"  # noqa: S105 - a type token


@dataclass(frozen=True, kw_only=True)
class InferenceArgs:
    """Where and how a service runs in a cluster; what it is, is the `service`."""

    service: Service
    images: Images
    cluster: Access = field(default_factory=Access)
    namespace: pulumi.Input[str] = "default"
    """It must exist."""
    gateway: Gateway = field(default_factory=Gateway)
    weights: Weights | None = None
    """Where mounted weights come from; they lie below `/model`. Default: the engine fetches the model by name."""
    transforms: Mapping[str, Transform] = field(default_factory=dict[str, Transform])
    """Changes of single objects by their keys (`gateway`, `prefill`, `decode-budget`): gets the manifest, gives the one
    to use. A change of a worker's pods is a new generation. Default: none."""


class Inference(pulumi.ComponentResource):
    """A service as pods: gateways, the workers of each pool, and the proof that lets their generation serve."""

    url: pulumi.Output[str]
    """Where pods of the cluster reach the OpenAI API."""
    generation: pulumi.Output[str]
    """The generation that serves."""
    evidence: pulumi.Output[dict[str, Any]]
    """What the proof measured: see `pulumi_tandem.prove.evidence.Evidence`."""
    resources: Mapping[str, pulumi.CustomResource]
    """Every object by its key."""
    namespace: pulumi.Input[str]
    """As it was given."""
    spec: GatewaySpec
    """What whoever answers for this service does, its own gateways and a `Front`."""

    def __init__(self, name: str, args: InferenceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Declare the service's objects.

        Raises:
            pulumi.RunError: the declaration has errors, or transforms an object that it does not have.
        """
        made = _accepted(args)
        self.namespace, self.spec = args.namespace, made.gateway
        super().__init__(TOKEN, name, {}, opts)
        own = pulumi.ResourceOptions(parent=self, provider=provider_of(name, args.cluster, self))
        self.resources = register(name, made.children, own)
        self.url = _url(args)
        self.generation = pulumi.Output.from_input(made.generation)
        self.evidence = _evidence(name, made, args.namespace, own, self.resources["proof"])
        self.register_outputs({"url": self.url, "generation": self.generation, "evidence": self.evidence})


def _accepted(args: InferenceArgs) -> Manifests:
    (resolved,) = accept(args.service)
    if refused := not_served(resolved):
        raise pulumi.RunError(str(DeclarationError(refused)))
    for finding in alone(resolved):
        pulumi.log.warn(check.render_finding(finding))
    setting = Setting(
        images=args.images,
        namespace=args.namespace,
        gateway=args.gateway,
        weights=args.weights,
        concat=pulumi.Output.concat,
    )
    try:
        return manifests(resolved, lower(resolved), setting, args.transforms)
    except (DeclarationError, UnknownChild) as error:
        raise pulumi.RunError(str(error)) from None


def _url(args: InferenceArgs) -> pulumi.Output[str]:
    return pulumi.Output.concat("http://", args.service.name, "-gateway.", args.namespace, ".svc")


def _evidence(
    name: str, made: Manifests, namespace: pulumi.Input[str], own: pulumi.ResourceOptions, proof: pulumi.CustomResource
) -> pulumi.Output[dict[str, Any]]:
    """Read when the proof has ended, since its Job writes it: its id is not known before."""
    where = pulumi.Output.all(namespace, proof.id).apply(lambda known: f"{known[0]}/{made.evidence}")
    found = k8s.core.v1.ConfigMap.get(f"{name}-evidence-{made.generation}-read", where, own)
    return found.data.apply(lambda data: json.loads((data or {}).get("evidence.json", "{}")))
