"""The machine that a worker stands on: what its GPUs cost, and their share of its network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from pulumi_tandem import catalog
from pulumi_tandem.catalog import Instance
from pulumi_tandem.estimate import EngineSetup, Fabric

IN_MACHINE = frozenset({"cuda_ipc", "shm"})
"""Transports between workers of one machine."""
OVER_EFA = frozenset({"efa", "rdma"})
"""Transports past the kernel; on EC2 both mean EFA."""
EFA_EFFICIENCY = 0.6
"""Share of the line that transfers reach over EFA or NVLink, not measured: see `estimate.Fabric`."""
TCP_GBIT_PER_S_MAX = 100.0
"""What one interface carries over TCP, however much the machine has."""
TCP_EFFICIENCY = 0.4
"""Of that, by few connections: 5 GB/s over 100 Gbit/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one GPU costs and has of the network, on a machine whose other GPUs are used as well."""

    instance: str
    """EC2 type; empty where no type is known for the GPU, and then it has no network but TCP."""
    usd_per_gpu_hour: float | None
    """As declared, else the catalog's price on demand; None where neither says."""
    efa_gb_per_s: float
    """Per GPU; 0: no EFA."""
    tcp_gb_per_s: float
    """Per GPU."""


def machine(prices: Mapping[str, float], gpu: str, *, gpus: int, transport: str | None) -> Machine:
    """The cheapest machine that workers of so many GPUs fill; of equally cheap ones that with the best network.

    `prices` are those that the service declares, in dollars per GPU hour.

    `transport` is what KV travels over; None for an aggregated service, which needs no network for it.
    """
    own = prices.get(gpu)
    found = [
        _machine(row, own)
        for row in _instances(gpu)
        if row.gpus % gpus == 0 and (transport not in OVER_EFA or row.efa_interfaces)
    ]
    unknown = Machine(
        instance="", usd_per_gpu_hour=own, efa_gb_per_s=0.0, tcp_gb_per_s=TCP_GBIT_PER_S_MAX / 8 / max(8, gpus)
    )
    return min(found, key=_rank, default=unknown)


def fabric(transport: str, prefill: tuple[EngineSetup, Machine], decode: tuple[EngineSetup, Machine]) -> Fabric:
    """The share of the network that a worker of either kind has."""
    shares = [_share_gb_per_s(transport, *worker) for worker in (prefill, decode)]
    over_tcp = transport not in OVER_EFA | IN_MACHINE
    return Fabric(
        name=transport,
        prefill_gb_per_s=shares[0],
        decode_gb_per_s=shares[1],
        efficiency=TCP_EFFICIENCY if over_tcp else EFA_EFFICIENCY,
    )


def _share_gb_per_s(transport: str, setup: EngineSetup, stands_on: Machine) -> float:
    if transport in IN_MACHINE:
        each = (setup.gpu.nvlink_gb_per_s or setup.gpu.pcie_gb_per_s) / 2  # one direction
    elif transport in OVER_EFA:
        each = stands_on.efa_gb_per_s or stands_on.tcp_gb_per_s
    else:
        each = stands_on.tcp_gb_per_s
    return each * setup.gpus


def _machine(row: Instance, own: float | None) -> Machine:
    listed = catalog.price(row.name)
    return Machine(
        instance=row.name,
        usd_per_gpu_hour=own if own is not None else listed and listed.usd_per_hour / row.gpus,
        efa_gb_per_s=row.network_gbit_per_s / 8 / row.gpus if row.efa_interfaces else 0.0,
        tcp_gb_per_s=min(row.network_gbit_per_s, TCP_GBIT_PER_S_MAX) / 8 / row.gpus,
    )


def _rank(each: Machine) -> tuple[float, float, str]:
    price = each.usd_per_gpu_hour
    return float("inf") if price is None else price, -each.efa_gb_per_s, each.instance


@cache
def _instances(gpu: str) -> tuple[Instance, ...]:
    rows = (catalog.instance(name) for name in catalog.names("instances"))
    return tuple(row for row in rows if row.gpu == gpu)
