"""The cluster's side of a case: what stands around the engines, as keyword arguments of `Service` and `Pool`.

A missing key means the default of the platform: Kubernetes kills after 30 s, charts tolerate nothing, nothing ties pods
to a zone. Where Tandem's default is another one, the platform's is written out.
"""

import math
import re
from typing import TYPE_CHECKING, Any

import pulumi_tandem as tandem

if TYPE_CHECKING:
    from collections.abc import Collection

Case = dict[str, Any]

KEYS = frozenset({
    "affinity", "autoscalers", "capabilities", "cuda", "engine_ready_timeout_s", "hf_token", "host", "host_network",
    "host_path", "ignore_replica_changes", "image_change", "image_pull_estimate_s", "image_size_gb",
    "libfabric_version", "load_rate_gb_s", "lws", "memory_limit", "node_group", "nvlink_domain", "pdb", "ports",
    "pre_stop_s", "privileged", "probes", "resources", "rolling_update", "run_as_non_root", "run_as_user",
    "scale_group", "shm", "shutdown_timeout_s", "strategy", "subnet", "termination_grace_s", "tolerations", "ulimits",
    "update_group", "weights_cache", "workload", "zone",
})  # fmt: skip
"""Keys of a role that are said here, by their first part."""

CLUSTER_KEYS = frozenset({
    "ami", "arch", "autoscaling", "bandwidth_gbps", "capacity", "compute", "compute_domain", "cross_node",
    "desired_size", "disaggregatedset", "dra", "dynamo", "efa_device_plugin", "fabric", "gateway", "gpu_device_plugin",
    "gpu_operator", "gpu_sharing", "gpus_per_node", "image_cache", "inference_pool", "injects", "instance_type",
    "karpenter", "kubernetes_version", "launch_template", "lws", "max_nodes", "network_policy", "node_group", "nodes",
    "nvme_raid0", "placement_group", "pod_security", "pods", "provider", "public_ip", "quota", "rdma_devices",
    "root_volume_gb", "router", "same_node", "scale_groups", "secrets", "security_group", "share_process_namespace",
    "stormservice", "subnet_cidrs", "taints", "total_gpus", "zones",
})  # fmt: skip
"""Keys of the cluster that are said here, or for which a case is left out, by their first part."""
BACKGROUND = frozenset({
    "affinity", "anti_affinity", "cluster_created", "frontend_image", "mig", "node_groups", "nvlink", "platform",
    "pod_identity", "prometheus", "reconcile", "share_host_ipc", "storage_class", "subnets",
})  # fmt: skip
"""Keys of the cluster that repeat what others say, or that no declaration has a word for and no rule is about."""

SIDECARS = "a product that Tandem does not deploy: llm-d's routing sidecar and endpoint picker"
CHOICES = ("pd_decider", "plugins")

FABRICS: dict[str, Any] = {
    "none": "tcp", "tcp": "tcp", "efa": "efa", "infiniband": "infiniband", "roce": "roce", "mnnvl": "mnnvl",
    "nvlink-single-node": None,
}  # fmt: skip
"""None: it says nothing of the network between machines."""
IMPLEMENTATIONS = {
    "envoy", "envoy-gateway", "envoy-ai-gateway", "istio", "nginx", "aws-alb", "gke-gateway", "kgateway",
    "aibrix",
}  # fmt: skip
ROUTERS = {"trtllm-disaggregated": "trtllm-serve", "aibrix": "aibrix"}
"""Routers whose own time limits are known. AIBrix' is for prefill alone, others' for the whole request."""
CAPACITIES: dict[str, Any] = {
    "on-demand": "on-demand", "spot": "spot", "odcr": "reservation", "reserved": "reservation",
    "capacity-block": "capacity-block",
}  # fmt: skip
SCALERS = {"HorizontalPodAutoscaler", "ScaledObject"}
ROUTER_BLOCKS = ("kv_cache_block_size", "blockSizeTokens", "tokens_per_block")
SIDE_CHANNEL_PORT = 5600
HTTP_PORT = 8000


def left_out(case: Case) -> str | None:
    """Why a case is about something else; None: it is about us too."""
    router = _part(case, "cluster").get("router") or {}
    roles = [case.get(role) or {} for role in ("prefill", "decode")]
    if any("sidecar" in role or "sidecar_env" in role for role in roles) or any(key in router for key in CHOICES):
        return SIDECARS
    return None


def unknown(case: Case) -> list[str]:
    """Keys and words of the cluster that nobody translates."""
    cluster = _part(case, "cluster")
    told = [f"cluster.{key}" for key in cluster if key not in CLUSTER_KEYS | BACKGROUND]
    words: tuple[tuple[str, Any, Collection[str]], ...] = (
        ("cluster.fabric", cluster.get("fabric"), FABRICS),
        ("cluster.gateway.implementation", (cluster.get("gateway") or {}).get("implementation"), IMPLEMENTATIONS),
        ("cluster.capacity.type", (cluster.get("capacity") or {}).get("type"), CAPACITIES),
    )
    return told + [f"{key}={word!r}" for key, word, known in words if word is not None and word not in known]


def cluster_parts(case: Case) -> dict[str, object]:
    """Keyword arguments for the service beyond those of the engine's side."""
    declared, roles = _part(case, "cluster"), [case.get(role) or {} for role in ("prefill", "decode")]
    parts: dict[str, object] = {
        "cluster": _cluster(case),
        "rollout": "in_place",
        "grace": _grace(roles),
        "limits": _limits(case),
        "front_door": _front_door(declared),
        "token_secret": _token(roles),
        **_load(case),
    }
    if ratio := ((declared.get("autoscaling") or {}).get("ratio") or {}).get("prefill_per_decode"):
        parts["prefill_per_decode"] = tandem.Ratio(at_least=ratio.get("min", 0.0), at_most=ratio["max"])
    if declared.get("pods") == "same-network-namespace" or declared.get("share_process_namespace"):
        parts["pods"] = "paired"
    if declared.get("same_node") and declared.get("fabric") in {"none", None}:
        parts["pods"] = "paired"
    if transport := _transport(declared, roles):
        parts["transfer"] = tandem.Transfer(transport=transport)
    return {name: value for name, value in parts.items() if value is not None}


def pod_parts(case: Case, role: str) -> dict[str, object]:
    """Keyword arguments for the pool of `role` beyond those of the engine's side."""
    keys = case.get(role) or {}
    scalers = tuple(_autoscaler(each, keys) for each in keys.get("autoscalers") or ())
    if group := (_part(case, "cluster").get("scale_groups") or {}).get(keys.get("scale_group")):
        scalers = (_autoscaler(group, keys),)
    return {"pod": tandem.Pod(**_pod(case, role, keys)), "autoscalers": scalers}


# --- the service ----------------------------------------------------------------------------------


def _transport(cluster: Case, roles: list[Case]) -> Any:
    """What an engine finds by itself: UCX takes InfiniBand where there is some, and a GPU of its own machine."""
    fabric = cluster.get("fabric")
    if any("UCX_TLS" in (role.get("env") or {}) for role in roles):
        return None
    if cluster.get("same_node") and fabric in {"none", None}:
        return "cuda_ipc"
    by_hand = [(role.get("kv_connector_extra_config") or {}).get("backends") or () for role in roles]
    if fabric == "efa" and any("LIBFABRIC" in backends for backends in by_hand):
        return "efa"
    return "rdma" if fabric in {"infiniband", "roce"} else None


def _grace(roles: list[Case]) -> tandem.Grace | None:
    """vLLM's shutdown timeout is all that a plain engine drains."""
    drain_s = max((role.get("shutdown_timeout_s") or 0 for role in roles), default=0)
    return tandem.Grace(drain_timeout_s=drain_s, settle_s=0, stop_timeout_s=0.1) if drain_s else None


def _limits(case: Case) -> tandem.Limits | None:
    workload = _part(case, "workload")
    fields = {"request_timeout_s": workload.get("max_generation_s"), "prefill_timeout_s": workload.get("max_ttft_s")}
    given = {name: value for name, value in fields.items() if value}
    return tandem.Limits(**given) if given else None


def _load(case: Case) -> dict[str, object]:
    """Load and objectives, where a case has both; one request at a time."""
    workload = _part(case, "workload")
    if not workload.keys() >= {"isl", "osl", "ttft_ms"}:
        return {}
    load = tandem.Workload(requests_per_s=0.01, prompt_tokens=workload["isl"], output_tokens=workload["osl"])
    return {"workload": load, "objectives": tandem.Objectives(ttft_ms=workload["ttft_ms"], tpot_ms=10_000)}


def _front_door(cluster: Case) -> tandem.FrontDoor | None:
    gateway, router = cluster.get("gateway") or {}, cluster.get("router") or {}
    block = next((router[key] for key in ROUTER_BLOCKS if key in router), None)
    if not gateway and not router:
        return None
    name = gateway.get("implementation") or ROUTERS.get(str(router.get("name")))
    whole = "prefill_timeout_s" if name == "aibrix" else "route_timeout_s"
    fields: dict[str, Any] = {
        "implementation": name if name in {*IMPLEMENTATIONS, *ROUTERS.values()} else "other",
        "version": gateway.get("version"),
        "route_timeout_s": gateway.get("route_timeout_s"),
        "idle_timeout_s": gateway.get("idle_timeout_s"),
        "block_tokens": block,
        "ranks_per_pod": router.get("intra_node_data_parallel_size", 1),
        "kv_events": router.get("name") == "dynamo-frontend" and router.get("mode") == "kv",
        "public": gateway.get("public", False),
    }
    if "timeout_s" in router:
        fields[whole] = router["timeout_s"]
    return tandem.FrontDoor(**fields)


def _token(roles: list[Case]) -> tandem.TokenSecret | None:
    for role in roles:
        token = role.get("hf_token") or {}
        if name := token.get("secret") or token.get("secretRef"):
            return tandem.TokenSecret(name=name, **({"key": token["key"]} if "key" in token else {}))
    return None


# --- the cluster ----------------------------------------------------------------------------------


def _cluster(case: Case) -> tandem.Cluster:
    declared = _part(case, "cluster")
    quota = re.compile(r"running_on_demand_([a-z]+)_vcpus")
    found = {quota.fullmatch(key): value for key, value in (declared.get("quota") or {}).items()}
    gpu_plugin = declared.get("gpu_device_plugin")
    discovery = gpu_plugin.get("nfd_tolerations") if isinstance(gpu_plugin, dict) else None
    fields: dict[str, Any] = {
        "provider": "eks" if declared.get("provider") == "aws-eks" else "other",
        "version": declared.get("kubernetes_version"),
        "fabric": FABRICS.get(str(declared.get("fabric"))),
        "network_gbit_per_s": declared.get("bandwidth_gbps"),
        "node_pools": _node_pools(case),
        "security_group": _security_group(declared.get("security_group")),
        "pod_security": declared.get("pod_security"),
        "gpu_plugin": None if gpu_plugin is None else tandem.DevicePlugin(installed=bool(gpu_plugin)),
        "feature_discovery": None if discovery is None else tandem.DevicePlugin(tolerations=_tolerations(discovery)),
        "efa_plugin": _efa_plugin(declared.get("efa_device_plugin")),
        "gpu_operator": _operator(declared.get("gpu_operator")),
        "dra": True if declared.get("compute_domain") else declared.get("dra"),
        "vcpu_quota": {match[1].upper(): value for match, value in found.items() if match},
        "secrets": _secrets(case),
    }
    if policy := declared.get("network_policy"):
        fields["network_policy"] = tandem.NetworkPolicy(
            default=policy.get("default", "allow"), ingress_ports=policy.get("ingress_ports", ()), add_rules=False
        )
    return tandem.Cluster(**{name: value for name, value in fields.items() if value is not None})


def _secrets(case: Case) -> tuple[str, ...] | None:
    """Secrets that the case lists, or none where it says that a role's is not in the cluster."""
    if (listed := _part(case, "cluster").get("secrets")) is not None:
        return tuple(listed)
    tokens = [(case.get(role) or {}).get("hf_token") or {} for role in ("prefill", "decode")]
    return () if any(token.get("in_cluster") is False for token in tokens) else None


def _security_group(given: Any) -> tandem.SecurityGroup | None:
    if isinstance(given, str):
        return tandem.SecurityGroup(eks_default=given == "eks-cluster-default")
    if given is None:
        return None
    fields: dict[str, Any] = {
        "self_ingress": given.get("self_ingress_all", "ingress_cidr" not in given),
        "self_egress": given.get("self_egress_all", "egress_cidr" not in given),
    }
    return tandem.SecurityGroup(**fields, tcp_ports=given.get("node_to_node_tcp"))


def _efa_plugin(given: Any) -> tandem.DevicePlugin | None:
    """The chart tolerates nothing by default."""
    if given is None:
        return None
    if isinstance(given, bool):
        return tandem.DevicePlugin(installed=given, tolerations=())
    installed = given.get("installed", True)
    return tandem.DevicePlugin(
        installed=installed,
        version=given.get("version"),
        tolerations=_tolerations(given.get("tolerations") or ()),
    )


def _operator(given: Any) -> tandem.GpuOperator | None:
    """What it installs by default is everything."""
    if not given:
        return None
    parts = {"driver": "driver", "toolkit": "toolkit", "devicePlugin": "device_plugin"}
    said = given if isinstance(given, dict) else {}
    return tandem.GpuOperator(**{name: said.get(key, True) for key, name in parts.items()})


# --- machines -------------------------------------------------------------------------------------

APART = ("node_group", "zone", "subnet", "nvlink_domain")
"""Keys of a role that say where its machines are: each role has a node pool of its own then."""


def _node_pools(case: Case) -> tuple[tandem.NodePool, ...]:
    fields = {name: value for name, value in _machines(_part(case, "cluster")).items() if value is not None}
    if not _apart(case):
        return (tandem.NodePool(**fields),)
    pools: list[tandem.NodePool] = []
    for role in ("prefill", "decode"):
        keys = case.get(role) or {}
        own: dict[str, Any] = {
            "zones": (keys["zone"],) if "zone" in keys else None,
            "subnets": (keys["subnet"],) if "subnet" in keys else None,
            "nvlink_domain": keys.get("nvlink_domain"),
        }
        shared = {name: value for name, value in fields.items() if name not in {"nodes", "nodes_max", "gpus_max"}}
        pools.append(tandem.NodePool(**{**shared, **{k: v for k, v in own.items() if v is not None}, "name": role}))
    return tuple(pools)


def _apart(case: Case) -> bool:
    return any(key in (case.get(role) or {}) for role in ("prefill", "decode") for key in APART)


def _machines(cluster: Case) -> dict[str, Any]:
    """Fields of a node pool."""
    karpenter, ami = cluster.get("karpenter") or {}, cluster.get("ami") or {}
    limits = [(karpenter.get("limits") or {}).get("nvidia.com/gpu"), cluster.get("total_gpus")]
    fields: dict[str, Any] = {
        "instance_type": cluster.get("instance_type"),
        "gpus_per_node": cluster.get("gpus_per_node"),
        "managed_by": _managed_by(cluster),
        "nodes": cluster.get("nodes", cluster.get("desired_size")),
        "nodes_max": cluster.get("max_nodes", cluster.get("nodes")),
        "gpus_max": min((limit for limit in limits if limit is not None), default=None),
        "zones": tuple(karpenter.get("zones") or cluster.get("zones") or ()),
        "subnet_cidrs": tuple(cluster.get("subnet_cidrs") or ()),
        "capacity": _capacity(cluster),
        "placement_group": _placement_group(cluster.get("placement_group")),
        "network_interfaces": _interfaces(cluster.get("launch_template") or {}),
        "public_ip": bool(
            cluster.get("public_ip") or (cluster.get("launch_template") or {}).get("associate_public_ip")
        ),
        "ami_family": ami.get("family"),
        "ami_release": ami.get("release"),
        "nvidia_driver": ami.get("nvidia_driver"),
        "taints": tuple(tandem.Taint(**taint) for taint in cluster.get("taints") or ()),
        "root_volume_gib": cluster.get("root_volume_gb"),
        "nvme_raid0": cluster.get("nvme_raid0"),
        "gpu_sharing": cluster.get("gpu_sharing"),
        "rdma_devices": cluster.get("rdma_devices"),
        "consolidation": None if karpenter.get("do_not_disrupt") else karpenter.get("consolidationPolicy"),
        "disruption_budget_nodes": _budget(karpenter.get("disruption_budget")),
    }
    return fields


def _managed_by(cluster: Case) -> str:
    if cluster.get("compute") == "auto-mode":
        return "auto-mode"
    if cluster.get("node_group") == "managed":
        return "managed-node-group"
    return "karpenter" if "karpenter" in cluster else "other"


def _budget(given: Any) -> int | None:
    return int(given) if str(given).isdecimal() else None


def _capacity(cluster: Case) -> tandem.Capacity | None:
    given = cluster.get("capacity") or {}
    kind = given.get("type") or (cluster.get("karpenter") or {}).get("capacity_type")
    if kind is None and not given:
        return None
    return tandem.Capacity(
        type=CAPACITIES.get(str(kind), "reservation"),
        id=given.get("id"),
        nodes=given.get("instances", given.get("count")),
        placement_group=given.get("placement_group_arn"),
    )


def _placement_group(given: Any) -> tandem.PlacementGroup | None:
    if given is None:
        return None
    said = given if isinstance(given, dict) else {"arn": given}
    return tandem.PlacementGroup(name=said.get("arn"), strategy=said.get("strategy", "cluster"))


def _interfaces(template: Case) -> tuple[tandem.NetworkInterface, ...]:
    """As listed; a bare number stands for one on each card, as tools that count cards make them."""
    if listed := template.get("network_interfaces"):
        keys = ("card", "device", "type")
        return tuple(tandem.NetworkInterface(**{key: each[key] for key in keys if key in each}) for each in listed)
    count = template.get("interfaces", 0)
    kind = template.get("type", "efa")
    return tuple(
        tandem.NetworkInterface(card=card, device=min(card, 1), type=kind if card else "efa") for card in range(count)
    )


# --- pods -----------------------------------------------------------------------------------------


def _pod(case: Case, role: str, keys: Case) -> dict[str, Any]:
    cluster, probes = _part(case, "cluster"), keys.get("probes") or {}
    lws = {**(cluster.get("lws") or {}), **(keys.get("lws") or {})}
    volume = keys.get("weights_cache")
    fields: dict[str, Any] = {
        "node_pool": role if _apart(case) else None,
        "node": keys.get("host") or (role if cluster.get("cross_node") else None),
        "same_zone": _same_zone(cluster, keys),
        "host_network": keys.get("host_network"),
        "tolerations": _tolerations(keys["tolerations"]) if "tolerations" in keys else None,
        "resources": keys.get("resources"),
        "memory_gib": _gib(keys.get("memory_limit")),
        "shm_gib": _gib(keys["shm"] or 0) if "shm" in keys else None,
        "memlock_kib": (keys.get("ulimits") or {}).get("memlock_kb"),
        "capabilities": keys.get("capabilities"),
        "privileged": keys.get("privileged"),
        "run_as_non_root": keys.get("run_as_non_root"),
        "host_paths": keys.get("host_path"),
        "ports": _ports(case, keys),
        "startup": _probe(probes.get("startup")),
        "has_startup_probe": False if "startup" in probes and not probes["startup"] else None,
        "liveness": _probe(probes.get("liveness")),
        "pre_stop_s": keys.get("pre_stop_s"),
        "termination_grace_s": _termination(keys),
        "disruption_min_available": (keys.get("pdb") or {}).get("minAvailable"),
        "image_cuda": keys.get("cuda"),
        "image_libfabric": keys.get("libfabric_version"),
        "image_gb": keys.get("image_size_gb"),
        "image_pull_s": 0 if cluster.get("image_cache") else keys.get("image_pull_estimate_s"),
        "weights_volume": volume.get("access_mode") if isinstance(volume, dict) else volume,
        "load_gb_per_s": keys.get("load_rate_gb_s"),
        "group_pods": lws.get("size"),
        "group_start": lws.get("startupPolicy"),
        "rolling_update": _rolling_update(cluster, keys),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _same_zone(cluster: Case, keys: Case) -> bool | None:
    """Kubernetes ties nothing to a zone by itself."""
    zones = (cluster.get("karpenter") or {}).get("zones") or cluster.get("zones") or ()
    if (keys.get("affinity") or {}).get("zone") == "required":
        return True
    return False if len(zones) > 1 else None


def _termination(keys: Case) -> float | None:
    """Kubernetes' 30 s where a drain or a hook is declared and no grace is."""
    declared = {"termination_grace_s", "shutdown_timeout_s", "pre_stop_s"} & keys.keys()
    given = keys.get("termination_grace_s")
    return 30.0 if declared and given is None else given


def _rolling_update(cluster: Case, keys: Case) -> tandem.RollingUpdate | None:
    """A Deployment's own defaults are a quarter each, surge rounded up and unavailable rounded down."""
    given = keys.get("rolling_update") or {}
    if not given and keys.get("strategy") != "RollingUpdate":
        return None
    quarter = keys.get("replicas", 1) / 4
    router = cluster.get("router") or {}
    return tandem.RollingUpdate(
        max_surge=given.get("maxSurge", math.ceil(quarter)),
        max_unavailable=given.get("maxUnavailable", math.floor(quarter)),
        pairs_revisions=router.get("revision_pairing", True),
    )


def _ports(case: Case, keys: Case) -> dict[str, int] | None:
    """Ports as written; in one network, the engine's defaults where none is."""
    cluster = _part(case, "cluster")
    ports = {name: port for name, port in (keys.get("ports") or {}).items() if isinstance(port, int)}
    listed = (cluster.get("inference_pool") or {}).get("target_ports") or ()
    if len(listed) > 1 or (listed and not ports):
        ports |= {"http": listed[0], **{f"http_{port}": port for port in listed[1:]}}
    written = (keys.get("env") or {}).get("VLLM_NIXL_SIDE_CHANNEL_PORT")
    if written is not None:
        ports["side_channel"] = int(written)
    if cluster.get("pods") == "same-network-namespace" and str(keys.get("kv_connector", "")).startswith("Nixl"):
        ports = {"http": HTTP_PORT, "side_channel": SIDE_CHANNEL_PORT} | ports
    return ports or None


def _probe(given: Any) -> tandem.Probe | None:
    if not given:
        return None
    names = {"initialDelay": "initial_delay_s", "period": "period_s", "failures": "failure_threshold"}
    return tandem.Probe(**{name: given[key] for key, name in names.items() if key in given})


def _autoscaler(given: Case, keys: Case) -> tandem.Autoscaler:
    kind: Any = given.get("kind")
    return tandem.Autoscaler(
        kind=kind if kind in SCALERS else "other",
        workers_min=given.get("min", 1),
        workers_max=given.get("max"),
        owns_workers=keys.get("ignore_replica_changes", True),
    )


def _tolerations(given: Any) -> tuple[tandem.Toleration, ...]:
    return tuple(tandem.Toleration(**toleration) for toleration in given)


def _gib(given: Any) -> float | None:
    """`20Gi` as a number."""
    text = str(given)
    units = {"Gi": 1.0, "Mi": 1 / 1024, "Ti": 1024.0, "G": 1e9 / 2**30, "M": 1e6 / 2**30}
    unit = next((unit for unit in units if text.endswith(unit)), None)
    if given is None:
        return None
    return float(text.removesuffix(unit)) * units[unit] if unit else float(given)


def _part(case: Case, name: str) -> Case:
    return case.get(name) or {}
