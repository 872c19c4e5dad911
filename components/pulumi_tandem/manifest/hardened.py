"""What every pod of ours has: no root, no privileges, a read-only root, and no token that it does not use."""

from typing import Any

from pulumi_tandem.manifest.setting import Setting

USER = 65532
"""Without an entry in the image's passwd; distroless images call it nonroot."""


def pod_security() -> dict[str, Any]:
    """securityContext of a pod that Pod Security `restricted` admits. Source: Kubernetes, Pod Security Standards."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, added: tuple[str, ...] = ()) -> dict[str, Any]:
    """securityContext of a container; `added` are the capabilities that were asked for."""
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if added:
        capabilities["add"] = sorted(added)
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": capabilities}


def pull_secrets(setting: Setting) -> dict[str, Any]:
    """Fields of a pod that let it have private images."""
    names = setting.images.pull_secrets
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def scratch(size: str) -> dict[str, Any]:
    """A folder that ends with its pod; `size` bounds what it may take of the machine's disk."""
    return {"emptyDir": {"sizeLimit": size}}
