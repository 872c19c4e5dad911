"""Facts about Kubernetes clusters and their machines, with the date at which they were true."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pulumi_tandem.catalog.lookup import Instance, UnknownName, instance
from pulumi_tandem.declare.nodes import NodePool


@dataclass(frozen=True, slots=True, kw_only=True)
class EksRelease:
    """A minor version of Kubernetes on EKS; dates as YYYY-MM-DD."""

    version: str
    standard_until: str
    extended_until: str
    as_of: str
    """When the dates were looked up: what ended before is over, whatever day it is."""

    @property
    def is_over(self) -> bool:
        """Whether no cluster of it could be made or kept at `as_of`."""
        return self.extended_until < self.as_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BadAmi:
    """A release of machine images that is reported not to work on some instances."""

    family: str
    release: str
    instances: tuple[str, ...]
    symptom: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """A declared node pool together with what the catalog knows of its machines."""

    declared: NodePool
    instance: Instance | None
    """None: no type is declared, or the catalog does not have it."""

    @property
    def name(self) -> str:
        """The node pool's name."""
        return self.declared.name

    @property
    def gpu(self) -> str | None:
        """Catalog name of the GPUs; None: not known."""
        return self.declared.gpu or (self.instance and self.instance.gpu)

    @property
    def gpus_per_node(self) -> int | None:
        """None: not known."""
        if self.declared.gpus_per_node is not None:
            return self.declared.gpus_per_node
        return self.instance.gpus if self.instance else None

    @property
    def gpus_max(self) -> int | None:
        """The most GPUs that the pool can have in all; None: not known, or without a bound."""
        nodes, per_node = self.nodes_max, self.gpus_per_node
        bounds = [self.declared.gpus_max, None if nodes is None or per_node is None else nodes * per_node]
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def nodes_max(self) -> int | None:
        """The most machines that the pool can have; None: not known, or without a bound."""
        reserved = self.declared.capacity.nodes if self.declared.capacity else None
        fixed = self.declared.nodes if self.declared.managed_by == "other" else None
        grown = self.declared.nodes_max if self.declared.nodes_max is not None else fixed
        return min((bound for bound in (reserved, grown) if bound is not None), default=None)


def nodes(pool: NodePool) -> Nodes:
    """The node pool with its instance type looked up; a type that the catalog does not have stays unknown."""
    try:
        return Nodes(declared=pool, instance=instance(pool.instance_type) if pool.instance_type else None)
    except UnknownName:
        return Nodes(declared=pool, instance=None)


def eks_release(version: str) -> EksRelease | None:
    """The minor version on EKS; None where the catalog does not have it. Older ones than it has are over."""
    table = _table()["eks"]
    row = table["releases"].get(version)
    if row is None and _minor(version) < min(_minor(known) for known in table["releases"]):
        row = table["before"]
    return row and EksRelease(version=version, as_of=table["as_of"], **row)


def bad_amis() -> tuple[BadAmi, ...]:
    """Releases of machine images that are known not to work somewhere."""
    rows: list[dict[str, Any]] = _table()["bad_amis"]
    return tuple(BadAmi(instances=tuple(row.pop("instances")), **row) for row in map(dict[str, Any], rows))


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("pulumi_tandem.catalog").joinpath("clusters.toml").read_text("utf-8"))
