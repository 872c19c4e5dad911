"""Values as they cross the engine's wire: secrets are wrapped, unknowns are marked, numbers are floats."""

from typing import Any

from google.protobuf import json_format, struct_pb2
from pulumi.runtime.rpc import UNKNOWN, is_rpc_secret, unwrap_rpc_secret, wrap_rpc_secret

Object = dict[str, Any]
"""A Kubernetes object, or a part of one."""


def received(struct: struct_pb2.Struct) -> Object:
    """The properties with their secrets still wrapped; nulls are absent, as Kubernetes reads them."""
    return _read(json_format.MessageToDict(struct))


def sent(properties: Object) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(_written(properties))
    return struct


def revealed(value: Any) -> Any:
    """The value with every secret in the clear: what the API server gets."""
    if is_rpc_secret(value):
        return revealed(unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {key: revealed(member) for key, member in value.items()}
    if isinstance(value, list):
        return [revealed(member) for member in value]
    return value


def concealed(value: Any, like: Any) -> Any:
    """The value with a secret wherever `like` has one: state must not show what the program hid."""
    if is_rpc_secret(like):
        return wrap_rpc_secret(value)
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: concealed(member, like.get(key)) for key, member in value.items()}
    if isinstance(value, list) and isinstance(like, list):
        return [concealed(member, like[i] if i < len(like) else None) for i, member in enumerate(value)]
    return value


def secret(value: Any) -> Object:
    """The value as the engine encrypts it in its state."""
    return wrap_rpc_secret(value)


def has_unknown(value: Any) -> bool:
    """Whether some value will only be known in the update."""
    if isinstance(value, dict):
        return any(has_unknown(member) for member in value.values())
    if isinstance(value, list):
        return any(has_unknown(member) for member in value)
    return value == UNKNOWN


_DASHED = {
    f"x_kubernetes_{field}": f"x-kubernetes-{field.replace('_', '-')}"
    for field in (
        "embedded_resource",
        "int_or_string",
        "list_map_keys",
        "list_type",
        "map_type",
        "preserve_unknown_fields",
        "validations",
    )
}
"""Fields of a CustomResourceDefinition, which the SDKs cannot spell as Kubernetes does."""
_UNDERSCORED = {dashed: underscored for underscored, dashed in _DASHED.items()}


def _read(value: Any) -> Any:
    """As Kubernetes writes it: no nulls, whole numbers as integers."""
    if isinstance(value, dict):
        return {_DASHED.get(key, key): _read(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_read(member) for member in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _written(value: Any) -> Any:
    """As the SDKs read it."""
    if isinstance(value, dict):
        return {_UNDERSCORED.get(key, key): _written(member) for key, member in value.items()}
    return [_written(member) for member in value] if isinstance(value, list) else value
