from typing import Any

from tests.standin.ownership import is_forced, taken_over, without_ignored


def entry(manager: str, operation: str, fields: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def live(*entries: dict[str, Any], **obj: Any) -> dict[str, Any]:
    return {"metadata": {"managedFields": list(entries)}, **obj}


CREATED = entry("pulumi-kubernetes-1", "Update", {"f:spec": {"f:a": {}}})
APPLIED = entry("pulumi-kubernetes-1", "Apply", {"f:spec": {"f:b": {}}})
STATUS = entry("pulumi-kubernetes-1", "Update", {"f:status": {}}, subresource="status")
SCALED = entry("keda", "Update", {"f:spec": {"f:replicas": {}}})


def test_an_update_takes_over_the_fields_of_the_create_and_leaves_those_of_others() -> None:
    assert taken_over(live(CREATED, APPLIED, STATUS, SCALED), "pulumi-kubernetes-1") == [
        STATUS,
        SCALED,
        entry("pulumi-kubernetes-1", "Apply", {"f:spec": {"f:a": {}, "f:b": {}}}),
    ]


def test_nothing_is_taken_over_a_second_time() -> None:
    assert taken_over(live(APPLIED, SCALED), "pulumi-kubernetes-1") is None


def test_conflicts_are_overridden_where_asked_for_and_in_a_preview_before_the_first_update() -> None:
    plain: dict[str, Any] = {"metadata": {}}
    forced = {"metadata": {"annotations": {"pulumi.com/patchForce": "true"}}}
    assert not is_forced(plain, live(CREATED), always=False, is_preview=False)
    assert is_forced(forced, live(APPLIED), always=False, is_preview=False)
    assert is_forced(plain, live(APPLIED), always=True, is_preview=False)
    assert is_forced(plain, live(CREATED), always=False, is_preview=True)
    assert not is_forced(plain, live(APPLIED, SCALED), always=False, is_preview=True)


def test_an_ignored_field_is_left_to_its_other_owner_or_kept_as_it_lives() -> None:
    inputs = {"spec": {"replicas": 1, "a": 1}}
    existing = live(APPLIED, SCALED, spec={"replicas": 5, "a": 1})
    assert without_ignored(inputs, existing, "pulumi-kubernetes-1", ["spec.replicas"]) == {"spec": {"a": 1}}
    unowned = live(APPLIED, spec={"replicas": 5, "a": 1})
    kept = {"spec": {"replicas": 5, "a": 1}}
    assert without_ignored(inputs, unowned, "pulumi-kubernetes-1", ["spec.replicas"]) == kept
