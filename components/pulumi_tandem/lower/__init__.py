"""Turns a resolved service into the exact processes that serve it.

Input: `Resolved`, accepted by `check`. Output: `Fleet`. Engine knowledge lives here, one module an
engine, and nowhere else. Lowering names ports and addresses; it never picks them.
"""

from collections.abc import Callable, Mapping, Sequence

from pulumi_tandem.declare import TensorRtLlm, Vllm
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.lower import tensorrt_llm, vllm
from pulumi_tandem.lower.fleet import Fleet, LoweredPool, ProofSpec
from pulumi_tandem.lower.hashes import generation_of, pair_key_of, sealed
from pulumi_tandem.lower.refused import not_deployed
from pulumi_tandem.lower.scaling import scaling
from pulumi_tandem.plan.worthwhile import decodes_max, hand_off_tokens_min
from pulumi_tandem.resolve import Resolved, ResolvedPool
from tandem_worker.contract import GatewaySpec, WorkerSpec, why_apart

__all__ = ["Fleet", "GatewaySpec", "LoweredPool", "ProofSpec", "lower", "seal", "why_apart"]

WORKERS: Mapping[type, Callable[[Resolved, ResolvedPool], WorkerSpec]] = {
    Vllm: vllm.worker,
    TensorRtLlm: tensorrt_llm.worker,
}
"""What lowers a pool, by its engine."""


def lower(resolved: Resolved) -> Fleet:
    """The fleet of a service that `check` has no error for.

    Raises DeclarationError with everything that can be checked and is not deployed by this version.
    """
    if refused := not_deployed(resolved):
        raise DeclarationError(refused)
    drafts = [WORKERS[type(pool.engine)](resolved, pool) for pool in resolved.pools]
    generation = generation_of(drafts)
    specs = [
        draft.model_copy(update={"generation": generation, "pair_key": pair_key_of(draft.factors)}) for draft in drafts
    ]
    return Fleet(
        service=resolved.name,
        generation=generation,
        pair_key=specs[0].pair_key,
        disaggregated=resolved.disaggregated,
        in_place=resolved.in_place,
        pools=tuple(
            LoweredPool(name=pool.name, phase=pool.phase, phases=pool.phases, workers=pool.workers, spec=spec)
            for pool, spec in zip(resolved.pools, specs, strict=True)
        ),
        gateway=_gateway(resolved, specs[0]),
        proof=ProofSpec(
            transport=resolved.transfer.transport,
            kv_gb_per_s_min=resolved.transfer.kv_gb_per_s_min,
            keep_failed=resolved.keep_failed,
            divergence_gap_nats_max=resolved.divergence_gap_nats_max,
        ),
    )


def seal(fleet: Fleet, around: Sequence[str]) -> Fleet:
    """The fleet as another generation, which also tells of what a target puts around its workers.

    `around`: images, pod settings, in words; equal words, equal generation.
    """
    generation = sealed(fleet.generation, around)
    pools = tuple(
        pool.model_copy(update={"spec": pool.spec.model_copy(update={"generation": generation})})
        for pool in fleet.pools
    )
    return fleet.model_copy(update={"generation": generation, "pools": pools})


def _gateway(resolved: Resolved, spec: WorkerSpec) -> GatewaySpec:
    limits, ratio = resolved.limits, resolved.prefill_per_decode
    return GatewaySpec(
        service=resolved.name,
        served_names=resolved.served_names,
        dialect=spec.dialect,
        disaggregated=resolved.disaggregated,
        survivors_serve_both=resolved.survivors_serve_both,
        context_tokens_max=min(pool.context_tokens for pool in resolved.pools),
        requests_running_max=limits.requests_running_max,
        requests_waiting_max=limits.requests_waiting_max,
        request_timeout_s=limits.request_timeout_s,
        prefill_timeout_s=limits.prefill_timeout_s,
        stall_timeout_s=limits.stall_timeout_s,
        attempts_max=limits.attempts_max,
        body_bytes_max=limits.body_bytes_max,
        resume=resolved.resume,
        resume_tokens_max=limits.resume_tokens_max,
        drain_timeout_s=resolved.grace.drain_timeout_s,
        prefill_per_decode_min=ratio.at_least if ratio else 0.0,
        prefill_per_decode_max=ratio.at_most if ratio else 0.0,
        scaling=scaling(resolved),
        decodes_max=decodes_max(resolved, resolved.pools[0]) if resolved.flexible else 0,
        hand_off_tokens_min=hand_off_tokens_min(resolved),
        prefix_cached=all(pool.vllm is None or pool.vllm.prefix_caching for pool in resolved.pools),
    )
