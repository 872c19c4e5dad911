"""What real engines did, as tables."""

import os
from collections.abc import Sequence
from statistics import median

from benchmarks.pairing.real import OURS, POLICIES, Round
from benchmarks.serving.report import quantile

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def print_rounds(rounds: Sequence[Round], load_before: float) -> None:
    """Hits and times of every way, and ours over each other one's, round by round."""
    print("| way | hits | busier worker's share | TTFT p50 / p90 / p99 |")
    print("| --- | --- | --- | --- |")
    for way in (OURS, *POLICIES):
        some = _of(rounds, way)
        times = [ttft_s for each in some for ttft_s in each.ttft_s]
        shown = " / ".join(f"{1e3 * quantile(times, share):.0f}" for share in QUANTILES.values())
        hits, busiest = median(each.hits for each in some), median(each.busiest for each in some)
        print(f"| {way} | {hits:.0%} | {busiest:.0%} | {shown} ms |")
    print()
    for peer in POLICIES:
        for name, share in QUANTILES.items():
            ratios = [
                quantile(ours.ttft_s, share) / quantile(theirs.ttft_s, share)
                for ours, theirs in zip(_of(rounds, OURS), _of(rounds, peer), strict=True)
            ]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"TTFT {name}, ours / {peer}: median {median(ratios):.2f} (rounds {each})")
    print()
    moved = ", ".join(f"{way} {sum(each.kv_mb for each in _of(rounds, way)):.0f} MB" for way in (OURS, *POLICIES))
    averages = ", ".join(f"{each.load_average:.1f}" for each in rounds)
    print(f"{os.cpu_count()} cores; {len(rounds[0].ttft_s)} requests a round and way; KV moved: {moved}")
    print(f"load average before the run {load_before:.1f}; at the end of each round {averages}")


def _of(rounds: Sequence[Round], way: str) -> list[Round]:
    return [each for each in rounds if each.way == way]
