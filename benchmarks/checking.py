"""How long it takes to know what is wrong: `python -m benchmarks.checking`.

Import of the library and of the command in fresh processes, the median of several; then resolve and check of 200
services, of several models and shapes, in one process, catalog not read before.
"""

import statistics
import subprocess
import sys
import time

import pulumi_tandem as tandem
from pulumi_tandem.check import check
from pulumi_tandem.resolve import resolve

SERVICES = 200
ROUNDS = 7
MODELS = ("Llama-3.3-70B-Instruct", "Qwen3-235B-A22B-FP8", "gpt-oss-120b", "DeepSeek-V3", "Llama-3.1-8B-Instruct")


def import_ms(module: str) -> float:
    """Median milliseconds that a fresh process spends in `import module`."""
    program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(ROUNDS)]
    return 1e3 * statistics.median(times)


def services() -> list[tandem.Service]:
    return [
        tandem.Service(
            name=f"service-{number}",
            model=tandem.Model(name=MODELS[number % len(MODELS)]),
            prefill=tandem.Pool(gpu="H200", workers=1 + number % 4, tensor_parallel=8),
            decode=tandem.Pool(gpu="H200", workers=1 + number % 3, tensor_parallel=8, sequences=64 + number),
            transfer=tandem.Transfer(transport="rdma"),
            context_tokens=8_192 + 64 * (number % 16),
        )
        for number in range(SERVICES)
    ]


def main() -> None:
    """Prints the table."""
    declared = services()
    start = time.perf_counter()
    findings = [finding for service in declared for finding in check(resolve(service))]
    took_s = time.perf_counter() - start
    print(f"import pulumi_tandem        {import_ms('pulumi_tandem'):7.0f} ms")
    print(f"import pulumi_tandem.cli    {import_ms('pulumi_tandem.cli'):7.0f} ms")
    print(f"resolve + check, {SERVICES} services {took_s:5.2f} s  ({len(findings)} findings)")


if __name__ == "__main__":
    main()
