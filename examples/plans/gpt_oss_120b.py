"""gpt-oss-120b on one node of eight H100: four GPUs that read, four that write."""

import pulumi_tandem as tandem

FOUR = tandem.Pool(gpu="H100", tensor_parallel=4)

gpt_oss = tandem.Service(
    name="gpt-oss",
    model=tandem.Model(name="gpt-oss-120b"),
    context_tokens=16_384,
    prefill=FOUR,
    decode=FOUR,
    workload=tandem.Workload(requests_per_s=12, prompt_tokens=4_000, output_tokens=500),
    objectives=tandem.Objectives(ttft_ms=2_000, tpot_ms=30, quantile=0.5),
    transfer=tandem.Transfer(transport="cuda_ipc"),
)
