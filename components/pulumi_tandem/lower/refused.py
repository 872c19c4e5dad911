"""What can be declared and checked, and is not deployed by this version."""

from collections.abc import Iterator

from pulumi_tandem.check import RULES
from pulumi_tandem.check.registry import Breach
from pulumi_tandem.finding import Finding
from pulumi_tandem.resolve import Resolved, ResolvedPool

RULE = RULES["TND0006"]


def not_deployed(resolved: Resolved) -> tuple[Finding, ...]:
    """Every part of a service that lowering has no processes for."""
    return tuple(
        RULE.finding(
            resolved,
            Breach(
                path=f"{pool.name}.{breach.path}",
                message=f"{breach.message}, which this version of Tandem checks and does not deploy",
                fix=breach.fix,
            ),
        )
        for pool in resolved.pools
        for breach in _breaches(resolved, pool)
    )


def _breaches(resolved: Resolved, pool: ResolvedPool) -> Iterator[Breach]:
    if not pool.release.deployable:
        message = f"the engine is {pool.engine_name} {pool.engine.version}"
        yield Breach(path="engine.version", message=message, fix=f"use version={type(pool.engine)().version!r}")
    yield from _vllm(resolved, pool) if pool.vllm else _tensorrt_llm(pool)
    for field in ("image", "image_arch", "metrics_path", "device", "mig"):
        if value := getattr(pool, field):
            yield Breach(path=field, message=f"{field} is {value!r}", fix=f"drop {field}")


def _vllm(resolved: Resolved, pool: ResolvedPool) -> Iterator[Breach]:
    connector = pool.connector.name
    if resolved.disaggregated and connector != "NixlConnector":
        yield Breach(path="connector.name", message=f"the KV connector is {connector}", fix="use 'NixlConnector'")
    if pool.data_parallel > 1 and pool.data_parallel % pool.nodes_per_worker:
        message = f"data_parallel is {pool.data_parallel} over {pool.nodes_per_worker} nodes"
        fix = "make data_parallel a multiple of nodes_per_worker: every rank then stays on one node"
        yield Breach(path="data_parallel", message=message, fix=fix)


def _tensorrt_llm(pool: ResolvedPool) -> Iterator[Breach]:
    if pool.data_parallel > 1:
        message = f"data_parallel is {pool.data_parallel} with TensorRT-LLM"
        yield Breach(path="data_parallel", message=message, fix="use data_parallel=1, and more workers")
    spaced = [word for word in pool.extra_args if len(word.split()) != 1]
    if spaced and pool.nodes_per_worker > 1:
        # trtllm-llmapi-launch runs its arguments as unquoted words of a shell.
        message = f"over several machines {spaced[0]!r} would fall apart at its white space"
        yield Breach(path="extra_args", message=message, fix="write it without white space")
    transceiver = (pool.tensorrt_llm.transceiver if pool.tensorrt_llm else None) or ""
    if transceiver.upper() in {"MPI", "MOONCAKE"}:
        message = f"the transceiver is {transceiver}"
        yield Breach(path="engine.transceiver", message=message, fix="use 'DEFAULT', 'NIXL' or 'UCX'")
