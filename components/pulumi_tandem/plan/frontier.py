"""What each way of serving gives for its GPUs at any speed: the points of the picture."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf

from pulumi_tandem.declare import Service
from pulumi_tandem.plan.evaluate import decoder, hand_off_s, server, stretched
from pulumi_tandem.plan.option import Kind
from pulumi_tandem.plan.reading import BUSY_MAX, reading
from pulumi_tandem.plan.search import Space, space
from pulumi_tandem.plan.writing import batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Shapes and a batch in a deployment so large that whole workers and waiting do not matter."""

    kind: Kind
    label: str
    ttft_ms: float
    """Of a mean prompt that does not wait."""
    tpot_ms: float
    tokens_per_s_gpu: float
    """Output tokens per second and GPU, of both pools."""


def points(service: Service) -> tuple[Point, ...]:
    """Every shape and batch on the GPUs of the service, in no order of merit."""
    within = space(service, by="gpus")
    return (*_pair_points(within), *_serve_points(within))


def frontier(given: Iterable[Point], *, against: str) -> tuple[Point, ...]:
    """The points to which none is better in both: throughput per GPU, and the time `against` (`ttft_ms`, `tpot_ms`).

    From the fastest to the one with the highest throughput.
    """
    best: list[Point] = []
    for point in sorted(given, key=lambda each: (getattr(each, against), -each.tokens_per_s_gpu)):
        if not best or point.tokens_per_s_gpu > best[-1].tokens_per_s_gpu:
            best.append(point)
    return tuple(best)


def _pair_points(within: Space) -> Iterator[Point]:
    wanted = within.demand
    workload, quantile = wanted.workload, wanted.quantile
    for reads in within.prefill:
        reader, prompts = reads.shape, reads.prompts
        for writer in (writes.shape for writes in within.decode):
            moved_s = hand_off_s(reader, writer, wanted=wanted).mid
            for batch in batches(decoder(writer, workload), quantile=quantile, tpot_s_max=inf):
                readers = batch.requests_per_s * prompts.engine_s.mid / BUSY_MAX
                yield Point(
                    kind="disaggregated",
                    label=f"{reader.label} + {writer.label}",
                    ttft_ms=1e3 * (prompts.mean_s.mid + moved_s + batch.tpot_s),
                    tpot_ms=1e3 * batch.tpot_s,
                    tokens_per_s_gpu=batch.requests_per_s
                    * workload.outputs.mean
                    / (writer.gpus + readers * reader.gpus),
                )


def _serve_points(within: Space) -> Iterator[Point]:
    workload, quantile = within.demand.workload, within.demand.quantile
    for shape in (serves.shape for serves in within.serve):
        worker = server(shape, workload)
        prompts = reading(shape.setup, workload, quantile=quantile)
        for batch in batches(worker, quantile=quantile, tpot_s_max=inf):
            alone = stretched(worker, prompts, batch.most)
            if batch.requests_per_s * alone.engine_s.mid > BUSY_MAX:
                break
            yield Point(
                kind="aggregated",
                label=shape.label,
                ttft_ms=1e3 * (alone.mean_s.mid + worker.step_s(batch.most).mid),
                tpot_ms=1e3 * batch.tpot_s,
                tokens_per_s_gpu=batch.requests_per_s * workload.outputs.mean / shape.gpus,
            )
