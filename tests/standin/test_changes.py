from typing import Any

import pytest

from tests.standin.changes import Change, Mutable, differences, ignored, parsed, written
from tests.standin.objects import pruned

IMMUTABLE = Mutable()


def seen(kind: str, old: dict[str, Any], new: dict[str, Any], live: dict[str, Any] | None = None) -> dict[str, str]:
    """Each difference by its path; `live` is what the API server made of the old inputs, unless it is the same."""
    version, _, name = kind.rpartition(":")
    of_kind = {"apiVersion": version, "kind": name}
    former = pruned({**of_kind, **(live or old)}, {**of_kind, **old})
    found = differences(former, {**of_kind, **new}, {**of_kind, **old}, IMMUTABLE)
    return {one.property_path: one.change.value + ("_REPLACE" if one.is_replacing else "") for one in found}


@pytest.mark.parametrize(
    ("kind", "old", "new", "path"),
    [
        ("v1:ConfigMap", {"data": {"a": "1"}}, {"data": {"a": "2"}}, "data.a"),
        ("v1:Secret", {"data": {"a": "1"}}, {"data": {"a": "2"}}, "data.a"),
        ("v1:Service", {"spec": {"clusterIP": "None"}}, {"spec": {"clusterIP": "10.0.0.1"}}, "spec.clusterIP"),
        ("batch/v1:Job", {"spec": {"template": {"a": 1}}}, {"spec": {"template": {"a": 2}}}, "spec.template.a"),
        (
            "apps/v1:Deployment",
            {"spec": {"selector": {"matchLabels": {"a": "1"}}}},
            {"spec": {"selector": {"matchLabels": {"a": "2"}}}},
            "spec.selector.matchLabels.a",
        ),
        ("v1:Namespace", {"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}, "metadata.name"),
        (
            "leaderworkerset.x-k8s.io/v1:LeaderWorkerSet",
            {"metadata": {"namespace": "a"}},
            {"metadata": {"namespace": "b"}},
            "metadata.namespace",
        ),
        (
            "v1:Pod",
            {"spec": {"containers": [{"image": "a", "name": "c"}]}},
            {"spec": {"containers": [{"image": "b", "name": "c"}]}},
            "spec.containers[0].image",
        ),
        ("rbac.authorization.k8s.io/v1:RoleBinding", {"roleRef": {"n": 1}}, {"roleRef": {"n": 2}}, "roleRef.n"),
    ],
)
def test_a_field_that_cannot_change_in_place_replaces_the_object(kind: str, old: Any, new: Any, path: str) -> None:
    assert seen(kind, old, new) == {path: "UPDATE_REPLACE"}


def test_a_config_map_that_may_change_is_updated_unless_it_is_immutable() -> None:
    old: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}
    for is_immutable in (False, True):
        new = {**old, "data": {"a": "2"}, "immutable": is_immutable}
        [data] = [one for one in differences(old, new, old, Mutable(config_maps=True)) if one.path == ("data", "a")]
        assert data.is_replacing is is_immutable


def test_what_the_api_server_added_is_no_change() -> None:
    old = {"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}}}
    live = {
        "spec": {
            "replicas": 1,
            "strategy": {"type": "RollingUpdate"},
            "template": {"spec": {"containers": [{"name": "a", "imagePullPolicy": "Always"}, {"name": "injected"}]}},
        }
    }
    assert seen("apps/v1:Deployment", old, old, live) == {}


def test_drift_is_a_change() -> None:
    old = {"spec": {"replicas": 1}}
    assert seen("apps/v1:Deployment", old, old, {"spec": {"replicas": 3}}) == {"spec.replicas": "UPDATE"}


def test_elements_and_keys_come_and_go() -> None:
    old = {"spec": {"ports": [1, 2], "type": "a"}}
    new = {"spec": {"ports": [1], "selector": {"a": "b"}}}
    assert seen("v1:Service", old, new) == {
        "spec.ports[1]": "DELETE",
        "spec.selector": "ADD",
        "spec.type": "DELETE",
    }


@pytest.mark.parametrize(("asked", "kept"), [("1000m", "1"), ("1024Mi", "1Gi"), ("1e3", "1k"), (2, "2")])
def test_a_quantity_in_another_unit_is_no_change(asked: Any, kept: str) -> None:
    old = {"spec": {"resources": {"limits": {"cpu": asked}}}}
    assert seen("example/v1:Any", old, old, {"spec": {"resources": {"limits": {"cpu": kept}}}}) == {}


def test_a_zero_that_the_api_server_drops_is_no_change_and_one_that_it_keeps_is() -> None:
    assert seen("apps/v1:Deployment", {"spec": {"paused": False}}, {"spec": {"paused": False}}, {"spec": {}}) == {}
    assert seen("apps/v1:Deployment", {"spec": {}}, {"spec": {"paused": False}}) == {}
    assert seen("apps/v1:Deployment", {"spec": {}}, {"spec": {"replicas": 0}}) == {"spec.replicas": "ADD"}


def test_adding_a_field_with_one_inside_that_replaces_replaces() -> None:
    assert seen("apps/v1:Deployment", {}, {"spec": {"selector": {}, "replicas": 1}}) == {"spec": "ADD_REPLACE"}


def test_ignored_changes_cover_what_is_below_them() -> None:
    of_kind = {"apiVersion": "apps/v1", "kind": "Deployment"}
    old = {**of_kind, "spec": {"replicas": 1, "template": {"spec": {"containers": [{"image": "a"}]}}}}
    new = {**of_kind, "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": "b"}]}}}}
    found = differences(old, new, old, IMMUTABLE)
    assert {one.change for one in found} == {Change.UPDATE}
    assert [one.property_path for one in found if not ignored(one, ["spec.replicas"])] == [
        "spec.template.spec.containers[0].image"
    ]
    assert all(ignored(one, ["spec.replicas", "spec.template.spec.containers[*].image"]) for one in found)


@pytest.mark.parametrize("path", ["spec.containers[0].image", 'metadata.annotations["a.b/c"]', "data.key"])
def test_paths_are_read_as_they_are_written(path: str) -> None:
    assert written(parsed(path)) == path
