"""When an object counts as ready, and what is said while it is not: pure judgements of what the API server shows.

Sources: pulumi-kubernetes v4, provider/pkg/await (deployment.go, statefulset.go, job.go, service.go with pull request
3142, pod.go, ingress.go, awaiters.go, condition/) and provider/pkg/await/checker/pod/check.go.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.standin.changes import parsed
from tests.standin.objects import WAIT_FOR, Kind, Refused, annotation, kind_of, name, namespace
from tests.standin.properties import Object

REVISION = "deployment.kubernetes.io/revision"


@dataclass(frozen=True)
class Verdict:
    """Ready, or not yet for these reasons, or never."""

    reasons: tuple[str, ...] = ()
    is_ready: bool = False
    has_failed: bool = False


@dataclass(frozen=True)
class View:
    """An object, and the objects of its namespace that tell how it fares, by kind."""

    live: Object
    beside: dict[Kind, list[Object]]

    def owned(self, kind: Kind, owner: Object | None = None) -> list[Object]:
        uid = (owner or self.live)["metadata"]["uid"]
        return [
            obj
            for obj in self.beside.get(kind, ())
            if any(reference["uid"] == uid for reference in obj["metadata"].get("ownerReferences", ()))
        ]


READY = Verdict(is_ready=True)
NO_PODS = (
    "Service does not target any Pods. Selected Pods may not be ready, or "
    "field '.spec.selector' may not match labels on any Pods"
)
NO_SERVICE_ADDRESS = "Service was not allocated an IP address; does your cloud provider support this?"
NO_INGRESS_TARGET = "Ingress has at least one rule with an unavailable target endpoint."
NO_INGRESS_ADDRESS = (
    "Ingress .status.loadBalancer field was not updated with a hostname/IP address. "
    "\n    for more information about this error, see https://pulumi.io/xdv72s"
)

_CLAIM = Kind("", "v1", "PersistentVolumeClaim")
_ENDPOINTS = Kind("", "v1", "Endpoints")
_POD = Kind("", "v1", "Pod")
_REPLICA_SET = Kind("apps", "v1", "ReplicaSet")
_SERVICE = Kind("", "v1", "Service")
_STORAGE_CLASS = Kind("storage.k8s.io", "v1", "StorageClass")


def _deployment(view: View) -> Verdict:
    live, conditions = view.live, _conditions(view.live)
    if _status(live).get("observedGeneration") != live["metadata"]["generation"]:
        return Verdict(("Deployment controller has not seen this generation yet",))
    revision = annotation(live, REVISION)
    replica_set = next((rs for rs in view.owned(_REPLICA_SET) if annotation(rs, REVISION) == revision), None)
    claims = sorted(name(claim) for claim in _claims(view) if _status(claim).get("phase") != "Bound")
    available = _is_true(conditions, "Available")
    rolled = revision == "1" or _is_true(conditions, "Progressing", "NewReplicaSetAvailable")
    filled = replica_set is not None and _status(replica_set).get("readyReplicas", 0) >= _replicas(replica_set)
    if available and rolled and filled and not claims:
        return READY
    pods = view.owned(_POD, replica_set) if replica_set else []
    return Verdict(
        (
            *_complaints(conditions, "Progressing", "Available"),
            *_said(f'Failed to bind PersistentVolumeClaim(s): "{",".join(claims)}"', when=bool(claims)),
            *_missing_pods(available=available, rolled=rolled, filled=filled, is_first=revision == "1"),
            *(complaint for pod in pods for complaint in pod_complaints(pod)),
        )
    )


def _missing_pods(*, available: bool, rolled: bool, filled: bool, is_first: bool) -> Iterator[str]:
    if not available:
        yield "Minimum number of live Pods was not attained"
    elif not rolled or (is_first and not filled):
        yield "Minimum number of Pods to consider the application live was not attained"
    elif not filled:
        yield "Attempted to roll forward to new ReplicaSet, but minimum number of Pods did not become live"


def _claims(view: View) -> list[Object]:
    volumes = view.live["spec"]["template"]["spec"].get("volumes", ())
    wanted = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}
    return [claim for claim in view.beside.get(_CLAIM, ()) if name(claim) in wanted]


def _stateful_set(view: View) -> Verdict:
    live, status, replicas = view.live, _status(view.live), _replicas(view.live)
    current, update = status.get("currentRevision", ""), status.get("updateRevision", "")
    counts = ["replicas", "readyReplicas"]
    by_hand = live["spec"].get("updateStrategy", {}).get("type") == "OnDelete" and live["metadata"]["generation"] > 1
    if not by_hand:
        counts.append("currentReplicas")
    filled = all(status.get(count, 0) == replicas for count in counts)
    revised = by_hand or (current == update != "")
    if filled and revised and status.get("observedGeneration") == live["metadata"]["generation"]:
        return READY
    ready = status.get("readyReplicas", 0)
    if not revised:  # among the ready ones are some of the revision before
        ready = min(ready, status.get("updatedReplicas", 0))
    return Verdict(
        (
            *_said(f"{ready} out of {replicas} replicas succeeded readiness checks", when=not filled),
            *_said(
                f'StatefulSet controller failed to advance from revision "{current}" to revision "{update}"',
                when=not revised,
            ),
            *(complaint for pod in view.owned(_POD) for complaint in pod_complaints(pod)),
        )
    )


def _daemon_set(view: View) -> Verdict:
    status = _status(view.live)
    wanted = status.get("desiredNumberScheduled", 0)
    counts = [status.get(count, 0) for count in ("updatedNumberScheduled", "numberAvailable", "numberReady")]
    if status.get("observedGeneration") == view.live["metadata"]["generation"] and min(counts) >= wanted:
        return READY
    return Verdict(
        (
            f"{min(counts)} out of {wanted} Pods of the DaemonSet are available",
            *(complaint for pod in view.owned(_POD) for complaint in pod_complaints(pod)),
        )
    )


def _job(view: View) -> Verdict:
    conditions = _conditions(view.live)
    complaints = tuple(complaint for pod in view.owned(_POD) for complaint in pod_complaints(pod))
    failed = conditions.get("Failed", {})
    if failed.get("status") == "True" and failed.get("reason") in {"BackoffLimitExceeded", "DeadlineExceeded"}:
        return Verdict((f"[{failed['reason']}] {failed.get('message', '')}", *complaints), has_failed=True)
    if _status(view.live).get("startTime") and _is_true(conditions, "Complete"):
        return READY
    return Verdict(complaints)


def _pod(view: View) -> Verdict:
    conditions = _conditions(view.live)
    runs = _is_true(conditions, "Ready") or _status(view.live).get("phase") == "Succeeded"
    if runs and _is_true(conditions, "PodScheduled") and _is_true(conditions, "Initialized"):
        return READY
    return Verdict(tuple(pod_complaints(view.live)))


def _service(view: View) -> Verdict:
    spec = view.live["spec"]
    balanced = spec.get("type") != "LoadBalancer" or bool(_status(view.live).get("loadBalancer", {}).get("ingress"))
    unready = has_endpoints(view.live) and not _endpoints_ready(view)
    if balanced and not unready:
        return READY
    return Verdict((*_said(NO_PODS, when=unready), *_said(NO_SERVICE_ADDRESS, when=not balanced)))


def has_endpoints(service: Object) -> bool:
    """Whether Kubernetes finds the Service's Pods, and somebody waits for them."""
    spec = service["spec"]
    return bool(spec.get("selector")) and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName"


def _endpoints_ready(view: View) -> bool:
    """There are endpoints objects, and no address in them is unready; no address at all is well."""
    own = [endpoints for endpoints in view.beside.get(_ENDPOINTS, ()) if name(endpoints) == name(view.live)]
    return bool(own) and not any(subset.get("notReadyAddresses") for subset in own[0].get("subsets") or ())


def _ingress(view: View) -> Verdict:
    paths = [path for rule in view.live["spec"].get("rules", ()) for path in rule.get("http", {}).get("paths", ())]
    wanted = {path["backend"]["service"]["name"] for path in paths if "service" in path["backend"]}
    known = {name(endpoints) for endpoints in view.beside.get(_ENDPOINTS, ())} | {
        name(service) for service in view.beside.get(_SERVICE, ()) if service["spec"].get("type") == "ExternalName"
    }
    balanced = bool(_status(view.live).get("loadBalancer", {}).get("ingress"))
    if balanced and wanted <= known:
        return READY
    return Verdict(
        (
            *_said(NO_INGRESS_TARGET, when=not wanted <= known),
            *_said(NO_INGRESS_ADDRESS, when=not balanced),
        )
    )


def _claim(view: View) -> Verdict:
    phase, class_name = _status(view.live).get("phase"), view.live["spec"].get("storageClassName")
    modes = {name(storage): storage.get("volumeBindingMode") for storage in view.beside.get(_STORAGE_CLASS, ())}
    wanted = "Pending" if modes.get(class_name) == "WaitForFirstConsumer" else "Bound"
    return READY if phase in (wanted, "Bound") else Verdict((f"PersistentVolumeClaim is {phase}, not {wanted}",))


def _volume(view: View) -> Verdict:
    phase = _status(view.live).get("phase")
    return READY if phase in ("Available", "Bound") else Verdict((f"PersistentVolume is {phase}",))


def _quota(view: View) -> Verdict:
    given = view.live["spec"].get("hard") == _status(view.live).get("hard")
    return READY if given else Verdict(("ResourceQuota is not counted yet",))


def _secret(view: View) -> Verdict:
    is_token = view.live.get("type") == "kubernetes.io/service-account-token"
    return Verdict(("Secret holds no token yet",)) if is_token and not view.live.get("data") else READY


@dataclass(frozen=True)
class Rule:
    """How a kind is judged, the kinds that are looked at beside it, and how long it is waited for by default."""

    judge: Callable[[View], Verdict]
    beside: tuple[Kind, ...] = ()
    timeout_s: float = 600.0


RULES: dict[Kind, Rule] = {
    Kind("", "v1", "PersistentVolume"): Rule(_volume, timeout_s=300.0),
    Kind("", "v1", "PersistentVolumeClaim"): Rule(_claim, (_STORAGE_CLASS,), timeout_s=300.0),
    Kind("", "v1", "Pod"): Rule(_pod),
    Kind("", "v1", "ResourceQuota"): Rule(_quota, timeout_s=60.0),
    Kind("", "v1", "Secret"): Rule(_secret, timeout_s=5.0),
    Kind("", "v1", "Service"): Rule(_service, (_ENDPOINTS,)),
    Kind("apps", "v1", "DaemonSet"): Rule(_daemon_set, (_POD,)),
    Kind("apps", "v1", "Deployment"): Rule(_deployment, (_REPLICA_SET, _POD, _CLAIM)),
    Kind("apps", "v1", "StatefulSet"): Rule(_stateful_set, (_POD,)),
    Kind("batch", "v1", "Job"): Rule(_job, (_POD,)),
    Kind("networking.k8s.io", "v1", "Ingress"): Rule(_ingress, (_ENDPOINTS, _SERVICE)),
}
"""Kinds that are awaited unasked; every other kind, custom resources among them, is ready once it exists."""


def rule_for(obj: Object) -> Rule | None:
    """The rule of the object's `pulumi.com/waitFor`, else of its kind; None where nothing is awaited."""
    wanted = annotation(obj, WAIT_FOR)
    return _asked(wanted) if wanted else RULES.get(kind_of(obj))


def _asked(wanted: str) -> Rule:
    try:
        expressions = json.loads(wanted)
    except ValueError:
        expressions = [wanted]
    if not isinstance(expressions, list):
        expressions = [wanted]
    tests = [(expression, _expectation(expression)) for expression in expressions]
    if not tests:
        raise Refused("at least one condition must be specified")

    def judge(view: View) -> Verdict:
        open_ones = tuple(expression for expression, holds in tests if not holds(view.live))
        return Verdict(tuple(f"{WAIT_FOR} is not met: {one}" for one in open_ones)) if open_ones else READY

    return Rule(judge)


def _expectation(expression: str) -> Callable[[Object], bool]:
    kind, _, rest = expression.partition("=")
    if kind == "condition":
        condition, _, status = rest.partition("=")
        return lambda obj: _conditions(obj).get(condition, {}).get("status") == (status or "True")
    match = re.fullmatch(r"\{(\.[^{}]*)\}(?:=(.*))?", rest)
    if kind != "jsonpath" or not match:
        raise Refused(f'expected a "jsonpath=" or "condition=" prefix, got "{expression}"')
    path, value = parsed(match[1].replace("['", '["').replace("']", '"]')), match[2]
    return lambda obj: _at(obj, path) if value is None else _text(_found(obj, path)) == value


def _at(obj: Object, path: tuple[str | int, ...]) -> bool:
    return _found(obj, path) is not None


def _found(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def pod_complaints(pod: Object) -> Iterator[str]:
    """What keeps a Pod from being ready, in the words of the kubelet and of its containers.

    The official provider says nothing of a Pod that no node can take (its message is no warning), and so nor does this.
    """
    conditions = _conditions(pod)
    if not _is_true(conditions, "PodScheduled") or _status(pod).get("phase") == "Succeeded":
        return
    unmet = next((kind for kind in ("Initialized", "Ready") if not _is_true(conditions, kind)), None)
    if unmet is None or unmet not in conditions:
        return
    errors = [error for one in _status(pod).get("containerStatuses", ()) for error in _container_errors(one)]
    explained = conditions[unmet].get("message", "") if conditions[unmet].get("reason") else ""
    if errors or explained:
        yield f"[Pod {_qualified(pod)}]: {explained}" + "\n".join(errors)


def _qualified(obj: Object) -> str:
    return f"{namespace(obj)}/{name(obj)}" if namespace(obj) not in ("", "default") else name(obj)


def _container_errors(container: Object) -> Iterator[str]:
    if container.get("ready"):
        return
    waiting = container.get("state", {}).get("waiting")
    if waiting and waiting.get("reason") != "ContainerCreating":
        yield f"[{waiting.get('reason')}] {waiting.get('message', '')}"
    ended = container.get("state", {}).get("terminated")
    if ended and ended.get("reason"):
        said = ended.get("message")
        yield (
            f"[{ended['reason']}] {said}"
            if said
            else f'container "{container["name"]}" completed with exit code {ended.get("exitCode")}'
        )
    last = container.get("lastState", {}).get("terminated")
    if last:
        yield (
            f'container "{container["name"]}" terminated at {last.get("finishedAt")} '
            f"({last.get('reason')}: exit code {last.get('exitCode')})"
        )
        if last.get("message"):
            yield last["message"]


def _said(complaint: str, *, when: bool) -> tuple[str, ...]:
    return (complaint,) if when else ()


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _replicas(obj: Object) -> int:
    return obj["spec"].get("replicas", 1)


def _conditions(obj: Object) -> dict[str, Object]:
    return {condition["type"]: condition for condition in _status(obj).get("conditions") or ()}


def _is_true(conditions: dict[str, Object], kind: str, reason: str | None = None) -> bool:
    condition = conditions.get(kind, {})
    return condition.get("status") == "True" and reason in (None, condition.get("reason"))


def _complaints(conditions: dict[str, Object], *kinds: str) -> Iterator[str]:
    for kind in kinds:
        condition = conditions.get(kind, {})
        if condition.get("status") == "False" and condition.get("message"):
            yield f"[{condition.get('reason')}] {condition['message']}"
