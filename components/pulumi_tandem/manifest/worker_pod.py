"""The pod of a worker: one container an engine, its agent as the first process.

A pair that must reach each other's GPUs over NVLink is two containers of one pod with one process namespace: between
pods, UCX cannot map the other's memory (cuda_ipc) and falls back to TCP.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pulumi_tandem.catalog import Nodes
from pulumi_tandem.check.asked import GPU, gpus_per_pod
from pulumi_tandem.declare import Probe, Toleration
from pulumi_tandem.lower import LoweredPool
from pulumi_tandem.manifest.hardened import HOME, TMP_MOUNT, USER, container_security, pod_security, pull_secrets, tmp
from pulumi_tandem.manifest.naming import SPEC_DIR, Scope
from pulumi_tandem.manifest.setting import MODEL_DIR, Claim, Download, HostPath, ImageVolume, Setting
from pulumi_tandem.resolve import Resolved, ResolvedPool

PORTS = {"http": 8000, "agent": 8001, "group": 13345, "ranks": 13400, "side_channel": 5600, "transfer": 20000}
"""First number of each named run of ports, in a pod's own network; the second container's are `PORT_STEP` higher."""
KV_RUNS = ("side_channel", "transfer")
"""The runs over which KV, or word of it, goes from worker to worker."""
PORT_STEP = 1000
"""More than any run is long: a transfer port for each rank and thread of eight GPUs is 128."""
PROBE_TIMEOUT_S = 6.0
"""The agent asks its engine before it answers, for up to 5 s."""
GRACE_MARGIN_S = 10.0
"""From the last process's end to the pod's: volumes are unmounted, and a busy kubelet looks late."""
SHM_GIB_GPU = 16.0
"""NCCL's segments and vLLM's message queues between ranks. Source: llm-d's and Dynamo's manifests use 10 to 20 GiB."""
SHM_GIB_CPU = 1.0
CACHE = "20Gi"
"""What an engine may write: compiled kernels and graphs. Weights that it fetches by name come on top."""
MEMORY_LIMIT_FACTOR = 1.5
"""Limit over estimate: a pod that passes its limit is killed, and the estimate is rough."""
LEADER = "leaderworkerset.sigs.k8s.io/worker-index"


@dataclass(frozen=True, slots=True)
class Part:
    """One container: a pool as it was resolved and as it was lowered."""

    index: int
    pool: ResolvedPool
    lowered: LoweredPool

    @property
    def ports(self) -> dict[str, int]:
        """First number of each run that the worker has."""
        own = self.pool.pod.ports
        step = self.index * PORT_STEP
        return {port.name: own.get(port.name, PORTS[port.name] + step) for port in self.lowered.spec.ports}


def parts_of(resolved: Resolved, pools: Sequence[LoweredPool]) -> tuple[Part, ...]:
    """The containers of one pod, in the order of the pools."""
    return tuple(Part(index, resolved.pool(pool.name), pool) for index, pool in enumerate(pools))


def key_of(parts: Sequence[Part]) -> str:
    """What the pods are called: their pool, or `pair`."""
    return parts[0].pool.name if len(parts) == 1 else "pair"


def phase_of(parts: Sequence[Part]) -> str:
    """The phase that the pods take: their pool's, or `both`."""
    return parts[0].pool.phase if len(parts) == 1 else "both"


def claims_devices(resolved: Resolved) -> bool:
    """Whether the cluster deals GPUs out by claims, and not by counting."""
    return bool(resolved.cluster and resolved.cluster.dra)


def template(resolved: Resolved, parts: Sequence[Part], scope: Scope, setting: Setting, *, node_rank: bool) -> Any:  # noqa: ANN401 - JSON
    """PodTemplateSpec of the workers of one pool, or of a pair.

    `node_rank`: whether it is a pod of a group that makes one worker, which is told its place in it.
    """
    pods = [part.pool.pod for part in parts]
    spec = {
        "serviceAccountName": scope.of("worker"),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security()
        | ({} if all(pod.run_as_non_root for pod in pods) else {"runAsNonRoot": False}),
        "terminationGracePeriodSeconds": grace_s(resolved, parts),
        "containers": [_container(resolved, part, setting, node_rank=node_rank) for part in parts],
        "volumes": [
            *(_spec_volume(part, scope) for part in parts),
            tmp(CACHE),
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_shm_gib(parts):g}Gi"}},
            *_weights_volume(setting),
            *_host_volumes(parts),
        ],
        **_scheduling(resolved, parts, scope),
        **pull_secrets(setting),
    }
    if len(parts) > 1:
        spec["shareProcessNamespace"] = True
    if any(pod.host_network for pod in pods):
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if claims_devices(resolved):
        spec["resourceClaims"] = [
            {"name": f"gpus-{part.pool.name}", "resourceClaimTemplateName": scope.generated(part.pool.name)}
            for part in parts
            if _gpus(part)
        ]
    labels = scope.labels("worker", pool=key_of(parts), phase=phase_of(parts), generation=scope.generation)
    return {"metadata": {"labels": labels}, "spec": spec}


def grace_s(resolved: Resolved, parts: Sequence[Part]) -> int:
    """How long a pod may take to leave: whatever precedes the drain, the drain, and the engine's end.

    The lease of KV that nobody has fetched yet is part of the drain: the agent waits for both, within drain_timeout_s.
    """
    grace = resolved.grace
    given = [part.pool.pod.termination_grace_s for part in parts if part.pool.pod.termination_grace_s is not None]
    if given:
        return math.ceil(max(given))
    before_s = max(part.pool.pod.pre_stop_s for part in parts)
    return math.ceil(before_s + grace.settle_s + grace.drain_timeout_s + grace.stop_timeout_s + GRACE_MARGIN_S)


def _container(resolved: Resolved, part: Part, setting: Setting, *, node_rank: bool) -> dict[str, Any]:
    pod, spec = part.pool.pod, part.lowered.spec
    name = part.pool.name
    container: dict[str, Any] = {
        "name": name,
        "image": part.pool.image or setting.images.worker,
        "args": _arguments(part, alone=not resolved.paired_pods, node_rank=node_rank),
        "env": _environment(resolved, part),
        "ports": [{"name": _port_name(run, part), "containerPort": part.ports[run]} for run in ("http", "agent")],
        "resources": _resources(resolved, part),
        "securityContext": container_security(added=pod.capabilities or ()),
        "readinessProbe": _asks("/ready", part, Probe(period_s=5, timeout_s=PROBE_TIMEOUT_S, failure_threshold=2)),
        "livenessProbe": _asks("/live", part, pod.liveness or Probe(timeout_s=PROBE_TIMEOUT_S)),
        "volumeMounts": [
            {"name": f"spec-{name}", "mountPath": SPEC_DIR, "readOnly": True},
            TMP_MOUNT,
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own
            *_weights_mount(setting),
            *({"name": _host_name(path), "mountPath": path} for path in pod.host_paths),
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if pod.privileged:
        container["securityContext"] = {"privileged": True}
    if pod.has_startup_probe:
        patient = Probe(
            period_s=5, timeout_s=PROBE_TIMEOUT_S, failure_threshold=math.ceil(spec.start_timeout_s / 5) + 1
        )
        container["startupProbe"] = _asks("/ready", part, pod.startup or patient)
    if pod.pre_stop_s:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": math.ceil(pod.pre_stop_s)}}}
    return container


def _arguments(part: Part, *, alone: bool, node_rank: bool) -> list[str]:
    name = "$(POD_NAME)" if alone else f"$(POD_NAME)-{part.pool.name}"
    words = ["agent", "--spec", f"{SPEC_DIR}/worker.json", "--name", name, "--address", "$(POD_IP)"]
    words += [word for run, number in part.ports.items() for word in ("--port", f"{run}={number}")]
    if node_rank:
        words += ["--leader-address", "$(LWS_LEADER_ADDRESS)", "--node-rank", "$(LWS_WORKER_INDEX)"]
    return words


def _environment(resolved: Resolved, part: Part) -> list[dict[str, Any]]:
    def of_pod(name: str, path: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    env = [
        of_pod("POD_NAME", "metadata.name"),
        of_pod("POD_IP", "status.podIP"),
        HOME,
        {"name": "USER", "value": str(USER)},
    ]
    secret = resolved.token_secret
    if secret is not None and part.pool.model_path is None:
        source = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
        env.append({"name": "HF_TOKEN", "valueFrom": source})
    return env


def _port_name(run: str, part: Part) -> str:
    return run if part.index == 0 else f"{run}-{part.index}"


def _asks(path: str, part: Part, probe: Probe) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": part.ports["agent"]},
        "initialDelaySeconds": math.ceil(probe.initial_delay_s),
        "periodSeconds": math.ceil(probe.period_s),
        "timeoutSeconds": math.ceil(probe.timeout_s),
        "failureThreshold": probe.failure_threshold,
    }


def _gpus(part: Part) -> int:
    return part.pool.pod.resources.get(GPU, gpus_per_pod(part.pool))


def _resources(resolved: Resolved, part: Part) -> dict[str, Any]:
    """Extended resources have no requests of their own: Kubernetes takes the limits for them."""
    pod, memory_gib = part.pool.pod, part.lowered.spec.memory_gib
    limits: dict[str, Any] = {name: str(count) for name, count in pod.resources.items() if name != GPU}
    requests: dict[str, Any] = {}
    resources: dict[str, Any] = {}
    if _gpus(part) and claims_devices(resolved):
        resources["claims"] = [{"name": f"gpus-{part.pool.name}"}]
    elif _gpus(part):
        limits[GPU] = str(_gpus(part))
    limit_gib = pod.memory_gib or memory_gib * MEMORY_LIMIT_FACTOR
    if limit_gib:
        limits["memory"] = f"{math.ceil(limit_gib * 1024)}Mi"
        requests["memory"] = f"{math.ceil((memory_gib or limit_gib) * 1024)}Mi"
    return resources | {"limits": limits, "requests": requests}


def _shm_gib(parts: Sequence[Part]) -> float:
    given = [part.pool.pod.shm_gib for part in parts]
    return sum(
        size if size is not None else SHM_GIB_CPU if part.pool.on_cpu else SHM_GIB_GPU
        for size, part in zip(given, parts, strict=True)
    )


def _spec_volume(part: Part, scope: Scope) -> dict[str, Any]:
    return {"name": f"spec-{part.pool.name}", "configMap": {"name": scope.generated(part.pool.name)}}


def _weights_volume(setting: Setting) -> list[dict[str, Any]]:
    match setting.weights:
        case Claim() | Download() as given:
            claim = given if isinstance(given, Claim) else given.into
            return [{"name": "model", "persistentVolumeClaim": {"claimName": claim.name, "readOnly": claim.read_only}}]
        case HostPath(path=path):
            return [{"name": "model", "hostPath": {"path": path, "type": "Directory"}}]
        case ImageVolume(reference=reference):
            return [{"name": "model", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}]
        case None:
            return []


def _weights_mount(setting: Setting) -> list[dict[str, Any]]:
    return [{"name": "model", "mountPath": MODEL_DIR, "readOnly": True}] if setting.weights else []


def _host_name(path: str) -> str:
    return "host-" + path.strip("/").replace("/", "-").replace(".", "-").replace("_", "-").lower()


def _host_volumes(parts: Sequence[Part]) -> list[dict[str, Any]]:
    paths = dict.fromkeys(path for part in parts for path in part.pool.pod.host_paths)
    return [{"name": _host_name(path), "hostPath": {"path": path}} for path in paths]


def _scheduling(resolved: Resolved, parts: Sequence[Part], scope: Scope) -> dict[str, Any]:
    pool = parts[0].pool
    fields: dict[str, Any] = {"tolerations": tolerations(pool)}
    selector = _node_selector(pool.nodes)
    if pool.pod.node is not None:
        selector["kubernetes.io/hostname"] = pool.pod.node
    if selector:
        fields["nodeSelector"] = selector
    together = _affinity(resolved, pool, scope)
    if together:
        fields["affinity"] = together
    fields["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": scope.selector("worker", pool=key_of(parts))},
        }
    ]
    return fields


def _node_selector(nodes: Nodes | None) -> dict[str, str]:
    """Machines of the declared type; whoever declares none leaves the choice to the resources that are asked for."""
    if nodes is None or nodes.declared.instance_type is None:
        return {}
    return {"node.kubernetes.io/instance-type": nodes.declared.instance_type}


def tolerations(pool: ResolvedPool) -> list[dict[str, Any]]:
    """Taints that the pool's pods put up with."""
    if pool.pod.tolerations is not None:
        given = pool.pod.tolerations
    else:
        # The taint that GKE sets by itself, and that EKS and GPU operators' guides tell users to set.
        given = () if pool.on_cpu else (Toleration(key=GPU, operator="Exists", effect="NoSchedule"),)
        taints = pool.nodes.declared.taints if pool.nodes else ()
        given += tuple(Toleration(key=t.key, value=t.value, effect=t.effect) for t in taints if t.key != GPU)
    return [
        {
            key: value
            for key, value in (
                ("key", toleration.key),
                ("operator", toleration.operator),
                ("value", toleration.value if toleration.operator == "Equal" else None),
                ("effect", toleration.effect),
            )
            if value is not None
        }
        for toleration in given
    ]


def _affinity(resolved: Resolved, pool: ResolvedPool, scope: Scope) -> dict[str, Any]:
    """Workers that exchange KV stand close together: in one zone where they must be, in one rack where it helps."""
    own = {"matchLabels": scope.selector("worker", generation=scope.generation)}
    in_zone = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": own}
    same_zone = pool.pod.same_zone
    if same_zone is None:
        same_zone = resolved.disaggregated and resolved.transfer.transport == "efa"
    if same_zone:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [in_zone]}}
    if resolved.disaggregated and not pool.on_cpu:
        preferred = [{"weight": 100, "podAffinityTerm": in_zone}]
        return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return {}


def digestible(template: object) -> str:
    """A template as one line of text that is equal for equal templates; names that are not known yet count as equal."""
    return json.dumps(template, sort_keys=True, separators=(",", ":"), default=lambda _: "a name")
