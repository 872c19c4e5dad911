"""The plan of a service."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pulumi_tandem import catalog
from pulumi_tandem.check import check
from pulumi_tandem.declare import Auto, DeclarationError, Pin, Service
from pulumi_tandem.declare.pinned import planning_hash
from pulumi_tandem.finding import Finding
from pulumi_tandem.plan.candidate import candidate, gpus_of, pools_of
from pulumi_tandem.plan.demand import demand
from pulumi_tandem.plan.evaluate import pair_option, serve_option
from pulumi_tandem.plan.machine import machine
from pulumi_tandem.plan.option import Kind, Option
from pulumi_tandem.plan.search import By, Space, best, space
from pulumi_tandem.plan.verdict import Verdict, verdict
from pulumi_tandem.resolve import resolve

HALVINGS = 9
"""In which the highest load is found between a load and its double: to two thousandths."""
REQUESTS_PER_S_LEAST = 2.0**-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What serves the load, what else could, and which is better."""

    service: Service
    by: By
    declared: Option | None
    """The declared pools under the load; None where they are to be planned and nothing is pinned."""
    disaggregated: Option | None
    """The best of its kind; None where none meets the objectives. So for the next."""
    aggregated: Option | None
    verdict: Verdict
    refused: tuple[Finding, ...]
    """Rules that keep shapes from being tried."""

    @property
    def kind(self) -> Kind:
        """The kind that is declared."""
        return "aggregated" if self.service.serve else "disaggregated"

    @property
    def chosen(self) -> Option | None:
        """The best of the declared kind."""
        return self.aggregated if self.kind == "aggregated" else self.disaggregated

    @property
    def pin(self) -> Pin | None:
        """What `Auto` pools are to be; None where no pool is to be planned, or nothing meets the objectives."""
        autos = [name for name in ("prefill", "decode", "serve") if isinstance(getattr(self.service, name), Auto)]
        if not autos or not self.chosen:
            return None
        pools = {pool.name: pool.shape for pool in self.chosen.pools if pool.name in autos}
        return Pin(planned_for=planning_hash(self.service), pools=pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The highest load that a number of GPUs serves."""

    requests_per_s: float
    option: Option
    """How, under that load."""


def plan(service: Service, *, by: By) -> Plan:
    """The best disaggregated and the best aggregated shape for the service's load and objectives, and the verdict.

    Raises DeclarationError where load or objectives are not declared, a name is unknown, or `by` is cost and a price
    is not known.
    """
    within = _space(service, by)
    pair, serve = best(within, "disaggregated"), best(within, "aggregated")
    return Plan(
        service=service,
        by=by,
        declared=declared_option(service),
        disaggregated=pair,
        aggregated=serve,
        verdict=verdict(within, pair, serve),
        refused=within.refused,
    )


def capacity(service: Service, kind: Kind, *, gpus: int) -> Capacity | None:
    """The highest load that at most `gpus` GPUs serve within the objectives; None: they serve none.

    Raises DeclarationError like `plan`.
    """
    within = _space(service, "gpus")

    def serves(requests_per_s: float) -> Option | None:
        found = best(_at(within, requests_per_s), kind)
        return found if found and found.gpus <= gpus else None

    low, option = 1.0, serves(1.0)
    while option is None and low > REQUESTS_PER_S_LEAST:
        low /= 2.0
        option = serves(low)
    if option is None:
        return None
    while larger := serves(2.0 * low):
        low, option = 2.0 * low, larger
    high = 2.0 * low
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        larger = serves(middle)
        low, high, option = (middle, high, larger) if larger else (low, middle, option)
    return Capacity(requests_per_s=low, option=option)


def declared_option(service: Service) -> Option | None:
    """What the declared pools do under the load; None where they cannot be resolved."""
    try:
        resolved = resolve(service)
    except DeclarationError:
        return None
    if any(pool.on_cpu for pool in resolved.pools) or any(one.severity == "error" for one in check(resolved)):
        return None
    sized = [(candidate(service, resolved, pool), pool.workers) for pool in resolved.pools]
    if len(sized) == 1:
        return serve_option(sized[0], wanted=demand(service))
    return pair_option(*sized, wanted=demand(service))


def _at(within: Space, requests_per_s: float) -> Space:
    workload = within.demand.workload.model_copy(update={"requests_per_s": requests_per_s})
    return replace(within, service=within.service.model_copy(update={"workload": workload}))


def _space(service: Service, by: By) -> Space:
    """The space of a service that can be planned."""
    missing = [name for name in ("workload", "objectives") if getattr(service, name) is None]
    if missing:
        message = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not declared; nothing can be planned"
        fix = f"give {' and '.join(f'{name}=tandem.{name.capitalize()}(...)' for name in missing)}"
        raise DeclarationError([_finding("TND0302", service.name, message, fix)])
    gpus = dict.fromkeys(gpu for pool in pools_of(service) for gpu in gpus_of(pool))
    unknown = [finding for gpu in gpus for finding in _unknown(service, gpu, by)]
    if unknown:
        raise DeclarationError(unknown)
    return space(service, by=by)


def _unknown(service: Service, gpu: str, by: By) -> Iterator[Finding]:
    """What planning needs to know of a GPU and does not."""
    try:
        row = catalog.gpu(gpu)
    except catalog.UnknownName:
        return  # resolve tells of it, with the field's path and the nearest name
    if not row.memory_gb_per_s:
        message = f"how fast {gpu!r} is is not known; nothing can be planned on it"
        yield _finding("TND0306", service.name, message, f"name one of: {', '.join(_planned())}")
    elif by == "cost" and machine(service.usd_per_gpu_hour, gpu, gpus=1, transport=None).usd_per_gpu_hour is None:
        message = f"what an hour of {gpu} costs is not known; costs cannot be compared"
        fix = f"give usd_per_gpu_hour={{{gpu!r}: ...}}, or plan by GPUs (`--by gpus`)"
        yield _finding("TND0306", f"{service.name}.usd_per_gpu_hour", message, fix)


def _planned() -> list[str]:
    return [name for name in catalog.names("gpus") if catalog.gpu(name).memory_gb_per_s]


def _finding(code: str, path: str, message: str, fix: str) -> Finding:
    return Finding(code=code, severity="error", path=path, message=message, fix=fix, source="pulumi_tandem.plan")
