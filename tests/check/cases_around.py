"""Rows for rules of devices, routers and slow workers, and for mechanisms that older rules took in: see cases.py."""

from typing import Any

import pulumi_tandem as tandem
from pulumi_tandem import Autoscaler, Cluster, Connector, DevicePlugin, FrontDoor, NodePool, Pod, TensorRtLlm
from tests.builders import eks_pair, llama_pair
from tests.check.cases import Broken

EFA = "vpc.amazonaws.com/efa"
ROCE: dict[str, Any] = {"resources": {"rdma/roce_gdr": 1}}
OVER_ROCE: dict[str, Any] = {"cluster": Cluster(fabric="roce"), "transfer": tandem.Transfer(transport="rdma")}
EIGHT_GPUS = Cluster(node_pools=(NodePool(gpus_max=8),))
MOUNT = ("/dev/infiniband",)
EXPORTER = {"NIXL_TELEMETRY_ENABLE": "y", "NIXL_TELEMETRY_EXPORTER": "prometheus"}
TWO_PARTS = Connector(
    name="MultiConnector",
    extra={"connectors": [{"kv_connector": "NixlConnector"}, {"kv_connector": "LMCacheConnectorV1"}]},
)
DEV_MODE = {"env": {"VLLM_SERVER_DEV_MODE": "1"}}
EVENTS = {"extra_args": ("--kv-events-config.enable_kv_cache_events=true",)}
RECOMPUTE: dict[str, Any] = {"connector": Connector(load_failure="recompute"), "batch_tokens": 512}
SLOW = Pod(image_pull_s=900)


def pods(prefill: dict[str, Any], decode: dict[str, Any] | None = None, **changes: Any) -> tandem.Service:
    """A pair with fields of its pods."""
    return llama_pair({"pod": Pod(**prefill)}, {"pod": Pod(**(decode or {}))}, **changes)


def blackwell(pod: dict[str, Any], plugin: DevicePlugin | None = None) -> tandem.Service:
    """A pair over EFA on p6-b200.48xlarge machines."""
    pool = {"gpu": "B200", "pod": Pod(**({"resources": {EFA: 1}, "capabilities": ("IPC_LOCK",)} | pod))}
    nodes = NodePool(instance_type="p6-b200.48xlarge", zones=("us-east-1a",))
    cluster = Cluster(provider="eks", version="1.34", fabric="efa", node_pools=(nodes,), efa_plugin=plugin)
    return llama_pair(pool, pool, cluster=cluster, transfer=tandem.Transfer(transport="efa"))


def ranks(prefill: int, decode: int, door: FrontDoor) -> tandem.Service:
    """A pair whose workers have ranks of data parallelism."""
    return llama_pair({"data_parallel": prefill}, {"data_parallel": decode}, front_door=door)


def scaled(least: int, most: int, **fields: Any) -> tandem.Service:
    """A pair on eight GPUs, both roles with an autoscaler."""
    pool = {"autoscalers": (Autoscaler(workers_min=least, workers_max=most),), **fields}
    return llama_pair(pool, pool, cluster=EIGHT_GPUS)


BROKEN = [
    Broken(
        "TND0025",
        llama_pair({"tensor_parallel": 4, "pod": Pod(resources={"nvidia.com/gpu": 2})}, {"tensor_parallel": 4}),
        ("llama.prefill.pod.resources",),
        "asks for 2 GPUs and its ranks need 4",
    ),
    Broken(
        "TND0026",
        llama_pair({"tensor_parallel": 4, "pod": Pod(resources={"nvidia.com/gpu": 8})}, {"tensor_parallel": 4}),
        ("llama.prefill.pod.resources",),
        "asks for 8 GPUs and its ranks use 4",
    ),
    Broken(
        "TND0041",
        llama_pair({"connector": Connector(extra={"kv_lease_duration": 150})}),
        ("llama.grace.drain_timeout_s",),
        "drains for 120 s, and KV may be waited for 150 s",
    ),
    Broken(
        "TND0124",
        llama_pair(
            {"env": {"PYTHONHASHSEED": "0"}},
            {"env": {"PYTHONHASHSEED": "0"}},
            transfer=tandem.Transfer(connector=TWO_PARTS),
        ),
        ("llama.prefill.connector.extra.connectors", "llama.decode.connector.extra.connectors"),
        "NIXL and LMCache in one MultiConnector",
    ),
    Broken(
        "TND0125",
        llama_pair(decode=RECOMPUTE, prompt_tokens_max=8000),
        ("llama.decode.batch_tokens",),
        "8000 tokens again in 16 steps of 512",
    ),
    Broken(
        "TND0202",
        llama_pair(cluster=Cluster(node_pools=(NodePool(rdma_devices=0),)), transfer=tandem.Transfer(transport="rdma")),
        ("llama.transfer.transport",),
        "prefill and decode have no RDMA device",
    ),
    Broken(
        "TND0219",
        pods(ROCE, ROCE, cluster=Cluster(fabric="roce")),
        ("llama.transfer.transport",),
        "'roce', and KV is to travel over TCP",
    ),
    Broken(
        "TND0280",
        llama_pair(front_door=FrontDoor(implementation="trtllm-serve")),
        ("llama.front_door.route_timeout_s",),
        "by default after 180 s",
    ),
    Broken(
        "TND0284",
        llama_pair({"env": {**EXPORTER, "DYN_SYSTEM_PORT": "9090"}}, cluster=Cluster()),
        ("llama.prefill.pod.ports",),
        "both take port 9090",
    ),
    Broken(
        "TND0285",
        llama_pair({"env": EXPORTER, "tensor_parallel": 4}, {"tensor_parallel": 4}),
        ("llama.prefill.env.NIXL_TELEMETRY_EXPORTER",),
        "4 ranks would open port 9090",
    ),
    Broken(
        "TND0290",
        pods({**ROCE, "capabilities": ()}, **OVER_ROCE),
        ("llama.prefill.pod.capabilities",),
        "without IPC_LOCK",
    ),
    Broken(
        "TND0291",
        blackwell({"host_paths": MOUNT}),
        ("llama.prefill.pod.host_paths", "llama.decode.pod.host_paths"),
        "mlx5 devices that libfabric cannot open",
    ),
    Broken(
        "TND0292", blackwell({}, DevicePlugin(version="0.5.3")), ("llama.cluster.efa_plugin.version",), "plugin 0.5.3"
    ),
    Broken(
        "TND0293",
        eks_pair({"resources": {EFA: 32}}),
        ("llama.prefill.pod.resources",),
        "1 of a machine's 8 GPUs and 32 of its 32 EFA devices",
    ),
    Broken(
        "TND0294",
        ranks(2, 2, FrontDoor(ranks_per_pod=4)),
        ("llama.front_door.ranks_per_pod",),
        "addresses 4 ranks of a pod, and prefill has 2",
    ),
    Broken(
        "TND0295",
        llama_pair(front_door=FrontDoor(implementation="aibrix")),
        ("llama.front_door.prefill_timeout_s",),
        "aibrix gives prefill 30 s, and the service lets it take 120 s",
    ),
    Broken(
        "TND0296",
        llama_pair(front_door=FrontDoor(kv_events=True)),
        ("llama.front_door.kv_events",),
        "prefill publishes none",
    ),
    Broken(
        "TND0297",
        llama_pair(decode=DEV_MODE, front_door=FrontDoor(public=True)),
        ("llama.decode.env.VLLM_SERVER_DEV_MODE",),
        "the front door is public",
    ),
    Broken("TND0298", scaled(5, 5), ("llama.prefill.autoscalers",), "at their fewest the pools take 10 GPUs"),
    Broken(
        "TND0299",
        scaled(1, 4, pod=SLOW),
        ("llama.prefill.autoscalers", "llama.decode.autoscalers"),
        "waits 900 s for its image",
    ),
]

TRT: dict[str, Any] = {"engine": TensorRtLlm(transceiver="NIXL"), "env": {"TRTLLM_NIXL_KVCACHE_BACKEND": "LIBFABRIC"}}

FINE = [
    ("TND0025", pods({"resources": {"nvidia.com/gpu": 1}})),
    ("TND0026", llama_pair({"gpus_per_worker": 1, "device": "a:0", "pod": Pod(resources={"nvidia.com/gpu": 2})})),
    ("TND0041", llama_pair({"connector": Connector(extra={"kv_lease_duration": 130}), "pod": Pod(pre_stop_s=15)})),
    ("TND0054", llama_pair({"env": {"X_PORT": "9090"}}, {"env": {"X_PORT": "9090"}}, cluster=Cluster())),
    ("TND0124", llama_pair(transfer=tandem.Transfer(connector=Connector()))),
    ("TND0125", llama_pair(decode={**RECOMPUTE, "batch_tokens": 1024}, prompt_tokens_max=8000)),
    ("TND0202", llama_pair(cluster=Cluster(node_pools=(NodePool(rdma_devices=0),)))),
    ("TND0219", llama_pair(TRT, TRT, cluster=Cluster(fabric="roce"))),
    ("TND0284", llama_pair({"env": EXPORTER, "pod": Pod(ports={"nixl_metrics": 9090, "http": 8000})})),
    ("TND0290", pods({**ROCE, "capabilities": (), "privileged": True}, **OVER_ROCE)),
    ("TND0290", pods(ROCE, **OVER_ROCE)),
    ("TND0291", eks_pair({"host_paths": MOUNT})),
    ("TND0292", blackwell({}, DevicePlugin(version="0.5.10"))),
    ("TND0292", eks_pair(cluster={"efa_plugin": DevicePlugin(version="0.5.3")})),
    ("TND0293", eks_pair({"resources": {EFA: 4}})),
    ("TND0294", ranks(4, 4, FrontDoor(ranks_per_pod=4))),
    ("TND0294", ranks(2, 2, FrontDoor())),
    ("TND0295", llama_pair(front_door=FrontDoor(implementation="aibrix", prefill_timeout_s=120))),
    ("TND0296", llama_pair(EVENTS, front_door=FrontDoor(kv_events=True))),
    ("TND0297", llama_pair(decode=DEV_MODE, front_door=FrontDoor())),
    ("TND0298", scaled(4, 4)),
    ("TND0299", scaled(4, 4, pod=SLOW)),
]
