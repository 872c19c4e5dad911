"""What an object is called, and what of it counts as an input."""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from tests.standin.properties import Object

AUTONAMED = "pulumi.com/autonamed"
DELETION_PROPAGATION = "pulumi.com/deletionPropagationPolicy"
PATCH_FIELD_MANAGER = "pulumi.com/patchFieldManager"
PATCH_FORCE = "pulumi.com/patchForce"
REPLACE_UNREADY = "pulumi.com/replaceUnready"
SKIP_AWAIT = "pulumi.com/skipAwait"
TIMEOUT_S = "pulumi.com/timeoutSeconds"
WAIT_FOR = "pulumi.com/waitFor"

READ_ONLY = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
)
"""Fields of metadata that only the API server sets (the provider's normalizeInputs)."""


class Refused(Exception):
    """What the provider will not do; the message is the user's."""


@dataclass(frozen=True)
class Kind:
    """Group, version and kind; the group of core kinds is empty."""

    group: str
    version: str
    name: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def kind_of(obj: Object) -> Kind:
    group, _, version = obj["apiVersion"].rpartition("/")
    return Kind(group="" if group == "core" else group, version=version, name=obj["kind"])


def kind_of_token(token: str) -> Kind:
    """The kind in a type token, `kubernetes:GROUP/VERSION:Kind`."""
    package, module, name = token.split(":")
    group, slash, version = module.partition("/")
    if package != "kubernetes" or not slash or module.startswith(("helm.sh/", "kustomize/", "yaml/")):
        raise Refused(f"{token}: the stand-in for the Kubernetes provider manages objects of an API server only")
    if name.endswith("List"):
        raise Refused(
            "list resources exist for compatibility with YAML manifests and Helm charts, "
            "and cannot be created directly. Use the underlying resource type instead"
        )
    if name.endswith("Patch"):
        raise Refused(f"{token}: the stand-in for the Kubernetes provider has no patch resources")
    return Kind(group="" if group == "core" else group, version=version, name=name)


def token_of_urn(urn: str) -> str:
    """The resource's own type, the last of the types that lead to it."""
    return urn.split("::")[2].rpartition("$")[2]


def name_of_urn(urn: str) -> str:
    return urn.split("::", 3)[3]


def name(obj: Object) -> str:
    return obj.get("metadata", {}).get("name", "")


def namespace(obj: Object) -> str:
    return obj.get("metadata", {}).get("namespace", "")


def identity(obj: Object) -> str:
    """The resource's ID in the state: namespace/name, or the name of an object that has no namespace."""
    return f"{namespace(obj)}/{name(obj)}" if namespace(obj) else name(obj)


def annotation(obj: Object, key: str) -> str:
    return str((obj.get("metadata", {}).get("annotations") or {}).get(key, ""))


def is_annotated(obj: Object, key: str) -> bool:
    return annotation(obj, key) == "true"


def autonamed(obj: Object, urn: str, seed: bytes) -> Object:
    """The object with a name of its own, the same for the same seed: the preview shows what the update makes."""
    digits = hashlib.sha256(seed + urn.encode()).hexdigest() if seed else secrets.token_hex(4)
    return with_autoname(obj, f"{name_of_urn(urn)}-{digits[:8]}")


def with_autoname(obj: Object, given: str) -> Object:
    metadata = obj.get("metadata", {})
    annotations = {**(metadata.get("annotations") or {}), AUTONAMED: "true"}
    return {**obj, "metadata": {**metadata, "name": given, "annotations": annotations}}


def as_inputs(obj: Object) -> Object:
    """The object without what only the API server sets."""
    if "metadata" not in obj:
        return obj
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in READ_ONLY}}


def normalized(obj: Object) -> Object:
    """A Secret's stringData as the data that the API server makes of it; anything else as it is."""
    if kind_of(obj) != Kind("", "v1", "Secret") or "stringData" not in obj:
        return obj
    data = {key: base64.b64encode(value.encode()).decode() for key, value in obj["stringData"].items()}
    return {
        **{key: value for key, value in obj.items() if key != "stringData"},
        "data": {**obj.get("data", {}), **data},
    }


def pruned(live: Any, like: Any) -> Any:
    """The live value, no more of it than `like` has: what others and the API server added is not an input."""
    if isinstance(live, dict) and isinstance(like, dict):
        return {key: pruned(live[key], member) for key, member in like.items() if key in live}
    if isinstance(live, list) and isinstance(like, list):
        return [pruned(*pair) for pair in zip(live, like, strict=False)]
    return live
