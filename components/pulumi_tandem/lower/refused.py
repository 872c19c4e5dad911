"""What can be declared and checked, and is not deployed by this version."""

from collections.abc import Iterator

from pulumi_tandem.check import RULES
from pulumi_tandem.check.registry import Breach
from pulumi_tandem.declare import Vllm
from pulumi_tandem.finding import Finding
from pulumi_tandem.resolve import Resolved, ResolvedPool

_FIX = "check it here and deploy it with your own manifests, or declare what this version deploys"

RULE = RULES["TND0006"]


def not_deployed(resolved: Resolved) -> tuple[Finding, ...]:
    """Every part of a service that lowering has no processes for."""
    return tuple(
        Finding(
            code=RULE.code,
            severity=RULE.severity,
            path=f"{resolved.name}.{pool.name}.{breach.path}",
            message=f"{breach.message}, which this version of Tandem checks and does not deploy",
            fix=breach.fix,
            source=RULE.source,
        )
        for pool in resolved.pools
        for breach in _breaches(resolved, pool)
    )


def _breaches(resolved: Resolved, pool: ResolvedPool) -> Iterator[Breach]:
    if not isinstance(pool.engine, Vllm):
        yield Breach(path="engine", message="the engine is TensorRT-LLM", fix=_FIX)
        return
    if not pool.release.deployable:
        message = f"the engine is vLLM {pool.engine.version}"
        yield Breach(path="engine.version", message=message, fix="use the newest release of the catalog")
    connector = pool.connector.name
    if resolved.disaggregated and connector != "NixlConnector":
        yield Breach(path="connector.name", message=f"the KV connector is {connector}", fix="use 'NixlConnector'")
    several = {"data_parallel": pool.data_parallel, "nodes_per_worker": pool.nodes_per_worker}
    for field, number in several.items():
        if number > 1:
            yield Breach(path=field, message=f"{field} is {number}", fix=f"use {field}=1")
    for field in ("image", "image_arch", "metrics_path", "device", "mig"):
        if value := getattr(pool, field):
            yield Breach(path=field, message=f"{field} is {value!r}", fix=f"drop {field}")
