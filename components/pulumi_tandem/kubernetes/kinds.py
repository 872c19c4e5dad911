"""Which Pulumi resource stands for which kind of object."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

import pulumi_kubernetes as k8s

import pulumi
from pulumi_tandem.manifest import Child

TYPED = {
    ("v1", "ConfigMap"): "core.v1.ConfigMap",
    ("v1", "Service"): "core.v1.Service",
    ("v1", "ServiceAccount"): "core.v1.ServiceAccount",
    ("apps/v1", "Deployment"): "apps.v1.Deployment",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "autoscaling.v2.HorizontalPodAutoscaler",
    ("batch/v1", "Job"): "batch.v1.Job",
    ("networking.k8s.io/v1", "Ingress"): "networking.v1.Ingress",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networking.v1.NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "policy.v1.PodDisruptionBudget",
    ("rbac.authorization.k8s.io/v1", "Role"): "rbac.v1.Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "rbac.v1.RoleBinding",
    ("resource.k8s.io/v1", "ResourceClaimTemplate"): "resource.v1.ResourceClaimTemplate",
}
"""Kinds of Kubernetes itself, as the SDK's classes; others are custom resources.

By name, since the SDK loads a module when it is first asked for: those that no service here needs take 0.1 s.
"""
_ARGUMENTS = {"roleRef": "role_ref", "automountServiceAccountToken": "automount_service_account_token"}
"""Top-level fields as the SDK names them; the rest is spelled alike, and below it JSON is passed as it is."""


def register(name: str, children: Iterable[Child], own: pulumi.ResourceOptions) -> dict[str, pulumi.CustomResource]:
    """The children as resources of the component `name`, by their keys; each stands after what it needs."""
    made: dict[str, pulumi.CustomResource] = {}
    for child in children:
        made[child.key] = _registered(name, child, own, [made[key] for key in child.after])
    return made


def _registered(
    name: str, child: Child, own: pulumi.ResourceOptions, after: Sequence[pulumi.Resource]
) -> pulumi.CustomResource:
    """The child as a resource of the component `name`.

    Its logical name follows the object's: where that holds the generation, the next generation's object is another
    resource and never a replacement, so the old one is deleted after everything new has succeeded.
    """
    manifest = child.manifest
    timeout = f"{int(child.timeout_s)}s" if child.timeout_s else None
    opts = pulumi.ResourceOptions.merge(
        own,
        pulumi.ResourceOptions(
            depends_on=list(after),
            ignore_changes=list(child.ignored),
            custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout) if timeout else None,
        ),
    )
    logical = f"{name}-{child.part}"
    kind = TYPED.get((manifest["apiVersion"], manifest["kind"]))
    if kind is None:
        return k8s.apiextensions.CustomResource(
            logical,
            api_version=manifest["apiVersion"],
            kind=manifest["kind"],
            metadata=manifest["metadata"],
            spec=manifest["spec"],
            opts=opts,
        )
    fields = {_ARGUMENTS.get(key, key): value for key, value in manifest.items() if key not in {"apiVersion", "kind"}}
    return attrgetter(kind)(k8s)(logical, opts=opts, **fields)
