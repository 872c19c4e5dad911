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


HOME = {"name": "HOME", "value": "/tmp"}  # noqa: S108 - the pod's own
"""Environment of every container: the user has no entry in passwd, and nothing else can be written."""
TMP_MOUNT = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - likewise
"""Where every container finds its pod's `tmp` volume."""


def tmp(size: str) -> dict[str, Any]:
    """The pod's one writable folder; it ends with the pod, and `size` bounds what it may take of the machine's disk."""
    return {"name": "tmp", "emptyDir": {"sizeLimit": size}}
