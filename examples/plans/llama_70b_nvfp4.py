"""Llama 3.3 70B in NVFP4 on one B200."""

import pulumi_tandem as tandem

llama = tandem.Service(
    name="llama-fp4",
    model=tandem.Model(name="Llama-3.3-70B-Instruct-NVFP4"),
    context_tokens=16_384,
    serve=tandem.Auto(gpus=("B200",)),
    workload=tandem.Workload(requests_per_s=1, prompt_tokens=1_024, output_tokens=1_024),
    objectives=tandem.Objectives(ttft_ms=2_000, tpot_ms=30, quantile=0.5),
    plan=tandem.plan_of(__file__),
)
