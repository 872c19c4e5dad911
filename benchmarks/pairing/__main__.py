"""`python -m benchmarks.pairing [--quick]`: the simulation; with `--real [--rounds N] [--seed N]`: real engines."""

import argparse
import asyncio
import os
import sys

from benchmarks.engines import NotReadyError
from benchmarks.pairing.chats import chats
from benchmarks.pairing.cost import print_cost
from benchmarks.pairing.real import WrongAnswerError, measure
from benchmarks.pairing.report import print_rounds
from benchmarks.pairing.simulated import LOADS, SEEDS, print_chat


def _real(*, rounds: int, seed: int) -> int:
    load_before = os.getloadavg()[0]
    try:
        found = asyncio.run(measure(rounds=rounds, seed=seed, say=lambda line: print(line, file=sys.stderr)))
    except (NotReadyError, WrongAnswerError) as error:
        print(f"benchmarks.pairing: {error}", file=sys.stderr)
        return 1
    print_rounds(found, load_before)
    return 0


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed and two loads; with --real, one round")
    parser.add_argument("--real", action="store_true", help="before real engines, against vllm-router itself")
    parser.add_argument("--rounds", type=int, default=3, help="how often each front gets the trace")
    parser.add_argument("--seed", type=int, default=1, help="of the first round's trace")
    options = parser.parse_args()
    if options.real:
        return _real(rounds=1 if options.quick else options.rounds, seed=options.seed)
    print_cost()
    for chat in chats():
        print_chat(chat, LOADS[1::2] if options.quick else LOADS, SEEDS[:1] if options.quick else SEEDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
