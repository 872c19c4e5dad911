"""What given pools do under the load."""

from math import inf

from pulumi_tandem.declare import Workload
from pulumi_tandem.estimate import EngineSetup, Fabric, Interval, KvCache, kv_bytes, transfer_s
from pulumi_tandem.plan.candidate import Candidate
from pulumi_tandem.plan.demand import Demand
from pulumi_tandem.plan.machine import fabric
from pulumi_tandem.plan.option import Option, PlannedPool
from pulumi_tandem.plan.reading import Reading, reading, ttft_s
from pulumi_tandem.plan.writing import Decoder, Server, at_most, batches, running

ENDLESS = Interval(inf, inf, inf)
"""Where the queue only grows."""


def pair_option(prefill: tuple[Candidate, int], decode: tuple[Candidate, int], *, wanted: Demand) -> Option:
    """Prefill and decode workers, each with their number, under the load."""
    (reader, readers), (writer, writers) = prefill, decode
    workload = wanted.workload
    prompts = reading(reader.setup, workload, quantile=wanted.quantile)
    moved_s = hand_off_s(reader, writer, wanted=wanted)
    pool, tpot = _written(decode, decoder(writer, workload), "decode", wanted)
    busy = workload.requests_per_s * prompts.engine_s.mid / readers
    ttft = ttft_s(prompts, workers=readers, requests_per_s=workload.requests_per_s, after_s=moved_s + tpot)
    line = link(reader, writer, wanted=wanted)
    planned = PlannedPool(
        name="prefill",
        candidate=reader,
        workers=readers,
        sequences=_in_steps(reader.setup.batch_tokens / workload.prompts.mean),
        running=busy,
        busy=busy,
    )
    return _option(
        (planned, pool),
        (ttft, tpot),
        workload=workload,
        transfer=moved_s,
        kv_gb_per_s=workload.requests_per_s * kv_moved_bytes(writer.setup, workload) / 1e9,
        link_gb_per_s=line.efficiency * min(readers * line.prefill_gb_per_s, writers * line.decode_gb_per_s),
    )


def serve_option(serve: tuple[Candidate, int], *, wanted: Demand) -> Option:
    """Aggregated workers under the load."""
    shape, workers = serve
    workload = wanted.workload
    worker = server(shape, workload)
    pool, tpot = _written(serve, worker, "serve", wanted)
    if tpot == ENDLESS:
        return _option((pool,), (ENDLESS, tpot), workload=workload)
    prompts = stretched(worker, reading(shape.setup, workload, quantile=wanted.quantile), pool.running)
    after_s = worker.step_s(pool.running)
    ttft = ttft_s(prompts, workers=workers, requests_per_s=workload.requests_per_s, after_s=after_s)
    return _option((pool,), (ttft, tpot), workload=workload)


def decoder(shape: Candidate, workload: Workload) -> Decoder:
    """The shape as a worker that only decodes."""
    return Decoder(setup=shape.setup, workload=workload, sequences_max=shape.sequences_max)


def server(shape: Candidate, workload: Workload) -> Server:
    """The shape as a worker that does both."""
    return Server(setup=shape.setup, workload=workload, sequences_max=shape.sequences_max)


def stretched(worker: Server, prompts: Reading, batch: float) -> Reading:
    """Reading on a worker that runs a batch besides."""
    return prompts.stretched(worker.stretch(batch, prompts.mean_s.mid))


def link(prefill: Candidate, decode: Candidate, *, wanted: Demand) -> Fabric:
    """The network between two workers."""
    return fabric(wanted.transport, (prefill.setup, prefill.machine), (decode.setup, decode.machine))


def hand_off_s(prefill: Candidate, decode: Candidate, *, wanted: Demand) -> Interval:
    """Transfer of a mean prompt."""
    line = link(prefill, decode, wanted=wanted)
    return transfer_s(prefill.setup, decode.setup, line, prompt_tokens=round(wanted.workload.prompts.mean))


def kv_moved_bytes(decode: EngineSetup, workload: Workload) -> float:
    """Keys and values of a mean prompt."""
    cache = KvCache(kv_dtype=decode.kv_dtype, dtype=decode.dtype, block_tokens=decode.block_tokens)
    return kv_bytes(decode.shape, cache, round(workload.prompts.mean))


def _written(
    sized: tuple[Candidate, int], writer: Decoder | Server, name: str, wanted: Demand
) -> tuple[PlannedPool, Interval]:
    """The pool that writes answers, and its TPOT."""
    shape, workers = sized
    each = wanted.workload.requests_per_s / workers
    fitting = list(batches(writer, quantile=wanted.quantile, tpot_s_max=wanted.tpot_s_max))
    batch = running(writer, requests_per_s=each, most=float(shape.sequences_max))
    # The smallest batch that takes the load: whoever runs more than it at once has an overload that should wait.
    most = next((one.most for one in fitting if one.requests_per_s >= each), float(shape.sequences_max))
    pool = PlannedPool(
        name=name,
        candidate=shape,
        workers=workers,
        sequences=min(shape.sequences_max, _in_steps(most)),
        running=batch if batch is not None else float(shape.sequences_max),
        busy=each / fitting[-1].requests_per_s if fitting else inf,
    )
    if batch is None:
        return pool, ENDLESS
    return pool, writer.tpot_s(min(at_most(batch, wanted.quantile), float(shape.sequences_max)))


def _option(
    pools: tuple[PlannedPool, ...],
    times: tuple[Interval, Interval],
    *,
    workload: Workload,
    transfer: Interval | None = None,
    kv_gb_per_s: float = 0.0,
    link_gb_per_s: float = 0.0,
) -> Option:
    ttft, tpot = times
    output = workload.outputs.mean
    return Option(
        kind="aggregated" if len(pools) == 1 else "disaggregated",
        pools=pools,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=ttft if output <= 1 else ttft + tpot * (output - 1),
        transfer_s=transfer,
        kv_gb_per_s=kv_gb_per_s,
        link_gb_per_s=link_gb_per_s,
        output_tokens_per_s=workload.requests_per_s * output,
    )


def _in_steps(sequences: float) -> int:
    """Rounded up to a multiple of eight, as engines capture graphs."""
    return 8 * max(1, -int(-sequences // 8))
