"""The search: every pair of shapes, every batch, and as few workers as meet the objectives."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pulumi_tandem.check import check
from pulumi_tandem.declare import Auto, DeclarationError, Pool, Service
from pulumi_tandem.finding import Finding
from pulumi_tandem.plan.candidate import Candidate, candidates, gpus_of, pools_of, shaped
from pulumi_tandem.plan.demand import Demand, demand
from pulumi_tandem.plan.evaluate import (
    decoder,
    hand_off_s,
    kv_moved_bytes,
    link,
    pair_option,
    serve_option,
    server,
    stretched,
)
from pulumi_tandem.plan.option import Kind, Option
from pulumi_tandem.plan.reading import Reading, reading, workers_for
from pulumi_tandem.plan.writing import Batch, batches
from pulumi_tandem.resolve import resolve

By = Literal["cost", "gpus"]
"""What is to be small."""

LINK_BUSY_MAX = 0.8
"""Share of a link's speed that transfers may take together; above it they wait for each other."""
SPARE = 1e-9
"""What a division that comes out even may be off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """Shapes with as many workers as meet the objectives, not evaluated yet."""

    pools: tuple[tuple[Candidate, int], ...]

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return sum(workers * shape.gpus for shape, workers in self.pools)

    @property
    def usd_per_hour(self) -> float:
        """Of those whose price is known."""
        return sum(workers * (shape.usd_per_hour or 0.0) for shape, workers in self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """A shape that reads prompts, and what they take of it."""

    shape: Candidate
    prompts: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """A shape that writes answers, and the batches that keep the objective for TPOT."""

    shape: Candidate
    batches: tuple[Batch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serves:
    """A shape that does both; with each batch, how prompts are read beside it, and its step."""

    shape: Candidate
    batches: tuple[tuple[Batch, Reading, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is searched: the shapes that rules allow, with all that does not depend on how much is asked."""

    service: Service
    by: By
    prefill: tuple[Reads, ...]
    decode: tuple[Writes, ...]
    serve: tuple[Serves, ...]
    refused: tuple[Finding, ...]
    """Why other shapes are not among them."""

    @property
    def demand(self) -> Demand:
        """What is to be met."""
        return demand(self.service)


def space(service: Service, *, by: By) -> Space:
    """Every shape that one worker of each pool may have.

    A rival is searched on the GPUs of the declared pools, with the settings of the one that decodes.
    """
    last = next(reversed(list(pools_of(service))))
    everywhere = tuple(dict.fromkeys(gpu for pool in pools_of(service) for gpu in gpus_of(pool)))
    prefill, decode = service.prefill or last, service.decode or last
    reading_shapes = candidates(service, "prefill", prefill, gpus_of(prefill))
    # Alone, both pools of a pair are judged alike.
    writing_shapes = reading_shapes if decode == prefill else candidates(service, "decode", decode, gpus_of(decode))
    found = [reading_shapes, writing_shapes, candidates(service, "serve", last, everywhere)]
    wanted = demand(service)
    return Space(
        service=service,
        by=by,
        prefill=tuple(_reads(shape, wanted) for shape in found[0].shapes),
        decode=tuple(_writes(shape, wanted) for shape in found[1].shapes),
        serve=tuple(_serves(shape, wanted) for shape in found[2].shapes),
        refused=tuple(dict.fromkeys(each for one in found for each in one.refused)),
    )


def best(within: Space, kind: Kind) -> Option | None:
    """The cheapest way of that kind to meet the objectives that no rule forbids; None: there is none."""
    sized = _sized_pairs(within) if kind == "disaggregated" else _sized_serves(within)
    for one in sorted(sized, key=lambda each: _rank(within.by, each)):
        option = evaluated(within, one)
        if _is_allowed(with_option(within.service, option)):
            return option
    return None


def evaluated(within: Space, sized: Sized) -> Option:
    """What the sized pools do."""
    if len(sized.pools) == 1:
        return serve_option(sized.pools[0], wanted=within.demand)
    return pair_option(*sized.pools, wanted=within.demand)


def with_option(service: Service, option: Option) -> Service:
    """The service with the option's pools in place of its own."""
    declared = {"prefill": service.prefill, "decode": service.decode, "serve": service.serve}
    last = next(reversed(list(pools_of(service))))
    pools: dict[str, Pool | Auto | None] = dict.fromkeys(declared)
    pools |= {pool.name: shaped(declared[pool.name] or last, pool.shape) for pool in option.pools}
    return service.model_copy(update=pools)


def _rank(by: By, sized: Sized) -> tuple[float, float, str]:
    shapes = " ".join(f"{workers:06} {shape.label}" for shape, workers in sized.pools)
    if by == "cost":
        return sized.usd_per_hour, sized.gpus, shapes
    return sized.gpus, sized.usd_per_hour, shapes


def _reads(shape: Candidate, wanted: Demand) -> Reads:
    return Reads(shape=shape, prompts=reading(shape.setup, wanted.workload, quantile=wanted.quantile))


def _writes(shape: Candidate, wanted: Demand) -> Writes:
    fitting = batches(decoder(shape, wanted.workload), quantile=wanted.quantile, tpot_s_max=wanted.tpot_s_max)
    return Writes(shape=shape, batches=tuple(fitting))


def _serves(shape: Candidate, wanted: Demand) -> Serves:
    worker, prompts = server(shape, wanted.workload), _reads(shape, wanted).prompts
    fitting = batches(worker, quantile=wanted.quantile, tpot_s_max=wanted.tpot_s_max)
    return Serves(
        shape=shape,
        batches=tuple(
            (batch, stretched(worker, prompts, batch.most), worker.step_s(batch.most).mid) for batch in fitting
        ),
    )


def _sized_pairs(within: Space) -> Iterator[Sized]:
    wanted, requests_per_s = within.demand, within.demand.workload.requests_per_s
    for writes in within.decode:
        moved_gb_per_s = requests_per_s * kv_moved_bytes(writes.shape.setup, wanted.workload) / 1e9
        # Of batches that need as many workers, the smallest is the fastest.
        sizes = {_whole(requests_per_s / batch.requests_per_s): batch for batch in reversed(writes.batches)}
        for reads in within.prefill:
            line = link(reads.shape, writes.shape, wanted=wanted)
            linked = moved_gb_per_s / line.efficiency / LINK_BUSY_MAX
            moved_s = hand_off_s(reads.shape, writes.shape, wanted=wanted).mid
            for writers, batch in sizes.items():
                readers = workers_for(
                    reads.prompts,
                    requests_per_s=requests_per_s,
                    after_s=moved_s + batch.tpot_s,
                    ttft_s_max=_ttft_s_max(wanted, batch),
                )
                if readers is not None:
                    readers = max(readers, _whole(linked / line.prefill_gb_per_s))
                    enough = max(writers, _whole(linked / line.decode_gb_per_s))
                    yield Sized(pools=((reads.shape, readers), (writes.shape, enough)))


def _sized_serves(within: Space) -> Iterator[Sized]:
    wanted, requests_per_s = within.demand, within.demand.workload.requests_per_s
    for serves in within.serve:
        sizes = {_whole(requests_per_s / each[0].requests_per_s): each for each in reversed(serves.batches)}
        for workers, (batch, prompts, step_s) in sizes.items():
            readers = workers_for(
                prompts, requests_per_s=requests_per_s, after_s=step_s, ttft_s_max=_ttft_s_max(wanted, batch)
            )
            if readers is not None:
                yield Sized(pools=((serves.shape, max(workers, readers)),))


def _ttft_s_max(wanted: Demand, batch: Batch) -> float:
    """What the objectives leave for the first token; a whole answer has its own time limit."""
    objectives = wanted.objectives
    if objectives.e2e_ms is None:
        return objectives.ttft_ms / 1e3
    writing_s = (wanted.workload.outputs.mean - 1.0) * batch.tpot_s
    return min(objectives.ttft_ms / 1e3, objectives.e2e_ms / 1e3 - writing_s)


def _is_allowed(service: Service) -> bool:
    """Whether no rule objects to the pools together; each alone was asked about before."""
    try:
        return not any(finding.severity == "error" for finding in check(resolve(service)))
    except DeclarationError:
        return False


def _whole(number: float) -> int:
    return max(1, ceil(number - SPARE))
