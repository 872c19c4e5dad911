"""What autoscalers read of a service: how much waits in each phase, over all its gateways, and what follows. No I/O.

A gateway knows its own requests and, as every other does, all workers. So work is added up over the gateways, and what
workers say of themselves is taken once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from pydantic import BaseModel

from tandem_worker.contract import GatewaySpec, Phase
from tandem_worker.gateway.backlog import Meter
from tandem_worker.gateway.fleet import Fleet, Worker

TOLERANCE = 0.1
"""A HorizontalPodAutoscaler leaves a pool alone whose figure is so near to its target.

Source: kube-controller-manager, --horizontal-pod-autoscaler-tolerance.
"""


class Work(BaseModel):
    """Work of one phase as a gateway's meter has it, in the meter's unit."""

    pending: float
    done: float
    busy_s: float


class Figures(BaseModel):
    """What one gateway knows: its answer to `GET /figures`."""

    gateway: str
    """Tells it from its peers; another one at every start."""
    prefill: Work
    decode: Work
    workers: dict[Phase, int]
    """Workers of the active generation that do not leave, ready or not."""
    reading: dict[str, float]
    """Of those that take prompts, by name: the share of the time in which this gateway has prompts there."""
    kv_usage: float
    """Mean over the ready decode workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The figures of a service."""

    prefill_backlog_s: float
    """How long the prompts take that are to be read; 0 while no prompt has been."""
    backlog_s: float
    """The same, and how long the answers wait that no decode worker has a place for."""
    prefill_usage: float
    """Share of their time in which prefill workers have prompts to read, over the last two minutes or so."""
    decode_kv_usage: float
    decode_slot_usage: float
    """Answers under way over places for answers; above 1 some wait."""
    prefill_workers_min: int
    """Fewest that hold the declared ratio to the other pool, now and at the size that it is to have; 0: no ratio is
    declared. So for the next."""
    decode_workers_min: int


def figures(gateway: str, fleet: Fleet, now_s: float) -> Figures:
    """What this gateway knows."""
    there = [worker for worker in fleet if worker.record.generation == fleet.active and not _leaves(worker)]
    shares = [min(1.0, worker.kv_share) for worker in there if worker.ready and worker.phase == "decode"]
    return Figures(
        gateway=gateway,
        prefill=_work(fleet.meters["prefill"], now_s),
        decode=_work(fleet.meters["decode"], now_s),
        workers={phase: sum(worker.phase == phase for worker in there) for phase in ("prefill", "decode")},
        reading={worker.record.name: worker.prompts.busy_share(now_s) for worker in there if worker.phase == "prefill"},
        kv_usage=sum(shares) / len(shares) if shares else 0.0,
    )


def together(known: Sequence[Figures], spec: GatewaySpec) -> Scale:
    """The service's figures from those of its gateways, of which there is one at least."""
    assert spec.scaling is not None, "a service that nothing scales has no figures"
    workers: dict[Phase, int] = {
        phase: max(each.workers.get(phase, 0) for each in known) for phase in ("prefill", "decode")
    }
    places = workers["decode"] * spec.scaling.answers_max
    answers = sum(each.decode.pending for each in known)
    prompts_s = _seconds([each.prefill for each in known])
    usage = {
        "decode_kv_usage": max(each.kv_usage for each in known),
        "decode_slot_usage": answers / places if places else 0.0,
    }
    reading = _reading(known)
    fullness = {
        "prefill": max(prompts_s / spec.scaling.prefill_backlog_s, reading / spec.scaling.prefill_usage),
        "decode": max(usage[name] / getattr(spec.scaling, name) for name in usage),
    }
    prefill_min, decode_min = _floors(spec, workers, fullness)
    return Scale(
        prefill_backlog_s=prompts_s,
        prefill_usage=reading,
        backlog_s=prompts_s + _seconds([each.decode for each in known], pending=max(0.0, answers - places)),
        prefill_workers_min=prefill_min,
        decode_workers_min=decode_min,
        **usage,
    )


def _leaves(worker: Worker) -> bool:
    return worker.draining or worker.record.draining


def _work(meter: Meter, now_s: float) -> Work:
    pending, done, busy_s = meter.now(now_s)
    return Work(pending=pending, done=done, busy_s=busy_s)


def _seconds(works: Sequence[Work], pending: float | None = None) -> float:
    """How long all pending work takes at the rate of all gateways; they share the workers, and are busy together."""
    done = sum(work.done for work in works)
    left = sum(work.pending for work in works) if pending is None else pending
    return left * max(work.busy_s for work in works) / done if done else 0.0


def _reading(known: Sequence[Figures]) -> float:
    """Mean over the workers; one that reads for several gateways may be counted as busier than it is, never as less."""
    names = {name for each in known for name in each.reading}
    shares = [min(1.0, sum(each.reading.get(name, 0.0) for each in known)) for name in names]
    return sum(shares) / len(shares) if shares else 0.0


def _floors(spec: GatewaySpec, workers: dict[Phase, int], fullness: dict[str, float]) -> tuple[int, int]:
    """Fewest workers of each phase beside the other one; `fullness` is 1 where a phase has just enough.

    A pool that must grow takes the other with it at once. One that may shrink is counted as one worker smaller, so that
    the other may follow: each counted as large as it is, both would hold each other up for ever.
    """
    if not spec.prefill_per_decode_max:
        return 0, 0
    prefills, decodes = (_meant(workers[phase], fullness[phase]) for phase in ("prefill", "decode"))
    # Rounded first: 3 * 1.1 is more than 3.3.
    return (
        ceil(round(spec.prefill_per_decode_min * decodes, 9)),
        ceil(round(prefills / spec.prefill_per_decode_max, 9)),
    )


def _meant(workers: int, ratio: float) -> int:
    """As a HorizontalPodAutoscaler would have it, of a figure that is `ratio` times its target."""
    if abs(ratio - 1) <= TOLERANCE:
        return workers
    return max(ceil(round(workers * ratio, 9)), workers - 1)
