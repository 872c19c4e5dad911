"""What a service declares that processes on one machine cannot be or do."""

from pulumi_tandem.check.registry import Breach
from pulumi_tandem.declare import Pod
from pulumi_tandem.finding import Finding
from pulumi_tandem.lower.refused import RULE
from pulumi_tandem.resolve import Resolved


def cluster_only(resolved: Resolved) -> tuple[Finding, ...]:
    """Every field that only a cluster could carry out: here it would be a setting that does not happen."""
    asked: dict[str, bool] = {
        "cluster": resolved.cluster is not None,
        "pods": resolved.paired_pods,
        "front_door": resolved.front_door is not None,
        "prefill_per_decode": resolved.prefill_per_decode is not None,
        "token_secret": resolved.token_secret is not None,
    }
    for pool in resolved.pools:
        asked[f"{pool.name}.pod"] = pool.pod != Pod()
        asked[f"{pool.name}.nodes_per_worker"] = pool.nodes_per_worker > 1
        asked[f"{pool.name}.autoscalers"] = bool(pool.autoscalers)
    return tuple(
        RULE.finding(
            resolved,
            Breach(
                path=path,
                message=f"{path.rpartition('.')[2]} is for Kubernetes; on this machine it would do nothing",
                fix=f"drop {path} from the service that runs here",
            ),
            source="pulumi_tandem.local",
        )
        for path, is_declared in asked.items()
        if is_declared
    )
