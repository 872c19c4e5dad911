"""The network between a prefill and a decode worker."""

from pulumi_tandem.estimate import EngineSetup, Fabric

EFA_GB_PER_S = {
    "A10G": 1.56,
    "A100-40GB": 6.25,
    "A100-80GB": 6.25,
    "B200": 50.0,
    "B300": 100.0,
    "GB200": 50.0,
    "H100": 50.0,
    "H200": 50.0,
    "L4": 1.56,
    "L40S": 6.25,
    "RTX-PRO-6000": 25.0,
}
"""What each GPU of the largest instance type that has it can send or receive over EFA.

Source: EC2 DescribeInstanceTypes, network bandwidth over GPUs: g5.48xlarge 100 Gbit/s for 8, p4d 400, p6-b200 3200,
p6-b300 6400, p6e-gb200 1600 for 4, p5 and p5en 3200, g6.48xlarge 100, g6e.48xlarge 400, g7e.48xlarge 1600.
"""
TCP_GB_PER_S = 5.0
"""Over TCP, of one machine with eight GPUs: what a 100 Gbit/s interface gives to few connections."""
MACHINE_GPUS = 8
IN_MACHINE = frozenset({"cuda_ipc", "shm"})
"""Transports between workers of one machine."""


def fabric(transport: str, prefill: EngineSetup, decode: EngineSetup) -> Fabric:
    """The share of the network that each of the two workers has."""
    return Fabric(
        name=transport,
        prefill_gb_per_s=_share_gb_per_s(transport, prefill),
        decode_gb_per_s=_share_gb_per_s(transport, decode),
    )


def _share_gb_per_s(transport: str, setup: EngineSetup) -> float:
    if transport == "tcp":
        each = TCP_GB_PER_S / MACHINE_GPUS
    elif transport in IN_MACHINE:
        each = (setup.gpu.nvlink_gb_per_s or setup.gpu.pcie_gb_per_s) / 2
    else:
        each = EFA_GB_PER_S.get(setup.gpu.name, TCP_GB_PER_S / MACHINE_GPUS)
    return each * setup.gpus
