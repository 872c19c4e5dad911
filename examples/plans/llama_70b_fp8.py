"""Llama 70B in FP8 on H100 nodes, at the load of NVIDIA's claim for Dynamo: 3,000 tokens in, 150 out."""

import pulumi_tandem as tandem

H100 = tandem.Auto(gpus=("H100",))

llama = tandem.Service(
    name="llama",
    model=tandem.Model(name="Llama-3.3-70B-Instruct-FP8"),
    context_tokens=16_384,
    prefill=H100,
    decode=H100,
    workload=tandem.Workload(requests_per_s=8, prompt_tokens=3_000, output_tokens=150),
    objectives=tandem.Objectives(ttft_ms=1_000, tpot_ms=25, quantile=0.5),
    transfer=tandem.Transfer(transport="efa"),
    plan=tandem.plan_of(__file__),
)
