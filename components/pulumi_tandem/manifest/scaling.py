"""What moves the number of workers: KEDA on the gateways' own figures, or the cluster's plain autoscaler.

Both read two figures of a service: how many seconds of prompts wait for prefill, and which share of its KV the decode
pool has in use. A pool's wanted size is its size times figure over target; it shrinks after five quiet minutes, and by
draining: a pod that is deleted finishes what it serves.
"""

import math
from collections.abc import Sequence
from typing import Any

from pulumi_tandem.declare import Autoscaler
from pulumi_tandem.manifest.naming import Child, Head, Scope
from pulumi_tandem.manifest.prover import Workload
from pulumi_tandem.manifest.setting import Setting
from pulumi_tandem.resolve import Resolved, ResolvedPool

BACKLOG_TARGET_S = 2.0
"""Seconds of prompts that may wait, where no objective says how soon the first token must come."""
BACKLOG_SHARE_OF_TTFT = 0.5
"""Of the TTFT objective: the rest is prefill itself and the hand-off."""
KV_TARGET = 0.8
"""Above it vLLM's scheduler begins to preempt where answers are long."""
POLL_S = 5
QUIET_S = 300
"""Kubernetes' own default before it shrinks."""


def of_scaling(resolved: Resolved, workloads: Sequence[Workload], scope: Scope, setting: Setting) -> list[Child]:
    """An autoscaler for every pool that declares one; it starts when the generation is proved."""
    children: list[Child] = []
    for workload in workloads:
        pool = resolved.pools[0] if workload.pool == "pair" else resolved.pool(workload.pool)
        scaler = pool.autoscalers[0] if pool.autoscalers else None
        if scaler is None or scaler.kind == "other":
            continue
        make = _scaled_object if scaler.kind == "ScaledObject" else _plain
        manifest = make(resolved, pool, scaler, workload, scope, setting)
        children.append(Child(key=f"{workload.pool}-scaling", manifest=manifest, after=("proof", workload.pool)))
    return children


def workers_max(resolved: Resolved, pool: ResolvedPool, scaler: Autoscaler) -> int:
    """As declared, and never more than the machines that the node pool can have hold beside the other pools' minima."""
    declared = scaler.workers_max or pool.workers
    nodes = pool.nodes
    if nodes is None or nodes.gpus_max is None or not pool.gpus_per_worker:
        return declared
    others = [other for other in resolved.pools if other is not pool and other.nodes and other.nodes.name == nodes.name]
    taken = sum(other.gpus_per_worker * _workers_min(other) for other in others)
    return max(1, min(declared, (nodes.gpus_max - taken) // pool.gpus_per_worker))


def _workers_min(pool: ResolvedPool) -> int:
    return pool.autoscalers[0].workers_min if pool.autoscalers else pool.workers


def figures(resolved: Resolved, pool: ResolvedPool) -> list[tuple[str, float]]:
    """Names in the gateways' `/scale` of what moves a pool, with the value that each should have."""
    ttft_ms = resolved.objectives.ttft_ms if resolved.objectives else None
    backlog_s = ttft_ms / 1000 * BACKLOG_SHARE_OF_TTFT if ttft_ms else BACKLOG_TARGET_S
    prefill, decode = ("prefill_backlog_s", backlog_s), ("decode_kv_usage", KV_TARGET)
    if resolved.paired_pods or (len(pool.phases) == 2 and pool.name not in {"prefill", "decode"}):
        return [prefill, decode]
    return [prefill if pool.phase == "prefill" else decode]


def _scaled_object(
    resolved: Resolved, pool: ResolvedPool, scaler: Autoscaler, workload: Workload, scope: Scope, setting: Setting
) -> dict[str, Any]:
    triggers = [
        _trigger(setting, f"services.{scope.service}.{name}", target, "Value")
        for name, target in figures(resolved, pool)
    ]
    if resolved.prefill_per_decode is not None and not resolved.paired_pods and resolved.disaggregated:
        # As many as the other pool's size demands: the two grow together, and neither shrinks below the ratio.
        triggers.append(_trigger(setting, f"services.{scope.service}.{pool.phase}_workers_min", 1.0, "AverageValue"))
    spec = {
        "scaleTargetRef": _target(workload),
        "minReplicaCount": scaler.workers_min,
        "maxReplicaCount": workers_max(resolved, pool, scaler),
        "pollingInterval": POLL_S,
        "fallback": {"failureThreshold": 6, "replicas": pool.workers, "behavior": "currentReplicasIfHigher"},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
        "triggers": triggers,
    }
    return _head(workload, scope, "keda.sh/v1alpha1", "ScaledObject").manifest(scope, spec=spec)


def _trigger(setting: Setting, location: str, target: float, kind: str) -> dict[str, Any]:
    return {
        "type": "metrics-api",
        "metricType": kind,
        "metadata": {
            "url": setting.scale_url,
            "valueLocation": location,
            "targetValue": f"{target:g}",
            "format": "json",
            # Every gateway sees its own requests only.
            "aggregateFromKubeServiceEndpoints": "true",
            "aggregationType": "max" if kind == "AverageValue" else "average",
        },
    }


def _plain(
    resolved: Resolved, pool: ResolvedPool, scaler: Autoscaler, workload: Workload, scope: Scope, _: Setting
) -> dict[str, Any]:
    """For clusters without KEDA: external metrics by the names that the gateways' Prometheus endpoint has."""
    exported = {"prefill_backlog_s": "tandem_gateway_backlog_seconds", "decode_kv_usage": "tandem_gateway_kv_usage"}
    metrics = [
        {
            "type": "External",
            "external": {
                "metric": {
                    "name": exported[name],
                    "selector": {"matchLabels": {"service": scope.service, "phase": name.partition("_")[0]}},
                },
                "target": {"type": "Value", "value": f"{math.ceil(target * 1000)}m"},
            },
        }
        for name, target in figures(resolved, pool)
    ]
    spec = {
        "scaleTargetRef": _target(workload),
        "minReplicas": max(1, scaler.workers_min),
        "maxReplicas": workers_max(resolved, pool, scaler),
        "behavior": _behavior(),
        "metrics": metrics,
    }
    return _head(workload, scope, "autoscaling/v2", "HorizontalPodAutoscaler").manifest(scope, spec=spec)


def _target(workload: Workload) -> dict[str, str]:
    api = {"Deployment": "apps/v1", "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1"}[workload.kind]
    return {"apiVersion": api, "kind": workload.kind, "name": workload.name}


def _head(workload: Workload, scope: Scope, api: str, kind: str) -> Head:
    labels = scope.labels("worker", pool=workload.pool, generation=scope.generation)
    return Head(api=api, kind=kind, name=workload.name, labels=labels)


def _behavior() -> dict[str, Any]:
    """Up at once, by as much again as there is; down by one pod a minute, after a quiet while."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": QUIET_S,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }
