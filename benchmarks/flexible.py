"""Flexible workers against every fixed split of as many: `python -m benchmarks.flexible [--quick]`.

The load shifts between long prompts with short answers and short prompts with long answers. Who takes which phase is
decided by the gateway's own code (`tandem_worker.gateway.roles`, with its measure of reading speed); workers and
network are simulated. Nothing here ran on real engines.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf
from statistics import median

import pulumi_tandem as tandem
from benchmarks.simulation.pair import calibrated
from pulumi_tandem.declare import Lengths, Objectives
from pulumi_tandem.simulate import (
    Arrivals,
    Flexible,
    FrontDoor,
    HandOff,
    Outcome,
    PoolModel,
    Role,
    Scenario,
    Traffic,
    WorkerModel,
    WorkerView,
    generate,
    simulate,
)
from pulumi_tandem.simulate.declared import scenario_of
from tandem_worker.gateway.backlog import Meter
from tandem_worker.gateway.roles import Roles, Seen, decide

OPEN = FrontDoor(requests_running_max=10**6, requests_waiting_max=10**6)
SEEDS = (1, 2, 3, 4, 5)
STRETCHES_S = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0)
LOADS = (0.4, 0.6, 0.8, 1.0)
"""Of what the best fixed split of each kind serves of it in a closed loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Requests of one kind."""

    name: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Workers, and what they are asked."""

    name: str
    worker: WorkerModel
    hand_off: HandOff
    workers: int
    kinds: tuple[Kind, Kind]
    clients: int
    """Of the closed loop: enough for every worker to be busy, whatever the split."""
    stretch_s: float
    """How long one kind of requests comes before the other does."""
    objectives: Objectives


class GatewayRoles:
    """The gateway's decision, shown the workers of a simulation as the gateway sees its own."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._roles = Roles()
        self._meters: dict[int, Meter] = {}
        self._came: dict[int, int] = {}
        self._read: dict[int, int] = {}

    def __call__(self, now_s: float, workers: Sequence[WorkerView]) -> Mapping[int, Role]:
        """The policy that `Flexible` asks for."""
        for worker in workers:
            self._metered(worker, now_s)
        rates = [rate for worker in workers if (rate := self._meters[worker.number].rate)]
        usual = sum(rates) / len(rates) if rates else 0.0
        self._roles = decide(self._roles, [self._seen(worker, usual) for worker in workers], now_s)
        return {int(name): role for name, role in self._roles.of.items()}

    def _metered(self, worker: WorkerView, now_s: float) -> None:
        meter, number = self._meters.setdefault(worker.number, Meter()), worker.number
        came = worker.read_tokens + worker.unread_tokens
        meter.begin(came - self._came.get(number, 0), now_s)
        meter.end(worker.read_tokens - self._read.get(number, 0), now_s, finished=True)
        self._came[number], self._read[number] = came, worker.read_tokens

    def _seen(self, worker: WorkerView, usual: float) -> Seen:
        meter = self._meters[worker.number]
        rate = meter.rate or usual
        return Seen(
            name=str(worker.number),
            prompts_s=meter.pending / rate if rate else 0.0,
            decode_share=worker.decodes / self._places,
            kv_share=worker.kv_share,
        )


def cores() -> Machine:
    """Workers as measured: vLLM 0.32 with SmolLM2-135M, one core each (docs/simulation.md says how they are known)."""
    worker, hand_off = calibrated()
    return Machine(
        name="CPU cores with SmolLM2-135M, calibrated on the measured pair",
        worker=worker,
        hand_off=hand_off,
        workers=4,
        kinds=(
            Kind(name="reading", prompt_tokens=1500, output_tokens=16),
            Kind(name="writing", prompt_tokens=100, output_tokens=160),
        ),
        clients=24,
        stretch_s=300.0,
        objectives=Objectives(ttft_ms=10_000, tpot_ms=100),
    )


def h100s() -> Machine:
    """Workers by the estimate: Llama 3.1 8B on one H100 each, over EFA."""
    kinds = (
        Kind(name="reading", prompt_tokens=6000, output_tokens=60),
        Kind(name="writing", prompt_tokens=300, output_tokens=1000),
    )
    chat = tandem.Service(
        name="chat",
        model=tandem.Model(name="Llama-3.1-8B-Instruct"),
        prefill=tandem.Pool(gpu="H100", sequences=128),
        decode=tandem.Pool(gpu="H100", sequences=128),
        context_tokens=8192,
        transfer=tandem.Transfer(transport="efa"),
    )
    load = tandem.Workload(
        requests_per_s=1.0,
        prompt_tokens=sum(kind.prompt_tokens for kind in kinds) // 2,
        output_tokens=sum(kind.output_tokens for kind in kinds) // 2,
    )
    scenario = scenario_of(chat, nothing(), workload=load)
    return Machine(
        name="H100s with Llama 3.1 8B, by the estimate",
        # One model for both phases: the batch that a pool of either would choose by itself differs.
        worker=scenario.decode.workers[0][0],
        hand_off=scenario.hand_off,
        workers=8,
        kinds=kinds,
        clients=512,
        stretch_s=120.0,
        objectives=Objectives(ttft_ms=2_000, tpot_ms=40),
    )


def nothing() -> Traffic:
    """No requests."""
    return Traffic(arrival_s=(), prompt_tokens=(), output_tokens=(), cached_tokens=(), session=(), duration_s=1.0)


def in_turn(machine: Machine, counts: tuple[int, int], rounds: int, seed: int) -> Traffic:
    """So many requests of each kind, one kind after the other, of varying length; for clients of a closed loop."""
    parts = [
        drawn(kind, count / 1000.0, 1000.0, seed=seed + 10 * turn + number)
        for turn in range(rounds)
        for number, (kind, count) in enumerate(zip(machine.kinds, counts, strict=True))
    ]
    return replace(joined(parts, [0.0] * len(parts)), duration_s=inf)


def shifting(machine: Machine, rates: tuple[float, float], rounds: int, seed: int) -> Traffic:
    """Requests that come whether the last ones are answered or not, one kind for a while and then the other."""
    parts = [
        drawn(kind, rate, machine.stretch_s, seed=seed + 10 * turn + number)
        for turn in range(rounds)
        for number, (kind, rate) in enumerate(zip(machine.kinds, rates, strict=True))
    ]
    return joined(parts, [machine.stretch_s] * len(parts))


def drawn(kind: Kind, rate: float, duration_s: float, *, seed: int) -> Traffic:
    """Requests of one kind."""
    return generate(
        Arrivals(requests_per_s=rate),
        prompt_tokens=Lengths(mean=kind.prompt_tokens, variation=0.5),
        output_tokens=Lengths(mean=kind.output_tokens, variation=0.5),
        duration_s=duration_s,
        seed=seed,
        context_tokens=8192,
    )


def joined(parts: Sequence[Traffic], lasting_s: Sequence[float]) -> Traffic:
    """One after the other, each for so long."""
    starts = [0.0, *accumulate(lasting_s)]
    return Traffic(
        arrival_s=[at_s + start for part, start in zip(parts, starts, strict=False) for at_s in part.arrival_s],
        prompt_tokens=[tokens for part in parts for tokens in part.prompt_tokens],
        output_tokens=[tokens for part in parts for tokens in part.output_tokens],
        cached_tokens=[tokens for part in parts for tokens in part.cached_tokens],
        session=[session for part in parts for session in part.session],
        duration_s=starts[-1],
    )


Shape = Callable[[Machine, Traffic], Scenario]


def fixed(readers: int) -> Shape:
    """So many workers that read, the others write."""

    def scenario(machine: Machine, traffic: Traffic) -> Scenario:
        one = machine.worker
        return Scenario(
            traffic=traffic,
            prefill=PoolModel(name="prefill", workers=((one, readers),)),
            decode=PoolModel(name="decode", workers=((one, machine.workers - readers),)),
            hand_off=machine.hand_off,
            door=OPEN,
            objectives=machine.objectives,
        )

    return scenario


def flexible(machine: Machine, traffic: Traffic) -> Scenario:
    """Roles as the gateway gives them."""
    return Scenario(
        traffic=traffic,
        decode=PoolModel(name="flexible", workers=((machine.worker, machine.workers),)),
        flexible=Flexible(policy=GatewayRoles(machine.worker.sequences)),
        hand_off=machine.hand_off,
        door=OPEN,
        objectives=machine.objectives,
    )


def whole(machine: Machine, traffic: Traffic) -> Scenario:
    """No hand-off: every worker does both for its requests."""
    return Scenario(
        traffic=traffic,
        decode=PoolModel(name="serve", workers=((machine.worker, machine.workers),)),
        door=OPEN,
        objectives=machine.objectives,
    )


def shapes(machine: Machine) -> Iterator[tuple[str, Shape]]:
    """Every way to use the workers."""
    for readers in range(1, machine.workers):
        yield f"{readers} prefill, {machine.workers - readers} decode", fixed(readers)
    yield "flexible", flexible
    yield "aggregated", whole


def closed(machine: Machine, shape: Shape, traffic: Traffic) -> Outcome:
    """A closed loop: each client sends its next request when the last one is answered."""
    return _whole_run(simulate(replace(shape(machine, traffic), clients=machine.clients)))


def opened(machine: Machine, shape: Shape, traffic: Traffic) -> Outcome:
    """Requests come as the traffic says."""
    return _whole_run(simulate(shape(machine, traffic)))


def _whole_run(run: Outcome) -> Outcome:
    assert run.answered == run.requests, f"{run.requests - run.answered} requests were not answered"
    return run


def tokens_per_s(run: Outcome, traffic: Traffic) -> float:
    """Tokens of all answers over the time until the last one was there."""
    return sum(traffic.output_tokens) / run.simulated_s


def steady(machine: Machine) -> dict[str, tuple[float, float]]:
    """Requests per second of each kind alone, in a closed loop, by shape."""
    found: dict[str, tuple[float, float]] = {}
    for name, shape in shapes(machine):
        runs = [
            closed(machine, shape, in_turn(machine, counts, 1, seed=7))
            for counts in ((10 * machine.clients, 0), (0, 10 * machine.clients))
        ]
        reading, writing = (run.answered / run.simulated_s for run in runs)
        found[name] = reading, writing
    return found


def best_of(machine: Machine, found: Mapping[str, float]) -> str:
    """The fixed split with the highest figure."""
    return max(list(found)[: machine.workers - 1], key=lambda name: found[name])


def print_steady(machine: Machine, found: Mapping[str, tuple[float, float]]) -> None:
    """What each shape serves of one kind alone: the fixed split that suits it needs no roles."""
    print(f"\nOne kind alone, {machine.clients} clients, requests per second:\n")
    print("| workers | " + " | ".join(f"{k.prompt_tokens} in, {k.output_tokens} out" for k in machine.kinds) + " |")
    print("| --- | --- | --- |")
    for name, (reading, writing) in found.items():
        print(f"| {name} | {reading:.2f} | {writing:.2f} |")


def print_shifting(machine: Machine, rates: tuple[float, float], seeds: Sequence[int]) -> None:
    """Kinds in turn, as many of each as the best split for it serves in `stretch_s`."""
    print(f"\nIn turn, {machine.stretch_s:g} s of each as its best split serves it, {machine.clients} clients:\n")
    print("| workers | tokens/s (lowest to highest) | TTFT p50 / p99, s | TPOT p50 / p99, ms |")
    print("| --- | --- | --- | --- |")
    counts = _counts(rates, machine.stretch_s)
    traffics = [in_turn(machine, counts, 2, seed) for seed in seeds]
    for name, shape in shapes(machine):
        runs = [closed(machine, shape, traffic) for traffic in traffics]
        rate = [tokens_per_s(run, traffic) for run, traffic in zip(runs, traffics, strict=True)]
        ttft = f"{_mid(run.ttft_s.p50 for run in runs):.2f} / {_mid(run.ttft_s.p99 for run in runs):.1f}"
        tpot = f"{1e3 * _mid(r.tpot_s.p50 for r in runs):.0f} / {1e3 * _mid(r.tpot_s.p99 for r in runs):.0f}"
        print(f"| {name} | {_mid(rate):.0f} ({min(rate):.0f} to {max(rate):.0f}) | {ttft} | {tpot} |")


def print_speed(machine: Machine, rates: tuple[float, float]) -> None:
    """The same with stretches of other lengths: a load that shifts faster than roles follow is not won."""
    print("\nThe same with shorter and longer stretches, tokens/s:\n")
    print("| stretch | best fixed split | flexible | gain | aggregated |")
    print("| --- | --- | --- | --- | --- |")
    for stretch_s in STRETCHES_S:
        turns = max(2, round(2 * machine.stretch_s / stretch_s))
        traffic = in_turn(machine, _counts(rates, stretch_s), turns, seed=1)
        rate = {name: tokens_per_s(closed(machine, shape, traffic), traffic) for name, shape in shapes(machine)}
        best, ours = best_of(machine, rate), rate["flexible"]
        gain = f"{ours / rate[best] - 1:+.0%}"
        print(f"| {stretch_s:g} s | {rate[best]:.0f} ({best}) | {ours:.0f} | {gain} | {rate['aggregated']:.0f} |")


def print_goodput(machine: Machine, rates: tuple[float, float]) -> None:
    """Requests that come whether the last ones are answered or not: how many are answered within the objectives."""
    wanted = machine.objectives
    print(f"\nOpen loop, share answered within TTFT {wanted.ttft_ms:g} ms and TPOT {wanted.tpot_ms:g} ms:\n")
    print("| load, of the best splits' | best fixed split | flexible | aggregated |")
    print("| --- | --- | --- | --- |")
    for share in LOADS:
        traffic = shifting(machine, (share * rates[0], share * rates[1]), 2, seed=1)
        good = {name: opened(machine, shape, traffic).good or 0.0 for name, shape in shapes(machine)}
        best = best_of(machine, good)
        print(f"| {share:.0%} | {good[best]:.1%} ({best}) | {good['flexible']:.1%} | {good['aggregated']:.1%} |")


def _counts(rates: tuple[float, float], stretch_s: float) -> tuple[int, int]:
    return round(rates[0] * stretch_s), round(rates[1] * stretch_s)


def _mid(values: Iterable[float]) -> float:
    return median(values)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, and no sweeps")
    quick = parser.parse_args().quick
    for machine in (cores(), h100s()):
        print(f"\n### {machine.workers} {machine.name}")
        alone = steady(machine)
        fixed_ones = [alone[name] for name, _ in list(shapes(machine))[: machine.workers - 1]]
        rates = max(reading for reading, _ in fixed_ones), max(writing for _, writing in fixed_ones)
        print_steady(machine, alone)
        print_shifting(machine, rates, SEEDS[:1] if quick else SEEDS)
        if not quick:
            print_speed(machine, rates)
            print_goodput(machine, rates)


if __name__ == "__main__":
    main()
