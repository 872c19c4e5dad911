"""The objects of one door in front of several services.

Its pods are gateways of each of them: they watch each service's workers and state, and admit a part of each one's
limits. So for each service they carry a label, by which its policies let them in, and are published by a Service that
has the labels of that service's gateways, by which these know of them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pulumi_tandem.lower import GatewaySpec, why_apart
from pulumi_tandem.manifest.access import of_front_access
from pulumi_tandem.manifest.door import Door, of_door
from pulumi_tandem.manifest.naming import HTTP_PORT, SCALE_PORT, Child, Head, Scope
from pulumi_tandem.manifest.network import of_front_network
from pulumi_tandem.manifest.setting import Setting

NAME_CHARS_MAX = 63
"""Of a Service; its name is a label of DNS. Source: RFC 1123."""
_NAME = re.compile("[a-z]([a-z0-9-]*[a-z0-9])?")


class NotOneDoor(ValueError):
    """What is to stand behind one door cannot."""


def front(name: str, services: Sequence[GatewaySpec], setting: Setting) -> tuple[Child, ...]:
    """The objects of the door `name`, each after what it needs.

    Raises NotOneDoor when a request would not say whose it is, or the name is none that Kubernetes takes.
    """
    if why := _wrong_name(name, services) or why_apart(services):
        raise NotOneDoor(why)
    # What stands in front has no workers, so no generations.
    scope = Scope(service=name, namespace=setting.namespace, generation="", in_place=True)
    scopes = [replace(scope, service=spec.service) for spec in services]
    door = Door(
        component="front",
        scope=scope,
        specs={f"{spec.service}.json": spec for spec in services},
        pod_labels={label: value for each in scopes for label, value in each.fronts.items()},
    )
    return (
        *of_front_access(scope, scopes),
        of_front_network(scope, scopes),
        *of_door(door, setting),
        *(_peers(door, service, spec) for service, spec in zip(scopes, services, strict=True)),
    )


def _wrong_name(name: str, services: Sequence[GatewaySpec]) -> str | None:
    if not services:
        return f"the front {name!r} has no service behind it; name the services that it is for"
    if not _NAME.fullmatch(name):
        return f"{name!r} is not a name that Kubernetes takes; use lower-case letters, digits and dashes"
    longest = max((f"{name}-front-{spec.service}" for spec in services), key=len)
    if len(longest) > NAME_CHARS_MAX:
        return f"the name {longest!r} is longer than {NAME_CHARS_MAX} characters; give the front {name!r} a shorter one"
    return None


def _peers(door: Door, service: Scope, spec: GatewaySpec) -> Child:
    """Publishes the front's pods among the gateways of a service."""
    ports = {"http": HTTP_PORT, **({"scale": SCALE_PORT} if spec.scaling is not None else {})}
    labels = {**service.labels("gateway"), "app.kubernetes.io/name": door.scope.service}
    body: dict[str, Any] = {
        "clusterIP": "None",
        # Pods from before the service was put behind this door do not admit for it.
        "selector": {**door.selector, **service.fronts},
        "ports": [{"name": name, "port": number, "targetPort": number} for name, number in ports.items()],
    }
    head = Head(api="v1", kind="Service", name=f"{door.name}-{spec.service}", labels=labels)
    return Child(key=door.key(spec.service), manifest=head.manifest(door.scope, spec=body))
