"""Pools of one pod, of which a preview warns."""

from pulumi_tandem.check import RULES
from pulumi_tandem.finding import Finding
from pulumi_tandem.resolve import Resolved, ResolvedPool

_RULE = RULES["TND0274"]


def alone(resolved: Resolved) -> tuple[Finding, ...]:
    """Pools whose one worker goes when its machine is emptied; silent where `disruption_min_available` is said."""
    shared = resolved.paired_pods or len(resolved.pools) == 1 or not resolved.survivors_serve_both
    meanwhile = "nothing is served" if shared else "the other pool serves both phases"
    return tuple(
        Finding(
            code=_RULE.code,
            severity=_RULE.severity,
            path=f"{resolved.name}.{pool.name}.workers",
            message=f"its one worker goes when its machine is emptied; until it runs elsewhere, {meanwhile}",
            fix="use workers=2, or pod.disruption_min_available=0 where that is meant",
            source=_RULE.source,
        )
        for pool in resolved.pools
        if _workers_min(pool) <= 1 and pool.pod.disruption_min_available is None
    )


def _workers_min(pool: ResolvedPool) -> int:
    """Fewest that there may be: an autoscaler's, where there is one."""
    return min((scaler.workers_min for scaler in pool.autoscalers), default=pool.workers)
