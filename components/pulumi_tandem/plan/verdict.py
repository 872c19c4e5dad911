"""Which of the two ways wins, and why, in words."""

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from pulumi_tandem.declare import Objectives, Workload
from pulumi_tandem.estimate import Interval
from pulumi_tandem.plan.candidate import Candidate
from pulumi_tandem.plan.evaluate import decoder, server
from pulumi_tandem.plan.option import Kind, Objective, Option
from pulumi_tandem.plan.reading import reading

if TYPE_CHECKING:
    from pulumi_tandem.plan.search import By, Space

EQUAL = 0.005
"""A smaller difference is none."""
CLEARLY = 0.15
"""By how much less than its rival the winner must need to win clearly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The better way, by how much, and the reason."""

    winner: Kind | None
    """None: neither meets the objectives."""
    saving: float
    """Share of its rival's cost or GPUs that the winner does without; 1 where the rival meets the objectives at no
    price."""
    words: str

    @property
    def is_clear(self) -> bool:
        """Whether the difference is beyond a close call."""
        return self.winner is not None and self.saving >= CLEARLY


def verdict(within: "Space", pair: Option | None, serve: Option | None) -> Verdict:
    """Compares the best of both ways."""
    if pair is None and serve is None:
        return Verdict(winner=None, saving=0.0, words=" ".join(_nothing(within)))
    if pair is None or serve is None:
        only = pair or serve
        assert only
        other: Kind = "aggregated" if only is pair else "disaggregated"
        why = _misses(within, other)
        words = f"Only a {only.kind} service meets the objectives, with {amount(only)}. {why}"
        return Verdict(winner=only.kind, saving=1.0, words=words)
    winner, loser = (pair, serve) if size(within.by, pair) < size(within.by, serve) else (serve, pair)
    saving = 1.0 - size(within.by, winner) / size(within.by, loser)
    if saving < EQUAL:
        winner, saving = serve, 0.0
        same = f"Both {'cost' if within.by == 'cost' else 'need'} the same, {amount(pair)} and {amount(serve)}"
        words = f"{same}; aggregated is simpler. {_why(within, pair, serve, winner=serve)}"
    else:
        close = "" if saving >= CLEARLY else ", a close call"
        words = (
            f"{winner.kind.capitalize()} wins{close}: {amount(winner)} against {amount(loser)} {loser.kind} "
            f"({saving:.0%} less). {_why(within, pair, serve, winner=winner)}"
        )
    return Verdict(winner=winner.kind, saving=saving, words=words)


def size(by: "By", option: Option) -> float:
    """What is to be small: dollars an hour or GPUs."""
    return float(option.gpus) if by == "gpus" else option.usd_per_hour or 0.0


def amount(option: Option) -> str:
    """`6 GPUs (4 x H100 TP1 + 1 x H100 TP2) at 23.60 USD an hour`."""
    price = option.usd_per_hour
    at = "" if price is None else f" at {price:.2f} USD an hour"
    return f"{option.gpus} GPU{'s' if option.gpus != 1 else ''} ({option.label}){at}"


def binding(option: Option, objectives: Objectives) -> Objective:
    """The objective that the option comes nearest to, or misses by most."""
    return max(shares(option, objectives).items(), key=lambda each: each[1])[0]


def shares(option: Option, objectives: Objectives) -> dict[Objective, float]:
    """Middle of each estimate as a share of what is allowed."""
    found: dict[Objective, float] = {
        "ttft": option.ttft_s.mid * 1e3 / objectives.ttft_ms,
        "tpot": option.tpot_s.mid * 1e3 / objectives.tpot_ms,
    }
    if objectives.e2e_ms is not None:
        found["e2e"] = option.e2e_s.mid * 1e3 / objectives.e2e_ms
    return found


def limits(option: Option, objectives: Objectives) -> tuple[tuple[Objective, Interval, float], ...]:
    """Every objective with its estimate and its limit, both in milliseconds."""
    given: tuple[tuple[Objective, Interval, float], ...] = (
        ("ttft", option.ttft_s, objectives.ttft_ms),
        ("tpot", option.tpot_s, objectives.tpot_ms),
        ("e2e", option.e2e_s, objectives.e2e_ms or inf),
    )
    return tuple((name, time * 1e3, limit) for name, time, limit in given if limit != inf)


def _why(within: "Space", pair: Option, serve: Option, *, winner: Option) -> str:
    """The mechanism that decides, with its numbers."""
    prefill, decode, both = pair.pool("prefill"), pair.pool("decode"), serve.pool("serve")
    setup, workload = both.candidate.setup, within.demand.workload
    prompts = reading(setup, workload, quantile=within.demand.quantile)
    read = workload.requests_per_s / both.workers * prompts.engine_s.mid
    step_ms = server(both.candidate, workload).step_s(both.running).mid * 1e3
    told = (
        f"An aggregated engine reads prompts {read:.0%} of its time, so that a token takes "
        f"{serve.tpot_s.mid * 1e3:.0f} ms where decoding alone would take {step_ms:.0f}"
    )
    if winner is pair:
        return f"{told}; it runs {both.running:.0f} requests at once, a worker that only decodes {decode.running:.0f}."
    return (
        f"{told}. That is little to win for GPUs that do one phase only: of two pools this load would use "
        f"{prefill.busy:.0%} of prefill and {decode.busy:.0%} of decode."
    )


def _nothing(within: "Space") -> list[str]:
    if not (within.prefill and within.decode) and not within.serve:
        first = within.refused[0].message if within.refused else "no GPU to choose from has room for a request"
        return [f"No shape is allowed on these GPUs: {first}."]
    kinds: tuple[Kind, Kind] = ("disaggregated", "aggregated")
    return ["No shape meets the objectives.", *dict.fromkeys(_misses(within, kind) for kind in kinds)]


def _misses(within: "Space", kind: Kind) -> str:
    """What the fastest shape of that kind takes, where no number of workers is enough."""
    workload, objectives = within.demand.workload, within.demand.objectives
    readers = [each.shape for each in (within.prefill if kind == "disaggregated" else within.serve)]
    writers = [each.shape for each in (within.decode if kind == "disaggregated" else within.serve)]
    if not readers or not writers:
        return f"No shape of a worker for a {kind} service is allowed on these GPUs."
    first_ms, reader = min((_first_s(shape, workload, objectives) * 1e3, shape.label) for shape in readers)
    if first_ms > objectives.ttft_ms:
        taken = f"the fastest prefill ({reader}) takes {first_ms:.0f} ms for one prompt"
        return f"{kind.capitalize()}: {taken} that nobody disturbs, and TTFT is to be {objectives.ttft_ms:g} ms."
    make = decoder if kind == "disaggregated" else server
    step_ms, writer = min((make(shape, workload).tpot_s(1.0).mid * 1e3, shape.label) for shape in writers)
    if step_ms > objectives.tpot_ms:
        taken = f"the fastest worker ({writer}) takes {step_ms:.1f} ms per token for one request"
        return f"{kind.capitalize()}: {taken}, and TPOT is to be {objectives.tpot_ms:g} ms."
    return f"{kind.capitalize()}: no shape meets all objectives together."


def _first_s(shape: Candidate, workload: Workload, objectives: Objectives) -> float:
    return reading(shape.setup, workload, quantile=objectives.quantile).long_s.mid
