"""Who may do what: workers nothing, gateways and prover exactly the objects that they watch and write."""

from collections.abc import Sequence
from typing import Any

from pulumi_tandem.lower import Fleet
from pulumi_tandem.manifest.naming import Child, Head, Scope

_RBAC = "rbac.authorization.k8s.io/v1"


def of_access(fleet: Fleet, scope: Scope) -> list[Child]:
    """Service accounts, roles and bindings; the prover's are of one generation, whose objects it names."""
    return [
        Child(key="worker-account", manifest=_account(scope, "worker", scope.of("worker"), token=False)),
        *_may(scope, "gateway", scope.of("gateway"), _gateway_rules(scope)),
        *_may(scope, "prover", scope.generated("prover"), _prover_rules(fleet, scope)),
    ]


def of_front_access(scope: Scope, services: Sequence[Scope]) -> list[Child]:
    """What the pods in front of several services may: what the gateways of each may."""
    return _may(scope, "front", scope.of("front"), _gateway_rules(*services))


def _gateway_rules(*services: Scope) -> list[dict[str, Any]]:
    """A list or watch cannot be limited to names; of endpoint slices it shows addresses of one namespace."""
    return [
        _rule("discovery.k8s.io", "endpointslices", ["get", "list", "watch"]),
        _rule("", "configmaps", ["get", "list", "watch"], [scope.of("state") for scope in services]),
    ]


def _prover_rules(fleet: Fleet, scope: Scope) -> list[dict[str, Any]]:
    workloads = sorted({scope.generated(pool.name) for pool in fleet.pools} | {scope.generated("pair")})
    return [
        _rule("discovery.k8s.io", "endpointslices", ["get", "list", "watch"]),
        _rule("", "configmaps", ["get", "patch", "update"], [scope.of("state"), evidence_name(scope)]),
        # The workers of other generations are read, to start with as many as they have.
        _rule("apps", "deployments", ["get", "list"]),
        _rule("apps", "deployments/scale", ["get", "patch", "update"], workloads),
        _rule("leaderworkerset.x-k8s.io", "leaderworkersets", ["get", "list"]),
        _rule("leaderworkerset.x-k8s.io", "leaderworkersets/scale", ["get", "patch", "update"], workloads),
    ]


def evidence_name(scope: Scope) -> str:
    """The ConfigMap that the prover leaves its evidence in."""
    return f"{scope.service}-evidence-{scope.generation}"


def _may(scope: Scope, component: str, name: str, rules: list[dict[str, Any]]) -> list[Child]:
    labels = scope.labels(component)
    role = Head(api=_RBAC, kind="Role", name=name, labels=labels).manifest(scope, rules=rules)
    binding = Head(api=_RBAC, kind="RoleBinding", name=name, labels=labels).manifest(
        scope,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": scope.namespace}],
    )
    return [
        Child(key=f"{component}-account", manifest=_account(scope, component, name, token=True)),
        Child(key=f"{component}-role", manifest=role),
        Child(key=f"{component}-binding", manifest=binding, after=(f"{component}-role", f"{component}-account")),
    ]


def _account(scope: Scope, component: str, name: str, *, token: bool) -> dict[str, Any]:
    head = Head(api="v1", kind="ServiceAccount", name=name, labels=scope.labels(component))
    return head.manifest(scope, automountServiceAccountToken=token)


def _rule(group: str, resource: str, verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [group], "resources": [resource], "verbs": verbs}
    return rule if names is None else rule | {"resourceNames": names}
