"""Facts about GPUs, instances, models and engine releases, looked up by name.

Rule of the room: data in TOML files, a source on every row; lookups only, no arithmetic. An unknown
name raises `UnknownName`, which carries the nearest known one.
"""

from pulumi_tandem.catalog.clusters import BadAmi, EksRelease, Nodes, bad_amis, eks_release, nodes
from pulumi_tandem.catalog.lookup import (
    Engine,
    Gpu,
    Instance,
    ModelRow,
    Price,
    UnknownName,
    engine,
    gpu,
    instance,
    model,
    names,
    price,
    version,
)

__all__ = [
    "BadAmi",
    "EksRelease",
    "Engine",
    "Gpu",
    "Instance",
    "ModelRow",
    "Nodes",
    "Price",
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
    "version",
]
