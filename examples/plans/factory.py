"""A factory of two kinds of GPU: the search may put prefill and decode on H100 or on L40S."""

import pulumi_tandem as tandem

EITHER = tandem.Auto(gpus=("H100", "L40S"))

factory = tandem.Service(
    name="factory",
    model=tandem.Model(name="Llama-3.1-8B-Instruct"),
    context_tokens=16_384,
    prefill=EITHER,
    decode=EITHER,
    workload=tandem.Workload(
        requests_per_s=40,
        prompt_tokens=tandem.Lengths.from_percentiles(p50=1_500, p95=6_000),
        output_tokens=tandem.Lengths(mean=300, variation=0.8),
        prefix_hit=0.3,
    ),
    objectives=tandem.Objectives(ttft_ms=1_500, tpot_ms=40, quantile=0.95),
    transfer=tandem.Transfer(transport="efa"),
    usd_per_gpu_hour={"H100": 2.40, "L40S": 0.75},  # what the factory reckons with, not the catalog's price on demand
    plan=tandem.plan_of(__file__),
)
