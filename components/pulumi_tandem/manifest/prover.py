"""The proof of one generation, as a Job of the cluster, and where its evidence lands."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pulumi_tandem.lower import Fleet, ProofSpec
from pulumi_tandem.manifest.access import evidence_name
from pulumi_tandem.manifest.hardened import HOME, TMP_MOUNT, container_security, pod_security, pull_secrets, tmp
from pulumi_tandem.manifest.naming import SPEC_DIR, Child, Head, Scope, digest
from pulumi_tandem.manifest.setting import Setting
from pulumi_tandem.resolve import Resolved

PROOF_S = 900.0
"""For the requests themselves, and for every gateway to report the new generation."""


class Workload(BaseModel):
    """One object whose replicas are workers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["Deployment", "LeaderWorkerSet"]
    name: str
    pool: str
    workers: int
    """As declared; an autoscaled service starts with as many as the serving generation has, where those are more."""
    workers_max: int | None
    """Most that an autoscaler may make; `workers` where there is none, None where nobody says."""
    kv_ports: dict[str, dict[str, int]]
    """Pool to run to its first port, of those over which KV moves: what a proof that failed looks at."""


class ProofOrder(BaseModel):
    """What the prover is to do: the file `proof.json` of its Job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    generation: str
    url: str
    """The gateway."""
    model: str
    disaggregated: bool
    context_tokens: int
    workloads: tuple[Workload, ...]
    state: str
    """ConfigMap that says which generation serves."""
    evidence: str
    """ConfigMap that the evidence goes to."""
    ready_timeout_s: float
    """How long the workers may take to be ready once they were asked for."""
    proof: ProofSpec


def of_prover(
    resolved: Resolved, fleet: Fleet, workloads: Sequence[Workload], scope: Scope, setting: Setting
) -> list[Child]:
    """The Job, what it reads, and the empty ConfigMap that it fills."""
    labels = scope.labels("prover", generation=fleet.generation)
    order = _order(resolved, fleet, workloads, scope).model_dump_json()
    # Another order for the same generation is another Job.
    name = f"{fleet.service}-proof-{fleet.generation}-{digest(order, 4)}"
    evidence = Head(api="v1", kind="ConfigMap", name=evidence_name(scope), labels=labels)
    config = Head(api="v1", kind="ConfigMap", name=name, labels=labels)
    total_s = resolved.grace.start_timeout_s + PROOF_S
    return [
        Child(key="evidence", manifest=evidence.manifest(scope), ignored=("data",)),
        Child(key="proof-order", manifest=config.manifest(scope, data={"proof.json": order})),
        Child(
            key="proof",
            manifest=_job(scope, setting, name, labels, total_s),
            after=(
                *("evidence", "proof-order", "prover-account", "prover-role", "prover-binding", "prover-network"),
                *("gateway", "gateway-service", "gateway-network"),
                *(workload.pool for workload in workloads),
            ),
            timeout_s=total_s + 120,
        ),
    ]


def _order(resolved: Resolved, fleet: Fleet, workloads: Sequence[Workload], scope: Scope) -> ProofOrder:
    return ProofOrder(
        service=fleet.service,
        generation=fleet.generation,
        url=f"http://{scope.of('gateway')}",
        model=fleet.gateway.served_names[0],
        disaggregated=fleet.disaggregated,
        context_tokens=fleet.gateway.context_tokens_max,
        workloads=tuple(workloads),
        state=scope.of("state"),
        evidence=evidence_name(scope),
        ready_timeout_s=resolved.grace.start_timeout_s,
        proof=fleet.proof,
    )


def _job(scope: Scope, setting: Setting, name: str, labels: dict[str, str], total_s: float) -> dict[str, Any]:
    container = {
        "name": "prover",
        "image": setting.images.gateway,
        "command": ["python", "-m", "pulumi_tandem.prove.job", "--order", f"{SPEC_DIR}/proof.json"],
        "env": [HOME],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "order", "mountPath": SPEC_DIR, "readOnly": True},
            TMP_MOUNT,
        ],
        # The reason of a refusal is the pod's last word, and so the update's error.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = {
        "serviceAccountName": scope.generated("prover"),
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "order", "configMap": {"name": name}}, tmp("64Mi")],
        **pull_secrets(setting),
    }
    spec = {
        # One pod, one verdict: the provider fails at once on BackoffLimitExceeded, and on no other reason.
        "backoffLimit": 0,
        "activeDeadlineSeconds": math.ceil(total_s),
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    # A proof that failed is tried anew by the next update, in a new Job.
    annotations = {"pulumi.com/replaceUnready": "true"}
    return Head(api="batch/v1", kind="Job", name=name, labels=labels, annotations=annotations).manifest(
        scope, spec=spec
    )
