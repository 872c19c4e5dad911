"""Rows for the rules of the network and of machines: see cases.py."""

from typing import Any

import pulumi_tandem as tandem
from pulumi_tandem import Capacity, Cluster, NetworkInterface, NodePool, PlacementGroup, Pod, SecurityGroup, Taint
from tests.builders import eks_pair, laptop_pair, llama_pair
from tests.check.cases import Broken

EFA = "vpc.amazonaws.com/efa"
GPU_TAINT = Taint(key="nvidia.com/gpu", value="true")
ANY_GPU = tandem.Toleration(key="nvidia.com/gpu", operator="Exists")


def connected(backend: str, **fields: Any) -> dict[str, Any]:
    """Fields of a pool whose backend is written by hand."""
    return {"connector": tandem.Connector(extra={"backends": [backend]}, **fields)}


def two_pools(prefill: dict[str, Any], decode: dict[str, Any]) -> dict[str, Any]:
    """A cluster with a node pool for each role."""
    pools = [
        NodePool(name=name, instance_type="p5.48xlarge", **fields) for name, fields in (("p", prefill), ("d", decode))
    ]
    return {"cluster": {"node_pools": tuple(pools)}, "prefill": {"node_pool": "p"}, "decode": {"node_pool": "d"}}


def on(instance: str, pool: dict[str, Any] | None = None, **changes: Any) -> tandem.Service:
    """A pair on machines of one type, over TCP."""
    cluster = Cluster(node_pools=(NodePool(instance_type=instance),), fabric=changes.pop("fabric", None))
    return llama_pair(pool, pool, cluster=cluster, **changes)


P6_LAYOUT = (NetworkInterface(), *(NetworkInterface(card=card, type="efa-only") for card in range(1, 17)))
COUNTED = (
    NetworkInterface(type="efa"),
    *(NetworkInterface(card=card, device=1, type="efa-only") for card in range(1, 17)),
)
P5_LAYOUT = (
    NetworkInterface(),
    NetworkInterface(device=1, type="efa-only"),
    *(NetworkInterface(card=card, type="efa-only") for card in range(1, 32)),
)
B300 = {"gpu": "B300", "pod": Pod(resources={EFA: 2})}
ALL_EFA = tuple(NetworkInterface(card=card, device=min(card, 1), type="efa") for card in range(32))
NODES = "llama.cluster.node_pools.0"
LENGTHS: dict[str, Any] = {"prompt_tokens": 8_000, "output_tokens": 100}
LONG_PROMPTS = tandem.Workload(requests_per_s=0.01, **LENGTHS)


def b300(layout: tuple[NetworkInterface, ...]) -> tandem.Service:
    """A pair on p6-b300.48xlarge with a layout that is written down."""
    nodes = NodePool(instance_type="p6-b300.48xlarge", network_interfaces=layout)
    cluster = Cluster(node_pools=(nodes,), fabric="efa")
    return llama_pair(B300, B300, cluster=cluster, transfer=tandem.Transfer(transport="efa"))


BROKEN = [
    Broken(
        "TND0200",
        eks_pair(transfer=tandem.Transfer()),
        ("llama.transfer.transport",),
        "moves KV with UCX",
    ),
    Broken(
        "TND0201",
        on("g6e.2xlarge", {"gpu": "L40S", **connected("LIBFABRIC")}, fabric="tcp"),
        ("llama.prefill.connector.extra", "llama.decode.connector.extra"),
        "its machines have no EFA",
    ),
    Broken(
        "TND0202",
        llama_pair(transfer=tandem.Transfer(transport="rdma"), cluster=Cluster(fabric="efa")),
        ("llama.transfer.transport",),
        "the cluster's network is 'efa'",
    ),
    Broken(
        "TND0203",
        eks_pair({"resources": {EFA: 33}}),
        ("llama.prefill.pod.resources",),
        "a p5.48xlarge has 32",
    ),
    Broken(
        "TND0203",
        llama_pair({"pod": Pod(resources={"rdma/ib": 1})}, cluster=Cluster(node_pools=(NodePool(rdma_devices=0),))),
        ("llama.prefill.pod.resources",),
        "1 RDMA devices and its machines have 0",
    ),
    Broken(
        "TND0204",
        eks_pair(**two_pools({"zones": ("a",)}, {"zones": ("b",)})),
        ("llama.decode.pod.node_pool",),
        "EFA does not cross zones",
    ),
    Broken(
        "TND0204",
        eks_pair({"same_zone": False}, nodes={"zones": ("a", "b")}),
        ("llama.prefill.pod.same_zone",),
        "nothing ties the roles",
    ),
    Broken(
        "TND0205",
        eks_pair(**two_pools({"subnets": ("s1",)}, {"subnets": ("s2",)})),
        ("llama.decode.pod.node_pool",),
        "the subnets s1 and s2",
    ),
    Broken(
        "TND0206",
        eks_pair(cluster={"security_group": SecurityGroup(self_egress=False)}),
        ("llama.cluster.security_group.self_egress",),
        "out to itself",
    ),
    Broken(
        "TND0207",
        eks_pair(cluster={"version": "1.32", "security_group": SecurityGroup(eks_default=True)}),
        ("llama.cluster.security_group.eks_default",),
        "a 1.32 cluster",
    ),
    Broken(
        "TND0208",
        llama_pair(transfer=tandem.Transfer(transport="cuda_ipc"), cluster=Cluster()),
        ("llama.transfer.transport",),
        "in pods of their own",
    ),
    Broken(
        "TND0209",
        llama_pair({"gpu": "L40S"}, {"gpu": "L40S"}, transfer=tandem.Transfer(transport="cuda_ipc"), pods="paired"),
        ("llama.transfer.transport",),
        "L40S has no NVLink",
    ),
    Broken(
        "TND0210",
        llama_pair(
            {"pod": Pod(node_pool="a"), "env": {"UCX_CUDA_IPC_ENABLE_MNNVL": "n"}},
            {"pod": Pod(node_pool="b")},
            cluster=Cluster(node_pools=tuple(NodePool(name=each, nvlink_domain=each) for each in "ab")),
        ),
        ("llama.decode.env",),
        "two NVLink domains",
    ),
    Broken(
        "TND0211",
        llama_pair(
            {
                "gpus_per_worker": 16,
                "tensor_parallel": 16,
                "nodes_per_worker": 2,
                "env": {"NVSHMEM_REMOTE_TRANSPORT": "ibgda"},
            },
            {"gpus_per_worker": 16, "tensor_parallel": 16, "nodes_per_worker": 2},
            cluster=Cluster(fabric="efa"),
            transfer=tandem.Transfer(transport="efa"),
        ),
        ("llama.prefill.env.NVSHMEM_REMOTE_TRANSPORT",),
        "InfiniBand started by the GPU",
    ),
    Broken(
        "TND0212",
        llama_pair(
            {"tensor_parallel": 16, "nodes_per_worker": 2, "extra_args": ("--all2all-backend", "pplx")},
            {"tensor_parallel": 16, "nodes_per_worker": 2},
            cluster=Cluster(fabric="efa"),
            transfer=tandem.Transfer(transport="efa"),
        ),
        ("llama.prefill.extra_args",),
        "pplx",
    ),
    Broken(
        "TND0213",
        llama_pair(
            {"env": {"NCCL_SOCKET_IFNAME": "eth0"}, "pod": Pod(resources={EFA: 4})},
            transfer=tandem.Transfer(transport="efa"),
        ),
        ("llama.prefill.env.NCCL_SOCKET_IFNAME",),
        "hide EFA from NCCL",
    ),
    Broken("TND0214", eks_pair({"memlock_kib": 65_536}), ("llama.prefill.pod.memlock_kib",), "65536 KiB"),
    Broken(
        "TND0215",
        llama_pair(
            cluster=Cluster(network_policy=tandem.NetworkPolicy(default="deny", ingress_ports=(8000,), add_rules=False))
        ),
        ("llama.cluster.network_policy",),
        "only the ports 8000 are let in, and prefill's side channel is 5600",
    ),
    Broken(
        "TND0216",
        llama_pair(cluster=Cluster(security_group=SecurityGroup(tcp_ports=(53, 443, 10250)))),
        ("llama.cluster.security_group.tcp_ports",),
        "53, 443, 10250",
    ),
    Broken(
        "TND0217",
        # Llama-3.1-8B keeps 128 KiB per token: 8,192 tokens are 1.07 GB, at 60 % of 10 Gbit/s 1.4 s
        llama_pair(
            cluster=Cluster(network_gbit_per_s=10),
            workload=LONG_PROMPTS,
            objectives=tandem.Objectives(ttft_ms=1_000, tpot_ms=1_000),
        ),
        ("llama.transfer.transport",),
        "1.0 GB and takes about 1.4 s at 10 Gbit/s",
    ),
    Broken("TND0218", eks_pair({"image_libfabric": "1.21.0"}), ("llama.prefill.pod.image_libfabric",), "1.21.0"),
    Broken(
        "TND0219",
        llama_pair(cluster=Cluster(fabric="roce")),
        ("llama.transfer.transport",),
        "the cluster's network is 'roce', and KV is to travel over TCP",
    ),
    Broken("TND0220", on("p5.48xlrge"), (f"{NODES}.instance_type",), "'p5.48xlrge'"),
    Broken("TND0221", eks_pair({"node_pool": "gpus"}), ("llama.prefill.pod.node_pool",), "'gpus'"),
    Broken("TND0222", on("p5en.48xlarge"), ("llama.prefill.gpu", "llama.decode.gpu"), "p5en.48xlarge has H200"),
    Broken(
        "TND0222",
        on("p5.4xlarge", {"tensor_parallel": 2}),
        ("llama.prefill.gpus_per_worker", "llama.decode.gpus_per_worker"),
        "a pod needs 2 GPUs, and p5.4xlarge has 1",
    ),
    Broken("TND0223", b300(COUNTED), (f"{NODES}.network_interfaces",), "card 0 of p6-b300.48xlarge takes interface"),
    Broken(
        "TND0223",
        on("p5.48xlarge").model_copy(
            update={
                "cluster": Cluster(
                    node_pools=(
                        NodePool(instance_type="p5.48xlarge", network_interfaces=(NetworkInterface(type="efa-only"),)),
                    )
                )
            }
        ),
        (f"{NODES}.network_interfaces",),
        "the first interface is efa-only",
    ),
    Broken(
        "TND0224",
        eks_pair(nodes={"network_interfaces": (NetworkInterface(), NetworkInterface(device=1, type="efa-only"))}),
        (f"{NODES}.network_interfaces", f"{NODES}.network_interfaces"),
        "asks for 4 EFA devices, and the layout of 'gpu' has 1",
    ),
    Broken("TND0225", eks_pair(nodes={"public_ip": True}), (f"{NODES}.public_ip",), "4 network interfaces"),
    Broken(
        "TND0226",
        eks_pair(
            nodes={"nodes": 2, "subnet_cidrs": ("10.0.1.0/27",), "network_interfaces": ALL_EFA}, rollout="in_place"
        ),
        (f"{NODES}.subnet_cidrs",),
        "2 machines take 64 addresses, and the subnets have 27",
    ),
    Broken("TND0226", eks_pair(nodes={"subnet_cidrs": ("private",)}), (f"{NODES}.subnet_cidrs",), "private"),
    Broken(
        "TND0227",
        eks_pair(nodes={"capacity": Capacity(type="capacity-block"), "placement_group": PlacementGroup()}),
        (f"{NODES}.placement_group",),
        "which takes none",
    ),
    Broken(
        "TND0228",
        eks_pair(nodes={"capacity": Capacity(type="reservation", id="cr-1"), "placement_group": PlacementGroup()}),
        (f"{NODES}.placement_group",),
        "was made in no placement group, and machines are asked for in 'a new one'",
    ),
    Broken(
        "TND0229",
        eks_pair(nodes={"nodes": 2, "managed_by": "karpenter"}, cluster={"vcpu_quota": {"P": 192}}),
        ("llama.cluster.vcpu_quota",),
        "take 384 vCPUs of family P, and the quota is 192",
    ),
    Broken(
        "TND0230",
        eks_pair(nodes={"gpus_max": 1}),
        (NODES,),
        "need 2 GPUs (1 x 1 of prefill and 1 x 1 of decode), and 'gpu' can have 1",
    ),
    Broken(
        "TND0231",
        eks_pair(nodes={"nodes": 2, "managed_by": "managed-node-group", "capacity": Capacity()}),
        (f"{NODES}.nodes",),
        "2 p5.48xlarge, which nobody has reserved",
    ),
    Broken(
        "TND0232",
        eks_pair(nodes={"managed_by": "karpenter", "consolidation": "WhenEmptyOrUnderutilized"}),
        (f"{NODES}.consolidation",),
        "move workers",
    ),
    Broken(
        "TND0233",
        llama_pair(
            {"gpu": "A10G", "sequences": 8},
            {"gpu": "A10G", "sequences": 8},
            cluster=Cluster(
                node_pools=(NodePool(instance_type="g5.8xlarge", capacity=Capacity(type="capacity-block")),)
            ),
        ),
        (f"{NODES}.capacity.type",),
        "not sold as capacity-block",
    ),
    Broken("TND0234", eks_pair(cluster={"version": "1.28"}), ("llama.cluster.version",), "2025-11-26"),
    Broken("TND0235", eks_pair(cluster={"dra": True, "version": "1.33"}), ("llama.cluster.dra",), "1.33"),
    Broken("TND0235", llama_pair(cluster=Cluster(fabric="mnnvl", dra=False)), ("llama.cluster.dra",), "ComputeDomain"),
    Broken(
        "TND0236",
        eks_pair(
            nodes={"ami_family": "BOTTLEROCKET_x86_64_NVIDIA"},
            cluster={"gpu_operator": tandem.GpuOperator(driver=False, toolkit=False)},
        ),
        ("llama.cluster.gpu_operator.device_plugin",),
        "brings its own device_plugin",
    ),
    Broken(
        "TND0237",
        eks_pair(cluster={"efa_plugin": tandem.DevicePlugin(installed=False)}),
        ("llama.cluster.efa_plugin",),
        EFA,
    ),
    Broken(
        "TND0237",
        eks_pair(cluster={"gpu_plugin": tandem.DevicePlugin(installed=False)}),
        ("llama.cluster.gpu_plugin",),
        "nothing tells Kubernetes of the GPUs",
    ),
    Broken(
        "TND0237",
        eks_pair(nodes={"managed_by": "auto-mode"}, cluster={"efa_plugin": tandem.DevicePlugin()}),
        (f"{NODES}.managed_by",),
        "Auto Mode",
    ),
    Broken(
        "TND0238",
        llama_pair(
            {"gpu": "H200"},
            {"gpu": "H200"},
            cluster=Cluster(
                node_pools=(
                    NodePool(
                        instance_type="p5en.48xlarge", ami_family="AL2023_x86_64_NVIDIA", ami_release="1.34-v20251108"
                    ),
                )
            ),
        ),
        (f"{NODES}.ami_release",),
        "error 802",
    ),
    Broken(
        "TND0239",
        eks_pair({"image_cuda": "13.0"}, nodes={"nvidia_driver": "570.172.08"}),
        ("llama.prefill.pod.image_cuda",),
        "needs driver 580, and the machines have 570.172.08",
    ),
    Broken(
        "TND0240",
        eks_pair({"tolerations": (tandem.Toleration(key="nvidia.com/gpu"),)}, nodes={"taints": (GPU_TAINT,)}),
        ("llama.prefill.pod.tolerations",),
        "nvidia.com/gpu=true:NoSchedule",
    ),
    Broken(
        "TND0241",
        eks_pair(nodes={"taints": (GPU_TAINT,)}, cluster={"efa_plugin": tandem.DevicePlugin(tolerations=())}),
        ("llama.cluster.efa_plugin.tolerations",),
        "would not run there",
    ),
    Broken(
        "TND0242",
        eks_pair(nodes={"ami_family": "AL2_x86_64_GPU"}),
        (f"{NODES}.ami_family",),
        "no AL2_x86_64_GPU for Kubernetes 1.34; the last was 1.32",
    ),
    Broken(
        "TND0243",
        eks_pair(nodes={"gpu_sharing": "time-slicing"}),
        (f"{NODES}.gpu_sharing",),
        "with time-slicing two engines may be given one GPU, and they would take 1.8",
    ),
]

FINE = [
    ("TND0200", eks_pair()),
    ("TND0200", llama_pair(cluster=Cluster(fabric="efa"))),
    ("TND0201", on("g6e.2xlarge", {"gpu": "L40S", **connected("LIBFABRIC", buffer_device="cpu")}, fabric="tcp")),
    ("TND0201", on("g6e.2xlarge", {"gpu": "L40S"}, fabric="tcp")),
    ("TND0202", llama_pair(transfer=tandem.Transfer(transport="rdma"), cluster=Cluster(fabric="roce"))),
    ("TND0202", llama_pair(cluster=Cluster(fabric="infiniband"))),
    ("TND0203", eks_pair({"resources": {EFA: 32}})),
    ("TND0203", llama_pair({"pod": Pod(resources={"rdma/ib": 1})}, cluster=Cluster(fabric="infiniband"))),
    ("TND0204", eks_pair({"same_zone": True}, {"same_zone": True}, nodes={"zones": ("a", "b")})),
    ("TND0204", eks_pair(nodes={"zones": ("a", "b")})),
    ("TND0204", llama_pair(cluster=Cluster(node_pools=(NodePool(zones=("a", "b")),)))),
    ("TND0205", eks_pair(**two_pools({"subnets": ("s1",)}, {"subnets": ("s1",)}))),
    ("TND0206", eks_pair(cluster={"security_group": SecurityGroup()})),
    ("TND0206", llama_pair(cluster=Cluster(security_group=SecurityGroup(self_egress=False)))),
    ("TND0207", eks_pair(cluster={"version": "1.33", "security_group": SecurityGroup(eks_default=True)})),
    ("TND0208", llama_pair(transfer=tandem.Transfer(transport="cuda_ipc"), cluster=Cluster(), pods="paired")),
    ("TND0208", llama_pair(transfer=tandem.Transfer(transport="cuda_ipc"), cluster=Cluster(fabric="mnnvl"))),
    ("TND0208", llama_pair(transfer=tandem.Transfer(transport="cuda_ipc"))),
    ("TND0209", llama_pair(transfer=tandem.Transfer(transport="cuda_ipc"), pods="paired")),
    ("TND0210", llama_pair(cluster=Cluster(node_pools=(NodePool(nvlink_domain="a"),)))),
    ("TND0211", llama_pair({"env": {"NVSHMEM_REMOTE_TRANSPORT": "ibgda"}}, cluster=Cluster(fabric="efa"))),
    ("TND0212", llama_pair({"extra_args": ("--all2all-backend", "pplx")}, cluster=Cluster(fabric="efa"))),
    ("TND0213", llama_pair({"env": {"NCCL_SOCKET_IFNAME": "^lo"}, "pod": Pod(resources={EFA: 4})})),
    ("TND0213", llama_pair({"env": {"NCCL_SOCKET_IFNAME": "eth0"}})),
    ("TND0214", eks_pair({"memlock_kib": 64 * 1024 * 1024})),
    ("TND0214", llama_pair({"pod": Pod(memlock_kib=65_536)})),
    ("TND0215", llama_pair(cluster=Cluster(network_policy=tandem.NetworkPolicy(default="deny")))),
    (
        "TND0215",
        llama_pair(
            cluster=Cluster(
                network_policy=tandem.NetworkPolicy(default="deny", ingress_ports=(8000, 5600), add_rules=False)
            )
        ),
    ),
    ("TND0216", llama_pair(cluster=Cluster(security_group=SecurityGroup()))),
    (
        "TND0217",
        llama_pair(
            cluster=Cluster(network_gbit_per_s=100),
            workload=LONG_PROMPTS,
            objectives=tandem.Objectives(ttft_ms=1_000, tpot_ms=1_000),
        ),
    ),
    ("TND0218", eks_pair({"image_libfabric": "2.1.0"})),
    ("TND0219", llama_pair(cluster=Cluster(fabric="tcp"))),
    ("TND0219", llama_pair(connected("LIBFABRIC"), connected("LIBFABRIC"), cluster=Cluster(fabric="efa"))),
    ("TND0220", on("p5.48xlarge")),
    ("TND0220", on("p6e-gb200.36xlarge", {"gpu": "GB200"})),
    ("TND0221", eks_pair({"node_pool": "gpu"})),
    ("TND0222", on("p5.4xlarge")),
    ("TND0222", on("p5.48xlarge", {"tensor_parallel": 16, "nodes_per_worker": 2})),
    ("TND0223", b300(P6_LAYOUT)),
    ("TND0223", eks_pair(nodes={"network_interfaces": P5_LAYOUT})),
    ("TND0224", eks_pair(nodes={"network_interfaces": P5_LAYOUT})),
    ("TND0225", on("p5.4xlarge").model_copy(update={"cluster": Cluster(node_pools=(NodePool(public_ip=True),))})),
    ("TND0226", eks_pair(nodes={"nodes": 2, "subnet_cidrs": ("10.0.1.0/27",), "network_interfaces": P5_LAYOUT})),
    ("TND0227", eks_pair(nodes={"capacity": Capacity(type="capacity-block")})),
    (
        "TND0228",
        eks_pair(
            nodes={
                "capacity": Capacity(type="reservation", placement_group="pg-a"),
                "placement_group": PlacementGroup(name="pg-a"),
            }
        ),
    ),
    ("TND0228", eks_pair(nodes={"placement_group": PlacementGroup()})),
    ("TND0229", eks_pair(cluster={"vcpu_quota": {"P": 192}})),
    ("TND0230", eks_pair(nodes={"gpus_max": 2})),
    ("TND0230", eks_pair(nodes={"nodes": 0, "managed_by": "managed-node-group"})),
    ("TND0231", eks_pair(nodes={"nodes": 0, "managed_by": "managed-node-group", "capacity": Capacity()})),
    (
        "TND0231",
        eks_pair(nodes={"nodes": 2, "managed_by": "managed-node-group", "capacity": Capacity(type="reservation")}),
    ),
    ("TND0232", eks_pair(nodes={"consolidation": "WhenEmptyOrUnderutilized", "disruption_budget_nodes": 0})),
    ("TND0233", eks_pair(nodes={"capacity": Capacity(type="reservation")})),
    ("TND0234", llama_pair(cluster=Cluster(version="1.28"))),
    ("TND0234", eks_pair(cluster={"version": "1.40"})),
    ("TND0235", eks_pair(cluster={"dra": True})),
    (
        "TND0236",
        eks_pair(
            nodes={"ami_family": "AL2023_x86_64_NVIDIA"},
            cluster={"gpu_operator": tandem.GpuOperator(driver=False, toolkit=False)},
        ),
    ),
    (
        "TND0237",
        eks_pair(
            nodes={"ami_family": "BOTTLEROCKET_x86_64_NVIDIA"},
            cluster={"gpu_plugin": tandem.DevicePlugin(installed=False)},
        ),
    ),
    ("TND0238", eks_pair(nodes={"ami_family": "AL2023_x86_64_NVIDIA", "ami_release": "1.34-v20251108"})),
    ("TND0239", eks_pair({"image_cuda": "12.9"}, nodes={"nvidia_driver": "570.172.08"})),
    ("TND0240", eks_pair({"tolerations": (ANY_GPU,)}, nodes={"taints": (GPU_TAINT,)})),
    ("TND0240", eks_pair(nodes={"taints": (GPU_TAINT,)})),
    (
        "TND0240",
        eks_pair({"tolerations": ()}, nodes={"taints": (Taint(key="gpu", effect="PreferNoSchedule"),)}),
    ),
    ("TND0241", eks_pair(nodes={"taints": (GPU_TAINT,)}, cluster={"efa_plugin": tandem.DevicePlugin()})),
    ("TND0241", laptop_pair(cluster=Cluster(efa_plugin=tandem.DevicePlugin(tolerations=())))),
    ("TND0242", eks_pair(nodes={"ami_family": "AL2_x86_64_GPU"}, cluster={"version": "1.32"})),
    ("TND0243", eks_pair()),
    (
        "TND0243",
        llama_pair(
            {"memory_fraction": 0.5},
            {"memory_fraction": 0.5},
            cluster=Cluster(node_pools=(NodePool(gpu_sharing="mps"),)),
        ),
    ),
]
