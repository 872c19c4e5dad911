"""Who owns which field of an object: what Kubernetes writes into metadata.managedFields.

Source: pulumi-kubernetes v4, provider/pkg/await/await.go (fixCSAFieldManagers, handleSSAIgnoreFields, patchForce).
"""

import copy
from typing import Any

from tests.standin.changes import Path, parsed
from tests.standin.objects import PATCH_FORCE, is_annotated
from tests.standin.properties import Object

Entries = list[Object]

FORMER_MANAGERS = (
    ("kubectl", "Apply"),
    ("kubectl", "Update"),
    ("before-first-apply", "Update"),
    ("pulumi-kubernetes", "Update"),
    ("pulumi-resource-kubernetes", "Update"),
)
"""Beginnings of managers' names and their operation: an update takes over what these own."""


def taken_over(live: Object, manager: str) -> Entries | None:
    """managedFields with the former managers' fields given to `manager`; None where they own nothing."""
    entries: Entries = live["metadata"].get("managedFields") or []
    former = [entry for entry in entries if _is_former(entry) or _is_own(entry, manager)]
    if not any(_is_former(entry) for entry in former):
        return None
    fields: Object = {}
    for entry in former:
        _merge(fields, entry["fieldsV1"])
    own = {**former[-1], "manager": manager, "operation": "Apply", "fieldsV1": fields}
    return [*(entry for entry in entries if entry not in former), own]


def is_forced(inputs: Object, live: Object | None, *, always: bool, is_preview: bool) -> bool:
    """Whether the apply takes fields from other managers.

    A preview always does so over the provider's own client-side create: the update takes these fields over first.
    """
    if always or is_annotated(inputs, PATCH_FORCE):
        return True
    return is_preview and (live is None or any(map(_is_former, live["metadata"].get("managedFields") or [])))


def without_ignored(inputs: Object, live: Object, manager: str, ignore_changes: list[str]) -> Object:
    """The inputs with each ignored field as it lives, or without it where only others own it."""
    ours, theirs = Object(), Object()
    for entry in live["metadata"].get("managedFields") or []:
        _merge(ours if entry["manager"] == manager else theirs, entry.get("fieldsV1") or {})
    result = copy.deepcopy(inputs)
    for path in map(parsed, ignore_changes):
        if _owns(theirs, path) and not _owns(ours, path):
            _remove(result, path)
        elif (value := _value(live, path)) is not None:
            _set(result, path, value)
    return result


def _is_former(entry: Object) -> bool:
    return "subresource" not in entry and any(
        entry["manager"].startswith(beginning) and entry["operation"] == operation
        for beginning, operation in FORMER_MANAGERS
    )


def _is_own(entry: Object, manager: str) -> bool:
    return "subresource" not in entry and (entry["manager"], entry["operation"]) == (manager, "Apply")


def _merge(into: Object, fields: Object) -> None:
    for key, inner in fields.items():
        _merge(into.setdefault(key, {}), inner)


def _owns(fields: Object, path: Path) -> bool:
    for step in path:
        if f"f:{step}" not in fields:
            return False
        fields = fields[f"f:{step}"]
    return True


def _value(obj: Any, path: Path) -> Any:
    for step in path:
        if not isinstance(obj, dict) or step not in obj:
            return None
        obj = obj[step]
    return obj


def _set(obj: Object, path: Path, value: Any) -> None:
    for step in path[:-1]:
        obj = obj.setdefault(str(step), {})
    obj[str(path[-1])] = value


def _remove(obj: Object, path: Path) -> None:
    parent = _value(obj, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
