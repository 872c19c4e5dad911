"""The ways in the simulation: tables of hits and times."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from benchmarks.flexible import OPEN
from benchmarks.pairing.chats import Chat, conversations
from benchmarks.pairing.ways import WAYS, Make
from pulumi_tandem.simulate import Outcome, PoolModel, Scenario, Traffic, simulate

SEEDS = (1, 2, 3)
LOADS = (0.3, 0.5, 0.7, 0.85)


def run(chat: Chat, make: Make, traffic: Traffic) -> Outcome:
    """One way, one load."""
    worker = replace(chat.machine.worker, block_tokens=chat.block_tokens)
    found = simulate(
        Scenario(
            traffic=traffic,
            prefill=PoolModel(name="prefill", workers=((worker, chat.readers),)),
            decode=PoolModel(name="decode", workers=((worker, chat.writers),)),
            pairing=make(chat),
            hand_off=chat.machine.hand_off,
            door=OPEN,
            warm_up_s=chat.duration_s / 5,
        )
    )
    assert found.answered == found.requests, f"{found.requests - found.answered} requests were not answered"
    return found


def print_chat(chat: Chat, loads: Sequence[float], seeds: Sequence[int]) -> None:
    """A table of all ways and loads; medians over the seeds."""
    print(f"\n### {chat.name}\n")
    print("| way | " + " | ".join(f"load {load:.0%}: hits, TTFT p50 / p99" for load in loads) + " |")
    print("| --- |" + " --- |" * len(loads))
    traffics = {(load, seed): conversations(chat, load, seed) for load in loads for seed in seeds}
    for name, make in WAYS.items():
        cells: list[str] = []
        for load in loads:
            runs = [run(chat, make, traffics[load, seed]) for seed in seeds]
            p50_ms, p99_ms = (
                1e3 * median(times) for times in zip(*((r.ttft_s.p50, r.ttft_s.p99) for r in runs), strict=True)
            )
            cells.append(f"{median(r.prefix_hit for r in runs):.0%}, {p50_ms:.0f} / {p99_ms:.0f} ms")
        print(f"| {name} | " + " | ".join(cells) + " |")
