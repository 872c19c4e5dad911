"""The scenario of a declared service: its pools by the estimate, its limits as they stand."""

from dataclasses import replace
from functools import cache
from math import inf

from pulumi_tandem.check.capacity import kv_gib
from pulumi_tandem.declare import Service, Workload
from pulumi_tandem.estimate import EngineSetup, KvCache, kv_bytes, transfer_s
from pulumi_tandem.estimate.constants import constants
from pulumi_tandem.estimate.forward import pass_time
from pulumi_tandem.estimate.work import Batch
from pulumi_tandem.finding import DeclarationError, Finding
from pulumi_tandem.plan.candidate import Candidate, candidate
from pulumi_tandem.plan.machine import fabric
from pulumi_tandem.resolve import Resolved, resolve
from pulumi_tandem.simulate.scenario import FrontDoor, HandOff, PoolModel, Scenario
from pulumi_tandem.simulate.table import tabulated
from pulumi_tandem.simulate.traffic import Traffic
from pulumi_tandem.simulate.worker import PassTime, WorkerModel


def scenario_of(service: Service, traffic: Traffic, *, workload: Workload, warm_up_s: float = 0.0) -> Scenario:
    """A service as it is declared, under that traffic. `workload` says what the traffic is like on average.

    Pass times are the middle of the estimate. Each worker's line is its share of its machine's network, and its start
    takes half of `grace.start_timeout_s`: a guess, which only scaling and deaths ask for.

    Raises DeclarationError where a pool computes on a CPU, or has no room for one request.
    """
    loaded = service.model_copy(update={"workload": workload})
    resolved = resolve(loaded)
    shapes = {pool.name: candidate(loaded, resolved, pool) for pool in resolved.pools if not pool.on_cpu}
    _refuse(service, resolved, shapes)
    lines, hand_off = _hand_off(resolved, shapes)
    pools = {
        name: PoolModel(name=name, workers=((_worker(resolved, shape, workload, lines[name]), shape.pool.workers),))
        for name, shape in shapes.items()
    }
    limits = resolved.limits
    return Scenario(
        traffic=traffic,
        prefill=pools.get("prefill"),
        decode=pools.get("decode") or pools["serve"],
        hand_off=hand_off,
        door=FrontDoor(
            requests_running_max=limits.requests_running_max,
            requests_waiting_max=limits.requests_waiting_max,
            attempts_max=limits.attempts_max,
            resume=resolved.resume,
            survivors_serve_both=resolved.survivors_serve_both,
            request_s=constants(next(iter(shapes.values())).setup).request_ms * 1e-3,
        ),
        objectives=service.objectives,
        warm_up_s=warm_up_s,
    )


def pass_times(setup: EngineSetup) -> PassTime:
    """The middle of the estimate of every pass of an engine."""

    def pass_s(prompt: float, prompt_context: float, sequences: float, context: float) -> float:
        batch = Batch(
            prompt_tokens=prompt,
            prompt_context_tokens=prompt_context,
            sequences=sequences,
            context_tokens=context,
        )
        return pass_time(setup, batch).total_s

    return tabulated(pass_s)


def _worker(resolved: Resolved, shape: Candidate, workload: Workload, line_gb_per_s: float) -> WorkerModel:
    return WorkerModel(
        name=shape.label,
        pass_s=pass_times(shape.setup),
        kv_tokens=_kv_tokens(resolved, shape, _mean_tokens(workload)),
        sequences=shape.pool.sequences * shape.setup.data_parallel,
        batch_tokens=shape.setup.batch_tokens * shape.setup.data_parallel,
        gpus=shape.gpus,
        start_s=resolved.grace.start_timeout_s / 2,
        line_gb_per_s=line_gb_per_s,
    )


def _kv_tokens(resolved: Resolved, shape: Candidate, tokens: int) -> int:
    """Tokens that fit, by what a request of mean length takes: windows make long ones cheaper per token."""
    return int(shape.kv_gib / kv_gib(resolved, shape.pool, tokens) * tokens) * shape.setup.data_parallel


def _hand_off(resolved: Resolved, shapes: dict[str, Candidate]) -> tuple[dict[str, float], HandOff]:
    """What each pool's worker has of the network, in GB/s, and what moving a prompt takes."""
    if not resolved.disaggregated:
        return dict.fromkeys(shapes, inf), HandOff()
    prefill, decode = shapes["prefill"], shapes["decode"]
    line = fabric(resolved.transfer.transport, (prefill.setup, prefill.machine), (decode.setup, decode.machine))
    setup = decode.setup
    cache_of = KvCache(kv_dtype=setup.kv_dtype, dtype=setup.dtype, block_tokens=setup.block_tokens)
    at_once = replace(line, prefill_gb_per_s=inf, decode_gb_per_s=inf)

    @cache
    def moved_bytes(tokens: int) -> float:
        return kv_bytes(setup.shape, cache_of, tokens)

    @cache
    def posted_s(tokens: int) -> float:
        return transfer_s(prefill.setup, decode.setup, at_once, prompt_tokens=tokens).mid

    shares = {"prefill": line.prefill_gb_per_s, "decode": line.decode_gb_per_s}
    lines = {name: share * line.efficiency for name, share in shares.items()}
    return lines, HandOff(kv_bytes=moved_bytes, posted_s=posted_s)


def _mean_tokens(workload: Workload) -> int:
    return round(workload.prompts.mean + workload.outputs.mean)


def _refuse(service: Service, resolved: Resolved, shapes: dict[str, Candidate]) -> None:
    findings: list[Finding] = []
    for pool in resolved.pools:
        if pool.name not in shapes:
            code = "TND0306"
            message = "the pool computes on a CPU, whose speed no table knows; there is nothing to simulate it with"
            fix = "declare a GPU, or simulate with pass times of your own: docs/simulation.md"
        elif not shapes[pool.name].sequences_max:
            code = "TND0034"
            message = f"beside the weights there is no room for one request on {pool.gpu.name}; nothing would be served"
            fix = "use more tensor_parallel, a larger GPU or a smaller type of weights"
        else:
            continue
        path = f"{service.name}.{pool.name}"
        findings.append(Finding(code=code, severity="error", path=path, message=message, fix=fix, source=__name__))
    if findings:
        raise DeclarationError(findings)
