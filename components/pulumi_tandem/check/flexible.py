"""Codes 0310 to 0315: workers that change between the phases; and how all other rules see them.

In pull mode each request says what it wants of a vLLM engine, and the role in its configuration is a default for
connectors that need one. What the role still decides in vLLM 0.32 (v1/core/sched/scheduler.py, nixl/connector.py,
nixl/base_worker.py): a consumer puts off freeing blocks while batches overlap, without which a pulled block could be
overwritten by the batch before; ranks of prefill context parallelism answer as producers only; stages of a pipeline
cannot consume. A producer has nothing of its own in the NIXL connector. So flexible workers are consumers: `kv_both`
would be the same to the letter, with a deprecation warning at every start.
"""

from collections.abc import Iterator
from dataclasses import replace

from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.finding import Finding
from pulumi_tandem.resolve import Resolved, split_flags

PULL_CONNECTORS = frozenset({"NixlConnector", "NixlPullConnector"})
_SCHEDULER = "vLLM 0.32.0 v1/core/sched/scheduler.py: defer_block_free"
_CONNECTOR = "vLLM 0.32.0 kv_connector/v1/nixl/connector.py"


def as_pair(resolved: Resolved) -> Resolved:
    """A flexible pool as the pair of equal pools that it is at any moment, which share its workers."""
    if not resolved.flexible:
        return resolved
    (pool,) = resolved.pools
    readers = max(1, pool.workers // 2)
    role = "kv_producer" if pool.connector.role == "kv_consumer" else pool.connector.role
    prefill = replace(
        pool, name="prefill", phase="prefill", workers=readers, connector=replace(pool.connector, role=role)
    )
    return replace(resolved, pools=(prefill, replace(pool, name="decode", workers=max(1, pool.workers - readers))))


def of_one_pool(findings: Iterator[Finding], resolved: Resolved) -> Iterator[Finding]:
    """Findings of both halves of a flexible pool as findings of the pool, each once."""
    if not resolved.flexible:
        return findings
    name = resolved.name
    halves = {f"{name}.prefill.", f"{name}.decode."}

    def renamed(finding: Finding) -> Finding:
        half = next((half for half in halves if finding.path.startswith(half)), None)
        return finding if half is None else replace(finding, path=f"{name}.flexible.{finding.path.removeprefix(half)}")

    return iter(dict.fromkeys(map(renamed, findings)))


@rule(
    code="TND0310",
    title="flexible workers run an engine that is told with each request what to do",
    story="""vLLM reads and writes by what a request says, so a worker can change between the two from one request to
    the next. A TensorRT-LLM server is a context or a generation server from its start on: a context server without
    overlap scheduler and graphs would decode many times slower.""",
    source="vLLM 0.32.0 nixl/pull_scheduler.py; TensorRT-LLM 1.2 trtllm-serve --server_role",
)
def takes_both(resolved: Resolved) -> Iterator[Breach]:
    """The engine of a flexible pool is vLLM."""
    if resolved.flexible and resolved.pools[0].vllm is None:
        message = f"{resolved.pools[0].engine_name} servers are made for one phase at their start; none could change"
        yield Breach(path="flexible.engine", message=message, fix="use engine=tandem.Vllm(), or prefill and decode")


@rule(
    code="TND0311",
    title="flexible workers hand KV over by NIXL in pull mode",
    story="""In pull mode the one that writes fetches from the one that read, by what the request carries, and nothing
    is set up before. In push mode, and with other connectors, both sides know their part from the start: requests that
    come the other way round are computed twice, or fail.""",
    source="vLLM 0.32.0 nixl/pull_scheduler.py and push_scheduler.py",
)
def pulls(resolved: Resolved) -> Iterator[Breach]:
    """The connector of a flexible pool is NIXL's in pull mode."""
    pool = resolved.pools[0]
    if resolved.flexible and pool.vllm and pool.connector.name not in PULL_CONNECTORS:
        message = f"{pool.connector.name} does not let a worker change between the phases"
        yield Breach(path="flexible.connector.name", message=message, fix="use 'NixlConnector'")


@rule(
    code="TND0312",
    title="flexible workers are configured as consumers",
    story="""Only an engine whose role takes KV in puts off freeing blocks while two batches overlap. A producer that is
    asked to decode loads KV into a block that the batch before may still write to: a wrong answer with status 200, now
    and then.""",
    source=_SCHEDULER,
)
def consumes(resolved: Resolved) -> Iterator[Breach]:
    """No flexible worker has the role kv_producer."""
    if resolved.flexible and resolved.pools[-1].connector.role == "kv_producer":
        message = "a producer that writes answers may lose KV that it fetched to a batch that is still under way"
        yield Breach(path="flexible.connector.role", message=message, fix="drop the role")


@rule(
    code="TND0313",
    title="flexible workers read prompts without context parallelism",
    story="""The NIXL connector takes prefill context parallelism of producers only: a worker that may also fetch KV
    ends at its start with NotImplementedError.""",
    source=f"{_CONNECTOR}: prefill_context_parallel_size",
)
def no_context_parallelism(resolved: Resolved) -> Iterator[Breach]:
    """extra_args of a flexible pool has no --prefill-context-parallel-size above 1."""
    for flag, *values in split_flags(resolved.pools[0].extra_args) if resolved.flexible else ():
        if flag in {"--prefill-context-parallel-size", "-pcp"} and values != ["1"]:
            message = (
                f"{flag} {' '.join(values)} makes a worker one that only reads; it would not start as a flexible one"
            )
            yield Breach(path="flexible.extra_args", message=message, fix=f"take {flag} out, or use prefill and decode")


@rule(
    code="TND0314",
    severity="warning",
    title="a flexible pool has three workers or more",
    story="""There is one worker on each side at least. Two are a pair that cannot move, and one alone hands nothing
    over: both are served, as a fixed pair and as an aggregated service are.""",
    source="tandem_worker.gateway.roles",
)
def has_someone_to_spare(resolved: Resolved) -> Iterator[Breach]:
    """A flexible pool has three workers or can grow to them."""
    if not resolved.flexible:
        return
    pools = resolved.pools
    workers = sum(pool.workers for pool in pools)
    most = max([workers, *(each.workers_max or 0 for pool in pools for each in pool.autoscalers)])
    if most < 3:
        message = "with fewer than three workers none changes sides: two take a phase each for good, one serves alone"
        yield Breach(path="flexible.workers", message=message, fix="use workers=3 or more")


@rule(
    code="TND0315",
    title="nothing else decides how many flexible workers read and how many write",
    story="""A ratio of the pools, or pods that hold an engine of each, fixes what a flexible pool leaves to the load.
    The declaration says two things, of which one would not happen.""",
    source="pulumi_tandem.declare.service",
)
def has_no_ratio(resolved: Resolved) -> Iterator[Breach]:
    """A flexible service has no prefill_per_decode and no paired pods."""
    if resolved.flexible and resolved.prefill_per_decode is not None:
        message = "a ratio of prefill to decode workers is declared, and flexible workers have none for long"
        yield Breach(
            path="prefill_per_decode", message=message, fix="drop prefill_per_decode, or use prefill and decode"
        )
    if resolved.flexible and resolved.paired_pods:
        message = "paired pods hold an engine of each phase, and flexible workers have no phase of their own"
        yield Breach(path="pods", message=message, fix="use pods='separate', or prefill and decode")
