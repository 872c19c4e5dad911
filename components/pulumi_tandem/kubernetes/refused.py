"""What a service declares that this version creates no working object for in a cluster."""

from pulumi_tandem.check.registry import Breach
from pulumi_tandem.finding import Finding
from pulumi_tandem.lower.refused import RULE
from pulumi_tandem.resolve import Resolved


def not_served(resolved: Resolved) -> tuple[Finding, ...]:
    """Pools that would go to zero: nothing wakes them."""
    return tuple(
        RULE.finding(
            resolved,
            Breach(
                path=f"{pool.name}.autoscalers.{index}.workers_min",
                message="the pool may go to no worker at all, and nothing would wake it: a gateway without workers "
                "turns requests away after seconds, and a model takes minutes to load",
                fix="use workers_min=1, or scale by other means and say kind='other'",
            ),
            source="pulumi_tandem.kubernetes",
        )
        for pool in resolved.pools
        for index, scaler in enumerate(pool.autoscalers)
        if scaler.kind != "other" and scaler.workers_min == 0
    )
