"""The objects of one pool and generation: what runs, what it reads, how it is found, how many may be away."""

from collections.abc import Sequence
from typing import Any

from pulumi_tandem.check.asked import gpus_per_pod
from pulumi_tandem.manifest.naming import Child, Head, Manifest, Scope
from pulumi_tandem.manifest.setting import Download, Setting
from pulumi_tandem.manifest.worker_pod import LEADER, Part, claims_devices, key_of, phase_of, template
from pulumi_tandem.resolve import Resolved

READY_MARGIN_S = 300.0
"""Beside the engine's start: a machine that comes, an image that is pulled."""
IMAGE_AND_MACHINE_S = 900.0
"""Where nobody says how long an image takes: tens of gigabytes on a machine that has to be started first."""


def of_pool(resolved: Resolved, parts: Sequence[Part], scope: Scope, setting: Setting) -> list[Child]:
    """Every object of one pool, or of a pair of pools in one pod."""
    key = key_of(parts)
    shared = [child for part in parts for child in _of_part(resolved, part, scope, key)]
    return [*shared, _workload(resolved, parts, scope, setting, key), _budget(parts, scope, key)]


def _of_part(resolved: Resolved, part: Part, scope: Scope, workload: str) -> list[Child]:
    name = part.pool.name
    labels = scope.labels("worker", pool=name, phase=part.pool.phase, generation=scope.generation)
    config = Head(api="v1", kind="ConfigMap", name=scope.generated(name), labels=labels)
    children = [
        Child(
            key=f"{name}-spec",
            manifest=config.manifest(scope, data={"worker.json": part.lowered.spec.model_dump_json()}),
        ),
        Child(key=f"{name}-service", manifest=_service(part, scope, labels, workload)),
    ]
    if claims_devices(resolved) and part.pool.gpus_per_worker:
        children.append(Child(key=f"{name}-claim", manifest=_claim(part, scope, labels)))
    return children


def _service(part: Part, scope: Scope, labels: dict[str, str], workload: str) -> Manifest:
    """Addresses of the pool's workers; gateways ask each whether it is ready, and see it sooner than the kubelet."""
    selector = scope.workers(workload)
    if part.pool.nodes_per_worker > 1:
        selector[LEADER] = "0"
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector,
        "ports": [{"name": run, "port": part.ports[run], "targetPort": part.ports[run]} for run in ("http", "agent")],
    }
    return Head(api="v1", kind="Service", name=scope.generated(part.pool.name), labels=labels).manifest(
        scope, spec=spec
    )


def _claim(part: Part, scope: Scope, labels: dict[str, str]) -> Manifest:
    exactly = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": gpus_per_pod(part.pool)}
    spec = {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}}
    head = Head(
        api="resource.k8s.io/v1", kind="ResourceClaimTemplate", name=scope.generated(part.pool.name), labels=labels
    )
    return head.manifest(scope, spec=spec)


def _workload(resolved: Resolved, parts: Sequence[Part], scope: Scope, setting: Setting, key: str) -> Child:
    grouped = parts[0].pool.nodes_per_worker > 1
    pod = template(resolved, parts, scope, setting, node_rank=grouped)
    manifest = _group(parts, scope, pod, key) if grouped else _deployment(resolved, parts, scope, pod, key)
    needed = [f"{part.pool.name}-{what}" for part in parts for what in ("spec", "service")]
    needed += [f"{part.pool.name}-claim" for part in parts if "resourceClaims" in pod["spec"]]
    return Child(
        key=key,
        manifest=manifest,
        after=(
            *needed,
            "worker-account",
            "worker-network",
            *(("weights",) if isinstance(setting.weights, Download) else ()),
        ),
        ignored=("spec.replicas",) if any(one.owns_workers for one in parts[0].pool.autoscalers) else (),
        timeout_s=resolved.grace.start_timeout_s + _arrival_s(parts),
    )


def _arrival_s(parts: Sequence[Part]) -> float:
    if all(part.pool.on_cpu for part in parts):
        return READY_MARGIN_S
    pulls = [part.pool.pod.image_pull_s for part in parts]
    return READY_MARGIN_S + max(IMAGE_AND_MACHINE_S if pull is None else pull for pull in pulls)


def _head(parts: Sequence[Part], scope: Scope, key: str, api: str, kind: str) -> Head:
    labels = scope.labels("worker", pool=key, phase=phase_of(parts), generation=scope.generation)
    # An autoscaler or the prover may have moved `replicas`; whoever changes the declaration means it.
    return Head(
        api=api, kind=kind, name=scope.generated(key), labels=labels, annotations={"pulumi.com/patchForce": "true"}
    )


def _deployment(resolved: Resolved, parts: Sequence[Part], scope: Scope, pod: Any, key: str) -> Manifest:  # noqa: ANN401 - JSON
    spec = {
        "replicas": parts[0].lowered.workers,
        "selector": {"matchLabels": scope.workers(key)},
        "template": pod,
        "strategy": {"type": "Recreate"} if resolved.in_place else _rolling(parts),
        "progressDeadlineSeconds": int(resolved.grace.start_timeout_s + _arrival_s(parts)),
        "revisionHistoryLimit": 2,
    }
    return _head(parts, scope, key, "apps/v1", "Deployment").manifest(scope, spec=spec)


def _rolling(parts: Sequence[Part]) -> dict[str, Any]:
    """A generation's pods never change; what replaces one anyhow (a transform of ours is not) does it one by one."""
    declared = parts[0].pool.pod.rolling_update
    surge = {"maxSurge": declared.max_surge, "maxUnavailable": declared.max_unavailable} if declared else None
    return {"type": "RollingUpdate", "rollingUpdate": surge or {"maxSurge": 0, "maxUnavailable": 1}}


def _group(parts: Sequence[Part], scope: Scope, pod: Any, key: str) -> Manifest:  # noqa: ANN401 - JSON
    """A worker over several machines: a group that is started, replaced and counted as one."""
    pool = parts[0].pool
    spec = {
        "replicas": parts[0].lowered.workers,
        "leaderWorkerTemplate": {
            "size": pool.pod.group_pods or pool.nodes_per_worker,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "workerTemplate": pod,
        },
        "startupPolicy": pool.pod.group_start,
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1},
        },
    }
    head = _head(parts, scope, key, "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    manifest = head.manifest(scope, spec=spec)
    # A custom resource is not awaited by itself.
    manifest["metadata"]["annotations"]["pulumi.com/waitFor"] = "condition=Available=True"
    return manifest


def _budget(parts: Sequence[Part], scope: Scope, key: str) -> Child:
    """How many pods a drain of machines may take at once: one, or as the declaration says."""
    floor = parts[0].pool.pod.disruption_min_available
    spec = {
        "selector": {"matchLabels": scope.workers(key)},
        **({"maxUnavailable": 1} if floor is None else {"minAvailable": floor}),
    }
    head = Head(
        api="policy/v1",
        kind="PodDisruptionBudget",
        name=scope.generated(key),
        labels=scope.labels("worker", pool=key, generation=scope.generation),
    )
    return Child(key=f"{key}-budget", manifest=head.manifest(scope, spec=spec))
