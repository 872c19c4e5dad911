"""Facts about GPUs, instances, models and engine releases, looked up by name.

Rule of the room: data in TOML files, a source on every row; lookups only, no arithmetic. An unknown
name raises `UnknownName`, which carries the nearest known one.
"""

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
    "Engine",
    "Gpu",
    "Instance",
    "ModelRow",
    "Price",
    "UnknownName",
    "engine",
    "gpu",
    "instance",
    "model",
    "names",
    "price",
    "version",
]
