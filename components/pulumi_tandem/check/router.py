"""Codes 0294 to 0297: routers in the gateway's place, and what the front door lays open."""

from collections.abc import Iterator

from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

_PREFILL_TIMEOUT_S = {"aibrix": 30.0}
"""How long a router that is told nothing waits for prefill. Source: AIBrix, AIBRIX_PREFILL_REQUEST_TIMEOUT."""
_ON = {"1", "true"}


@rule(
    code="TND0294",
    title="a router addresses the ranks that a pod has",
    story="""A router that deals requests out to data-parallel ranks is told how many a pod has. With more, a share of
    the requests names a rank that is not there and fails; with fewer, some ranks are never asked.""",
    source="vllm-router 0.1.17 vllm_router/router_args.py, --intra-node-data-parallel-size",
)
def router_knows_ranks(resolved: Resolved) -> Iterator[Breach]:
    """front_door.ranks_per_pod, above 1, is every pool's data parallelism on one machine."""
    addressed = resolved.front_door.ranks_per_pod if resolved.front_door else 1
    for pool in resolved.pools if addressed > 1 else ():
        has = -(-pool.data_parallel // pool.nodes_per_worker)
        if has != addressed:
            message = f"the router addresses {addressed} ranks of a pod, and {pool.name} has {has}"
            yield Breach(path="front_door.ranks_per_pod", message=message, fix=f"use {has}")
            return


@rule(
    code="TND0295",
    severity="warning",
    title="a router waits as long as prefill may take",
    story="""A router that runs prefill and decode one after the other has a timeout for the first. A prompt that takes
    longer fails at that limit every time, or is read again elsewhere, while the engine goes on with it.""",
    source="vllm-project/aibrix, AIBRIX_PREFILL_REQUEST_TIMEOUT (30 s)",
)
def router_outlasts_prefill(resolved: Resolved) -> Iterator[Breach]:
    """front_door.prefill_timeout_s is at least limits.prefill_timeout_s."""
    door = resolved.front_door
    if door is None or not resolved.disaggregated:
        return
    given = door.prefill_timeout_s
    limit = _PREFILL_TIMEOUT_S.get(door.implementation, 0.0) if given is None else given
    longest = resolved.limits.prefill_timeout_s
    if 0 < limit < longest:
        message = f"{door.implementation} gives prefill {limit:g} s, and the service lets it take {longest:g} s"
        fix = f"use prefill_timeout_s={longest:g} or more, or a shorter limits.prefill_timeout_s"
        yield Breach(path="front_door.prefill_timeout_s", message=message, fix=fix)


@rule(
    code="TND0296",
    severity="warning",
    title="engines publish the events that a router goes by",
    story="""vLLM publishes what it caches only when it is told to, and never without prefix caching. A router that
    waits for such events sees empty caches on every worker and spreads requests as if there were none; no error
    says so.""",
    source="ai-dynamo 1.6.1 vllm/args.py create_kv_events_config; vLLM 0.33 config/kv_events.py",
)
def events_are_published(resolved: Resolved) -> Iterator[Breach]:
    """With front_door.kv_events, the pool that reads prompts has --kv-events-config and prefix caching."""
    if resolved.front_door is None or not resolved.front_door.kv_events:
        return
    for pool in resolved.pools:
        reads = pool.phase == "prefill" or not resolved.disaggregated
        if reads and pool.vllm and not (_publishes(pool) and pool.vllm.prefix_caching):
            message = f"the router goes by events of what is cached, and {pool.name} publishes none"
            fix = "give the pool --kv-events-config and prefix caching, or drop kv_events"
            yield Breach(path="front_door.kv_events", message=message, fix=fix)


@rule(
    code="TND0297",
    severity="warning",
    title="an engine's control paths are not behind a public door",
    story="""VLLM_SERVER_DEV_MODE adds paths to the serving port that put the engine to sleep, empty its cache, and run
    any method on its workers. Whoever reaches the port can use them.""",
    source="vLLM 0.32/0.33 entrypoints: routes under VLLM_SERVER_DEV_MODE (/sleep, /collective_rpc, ...)",
)
def no_control_in_public(resolved: Resolved) -> Iterator[Breach]:
    """VLLM_SERVER_DEV_MODE is off where the front door is public."""
    if resolved.front_door is None or not resolved.front_door.public:
        return
    for pool in resolved.pools:
        if dict(pool.env).get("VLLM_SERVER_DEV_MODE", "").lower() in _ON:
            message = "development mode opens control paths on the serving port, and the front door is public"
            fix = "drop it, or keep the front door inside"
            yield Breach(path=f"{pool.name}.env.VLLM_SERVER_DEV_MODE", message=message, fix=fix)


def _publishes(pool: ResolvedPool) -> bool:
    return any(flag[0].partition(".")[0] == "--kv-events-config" for flag in split_flags(pool.extra_args))
