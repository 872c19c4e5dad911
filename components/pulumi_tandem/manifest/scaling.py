"""What moves the number of workers: KEDA on the gateways' own figures, or the cluster's plain autoscaler.

Both read what the gateways tell of a service: how many seconds of prompts wait for prefill, and how much of its time
that pool reads; which share of its KV the decode pool has in use, and which of its places for answers. A pool's wanted
size is its size times figure over target, the largest of them.
Where the declaration has a ratio, each pool also follows the fewest workers that it takes beside the other one. It
shrinks after five quiet minutes, and by draining: a pod that is deleted finishes what it serves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pulumi_tandem.lower import Fleet
from pulumi_tandem.manifest.naming import SCALE_PORT, Child, Head, Scope
from pulumi_tandem.manifest.prover import Workload
from pulumi_tandem.manifest.setting import Setting
from pulumi_tandem.resolve import Resolved, ResolvedPool

POLL_S = 5
QUIET_S = 300
"""Kubernetes' own default before it shrinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One autoscaler that is to be written."""

    workload: Workload
    workers_min: int
    workers_max: int
    figures: list[tuple[str, float]]
    """Names with their targets."""
    floor: str | None
    """Name of the figure that is a number of workers; None: none."""


def of_scaling(
    resolved: Resolved, fleet: Fleet, workloads: Sequence[Workload], scope: Scope, setting: Setting
) -> list[Child]:
    """An autoscaler for every pool that declares one; it starts when the generation is proved."""
    children: list[Child] = []
    for workload in workloads:
        pool = resolved.pools[0] if workload.pool == "pair" else resolved.pool(workload.pool)
        scaler = pool.autoscalers[0] if pool.autoscalers else None
        if scaler is None or scaler.kind == "other":
            continue
        assert workload.workers_max is not None, "what is scaled by us has a bound"
        order = _Order(
            workload=workload,
            workers_min=max(1, scaler.workers_min),
            workers_max=workload.workers_max,
            figures=_figures(pool, fleet, paired=resolved.paired_pods),
            floor=_floor(resolved, pool),
        )
        manifest = (_scaled_object if scaler.kind == "ScaledObject" else _plain)(order, scope, setting)
        children.append(Child(key=f"{workload.pool}-scaling", manifest=manifest, after=("proof", workload.pool)))
    return children


def _figures(pool: ResolvedPool, fleet: Fleet, *, paired: bool) -> list[tuple[str, float]]:
    """Names in the gateways' `/scale` of what moves a pool, with the value that each should have."""
    targets = fleet.gateway.scaling
    assert targets is not None, "a service that is scaled has targets"
    decode = [("decode_kv_usage", targets.decode_kv_usage), ("decode_slot_usage", targets.decode_slot_usage)]
    reading = ("prefill_usage", targets.prefill_usage)
    if paired:
        return [("backlog_s", targets.prefill_backlog_s), reading, *decode]
    if pool.name not in {"prefill", "decode"}:
        # Who reads there is as many as read all day: how busy they are says nothing of the pool.
        return [("backlog_s", targets.prefill_backlog_s), *decode]
    return decode if pool.phase == "decode" else [("prefill_backlog_s", targets.prefill_backlog_s), reading]


def _floor(resolved: Resolved, pool: ResolvedPool) -> str | None:
    """Name of the figure that says how many workers the other pool takes beside it; None where no ratio holds them."""
    held = resolved.prefill_per_decode is not None and resolved.disaggregated and not resolved.paired_pods
    return f"{pool.phase}_workers_min" if held else None


def _scaled_object(order: _Order, scope: Scope, setting: Setting) -> dict[str, Any]:
    url = setting.concat("http://", scope.of("scale"), ".", scope.namespace, f".svc:{SCALE_PORT}/scale")

    def trigger(name: str, target: float, kind: str) -> dict[str, Any]:
        where = {"url": url, "valueLocation": f"services.{scope.service}.{name}", "format": "json"}
        return {"type": "metrics-api", "metricType": kind, "metadata": {**where, "targetValue": f"{target:g}"}}

    triggers = [trigger(name, target, "Value") for name, target in order.figures]
    if order.floor is not None:
        triggers.append(trigger(order.floor, 1, "AverageValue"))
    spec = {
        "scaleTargetRef": _target(order.workload),
        "minReplicaCount": order.workers_min,
        "maxReplicaCount": order.workers_max,
        "pollingInterval": POLL_S,
        # Without figures a pool stays as large as it is, or as it was declared where that is more.
        "fallback": {
            "failureThreshold": 6,
            "replicas": min(order.workload.workers, order.workers_max),
            "behavior": "currentReplicasIfHigher",
        },
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
        "triggers": triggers,
    }
    return _head(order.workload, scope, "keda.sh/v1alpha1", "ScaledObject").manifest(scope, spec=spec)


def _plain(order: _Order, scope: Scope, _: Setting) -> dict[str, Any]:
    """For clusters without KEDA: external metrics, which an adapter of the cluster's reads off the gateways' own."""

    def metric(figure: str, kind: str, target: str) -> dict[str, Any]:
        labels = {"tandem_service": scope.service, "figure": figure}
        found = {"name": "tandem_gateway_scale", "selector": {"matchLabels": labels}}
        held = {"type": kind, kind[0].lower() + kind[1:]: target}
        return {"type": "External", "external": {"metric": found, "target": held}}

    metrics = [metric(name, "Value", _quantity(target)) for name, target in order.figures]
    if order.floor is not None:
        metrics.append(metric(order.floor, "AverageValue", "1"))
    spec = {
        "scaleTargetRef": _target(order.workload),
        "minReplicas": order.workers_min,
        "maxReplicas": order.workers_max,
        "behavior": _behavior(),
        "metrics": metrics,
    }
    return _head(order.workload, scope, "autoscaling/v2", "HorizontalPodAutoscaler").manifest(scope, spec=spec)


def _quantity(number: float) -> str:
    """As the API server writes it back: of two ways to say the same, one would be a change at every preview.

    Source: Kubernetes, apimachinery, resource.Quantity, "canonical form".
    """
    thousandths = math.ceil(number * 1000)
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


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
