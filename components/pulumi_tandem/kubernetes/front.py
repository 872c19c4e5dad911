"""The component: one door in front of several services."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi_tandem.kubernetes.access import Access, provider_of
from pulumi_tandem.kubernetes.inference import Inference
from pulumi_tandem.kubernetes.kinds import register
from pulumi_tandem.manifest import Gateway, Images, NotOneDoor, Setting, front

TOKEN = "tandem:kubernetes:Front"  # noqa: S105 - a type token


@dataclass(frozen=True, kw_only=True)
class FrontArgs:
    """Which services stand behind the door, and its pods."""

    services: Sequence[Inference]
    """All in one namespace, which is the front's, too. A request goes to the one that serves its model."""
    images: Images
    cluster: Access = field(default_factory=Access)
    """That of the services."""
    gateway: Gateway = field(default_factory=Gateway)
    """The front's pods, its keys and its route; those of the services stay as they are."""


class Front(pulumi.ComponentResource):
    """One OpenAI API for the models of several services, each with its own limits, roll-outs and proofs.

    The services keep their own gateways, through which they are proved.
    """

    url: pulumi.Output[str]
    """Where pods of the cluster reach the OpenAI API of all the models."""
    resources: Mapping[str, pulumi.CustomResource]
    """Every object by its key."""

    def __init__(self, name: str, args: FrontArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Declare the front's objects; `name` is the first part of their names in the cluster.

        Raises:
            pulumi.RunError: the services cannot stand behind one door.
        """
        namespace = _namespace(name, args.services)
        setting = Setting(images=args.images, namespace=namespace, gateway=args.gateway)
        try:
            made = front(name, [service.spec for service in args.services], setting)
        except NotOneDoor as error:
            raise pulumi.RunError(str(error)) from None
        super().__init__(TOKEN, name, {}, opts)
        # A service that is not proved has nothing to serve; one that goes is first taken from the front.
        own = pulumi.ResourceOptions(
            parent=self, provider=provider_of(name, args.cluster, self), depends_on=list(args.services)
        )
        self.resources = register(name, made, own)
        self.url = pulumi.Output.concat("http://", name, "-front.", namespace, ".svc")
        self.register_outputs({"url": self.url})


def _namespace(name: str, services: Sequence[Inference]) -> pulumi.Input[str]:
    """The services' own; where names are not known yet, they are compared when they are."""
    given = [service.namespace for service in services]
    if all(isinstance(namespace, str) for namespace in given):
        return _same(name, services, given)
    return pulumi.Output.all(*given).apply(lambda known: _same(name, services, known))


def _same(name: str, services: Sequence[Inference], namespaces: Sequence[Any]) -> str:
    if len(set(namespaces)) > 1:
        where = ", ".join(
            f"{service.spec.service!r} in {namespace!r}"
            for service, namespace in zip(services, namespaces, strict=True)
        )
        msg = (
            f"the front {name!r} would need rights in several namespaces: {where}; "
            "put the services into one, or give each namespace a front of its own"
        )
        raise pulumi.RunError(msg)
    return next(iter(namespaces), "default")
