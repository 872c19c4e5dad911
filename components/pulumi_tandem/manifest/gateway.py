"""A service's own front door: its pods, and the two objects by which they agree."""

from typing import Any

from pulumi_tandem.lower import Fleet
from pulumi_tandem.manifest.door import Door, of_door
from pulumi_tandem.manifest.naming import SCALE_PORT, Child, Head, Scope
from pulumi_tandem.manifest.setting import Setting


def of_gateway(fleet: Fleet, scope: Scope, setting: Setting) -> list[Child]:
    """Every object of the front door; all generations share them."""
    door = Door(component="gateway", scope=scope, specs={"gateway.json": fleet.gateway})
    state = Head(api="v1", kind="ConfigMap", name=scope.of("state"), labels=door.labels)
    children = [
        # The prover writes which generation serves. It is created without data, so that whoever creates it again takes
        # nothing away.
        Child(key="state", manifest=state.manifest(scope), ignored=("data",)),
        *of_door(door, setting, after=("state",)),
    ]
    if door.is_asked:
        children.append(Child(key="scale-service", manifest=_scale_service(door)))
    return children


def _scale_service(door: Door) -> dict[str, Any]:
    """Where autoscalers ask, and gateways each other: not the Service for clients, which may be public."""
    spec = {
        "clusterIP": "None",
        "selector": door.selector,
        "ports": [{"name": "scale", "port": SCALE_PORT, "targetPort": SCALE_PORT}],
    }
    head = Head(api="v1", kind="Service", name=door.scope.of("scale"), labels=door.labels)
    return head.manifest(door.scope, spec=spec)
