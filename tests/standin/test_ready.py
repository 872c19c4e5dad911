from typing import Any

import pytest

from tests.standin.objects import Kind, Refused
from tests.standin.ready import RULES, View, rule_for

POD = Kind("", "v1", "Pod")
ENDPOINTS = Kind("", "v1", "Endpoints")
REPLICA_SET = Kind("apps", "v1", "ReplicaSet")


def judged(kind: str, obj: dict[str, Any], beside: dict[Kind, list[dict[str, Any]]] | None = None) -> Any:
    version, _, name = kind.rpartition(":")
    metadata = {"name": "x", "namespace": "n", "uid": "u", "generation": 1, **obj.get("metadata", {})}
    live = {"apiVersion": version, "kind": name, **obj, "metadata": metadata}
    rule = rule_for(live)
    assert rule, f"{kind} is not awaited"
    return rule.judge(View(live, beside or {}))


def owned(uid: str = "u", **obj: Any) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": "n", "uid": "p", "ownerReferences": [{"uid": uid}], **obj.get("metadata", {})}
    return {**obj, "metadata": metadata}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def deployment(revision: str, *conditions: dict[str, str], observed: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {"deployment.kubernetes.io/revision": revision}},
        "spec": {"replicas": 1, "template": {"spec": {}}},
        "status": {"observedGeneration": observed, "conditions": list(conditions)},
    }


def replica_set(revision: str, ready: int) -> dict[str, Any]:
    annotations = {"deployment.kubernetes.io/revision": revision}
    return owned(
        metadata={"uid": "rs", "annotations": annotations}, spec={"replicas": 1}, status={"readyReplicas": ready}
    )


def pod_with(container: dict[str, Any]) -> dict[str, Any]:
    """A Pod of the ReplicaSet, or of the Job, whose only container is not ready."""
    unready = condition("Ready", "False", "ContainersNotReady", "not ready: [main]. ")
    conditions = [condition("PodScheduled", "True"), condition("Initialized", "True"), unready]
    references = [{"uid": "rs"}, {"uid": "u"}]
    return owned(
        metadata={"ownerReferences": references}, status={"conditions": conditions, "containerStatuses": [container]}
    )


AVAILABLE = condition("Available", "True")
ROLLED = condition("Progressing", "True", "NewReplicaSetAvailable")


@pytest.mark.parametrize(
    ("obj", "ready", "is_ready"),
    [
        (deployment("1", AVAILABLE), replica_set("1", 1), True),
        (deployment("1", AVAILABLE), replica_set("1", 0), False),
        (deployment("1", AVAILABLE, observed=0), replica_set("1", 1), False),
        (deployment("2", AVAILABLE), replica_set("2", 1), False),
        (deployment("2", AVAILABLE, ROLLED), replica_set("2", 1), True),
        (deployment("2", AVAILABLE, ROLLED), replica_set("1", 1), False),
    ],
)
def test_a_deployment_is_ready_when_the_pods_of_its_own_revision_are(obj: Any, ready: Any, is_ready: bool) -> None:
    assert judged("apps/v1:Deployment", obj, {REPLICA_SET: [ready]}).is_ready is is_ready


def test_an_unready_deployment_says_why_its_pods_are_not_ready() -> None:
    crashing = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    last = {"terminated": {"finishedAt": "then", "reason": "Error", "exitCode": 3, "message": "no model"}}
    pod = pod_with({"name": "main", "ready": False, "state": crashing, "lastState": last})
    stalled = condition("Progressing", "False", "ProgressDeadlineExceeded", 'ReplicaSet "x" has timed out progressing.')
    obj = deployment("1", condition("Available", "False", "MinimumReplicasUnavailable", "no minimum"), stalled)
    beside = {REPLICA_SET: [replica_set("1", 0)], POD: [pod]}
    assert "\n".join(judged("apps/v1:Deployment", obj, beside).reasons).splitlines() == [
        '[ProgressDeadlineExceeded] ReplicaSet "x" has timed out progressing.',
        "[MinimumReplicasUnavailable] no minimum",
        "Minimum number of live Pods was not attained",
        "[Pod n/p]: not ready: [main]. [CrashLoopBackOff] back-off 10s",
        'container "main" terminated at then (Error: exit code 3)',
        "no model",
    ]


def stateful_set(**status: Any) -> dict[str, Any]:
    return {"spec": {"replicas": 2}, "status": {"observedGeneration": 1, **status}}


@pytest.mark.parametrize(
    ("status", "reasons"),
    [
        ({"replicas": 2, "readyReplicas": 2, "currentReplicas": 2, "currentRevision": "a", "updateRevision": "a"}, ()),
        (
            {"replicas": 2, "readyReplicas": 1, "currentReplicas": 2, "currentRevision": "a", "updateRevision": "a"},
            ("1 out of 2 replicas succeeded readiness checks",),
        ),
        (
            {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            (
                "1 out of 2 replicas succeeded readiness checks",
                'StatefulSet controller failed to advance from revision "a" to revision "b"',
            ),
        ),
    ],
)
def test_a_stateful_set_is_ready_when_all_replicas_are_of_its_revision(status: Any, reasons: Any) -> None:
    verdict = judged("apps/v1:StatefulSet", stateful_set(**status))
    assert (verdict.reasons, verdict.is_ready) == (reasons, not reasons)


def test_a_job_that_gave_up_fails_at_once_with_its_pods_last_words() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": "KV did not move"}}
    pod = pod_with({"name": "main", "ready": False, "state": ended})
    failed = {"status": {"conditions": [condition("Failed", "True", "BackoffLimitExceeded", "gave up")]}}
    verdict = judged("batch/v1:Job", failed, {POD: [pod]})
    assert verdict.has_failed
    assert verdict.reasons == (
        "[BackoffLimitExceeded] gave up",
        "[Pod n/p]: not ready: [main]. [Error] KV did not move",
    )


@pytest.mark.parametrize(
    ("spec", "subsets", "is_ready"),
    [
        ({"selector": {"a": "b"}}, None, False),
        ({"selector": {"a": "b"}}, [], True),
        ({"selector": {"a": "b"}}, [{"addresses": [1]}], True),
        ({"selector": {"a": "b"}}, [{"addresses": [1], "notReadyAddresses": [2]}], False),
        ({"selector": {"a": "b"}, "clusterIP": "None"}, None, True),
        ({"selector": {"a": "b"}, "type": "ExternalName"}, None, True),
        ({}, None, True),
        ({"type": "LoadBalancer"}, None, False),
    ],
)
def test_a_service_is_ready_when_no_endpoint_of_it_is_unready(spec: Any, subsets: Any, is_ready: bool) -> None:
    endpoints = [] if subsets is None else [{"metadata": {"name": "x"}, "subsets": subsets}]
    assert judged("v1:Service", {"spec": spec}, {ENDPOINTS: endpoints}).is_ready is is_ready


@pytest.mark.parametrize(("missing", "is_ready"), [(None, True), ("PodScheduled", False), ("Ready", False)])
def test_a_pod_is_ready_when_it_is_placed_and_runs(missing: str | None, is_ready: bool) -> None:
    conditions = [condition(kind, "True") for kind in ("PodScheduled", "Initialized", "Ready") if kind != missing]
    assert judged("v1:Pod", {"status": {"conditions": conditions}}).is_ready is is_ready


def test_a_claim_waits_for_its_volume_unless_its_class_waits_for_a_pod() -> None:
    storage_class = Kind("storage.k8s.io", "v1", "StorageClass")
    claim = {"spec": {"storageClassName": "late"}, "status": {"phase": "Pending"}}
    late = {"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"}
    assert not judged("v1:PersistentVolumeClaim", claim).is_ready
    assert judged("v1:PersistentVolumeClaim", claim, {storage_class: [late]}).is_ready


def test_an_ingress_waits_for_its_services_and_an_address() -> None:
    spec = {"rules": [{"http": {"paths": [{"backend": {"service": {"name": "s"}}}]}}]}
    known = {ENDPOINTS: [{"metadata": {"name": "s"}}]}
    addressed = {"spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}
    assert judged("networking.k8s.io/v1:Ingress", addressed, known).is_ready
    assert len(judged("networking.k8s.io/v1:Ingress", {"spec": spec}).reasons) == 2


@pytest.mark.parametrize(
    ("wanted", "status", "is_ready"),
    [
        ("condition=Ready", {"conditions": [condition("Ready", "True")]}, True),
        ("condition=Ready=False", {"conditions": [condition("Ready", "True")]}, False),
        ("jsonpath={.status.phase}=Running", {"phase": "Running"}, True),
        ("jsonpath={.status.phase}", {}, False),
        ("jsonpath={.status.all[0].ok}=true", {"all": [{"ok": True}]}, True),
        ('["condition=Ready", "jsonpath={.status.phase}"]', {"conditions": [condition("Ready", "True")]}, False),
    ],
)
def test_an_object_can_say_what_to_wait_for(wanted: str, status: Any, is_ready: bool) -> None:
    asking = {"metadata": {"annotations": {"pulumi.com/waitFor": wanted}}, "status": status}
    assert judged("example/v1:Any", asking).is_ready is is_ready


def test_a_wait_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(Refused, match='expected a "jsonpath=" or "condition=" prefix, got "Ready"'):
        rule_for({"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": {"pulumi.com/waitFor": "Ready"}}})


def test_kinds_without_a_rule_are_not_awaited() -> None:
    assert rule_for({"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}) is None
    assert Kind("", "v1", "ConfigMap") not in RULES
