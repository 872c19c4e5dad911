"""How long planning takes: `python -m benchmarks.plans`.

Each example of `examples/plans` is planned in one process, catalog and constants already read: the median of several
rounds, and the slowest. Nothing else of the command (starting Python, running the program, drawing) is in it.
"""

import statistics
import time
from collections.abc import Callable

from pulumi_tandem.plan import capacity, plan
from tests.docs.plans import EXAMPLES, service

ROUNDS = 21


def measured_ms(work: Callable[[], object]) -> tuple[float, float]:
    times: list[float] = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:]), max(times[1:])


def main() -> None:
    """Prints the table."""
    print(f"{'':18}{'plan, ms':>12}{'slowest':>10}{'highest load of 16 GPUs, ms':>30}")
    for path in sorted(EXAMPLES.glob("*.py")):
        one = service(path.stem)
        median_ms, slowest_ms = measured_ms(lambda one=one: plan(one, by="cost"))
        capacity_ms, _ = measured_ms(lambda one=one: capacity(one, "disaggregated", gpus=16))
        print(f"{path.stem:18}{median_ms:12.0f}{slowest_ms:10.0f}{capacity_ms:30.0f}")


if __name__ == "__main__":
    main()
