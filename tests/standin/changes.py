"""What an update would change, and what of it Kubernetes or the provider only does by replacement.

Sources: pulumi-kubernetes v4, provider/pkg/provider/diff.go (forceNewProperties) and provider.go (Diff,
convertPatchToDiff).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from tests.standin.objects import Kind, kind_of
from tests.standin.properties import Object

Path = tuple[str | int, ...]


class Change(Enum):
    ADD = "ADD"
    DELETE = "DELETE"
    UPDATE = "UPDATE"


@dataclass(frozen=True)
class Difference:
    path: Path
    change: Change
    is_replacing: bool = False

    @property
    def property_path(self) -> str:
        return written(self.path)


@dataclass(frozen=True)
class Mutable:
    """Kinds that the provider's settings let change in place."""

    config_maps: bool = False
    secrets: bool = False


_SELECTOR = (".spec.selector",)
_CONTAINER = [
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
]
_POD = [
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "volumes",
]
_VOLUME = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
]

REPLACING: dict[Kind, tuple[str, ...]] = {
    Kind("", "v1", "PersistentVolume"): tuple(f".spec.{field}" for field in _VOLUME),
    Kind("", "v1", "PersistentVolumeClaim"): (
        ".spec.accessModes",
        ".spec.selector",
        ".spec.storageClassName",
        ".spec.volumeName",
    ),
    Kind("", "v1", "Pod"): (
        *(f".spec.{field}" for field in _POD),
        *(f".spec.{kind}[*].{field}" for kind in ("containers", "initContainers") for field in _CONTAINER),
    ),
    Kind("", "v1", "ResourceQuota"): (".spec.scopes",),
    Kind("", "v1", "Secret"): (".type",),
    Kind("", "v1", "Service"): (".spec.clusterIP",),
    Kind("apps", "v1", "DaemonSet"): _SELECTOR,
    Kind("apps", "v1", "Deployment"): _SELECTOR,
    Kind("apps", "v1", "StatefulSet"): (
        ".spec.podManagementPolicy",
        ".spec.revisionHistoryLimit",
        ".spec.selector",
        ".spec.serviceName",
        ".spec.volumeClaimTemplates",
    ),
    Kind("batch", "v1", "Job"): (".spec.completions", ".spec.parallelism", ".spec.selector", ".spec.template"),
    Kind("policy", "v1beta1", "PodDisruptionBudget"): (".spec",),
    Kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"): (".roleRef",),
    Kind("rbac.authorization.k8s.io", "v1", "RoleBinding"): (".roleRef",),
    Kind("storage.k8s.io", "v1", "StorageClass"): (".parameters", ".provisioner"),
}
"""Fields whose change replaces the object, beside its name and namespace."""


def differences(live: Object, inputs: Object, old_inputs: Object, mutable: Mutable) -> list[Difference]:
    """What differs between the pruned live object and the inputs; `old_inputs` tell what was once asked for."""
    replacing = [_pattern(field) for field in _replacing_fields(inputs, mutable)]
    return [
        Difference(path, change, any(_touches(path, value, pattern) for pattern in replacing))
        for path, change, value in _compared((), live, inputs, old_inputs)
    ]


def ignored(difference: Difference, ignore_changes: list[str]) -> bool:
    """Whether the program's ignoreChanges names the field, or one that holds it."""
    return any(_is_prefix(_pattern(f".{path}"), difference.path) for path in ignore_changes)


def written(path: Path) -> str:
    """The path as the engine writes it: spec.containers[0].image, metadata.annotations["a.b/c"]."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.search(r'[."\[\]]', step):
            text += '["{}"]'.format(step.replace('"', '\\"'))
        else:
            text += f".{step}" if text else step
    return text


def parsed(path: str) -> Path:
    """The reverse of `written`."""
    steps = re.findall(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|([^.\[\]]+)', path)
    return tuple(
        int(index) if index.isdigit() else quoted.replace('\\"', '"') or index or plain
        for quoted, index, plain in steps
    )


def _replacing_fields(inputs: Object, mutable: Mutable) -> tuple[str, ...]:
    kind = kind_of(inputs)
    is_immutable = inputs.get("immutable") is True
    fields = (".metadata.name", ".metadata.namespace")
    if kind == Kind("", "v1", "Secret") and (is_immutable or not mutable.secrets):
        return (*fields, ".type", ".stringData", ".data")
    if kind == Kind("", "v1", "ConfigMap") and (is_immutable or not mutable.config_maps):
        return (*fields, ".binaryData", ".data")
    return (*fields, *REPLACING.get(kind, ()))


_ABSENT: Any = object()


def _compared(path: Path, live: Any, new: Any, old: Any) -> Iterator[tuple[Path, Change, Any]]:
    if new is _ABSENT:
        if live is not _ABSENT and old is not _ABSENT:  # else others added it
            yield path, Change.DELETE, None
    elif live is _ABSENT:
        if not _is_dropped(path, new, old):
            yield path, Change.ADD, new
    elif isinstance(live, dict) and isinstance(new, dict):
        for key in sorted({*live, *new}):
            yield from _compared((*path, key), *(_member(value, key) for value in (live, new, old)))
    elif isinstance(live, list) and isinstance(new, list):
        for index in range(max(len(live), len(new))):
            yield from _compared((*path, index), *(_element(value, index) for value in (live, new, old)))
    elif not _is_same(path, live, new):
        yield path, Change.UPDATE, new


def _member(value: Any, key: str) -> Any:
    return value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT


def _element(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, list) and index < len(value) else _ABSENT


_WITHOUT_ZERO = frozenset(
    [
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "initialDelaySeconds",
        "minReadySeconds",
        "paused",
        "publishNotReadyAddresses",
        "readOnly",
        "stdin",
        "stdinOnce",
        "tty",
        "unschedulable",
    ]
)
"""Fields that Kubernetes' Go types leave out of what they write where they are false or 0."""


def _is_dropped(path: Path, new: Any, old: Any) -> bool:
    """Whether the API server does not keep the value: a zero that it dropped already, or always drops."""
    if new:
        return False
    return new in ("", []) or path[-1] in _WITHOUT_ZERO or (old is not _ABSENT and not old)


_QUANTITIES = {"requests", "limits", "capacity", "hard", "sizeLimit", "allocatable"}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?")
_SUFFIXES = {"n": "1e-9", "u": "1e-6", "m": "1e-3", "": "1", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"} | {
    suffix: str(1024**power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)
}


def _is_same(path: Path, live: Any, new: Any) -> bool:
    if live == new:
        return True
    if not _QUANTITIES.isdisjoint(path):
        return _quantity(live) == _quantity(new) is not None
    return False


def _quantity(value: Any) -> Decimal | None:
    match = _QUANTITY.fullmatch(str(value))
    if not match:
        return None
    number, suffix = match[1], match[2] or ""
    return (
        Decimal(number + suffix)
        if suffix[:1] in {"e", "E"} and suffix[1:]
        else Decimal(number) * Decimal(_SUFFIXES.get(suffix, "1"))
    )


def _pattern(field: str) -> Path:
    return parsed(field.lstrip("."))


def _is_prefix(pattern: Path, path: Path) -> bool:
    return len(pattern) <= len(path) and all(wanted in ("*", step) for wanted, step in zip(pattern, path, strict=False))


def _touches(path: Path, value: Any, pattern: Path) -> bool:
    """Whether the change is at or below the pattern, or brings a value that holds the pattern's field."""
    if _is_prefix(pattern, path):
        return True
    return _is_prefix(pattern[: len(path)], path) and _holds(value, pattern[len(path) :])


def _holds(value: Any, pattern: Path) -> bool:
    if not pattern:
        return True
    if pattern[0] == "*":
        return isinstance(value, list) and any(_holds(element, pattern[1:]) for element in value)
    return isinstance(value, dict) and pattern[0] in value and _holds(value[pattern[0]], pattern[1:])
