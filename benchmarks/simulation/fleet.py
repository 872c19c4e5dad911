"""Services of thousands of GPUs, and what simulating them costs."""

import time
from dataclasses import dataclass

from pulumi_tandem.declare import Lengths, Limits, Model, Objectives, Pool, Service, Transfer, Workload
from pulumi_tandem.simulate import Arrivals, Outcome, generate, simulate
from pulumi_tandem.simulate.declared import scenario_of

WAYS = 4
"""GPUs of a worker."""
REQUESTS_PER_GPU_S = 0.75
READERS = 0.4
"""Share of the workers of a pair that prefill."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run."""

    gpus: int
    way: str
    requests: int
    events: int
    cpu_s: float
    outcome: Outcome


def cost(gpus: int, way: str, *, duration_s: float) -> Cost:
    """Simulates a service of so many H100 with Llama-3.3-70B; its traffic is drawn in that time too."""
    service = _service(gpus // WAYS, way)
    load = service.workload
    assert load
    started_s = time.process_time()
    traffic = generate(
        Arrivals(requests_per_s=load.requests_per_s),
        prompt_tokens=load.prompts,
        output_tokens=load.outputs,
        duration_s=duration_s,
        seed=1,
        context_tokens=service.context_tokens,
    )
    outcome = simulate(scenario_of(service, traffic, workload=load))
    cpu_s = time.process_time() - started_s
    return Cost(gpus, way, len(traffic), outcome.events, cpu_s, outcome)


def _service(workers: int, way: str) -> Service:
    model = Model(name="Llama-3.3-70B-Instruct")
    load = Workload(
        requests_per_s=REQUESTS_PER_GPU_S * WAYS * workers,
        prompt_tokens=Lengths(mean=2000),
        output_tokens=Lengths(mean=300),
    )
    readers = round(READERS * workers)

    def pool(count: int) -> Pool:
        return Pool(gpu="H100", workers=count, tensor_parallel=WAYS)

    is_pair = way == "disaggregated"
    return Service(
        name="fleet",
        model=model,
        context_tokens=32_768,
        workload=load,
        objectives=Objectives(ttft_ms=2000, tpot_ms=50),
        transfer=Transfer(transport="efa"),
        limits=Limits(requests_running_max=100_000, requests_waiting_max=100_000),
        prefill=pool(readers) if is_pair else None,
        decode=pool(workers - readers) if is_pair else None,
        serve=None if is_pair else pool(workers),
    )
