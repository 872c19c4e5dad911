"""How many workers autoscalers may make of each pool: together never more than the machines hold.

An autoscaler knows its own pool only. So what is left of the machines is dealt out once, here, and no pool can take
what another one may grow into.
"""

import math
from collections.abc import Iterable, Mapping

from pulumi_tandem.check.asked import gpus_of_pool, pools_by_nodes
from pulumi_tandem.resolve import Resolved, ResolvedPool


def workers_max(resolved: Resolved) -> dict[str, int | None]:
    """Most workers of each pool by its name: as declared, as the ratio wants it, and as the machines hold.

    Where nobody says how many there may be, nor how many machines there are, a pool of ours stays at the workers that
    are declared; for one that something else scales it is None.
    """
    wanted = _in_ratio(resolved, {pool.name: _declared(pool) for pool in resolved.pools})
    for nodes, pools in pools_by_nodes(resolved):
        if nodes.gpus_max is not None:
            wanted |= _dealt(resolved, pools, wanted, nodes.gpus_max)
    if resolved.paired_pods:
        wanted = dict.fromkeys(wanted, min(wanted.values()))
    most = _in_ratio(resolved, wanted)
    return {pool.name: _known(pool, most[pool.name]) for pool in resolved.pools}


def _known(pool: ResolvedPool, most: float) -> int | None:
    if math.isfinite(most):
        return int(most)
    return None if pool.autoscalers[0].kind == "other" else pool.workers


def _declared(pool: ResolvedPool) -> float:
    if not pool.autoscalers:
        return pool.workers
    return pool.autoscalers[0].workers_max or math.inf


def _least(pool: ResolvedPool) -> int:
    return max(1, pool.autoscalers[0].workers_min) if pool.autoscalers else pool.workers


def _dealt(
    resolved: Resolved, pools: Iterable[ResolvedPool], wanted: Mapping[str, float], gpus_max: int
) -> dict[str, int]:
    """Worker by worker, each to the pool that has the smallest part of what it may have, until none fits."""
    by_name = {pool.name: pool for pool in pools}
    units = [tuple(by_name)] if resolved.paired_pods else [(name,) for name in by_name]
    count = {name: _least(pool) for name, pool in by_name.items()}
    wanted = {name: min(wanted[name], gpus_max // pool.gpus_per_worker) for name, pool in by_name.items()}

    def gpus(names: Iterable[str]) -> int:
        return sum(by_name[name].gpus_per_worker for name in names)

    free = gpus_max - sum(gpus_of_pool(pool, count[name]) for name, pool in by_name.items())
    while True:
        growing = [unit for unit in units if gpus(unit) <= free and all(count[name] < wanted[name] for name in unit)]
        if not growing:
            return count
        unit = min(growing, key=lambda names: count[names[0]] / wanted[names[0]])
        free -= gpus(unit)
        count |= {name: count[name] + 1 for name in unit}


def _in_ratio(resolved: Resolved, most: Mapping[str, float]) -> dict[str, float]:
    """The same, without what a pool could never use since the other one ends before."""
    ratio = resolved.prefill_per_decode
    if ratio is None or resolved.paired_pods or not {"prefill", "decode"} <= set(most):
        return dict(most)
    prefill = min(most["prefill"], _whole(ratio.at_most * most["decode"]))
    decode = min(most["decode"], _whole(prefill / ratio.at_least)) if ratio.at_least else most["decode"]
    return {**most, "prefill": max(1, prefill), "decode": max(1, decode)}


def _whole(number: float) -> float:
    return math.floor(round(number, 9)) if math.isfinite(number) else number
