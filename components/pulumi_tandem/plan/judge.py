"""What a plan has to say of a declaration that is about to be deployed."""

from collections.abc import Iterator

from pulumi_tandem.check import RULES
from pulumi_tandem.declare import DeclarationError, Service
from pulumi_tandem.finding import Finding
from pulumi_tandem.plan.answer import declared_option, plan
from pulumi_tandem.plan.option import Option
from pulumi_tandem.plan.verdict import limits


def judge(service: Service) -> tuple[Finding, ...]:
    """Warnings TND0304 and TND0305; none where load or objectives are not declared, or pools run on CPUs."""
    if service.workload is None or service.objectives is None:
        return ()
    declared = declared_option(service)
    return (*_missed(service, declared), *_not_worth_it(service)) if declared else ()


def _missed(service: Service, declared: Option) -> Iterator[Finding]:
    """Objectives that even the favourable end of the estimate misses (TND0304)."""
    assert service.workload
    assert service.objectives
    for name, time_ms, limit_ms in limits(declared, service.objectives):
        if time_ms.low <= limit_ms:
            continue
        load = f"{service.workload.requests_per_s:g} requests/s"
        often = f"{service.objectives.quantile:.1%} of requests".replace(".0%", "%")
        estimate = (
            f"under {load} the queue would only grow"
            if time_ms.low == float("inf")
            else f"under {load} it would be {time_ms.low:.0f} to {time_ms.high:.0f} ms"
        )
        yield _warning(
            "TND0304",
            f"{service.name}.objectives.{name}_ms",
            f"{name.upper()} of {often} is to be at most {limit_ms:g} ms; with {declared.label} {estimate}",
            "run `tandem plan FILE` for the smallest shape that meets the objectives, or give more workers",
        )


def _not_worth_it(service: Service) -> Iterator[Finding]:
    """Two pools where one would do for clearly less (TND0305)."""
    if service.serve:
        return
    try:
        found = plan(service, by="cost")
    except DeclarationError:
        found = plan(service, by="gpus")
    if found.aggregated and found.verdict.winner == "aggregated" and found.verdict.is_clear:
        yield _warning(
            "TND0305",
            service.name,
            f"the service is disaggregated, and that is not worth it. {found.verdict.words}",
            "say serve in place of prefill and decode, or keep the pair for what the load does not say",
        )


def _warning(code: str, path: str, message: str, fix: str) -> Finding:
    return Finding(code=code, severity="warning", path=path, message=message, fix=fix, source=RULES[code].source)
