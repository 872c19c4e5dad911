"""Rows of the catalog and how they are found."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from pulumi_tandem.declare.model import Architecture
from pulumi_tandem.finding import nearest

Table = Literal["gpus", "instances", "models", "engines"]
TABLES: tuple[Table, ...] = get_args(Table)
"""Tables whose rows have names."""


class UnknownName(LookupError):
    """A name that the catalog does not have; `nearest` is the known one it may stand for."""

    def __init__(self, table: Table, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        self.known = known
        self.nearest = nearest(name, known)
        super().__init__(f"no {name!r} among the catalog's {table}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device that an engine computes on; the machine's cores (`cpu`) count as one."""

    name: str
    memory_gib: float
    """Whole memory of the device as its driver reports it; 0 for `cpu`."""
    compute_capability: int
    """CUDA compute capability, major * 10 + minor; 0 for `cpu`."""
    source: str
    memory_gb_per_s: float = 0.0
    """Peak bandwidth of the device's memory."""
    bf16_tflops: float = 0.0
    """Peak of dense matrix products in 16 bits; so for the next two."""
    fp8_tflops: float = 0.0
    """0: not in hardware."""
    fp4_tflops: float = 0.0
    """0: not in hardware."""
    nvlink_gb_per_s: float = 0.0
    """Both directions summed, as vendors state it; 0: none."""
    pcie_gb_per_s: float = 0.0
    """Both directions summed."""
    architecture: Literal["amd64", "arm64"] | None = None
    """Of the machine, where the GPU comes with one kind only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A type of EC2 instance."""

    name: str
    gpu: str
    """Catalog name of its GPUs."""
    gpus: int
    vcpus: int
    memory_gib: float
    network_gbit_per_s: float
    """Of the whole instance, all the time; some may burst to more."""
    network_cards: int
    card0: tuple[str, ...]
    """Kinds of interface that network card 0 takes (`interface`, `efa`, `efa-only`); every other card takes all."""
    nvme_gb: int
    """Local disks in all."""
    arch: Literal["amd64", "arm64"]
    capacity: tuple[str, ...]
    """How it can be had: `on-demand`, `spot`, `capacity-block`."""
    source: str
    efa_interfaces: int = 0
    """Most EFA devices; 0: it has no EFA."""
    efa_gbit_per_s: float = 0.0
    """Of each EFA device when all are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an instance cost at a date, if nothing was negotiated; a declaration that knows better says so."""

    usd_per_hour: float
    region: str
    date: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model's shape and weight."""

    name: str
    organisation: str
    architecture: Architecture
    parameters: int
    """Published count of the language model's weights."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A release of an engine."""

    kind: str
    version: str
    connector_version: int
    """Version of the KV connector's protocol; workers of two versions do not shake hands."""
    kv_dtypes: tuple[str, ...]
    cpu_kv_dtypes: tuple[str, ...]
    cpu_block_multiple: int
    """A KV block of the CPU build must hold a multiple of so many tokens."""
    source: str
    factors: tuple[str, ...] = ()
    """What both sides of a hand-over must have in common because the engine compares it, in the words of a worker's
    factors; empty: not read."""
    deployable: bool = True
    """False: its declarations are checked, by what is known of the release, and not deployed."""


def gpu(name: str) -> Gpu:
    """The GPU of that name. Raises UnknownName."""
    return Gpu(name=name, **_row("gpus", name))


def instance(name: str) -> Instance:
    """The EC2 instance type of that name (`p5.48xlarge`). Raises UnknownName."""
    row = dict(_row("instances", name))
    return Instance(name=name, card0=tuple(row.pop("card0")), capacity=tuple(row.pop("capacity")), **row)


def price(name: str) -> Price | None:
    """On-demand price of an instance type in us-east-1; None where none is known.

    Raises UnknownName.
    """
    _row("instances", name)
    table = _table("prices")["on-demand"]
    usd = table["usd_per_hour"].get(name)
    return usd and Price(usd_per_hour=usd, region=table["region"], date=table["date"], source=table["source"])


def model(name: str) -> ModelRow:
    """The model of that name, with or without its organisation. Raises UnknownName."""
    organisation, _, short = name.rpartition("/")
    row = dict(_row("models", short))
    if organisation and organisation != row["organisation"]:
        raise UnknownName("models", name, (f"{row['organisation']}/{short}",))
    return ModelRow(
        name=short,
        organisation=row.pop("organisation"),
        parameters=row.pop("parameters"),
        source=row.pop("source"),
        architecture=Architecture(**row),
    )


def engine(kind: str, version: str) -> Engine:
    """The release of the engine `kind` (`vllm`, `tensorrt-llm`). Raises UnknownName.

    A release that is only checked has the facts of the newest row that is not newer than it.
    """
    releases = _table("engines")[kind]
    row = dict(releases[_row_of(version, releases)])
    return Engine(
        kind=kind,
        version=version,
        kv_dtypes=tuple(row.pop("kv_dtypes")),
        cpu_kv_dtypes=tuple(row.pop("cpu_kv_dtypes")),
        factors=tuple(row.pop("factors", ())),
        **row,
    )


def releases(kind: str) -> tuple[str, ...]:
    """Releases of an engine that have a row, oldest first. Raises UnknownName."""
    return tuple(_row("engines", kind))


def version(text: str) -> tuple[int, ...]:
    """A release as numbers to compare: (0, 33, 0) for `0.33.0`, (1, 0, 0) for `1.0.0rc4`; () for what is none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _row_of(release: str, releases: dict[str, Any]) -> str:
    if release in releases:
        return release
    older = [row for row in releases if version(row) <= version(release)]
    if not older or releases[older[-1]].get("deployable", True):
        raise UnknownName("engines", release, tuple(releases))
    return older[-1]


def names(table: Table) -> tuple[str, ...]:
    """All names of a table, in the order of its file; of engines, the kinds."""
    return tuple(_table(table))


def _row(table: Table, name: str) -> dict[str, Any]:
    rows = _table(table)
    if name not in rows:
        raise UnknownName(table, name, tuple(rows))
    return rows[name]


@cache
def _table(table: Table | Literal["prices"]) -> dict[str, Any]:
    return tomllib.loads(files("pulumi_tandem.catalog").joinpath(f"{table}.toml").read_text("utf-8"))
