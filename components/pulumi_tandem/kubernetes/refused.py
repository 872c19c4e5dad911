"""What a service declares that this version creates no working object for in a cluster."""

from pulumi_tandem.check.registry import Breach
from pulumi_tandem.finding import Finding
from pulumi_tandem.lower.refused import RULE
from pulumi_tandem.resolve import Resolved


def not_served(resolved: Resolved) -> tuple[Finding, ...]:
    """Autoscalers of ours: the gateways do not serve the figures yet that they would read."""
    return tuple(
        RULE.finding(
            resolved,
            Breach(
                path=f"{pool.name}.autoscalers.{index}",
                message=f"a {scaler.kind} would stand still: the gateways of this version serve no figures to scale by",
                fix="drop it, or scale by other means and say kind='other'",
            ),
            source="pulumi_tandem.kubernetes",
        )
        for pool in resolved.pools
        for index, scaler in enumerate(pool.autoscalers)
        if scaler.kind != "other"
    )
