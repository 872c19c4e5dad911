"""A pool whose shape `tandem plan` decides, and the shape that it decided."""

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import Field

from pulumi_tandem.declare.noun import Noun
from pulumi_tandem.declare.pool import Pool
from pulumi_tandem.finding import DeclarationError, Finding

if TYPE_CHECKING:
    from pulumi_tandem.declare.service import Service

POOLS = ("prefill", "decode", "serve")
"""The fields of a service that hold pools."""

PLANNED_BY = frozenset(
    {"model", "engine", "context_tokens", "transfer", "workload", "objectives", "usd_per_gpu_hour", *POOLS}
)
"""What planning reads of a service; a change anywhere else leaves its pin valid."""


class Auto(Noun):
    """A pool of the size and shape that `tandem plan --write` pinned."""

    gpus: tuple[str, ...] = Field(min_length=1)
    """Catalog names of the GPUs to choose from, one kind for all workers of the pool."""
    kv_dtype: str = "auto"
    """As in `Pool`; so for what follows."""
    memory_fraction: float = Field(default=0.9, gt=0, le=1)
    env: dict[str, str] = Field(default_factory=dict)
    extra_args: tuple[str, ...] = ()

    def pool(self, shape: "PoolShape") -> Pool:
        """The pool of that shape, with the settings that are declared."""
        own = {name: getattr(self, name) for name in self.model_fields_set - {"gpus"}}
        return Pool(**shape.model_dump(), **own)


class PoolShape(Noun):
    """What a plan decides of a pool; `Pool` says what each field means."""

    gpu: str
    workers: int = Field(ge=1)
    tensor_parallel: int = Field(ge=1)
    sequences: int = Field(ge=1)
    batch_tokens: int = Field(ge=1)


class Pin(Noun):
    """The shapes of one service's pools, and what they were planned for."""

    planned_for: str
    """Hash of what planning read of the declaration."""
    pools: dict[str, PoolShape]


class Pins(Noun):
    """What `tandem plan FILE --write` wrote: the pin of every service by its name."""

    program: str
    """Its file, for messages."""
    services: dict[str, Pin] = Field(default_factory=dict)


def planning_hash(service: "Service") -> str:
    """Twelve hexadecimal digits that change when planning would read something else.

    Fields that hold their default do not count, so that a field that a later release adds breaks no pin.
    """
    declared = service.model_dump(mode="json", exclude_defaults=True, include=set(PLANNED_BY))
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:12]


def with_pinned_pools(service: "Service") -> "Service":
    """The service with the pinned pool in place of every `Auto`; itself where it has none.

    Raises DeclarationError where a pool has no pin (TND0300), or one that was made for another declaration (TND0301).
    """
    autos = {name: pool for name in POOLS if isinstance(pool := getattr(service, name), Auto)}
    if not autos:
        return service
    program = service.plan.program if service.plan else "FILE"
    fix = f"run `tandem plan {program} --write`, look at the difference, and commit it"
    pin = service.plan.services.get(service.name) if service.plan else None
    if pin is None:
        if service.plan is None:
            fix = f"give plan=tandem.plan_of(__file__), then {fix}"
        message = "no shape is pinned for this pool; what would be deployed is not decided"
        raise DeclarationError(_findings("TND0300", service.name, autos, message, fix))
    if pin.planned_for != planning_hash(service) or not autos.keys() <= pin.pools.keys():
        message = "the pinned shape was planned for another declaration: model, load, objectives or pools have changed"
        raise DeclarationError(_findings("TND0301", service.name, autos, message, fix))
    return service.model_copy(update={name: auto.pool(pin.pools[name]) for name, auto in autos.items()})


def _findings(code: str, service: str, pools: dict[str, Auto], message: str, fix: str) -> list[Finding]:
    source = "pulumi_tandem.declare.auto"
    return [
        Finding(code=code, severity="error", path=f"{service}.{name}", message=message, fix=fix, source=source)
        for name in pools
    ]
