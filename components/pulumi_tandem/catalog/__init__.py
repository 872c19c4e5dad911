"""Facts about GPUs, instances, models and engine releases, looked up by name.

Rule of the room: data in TOML files, a source on every row; lookups only, no arithmetic. An unknown
name raises `UnknownName`, which carries the nearest known one.
"""

from pulumi_tandem.catalog.clusters import BadAmi, EksRelease, Nodes, bad_amis, eks_release, nodes
from pulumi_tandem.catalog.lookup import (
    TABLES,
    Engine,
    Gpu,
    Instance,
    ModelRow,
    Price,
    Table,
    UnknownName,
    engine,
    gpu,
    instance,
    model,
    names,
    price,
    releases,
    version,
)

__all__ = [
    "TABLES",
    "BadAmi",
    "EksRelease",
    "Engine",
    "Gpu",
    "Instance",
    "ModelRow",
    "Nodes",
    "Price",
    "Table",
    "UnknownName",
    "bad_amis",
    "eks_release",
    "engine",
    "gpu",
    "instance",
    "model",
    "names",
    "nodes",
    "price",
    "releases",
    "version",
]
