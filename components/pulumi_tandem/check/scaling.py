"""Codes 0260 to 0279, 0298 and 0299: who moves the number of workers, and how workers are replaced."""

import math
from collections.abc import Iterator

from pulumi_tandem.check.asked import gpus_of_pool, nodes_path, pools_by_nodes
from pulumi_tandem.check.capacity import kv_gib, kv_room_gib
from pulumi_tandem.check.registry import Breach, Rule, register, rule
from pulumi_tandem.declare import Ratio
from pulumi_tandem.resolve import Resolved, ResolvedPool

_ENOUGH = 10_000
"""Decode workers that are tried beyond the fewest where their most is not known."""
_LOOK_BACK_S = 300.0
"""Source: as in TND0299; KEDA, cooldownPeriod, is as long."""


@rule(
    code="TND0260",
    title="one autoscaler moves a pool",
    story="""Two autoscalers on one workload undo each other's decisions. KEDA makes a HorizontalPodAutoscaler of
    its own for each ScaledObject, and its webhook refuses a workload that has one already.""",
    source="kserve/kserve#5196; KEDA admission webhook",
)
def one_autoscaler(resolved: Resolved) -> Iterator[Breach]:
    """No pool has more than one autoscaler."""
    for pool in resolved.pools:
        if len(pool.autoscalers) > 1:
            kinds = " and ".join(each.kind for each in pool.autoscalers)
            message = f"{kinds} would move the same pool, and undo each other's decisions"
            yield Breach(path=f"{pool.name}.autoscalers", message=message, fix="keep one of them")


@rule(
    code="TND0261",
    title="bounds of autoscaling leave room for the ratio",
    story="""Autoscaling keeps the number of prefill workers per decode worker within bounds. Where no two counts
    within the pools' own bounds have such a ratio, one of the bounds is broken at all times.""",
    source="volcano-sh/kthena#917",
)
def ratio_is_reachable(resolved: Resolved) -> Iterator[Breach]:
    """Some pair of counts within the bounds has a ratio within its own."""
    ratio = resolved.prefill_per_decode
    if ratio is None or not resolved.disaggregated:
        return
    (p_min, p_max), (d_min, d_max) = (_bounds(resolved.pool(name)) for name in ("prefill", "decode"))
    decodes = range(max(1, d_min), (d_max or d_min + _ENOUGH) + 1)
    if any(_prefill_fits(ratio, decode, p_min, p_max) for decode in decodes):
        return
    message = (
        f"{_words(p_min, p_max)} prefill and {_words(d_min, d_max)} decode workers have no ratio between "
        f"{ratio.at_least:g} and {ratio.at_most:g}"
    )
    yield Breach(path="prefill_per_decode", message=message, fix="let bounds and ratio overlap")


def _prefill_fits(ratio: Ratio, decode: int, least: int, most: int | None) -> bool:
    """Whether some whole number of prefill workers within the bounds goes with so many decode workers."""
    low = max(least, math.ceil(round(ratio.at_least * decode, 9)))
    high = math.floor(round(ratio.at_most * decode, 9))
    return low <= (high if most is None else min(most, high))


@rule(
    code="TND0262",
    severity="warning",
    title="what an autoscaler owns is not written by others",
    story="""A count that is declared and applied again takes back what the autoscaler decided: workers vanish under
    load after each update, or come back at night.""",
    source="kedacore/keda#5572; Pulumi, ignoreChanges",
)
def workers_have_one_owner(resolved: Resolved) -> Iterator[Breach]:
    """owns_workers holds where there is an autoscaler."""
    for pool in resolved.pools:
        if any(not each.owns_workers for each in pool.autoscalers):
            message = f"the pool would go back to {pool.workers} workers at every update, whatever was decided"
            yield Breach(path=f"{pool.name}.autoscalers", message=message, fix="drop owns_workers=False")


@rule(
    code="TND0263",
    severity="warning",
    title="all autoscalers together fit the machines",
    story="""When both pools grow to their most, GPUs run out, and whichever comes second stays Pending: often the
    role that was short. What one pool can take from the other is decided by chance.""",
    source="pulumi_tandem.check",
)
def maxima_fit(resolved: Resolved) -> Iterator[Breach]:
    """GPUs of all workers_max are within their node pool's."""
    for nodes, pools in pools_by_nodes(resolved):
        scaled = [pool for pool in pools if pool.autoscalers]
        most = sum(gpus_of_pool(pool, _bounds(pool)[1] or pool.workers) for pool in pools)
        least = sum(gpus_of_pool(pool, _bounds(pool)[0]) for pool in pools)  # TND0298 tells of it
        now = sum(gpus_of_pool(pool) for pool in pools)
        if scaled and nodes.gpus_max is not None and most > nodes.gpus_max >= max(now, least):
            message = f"at their most the pools take {most} GPUs, and {nodes.name!r} can have {nodes.gpus_max}"
            fix = "lower workers_max until they fit, or let the node pool grow"
            yield Breach(path=f"{scaled[0].name}.autoscalers", message=f"{message}; some would stay Pending", fix=fix)


@rule(
    code="TND0298",
    title="the fewest workers of all pools fit the machines",
    story="""An autoscaler keeps at least its minimum, whatever the load. Minima that take more GPUs than there are
    leave workers Pending from the first day, and the autoscaler has no room left to act in.""",
    source="pulumi_tandem.check; Kubernetes, HorizontalPodAutoscaler v2, minReplicas",
)
def minima_fit(resolved: Resolved) -> Iterator[Breach]:
    """GPUs of all workers_min are within their node pool's."""
    for nodes, pools in pools_by_nodes(resolved):
        scaled = [pool for pool in pools if pool.autoscalers]
        least = sum(gpus_of_pool(pool, _bounds(pool)[0]) for pool in pools)
        now = sum(gpus_of_pool(pool) for pool in pools)  # TND0230 tells of workers that are declared
        if scaled and nodes.gpus_max is not None and least > nodes.gpus_max >= now:
            message = f"at their fewest the pools take {least} GPUs, and {nodes.name!r} can have {nodes.gpus_max}"
            fix = "lower workers_min until they fit, or add machines"
            yield Breach(path=f"{scaled[0].name}.autoscalers", message=f"{message}; some would stay Pending", fix=fix)


@rule(
    code="TND0299",
    severity="warning",
    title="a worker that is asked for comes while it is needed",
    story="""An autoscaler that reacts to load adds a worker once requests wait. A machine without the image pulls it
    first; where that alone takes more than five minutes, the window over which a HorizontalPodAutoscaler looks back
    before it scales down, the burst is over when the worker comes.""",
    source="Kubernetes, HorizontalPodAutoscaler, --horizontal-pod-autoscaler-downscale-stabilization (300 s)",
)
def workers_come_in_time(resolved: Resolved) -> Iterator[Breach]:
    """image_pull_s of a pool that is scaled is at most 300 s."""
    for pool in resolved.pools:
        least, most = _bounds(pool)
        pull_s = pool.pod.image_pull_s or 0.0
        if pool.autoscalers and most != least and pull_s > _LOOK_BACK_S:
            message = f"a worker on a new machine waits {pull_s:g} s for its image; it would come after the burst"
            fix = "keep the image on the machines (a cache, a snapshot of the disk), and raise workers_min"
            yield Breach(path=f"{pool.name}.autoscalers", message=message, fix=fix)


@rule(
    code="TND0264",
    severity="warning",
    title="both roles go to zero together, or neither does",
    story="""With one role at zero the other serves whole requests by itself, or none. Requests come back with 200
    and without disaggregation, or fail while the first worker of the role loads for minutes.""",
    source="pulumi_tandem.check; KEDA, minReplicaCount",
)
def zero_together(resolved: Resolved) -> Iterator[Breach]:
    """No role alone has workers_min 0."""
    empty = [pool for pool in resolved.pools if pool.autoscalers and _bounds(pool)[0] == 0]
    if resolved.disaggregated and len(empty) == 1:
        message = f"{empty[0].name} may go to zero while the other role stays; nothing would be disaggregated then"
        yield Breach(path=f"{empty[0].name}.autoscalers", message=message, fix="use workers_min=1, or 0 on both")


@rule(
    code="TND0265",
    title="an autoscaler's bounds are in order",
    story="""A least above the most is refused by Kubernetes when the object is made, after the rest of the stack.""",
    source="Kubernetes, HorizontalPodAutoscaler v2, minReplicas and maxReplicas",
)
def bounds_in_order(resolved: Resolved) -> Iterator[Breach]:
    """workers_min is at most workers_max."""
    for pool in resolved.pools:
        for each in pool.autoscalers:
            if each.workers_max is not None and each.workers_min > each.workers_max:
                message = f"at least {each.workers_min} and at most {each.workers_max}; Kubernetes refuses it"
                yield Breach(path=f"{pool.name}.autoscalers", message=message, fix="swap them, or raise workers_max")


@rule(
    code="TND0266",
    severity="warning",
    title="the front door lets in as many requests as the largest pool serves",
    story="""The front door lets a fixed number of requests in, however large the pools are. Those that wait before it
    are no load of any worker, so the autoscaler stays below its most while clients wait, and in the end get 429. What a
    worker has room for is counted with answers of the whole context: shorter ones are more.""",
    source="tandem_worker.gateway.admit and scale",
)
def door_as_wide_as_pools(resolved: Resolved) -> Iterator[Breach]:
    """requests_running_max is more than all workers but one of the largest decode pool serve at once."""
    limit = resolved.limits.requests_running_max
    for pool in resolved.pools:
        (least, most), answers = _bounds(pool), _answers(resolved, pool)
        if not pool.autoscalers or pool.phase == "prefill" or most is None or not answers:
            continue
        used = max(least, math.ceil(limit / answers))
        if used < most:
            message = (
                f"{limit} requests at once are served by {used} {pool.name} workers ({answers} each), and the pool may "
                f"have {most}; the rest would never be needed"
            )
            fix = f"use requests_running_max={answers * most}, or workers_max={used}"
            yield Breach(path="limits.requests_running_max", message=message, fix=fix)


def _answers(resolved: Resolved, pool: ResolvedPool) -> int:
    """Answers of the whole context that one worker writes at once."""
    in_memory = kv_room_gib(resolved, pool) // kv_gib(resolved, pool, pool.context_tokens)
    return pool.data_parallel * min(pool.sequences, max(0, int(in_memory)))


@rule(
    code="TND0270",
    title="a rolling update can take its first step",
    story="""A Deployment starts new pods beyond its count (surge) or stops old ones first (unavailable). With
    neither it is refused. With surge alone it needs GPUs that nobody has: where all are taken, the new pod stays
    Pending, no old one is stopped, and the update hangs until somebody looks.""",
    source="Kubernetes, Deployment rolling update; llm-d/llm-d#499",
)
def update_can_start(resolved: Resolved) -> Iterator[Breach]:
    """Surge and unavailable are not both 0, and surge alone finds free GPUs."""
    for pool in resolved.pools:
        update = pool.pod.rolling_update
        path = f"{pool.name}.pod.rolling_update"
        if update is None or update.max_unavailable:
            continue
        if not update.max_surge:
            message = "max_surge and max_unavailable are both 0; Kubernetes refuses it"
            yield Breach(path=path, message=message, fix="use max_unavailable=1")
            continue
        spare = _spare_gpus(resolved, pool)
        if spare is not None and spare < pool.gpus_per_worker:
            message = (
                f"an update starts a worker of {pool.gpus_per_worker} GPUs before it stops one, and {spare} are free; "
                "it would hang"
            )
            yield Breach(path=path, message=message, fix="use max_surge=0 and max_unavailable=1")


@rule(
    code="TND0271",
    severity="warning",
    title="workers of two versions are not paired while an update is under way",
    story="""Rolling updates of two roles go at their own speed, so old and new workers are there at once. Engines
    of two versions, or with any setting of the handshake changed, refuse each other: those requests fail, or run
    without disaggregation, for as long as the update takes. Tandem's generations never pair an old worker with a
    new one.""",
    source="llm-d/llm-d#499; kserve/kserve#6218; vLLM 0.33 nixl/metadata.py compute_nixl_compatibility_hash",
)
def updates_are_paired(resolved: Resolved) -> Iterator[Breach]:
    """Rolling updates of a pair go with pairing by revision."""
    updates = [(pool, pool.pod.rolling_update) for pool in resolved.pools]
    unpaired = [pool for pool, update in updates if update and not update.pairs_revisions]
    if resolved.disaggregated and len(unpaired) == len(resolved.pools):
        message = "both roles are updated pod by pod, and nothing keeps old workers from being paired with new ones"
        fix = "drop rolling_update (generations), or use a router that pairs equal revisions"
        yield Breach(path=f"{unpaired[0].name}.pod.rolling_update", message=message, fix=fix)


@rule(
    code="TND0272",
    severity="warning",
    title="generations have room beside each other",
    story="""A new generation starts and proves itself while the old one serves. Without GPUs for both its pods stay
    Pending and the update fails; the old generation goes on serving.""",
    source="pulumi_tandem.declare.service, Service.rollout",
)
def generations_have_room(resolved: Resolved) -> Iterator[Breach]:
    """rollout 'generations' finds twice the GPUs."""
    if resolved.in_place or any(pool.pod.rolling_update for pool in resolved.pools):
        return
    for nodes, pools in pools_by_nodes(resolved):
        needed = sum(gpus_of_pool(pool) for pool in pools)
        if nodes.gpus_max is not None and needed <= nodes.gpus_max < 2 * needed:
            message = f"an update needs {2 * needed} GPUs for a while, and {nodes.name!r} can have {nodes.gpus_max}"
            fix = "let the node pool grow, or use rollout='in_place'"
            yield Breach(path=nodes_path(resolved, nodes), message=f"{message}; it would fail", fix=fix)


@rule(
    code="TND0273",
    severity="warning",
    title="a disruption budget lets machines be emptied",
    story="""A budget that keeps as many pods as there are never lets one go. Draining a machine, upgrading a node
    group and Karpenter all wait for it, until somebody deletes the pod by hand.""",
    source="Kubernetes, disruptions, PodDisruptionBudget",
)
def budget_lets_go(resolved: Resolved) -> Iterator[Breach]:
    """disruption_min_available is less than the workers."""
    for pool in resolved.pools:
        least = pool.pod.disruption_min_available
        count = max(pool.workers, _bounds(pool)[0])
        if least is not None and least >= count:
            message = f"{least} of {count} workers must be there at all times; no machine could be emptied"
            path = f"{pool.name}.pod.disruption_min_available"
            yield Breach(path=path, message=message, fix=f"use {max(count - 1, 0)}, or one more worker")


register(
    Rule(
        code="TND0274",
        severity="warning",
        title="a pool outlives the emptying of one machine",
        story="""A drain of a machine evicts the pods on it one by one, as far as the disruption budget lets it, and
        with one pod there is no other to wait for. Until it runs somewhere else its phase is done by nobody, or by the
        other pool beside its own work; and a large model takes minutes to load. The target that creates the pods says
        it: on one machine of yours, one worker each is what most people want.""",
        source="Kubernetes, disruptions, PodDisruptionBudget; pulumi_tandem.declare.service",
    )
)


def _bounds(pool: ResolvedPool) -> tuple[int, int | None]:
    """Fewest and most workers of a pool; None: no bound is known."""
    if not pool.autoscalers:
        return pool.workers, pool.workers
    return pool.autoscalers[0].workers_min, pool.autoscalers[0].workers_max


def _words(least: int, most: int | None) -> str:
    if most == least:
        return str(least)
    return f"{least} or more" if most is None else f"{least} to {most}"


def _spare_gpus(resolved: Resolved, pool: ResolvedPool) -> int | None:
    """GPUs that no worker takes; None: not known."""
    if pool.nodes is None or pool.nodes.gpus_max is None:
        return None
    here = next(pools for nodes, pools in pools_by_nodes(resolved) if nodes == pool.nodes)
    return pool.nodes.gpus_max - sum(gpus_of_pool(each) for each in here)
