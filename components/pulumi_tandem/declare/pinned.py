"""A service with its pinned shapes, and the hash that says whether they were planned for it.

Apart from the nouns, so that importing those does not load hashing.
"""

import hashlib
import json

from pulumi_tandem.declare.auto import Auto
from pulumi_tandem.declare.service import Service
from pulumi_tandem.finding import DeclarationError, Finding

POOLS = ("prefill", "decode", "flexible", "serve")
"""The fields of a service that hold pools."""

PLANNED_BY = frozenset(
    {"model", "engine", "context_tokens", "transfer", "workload", "objectives", "usd_per_gpu_hour", *POOLS}
)
"""What planning reads of a service; a change anywhere else leaves its pin valid."""


def planning_hash(service: Service) -> str:
    """Twelve hexadecimal digits that change when planning would read something else.

    Fields that hold their default do not count, so that a field that a later release adds breaks no pin.
    """
    declared = service.model_dump(mode="json", exclude_defaults=True, include=set(PLANNED_BY))
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:12]


def with_pinned_pools(service: Service) -> Service:
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
    source = "pulumi_tandem.declare.pinned"
    return [
        Finding(code=code, severity="error", path=f"{service}.{name}", message=message, fix=fix, source=source)
        for name in pools
    ]
