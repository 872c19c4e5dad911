"""Turns a lowered service into the objects of a Kubernetes cluster, as plain JSON.

Input: `Resolved`, its `Fleet`, and a `Setting`. Output: `Manifests`. Nothing here is an engine's, and nothing is
Pulumi's: the component registers what is made here, object by object, and `tandem render` prints it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pulumi_tandem.finding import nearest
from pulumi_tandem.lower import Fleet, GatewaySpec, seal
from pulumi_tandem.manifest.access import evidence_name, of_access
from pulumi_tandem.manifest.ceiling import workers_max
from pulumi_tandem.manifest.front import NotOneDoor, front
from pulumi_tandem.manifest.gateway import of_gateway
from pulumi_tandem.manifest.naming import Child, Manifest, Scope
from pulumi_tandem.manifest.network import of_network
from pulumi_tandem.manifest.prover import ProofOrder, Workload, of_prover
from pulumi_tandem.manifest.scaling import of_scaling
from pulumi_tandem.manifest.setting import (
    MODEL_DIR,
    Claim,
    Download,
    Gateway,
    HostPath,
    Images,
    ImageVolume,
    Route,
    Setting,
    Weights,
)
from pulumi_tandem.manifest.weights import of_weights
from pulumi_tandem.manifest.worker_pod import KV_RUNS, Part, digestible, key_of, parts_of
from pulumi_tandem.manifest.workers import of_pool
from pulumi_tandem.resolve import Resolved

__all__ = [
    "MODEL_DIR",
    "Child",
    "Claim",
    "Download",
    "Gateway",
    "HostPath",
    "ImageVolume",
    "Images",
    "Manifest",
    "Manifests",
    "NotOneDoor",
    "ProofOrder",
    "Route",
    "Setting",
    "Transform",
    "UnknownChild",
    "Weights",
    "Workload",
    "front",
    "manifests",
]

Transform = Callable[[Manifest], Manifest]
"""Changes one object before it is created: gets its manifest, gives the one to use."""


class UnknownChild(LookupError):
    """Transforms for objects that the service does not have."""

    def __init__(self, unknown: tuple[str, ...], known: tuple[str, ...]) -> None:
        named = ", ".join(map(repr, unknown))
        near = nearest(unknown[0], known)
        hint = f"did you mean {near!r}? " if near else ""
        super().__init__(
            f"transforms names {named}, which this service does not have; {hint}It has: {', '.join(known)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """Every object of one generation of a service."""

    generation: str
    children: tuple[Child, ...]
    """In an order in which each stands after what it needs."""
    evidence: str
    """Name of the ConfigMap in which the proof leaves its evidence."""
    gateway: GatewaySpec
    """What whoever answers for the service does."""

    def child(self, key: str) -> Child:
        """The child of that key, which must be there."""
        return next(child for child in self.children if child.key == key)


def manifests(
    resolved: Resolved, fleet: Fleet, setting: Setting, transforms: Mapping[str, Transform] | None = None
) -> Manifests:
    """The objects of a service.

    The generation is sealed anew: images, pods and what transforms make of the pools' objects are part of what was
    proved, so a change of theirs is a new one. `transforms` change single objects by their keys; each gets the manifest
    and gives the one to use.

    Raises UnknownChild when a transform is for an object that the service does not have, DeclarationError when weights
    are mounted where no worker looks for them.
    """
    given = dict(transforms or {})
    draft = _of_pools(resolved, fleet, setting)
    around = [
        digestible(_template(child) or child.manifest)
        for child in _transformed(draft, given)
        if _template(child) is not None or child.key in given
    ]
    fleet = seal(fleet, around)
    scope = _scope(fleet, setting)
    most = workers_max(resolved)
    workloads = [_workload(parts, scope, most) for parts in _pods(resolved, fleet)]
    children = [
        *of_access(fleet, scope),
        *of_network(resolved, scope),
        *of_weights(resolved, scope, setting),
        *_of_pools(resolved, fleet, setting),
        *of_gateway(fleet, scope, setting),
        *of_prover(resolved, fleet, workloads, scope, setting),
        *of_scaling(resolved, fleet, workloads, scope, setting),
    ]
    known = tuple(child.key for child in children)
    if unknown := tuple(key for key in given if key not in known):
        raise UnknownChild(unknown, known)
    ordered = _ordered(_transformed(children, given))
    return Manifests(
        generation=fleet.generation, children=ordered, evidence=evidence_name(scope), gateway=fleet.gateway
    )


def _transformed(children: Sequence[Child], transforms: Mapping[str, Transform]) -> list[Child]:
    return [
        replace(child, manifest=transforms[child.key](_copied(child.manifest))) if child.key in transforms else child
        for child in children
    ]


def _copied(value: Any) -> Any:  # noqa: ANN401 - JSON
    """What a transform may change as it likes; names that are not known yet are kept as they are."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in cast("dict[str, Any]", value).items()}
    return [_copied(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value


def _template(child: Child) -> object:
    """The pods of a workload; None for other objects."""
    spec = child.manifest.get("spec", {})
    return {"Deployment": spec.get("template"), "LeaderWorkerSet": spec.get("leaderWorkerTemplate")}.get(
        child.manifest["kind"]
    )


def _of_pools(resolved: Resolved, fleet: Fleet, setting: Setting) -> list[Child]:
    scope = _scope(fleet, setting)
    return [child for parts in _pods(resolved, fleet) for child in of_pool(resolved, parts, scope, setting)]


def _scope(fleet: Fleet, setting: Setting) -> Scope:
    return Scope(
        service=fleet.service, namespace=setting.namespace, generation=fleet.generation, in_place=fleet.in_place
    )


def _pods(resolved: Resolved, fleet: Fleet) -> list[tuple[Part, ...]]:
    """The containers of each pod: one of each pool, or both of a pair's."""
    if resolved.paired_pods and len(fleet.pools) > 1:
        return [parts_of(resolved, fleet.pools)]
    return [parts_of(resolved, (pool,)) for pool in fleet.pools]


def _workload(parts: Sequence[Part], scope: Scope, most: Mapping[str, int | None]) -> Workload:
    pool, key = parts[0].pool, key_of(parts)
    return Workload(
        kind="LeaderWorkerSet" if pool.nodes_per_worker > 1 else "Deployment",
        name=scope.generated(key),
        pool=key,
        workers=parts[0].lowered.workers,
        workers_max=most[pool.name],
        kv_ports={part.pool.name: {run: part.ports[run] for run in KV_RUNS if run in part.ports} for part in parts},
    )


def _ordered(children: Sequence[Child]) -> tuple[Child, ...]:
    """A child after everything that it names, otherwise as given; a name that no child has is a mistake of ours."""
    waiting, placed = list(children), dict[str, Child]()
    while waiting:
        ready = next(child for child in waiting if all(key in placed for key in child.after))
        waiting.remove(ready)
        placed[ready.key] = ready
    return tuple(placed.values())
