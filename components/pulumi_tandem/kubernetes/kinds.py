"""Which Pulumi resource stands for which kind of object."""

from collections.abc import Sequence
from typing import Any

import pulumi_kubernetes as k8s

import pulumi
from pulumi_tandem.manifest import Child

_TYPED: dict[tuple[str, str], Any] = {
    ("v1", "ConfigMap"): k8s.core.v1.ConfigMap,
    ("v1", "Service"): k8s.core.v1.Service,
    ("v1", "ServiceAccount"): k8s.core.v1.ServiceAccount,
    ("apps/v1", "Deployment"): k8s.apps.v1.Deployment,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): k8s.autoscaling.v2.HorizontalPodAutoscaler,
    ("batch/v1", "Job"): k8s.batch.v1.Job,
    ("networking.k8s.io/v1", "Ingress"): k8s.networking.v1.Ingress,
    ("networking.k8s.io/v1", "NetworkPolicy"): k8s.networking.v1.NetworkPolicy,
    ("policy/v1", "PodDisruptionBudget"): k8s.policy.v1.PodDisruptionBudget,
    ("rbac.authorization.k8s.io/v1", "Role"): k8s.rbac.v1.Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): k8s.rbac.v1.RoleBinding,
    ("resource.k8s.io/v1", "ResourceClaimTemplate"): k8s.resource.v1.ResourceClaimTemplate,
}
"""Kinds of Kubernetes itself; others are custom resources."""
_ARGUMENTS = {"roleRef": "role_ref", "automountServiceAccountToken": "automount_service_account_token"}
"""Top-level fields as the SDK names them; the rest is spelled alike, and below it JSON is passed as it is."""


def register(
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
    kind = _TYPED.get((manifest["apiVersion"], manifest["kind"]))
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
    return kind(logical, opts=opts, **fields)
