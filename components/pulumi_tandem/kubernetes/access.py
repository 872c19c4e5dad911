"""Which cluster, and with which rights."""

from dataclasses import dataclass

import pulumi_kubernetes as k8s

import pulumi


@dataclass(frozen=True, kw_only=True)
class Access:
    """The cluster, as a client sees it."""

    kubeconfig: pulumi.Input[str] | None = None
    """Its content or path. Default: the provider of the component's options, else `$KUBECONFIG`."""
    context: pulumi.Input[str] | None = None
    """Default: the kubeconfig's own."""
    identifier: str | None = None
    """A name of the cluster that does not change when its kubeconfig does, so that new credentials replace nothing."""


def provider_of(name: str, access: Access, parent: pulumi.Resource) -> k8s.Provider | None:
    """The component's own provider; None where it has that of its options."""
    if access == Access():
        return None
    return k8s.Provider(
        f"{name}-cluster",
        kubeconfig=access.kubeconfig,
        context=access.context,
        cluster_identifier=access.identifier,
        # An `up` that was killed left objects that Pulumi does not know of: the next one takes them over. Their names
        # hold the service's, and in most the generation.
        upsert_existing_objects=True,
        enable_patch_force=True,
        opts=pulumi.ResourceOptions(parent=parent),
    )
