"""The plan of a service."""

from dataclasses import dataclass, replace

from pulumi_tandem.check import check
from pulumi_tandem.declare import Auto, DeclarationError, Pin, Service, planning_hash
from pulumi_tandem.finding import Finding
from pulumi_tandem.plan.candidate import candidate
from pulumi_tandem.plan.evaluate import pair_option, serve_option
from pulumi_tandem.plan.option import Kind, Option
from pulumi_tandem.plan.search import By, Space, best, space
from pulumi_tandem.plan.verdict import Verdict, verdict
from pulumi_tandem.resolve import resolve

LOADS = 24
"""Halvings in which the highest load is found: to less than a millionth."""
REQUESTS_PER_S_LEAST = 1e-3


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


def requests_per_s_max(service: Service, kind: Kind, *, gpus: int) -> float:
    """The highest load that `gpus` GPUs serve within the objectives; 0.0 where they serve none.

    Raises DeclarationError like `plan`.
    """
    within = _space(service, "gpus")

    def fits(requests_per_s: float) -> bool:
        found = best(_at(within, requests_per_s), kind)
        return found is not None and found.gpus <= gpus

    low = high = REQUESTS_PER_S_LEAST
    if not fits(low):
        return 0.0
    while fits(high):
        low, high = high, 2.0 * high
    for _ in range(LOADS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def declared_option(service: Service) -> Option | None:
    """What the declared pools do under the load; None where they cannot be resolved."""
    try:
        resolved = resolve(service)
    except DeclarationError:
        return None
    assert service.workload
    assert service.objectives
    if any(pool.on_cpu for pool in resolved.pools) or any(one.severity == "error" for one in check(resolved)):
        return None
    sized = [(candidate(service, resolved, pool), pool.workers) for pool in resolved.pools]
    asked = {"workload": service.workload, "objectives": service.objectives}
    if len(sized) == 1:
        return serve_option(sized[0], **asked)
    return pair_option(*sized, transport=service.transfer.transport, **asked)


def _at(within: Space, requests_per_s: float) -> Space:
    workload = within.workload.model_copy(update={"requests_per_s": requests_per_s})
    return replace(within, service=within.service.model_copy(update={"workload": workload}))


def _space(service: Service, by: By) -> Space:
    return space(service, by=by)
