"""Rows for the rules of pods, autoscaling, roll-out and the front door: see cases.py."""

from typing import Any

import pulumi_tandem as tandem
from pulumi_tandem import (
    Autoscaler,
    Cluster,
    FrontDoor,
    Limits,
    NodePool,
    Pod,
    Probe,
    Ratio,
    RollingUpdate,
    TokenSecret,
)
from tests.builders import eks_pair, laptop_single, llama_pair
from tests.check.cases import Broken

RESTRICTED = Cluster(pod_security="restricted")
GATED = tandem.Model(name="Llama-3.1-8B-Instruct", gated=True)
PUBLIC = tandem.Model(name="Llama-3.1-8B-Instruct")
EIGHT_GPUS = Cluster(node_pools=(NodePool(gpus_max=8),))
TWO_NODES = Cluster(node_pools=(NodePool(nodes=2),))
FOUR = {"tensor_parallel": 4}
UNPAIRED = RollingUpdate(pairs_revisions=False)
TELEMETRY = {
    "NIXL_TELEMETRY_ENABLE": "y",
    "NIXL_TELEMETRY_EXPORTER": "prometheus",
    "NIXL_TELEMETRY_PROMETHEUS_PORT": "19090",
}


def pods(prefill: dict[str, Any], decode: dict[str, Any] | None = None, **changes: Any) -> tandem.Service:
    """A pair with fields of its pods."""
    return llama_pair({"pod": Pod(**prefill)}, {"pod": Pod(**(decode or {}))}, **changes)


def scaled(prefill: tuple[Autoscaler, ...], decode: tuple[Autoscaler, ...] = (), **changes: Any) -> tandem.Service:
    """A pair with autoscalers."""
    return llama_pair({"autoscalers": prefill}, {"autoscalers": decode}, **changes)


def rolling(update: RollingUpdate, cluster: Cluster = EIGHT_GPUS) -> tandem.Service:
    """A pair of four GPUs each, updated pod by pod."""
    pool = {**FOUR, "pod": Pod(rolling_update=update)}
    return llama_pair(pool, pool, cluster=cluster)


def several_ports(ports: dict[str, int], **changes: Any) -> tandem.Service:
    """A pair whose prefill worker has two ranks with a port each."""
    pool = {"data_parallel": 2, "extra_args": ("--data-parallel-multi-port-external-lb",), "pod": Pod(ports=ports)}
    return llama_pair(pool, {"data_parallel": 2}, **changes)


BROKEN = [
    Broken(
        "TND0245",
        llama_pair({**FOUR, "pod": Pod(shm_gib=0)}, FOUR),
        ("llama.prefill.pod.shm_gib",),
        "4 ranks share the runtime's 64 MiB",
    ),
    Broken(
        "TND0246",
        pods({"shm_gib": 20, "memory_gib": 16}),
        ("llama.prefill.pod.memory_gib",),
        "may take 20 GiB, and the pod 16",
    ),
    Broken(
        "TND0247",
        pods({"capabilities": ("IPC_LOCK",)}, {"run_as_non_root": False}, cluster=RESTRICTED),
        ("llama.prefill.pod.capabilities", "llama.decode.pod.run_as_non_root"),
        "it adds IPC_LOCK",
    ),
    Broken("TND0248", pods({"privileged": True}), ("llama.prefill.pod.privileged",), "sees every GPU"),
    Broken(
        "TND0248", eks_pair({"host_paths": ("/dev/infiniband",)}), ("llama.prefill.pod.host_paths",), "/dev/infiniband"
    ),
    Broken("TND0249", eks_pair({"capabilities": ()}), ("llama.prefill.pod.capabilities",), "without IPC_LOCK"),
    Broken(
        # 16.06 GB of weights, 12 of image and 6 of system against nine tenths of 32.2 GB
        "TND0250",
        pods(
            {"weights_volume": "emptyDir", "image_gb": 12},
            cluster=Cluster(node_pools=(NodePool(root_volume_gib=30),)),
        ),
        ("llama.prefill.pod.weights_volume",),
        "take 34 GB, and the kubelet evicts pods beyond 29 GB of the 30 GiB root volume",
    ),
    Broken(
        "TND0251",
        pods({"weights_volume": "ReadWriteOnce", "node": "a"}, {"weights_volume": "ReadWriteOnce", "node": "b"}),
        ("llama.prefill.pod.weights_volume",),
        "ReadWriteOnce",
    ),
    Broken(
        "TND0251",
        pods({"weights_volume": "ReadWriteOnce"}, {"weights_volume": "ReadWriteOnce"}, cluster=TWO_NODES),
        ("llama.prefill.pod.weights_volume",),
        "ReadWriteOnce",
    ),
    Broken("TND0252", llama_pair(model=GATED), ("llama.token_secret",), "no token is declared"),
    Broken(
        "TND0252",
        llama_pair(model=GATED, token_secret=TokenSecret(name="hub"), cluster=Cluster(secrets=())),
        ("llama.token_secret.name",),
        "no Secret 'hub'",
    ),
    Broken(
        # 16.06 GB at 0.1 GB/s
        "TND0253",
        pods({"startup": Probe(period_s=10, failure_threshold=6), "load_gb_per_s": 0.1}),
        ("llama.prefill.pod.startup",),
        "16 GB of weights take 161 s at 0.1 GB/s, and the worker is given up after 60 s",
    ),
    Broken(
        "TND0253",
        llama_pair({"env": {"VLLM_ENGINE_READY_TIMEOUT_S": "100"}, "pod": Pod(load_gb_per_s=0.1)}),
        ("llama.prefill.env.VLLM_ENGINE_READY_TIMEOUT_S",),
        "given up after 100 s",
    ),
    Broken(
        "TND0253",
        pods({"liveness": Probe(initial_delay_s=30), "has_startup_probe": False, "load_gb_per_s": 0.1}),
        ("llama.prefill.pod.liveness",),
        "given up after 60 s",
    ),
    Broken("TND0254", pods({"liveness": Probe(failure_threshold=1)}), ("llama.prefill.pod.liveness",), "a single late"),
    Broken(
        # preStop 15, settling 2, drain 120, stopping 20
        "TND0255",
        pods({"termination_grace_s": 60, "pre_stop_s": 15}),
        ("llama.prefill.pod.termination_grace_s",),
        "killed after 60 s, and preStop and drain may take 157 s",
    ),
    Broken(
        "TND0256",
        llama_pair(
            {"tensor_parallel": 16, "nodes_per_worker": 2, "pod": Pod(group_start="LeaderReady")},
            {"tensor_parallel": 16, "nodes_per_worker": 2},
        ),
        ("llama.prefill.pod.group_start",),
        "both would wait",
    ),
    Broken(
        "TND0256", pods({"group_pods": 2}), ("llama.prefill.pod.group_pods",), "2 pods, and a worker is spread over 1"
    ),
    Broken(
        "TND0260",
        scaled((Autoscaler(kind="HorizontalPodAutoscaler"), Autoscaler())),
        ("llama.prefill.autoscalers",),
        "HorizontalPodAutoscaler and ScaledObject",
    ),
    Broken(
        # at least 8 against at most 4 is a ratio of 2
        "TND0261",
        scaled(
            (Autoscaler(workers_min=8, workers_max=16),),
            (Autoscaler(workers_min=2, workers_max=4),),
            prefill_per_decode=Ratio(at_least=0.25, at_most=1),
        ),
        ("llama.prefill_per_decode",),
        "8 to 16 prefill and 2 to 4 decode workers have no ratio between 0.25 and 1",
    ),
    Broken(
        "TND0262",
        scaled((Autoscaler(owns_workers=False),)),
        ("llama.prefill.autoscalers",),
        "back to 1 workers",
    ),
    Broken(
        "TND0263",
        scaled((Autoscaler(workers_max=8),), cluster=EIGHT_GPUS),
        ("llama.prefill.autoscalers",),
        "take 9 GPUs, and 'gpu' can have 8",
    ),
    Broken(
        "TND0264",
        scaled((Autoscaler(workers_min=0),), (Autoscaler(),)),
        ("llama.prefill.autoscalers",),
        "prefill may go to zero",
    ),
    Broken(
        "TND0265",
        scaled((Autoscaler(workers_min=4, workers_max=2),)),
        ("llama.prefill.autoscalers",),
        "at least 4 and at most 2",
    ),
    Broken(
        # 56 answers of 8,192 tokens, 128 KiB of KV a token, fit beside 8B weights
        "TND0266",
        scaled((), (Autoscaler(workers_max=6),), limits=Limits(requests_running_max=280)),
        ("llama.limits.requests_running_max",),
        "280 requests at once are served by 5 decode workers (56 each), and the pool may have 6",
    ),
    Broken(
        "TND0270",
        rolling(RollingUpdate()),
        ("llama.prefill.pod.rolling_update", "llama.decode.pod.rolling_update"),
        "a worker of 4 GPUs before it stops one, and 0 are free",
    ),
    Broken(
        "TND0270",
        rolling(RollingUpdate(max_surge=0), Cluster()),
        ("llama.prefill.pod.rolling_update", "llama.decode.pod.rolling_update"),
        "both 0",
    ),
    Broken(
        "TND0271",
        rolling(UNPAIRED, Cluster()),
        ("llama.prefill.pod.rolling_update",),
        "old workers from being paired with new ones",
    ),
    Broken(
        "TND0272",
        llama_pair(FOUR, FOUR, cluster=EIGHT_GPUS),
        ("llama.cluster.node_pools.0",),
        "needs 16 GPUs for a while, and 'gpu' can have 8",
    ),
    Broken(
        "TND0273",
        pods({"disruption_min_available": 1}),
        ("llama.prefill.pod.disruption_min_available",),
        "1 of 1 workers",
    ),
    Broken(
        "TND0280",
        llama_pair(front_door=FrontDoor(implementation="envoy-ai-gateway")),
        ("llama.front_door.route_timeout_s",),
        "ends requests by default after 60 s, and the service lets them take 600 s",
    ),
    Broken(
        "TND0281",
        llama_pair(front_door=FrontDoor(implementation="aws-alb")),
        ("llama.front_door.idle_timeout_s",),
        "after 60 s of silence, and a prompt may take 120 s",
    ),
    Broken(
        "TND0282",
        llama_pair(front_door=FrontDoor(block_tokens=16)),
        ("llama.front_door.block_tokens",),
        "blocks of 16 tokens and prefill in 64",
    ),
    Broken(
        "TND0283",
        several_ports({"http": 8000, "http_1": 8001}, front_door=FrontDoor(implementation="istio", version="1.28")),
        ("llama.front_door.version",),
        "2 HTTP ports",
    ),
    Broken(
        "TND0284",
        pods({"ports": {"http": 5000, "metrics": 5000}}),
        ("llama.prefill.pod.ports",),
        "'metrics' and 'http' both take port 5000",
    ),
    Broken(
        "TND0284",
        pods({"ports": {"side_channel": 5600}}, {"ports": {"side_channel": 5600}}, pods="paired"),
        ("llama.decode.pod.ports",),
        "'side_channel' and 'side_channel' of prefill both take port 5600",
    ),
    Broken(
        "TND0286",
        pods({"ports": {"http": 8000, "http_1": 8001}}),
        ("llama.prefill.pod.ports",),
        "2 HTTP ports are written down, and the engine opens 1",
    ),
    Broken(
        "TND0286",
        several_ports({"http": 8000}),
        ("llama.prefill.pod.ports",),
        "1 HTTP ports are written down, and the engine opens 2",
    ),
    Broken(
        "TND0285",
        llama_pair({**FOUR, "env": TELEMETRY}, FOUR),
        ("llama.prefill.env.NIXL_TELEMETRY_PROMETHEUS_PORT",),
        "4 ranks would open port 19090",
    ),
]

FINE = [
    ("TND0245", pods({"shm_gib": 0})),
    ("TND0245", llama_pair(FOUR, FOUR)),
    ("TND0246", pods({"shm_gib": 20, "memory_gib": 32})),
    ("TND0247", pods({"capabilities": ("NET_BIND_SERVICE",)}, cluster=RESTRICTED)),
    ("TND0247", pods({"run_as_non_root": False}, cluster=Cluster(pod_security="baseline"))),
    ("TND0247", pods({"capabilities": ("IPC_LOCK",)})),
    ("TND0248", pods({"host_paths": ("/mnt/models",)})),
    ("TND0249", pods({"capabilities": ()})),
    (
        "TND0250",
        pods(
            {"weights_volume": "emptyDir", "image_gb": 12},
            cluster=Cluster(node_pools=(NodePool(root_volume_gib=30, nvme_raid0=True),)),
        ),
    ),
    (
        "TND0250",
        pods(
            {"weights_volume": "ReadOnlyMany", "image_gb": 12},
            cluster=Cluster(node_pools=(NodePool(root_volume_gib=30),)),
        ),
    ),
    ("TND0251", pods({"weights_volume": "ReadWriteOnce"}, cluster=TWO_NODES)),
    ("TND0251", pods({"weights_volume": "ReadWriteOnce"}, {"weights_volume": "ReadWriteOnce"})),
    ("TND0252", llama_pair(model=GATED, token_secret=TokenSecret(name="hub"), cluster=Cluster(secrets=("hub",)))),
    ("TND0252", llama_pair(model=PUBLIC, token_secret=TokenSecret(name="hub"))),
    ("TND0252", llama_pair(model=GATED.model_copy(update={"path": "/models/llama"}))),
    ("TND0253", pods({"startup": Probe(failure_threshold=17), "load_gb_per_s": 0.1})),
    ("TND0253", pods({"startup": Probe(failure_threshold=1)})),
    ("TND0254", pods({"liveness": Probe()})),
    ("TND0255", pods({"termination_grace_s": 157, "pre_stop_s": 15})),
    ("TND0256", pods({"group_start": "LeaderReady"})),
    ("TND0260", scaled((Autoscaler(),), (Autoscaler(),))),
    ("TND0261", scaled((Autoscaler(workers_min=8),), (Autoscaler(),), prefill_per_decode=Ratio(at_most=1))),
    ("TND0261", llama_pair(prefill_per_decode=Ratio(at_least=1, at_most=1))),
    ("TND0262", scaled((Autoscaler(),))),
    ("TND0263", scaled((Autoscaler(workers_max=7),), cluster=EIGHT_GPUS)),
    ("TND0264", scaled((Autoscaler(workers_min=0),), (Autoscaler(workers_min=0),))),
    ("TND0264", laptop_single(serve=tandem.Pool(gpu="cpu", autoscalers=(Autoscaler(workers_min=0),)))),
    ("TND0265", scaled((Autoscaler(workers_min=2, workers_max=2),))),
    ("TND0266", scaled((), (Autoscaler(workers_max=6),), limits=Limits(requests_running_max=281))),
    ("TND0266", scaled((Autoscaler(workers_max=100),))),
    ("TND0266", scaled((), (Autoscaler(),))),
    ("TND0270", rolling(RollingUpdate(max_surge=0, max_unavailable=1))),
    ("TND0270", rolling(RollingUpdate(), Cluster(node_pools=(NodePool(gpus_max=12),)))),
    ("TND0271", rolling(RollingUpdate(), Cluster())),
    ("TND0272", llama_pair(FOUR, FOUR, cluster=EIGHT_GPUS, rollout="in_place")),
    ("TND0272", llama_pair(FOUR, FOUR, cluster=Cluster(node_pools=(NodePool(gpus_max=16),)))),
    ("TND0273", llama_pair({"workers": 2, "pod": Pod(disruption_min_available=1)})),
    ("TND0280", llama_pair(front_door=FrontDoor(implementation="envoy", route_timeout_s=0))),
    ("TND0280", llama_pair(front_door=FrontDoor(route_timeout_s=600))),
    ("TND0281", llama_pair(front_door=FrontDoor(implementation="aws-alb", idle_timeout_s=120))),
    ("TND0282", llama_pair({"block_tokens": 16}, {"block_tokens": 64}, front_door=FrontDoor(block_tokens=16))),
    (
        "TND0283",
        several_ports({"http": 8000, "http_1": 8001}, front_door=FrontDoor(implementation="istio", version="1.29")),
    ),
    ("TND0284", pods({"ports": {"http": 8000}}, {"ports": {"http": 8000}})),
    ("TND0284", pods({"ports": {"http": 8000}}, {"ports": {"http": 8100}}, pods="paired")),
    (
        "TND0284",
        pods(
            {"ports": {"http": 1}, "host_network": True, "node": "a"},
            {"ports": {"http": 1}, "host_network": True, "node": "b"},
        ),
    ),
    ("TND0286", several_ports({"http": 8000, "http_1": 8001})),
    ("TND0286", pods({"ports": {"http": 8000}})),
    ("TND0285", llama_pair({"env": TELEMETRY})),
]
