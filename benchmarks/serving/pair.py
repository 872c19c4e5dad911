"""The pair of engines that serves both ways."""

import os

import pulumi_tandem as tandem
from benchmarks.engines import from_environment

MODEL = "SmolLM2-135M-Instruct"
PATIENCE_S = 300.0


def declare() -> tandem.Service:
    """The pair: each engine on half of the cores. Without a prefix cache, so that no prompt is answered from it."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(len(cores) // 2, 1)
    shares = (cores[:half], cores[half:] or cores[:half])
    model_folder = from_environment("TANDEM_MODEL_DIR")
    prefill, decode = (tandem.Pool(gpu="cpu", cpu_cores=",".join(map(str, share))) for share in shares)
    return tandem.Service(
        name="bench",
        model=tandem.Model(name=MODEL, path=model_folder),
        engine=tandem.Vllm(version="0.32.0", prefix_caching=False),
        prefill=prefill,
        decode=decode,
        context_tokens=2048,
        # A machine that does other work besides must give bad times, not a failed run.
        limits=tandem.Limits(prefill_timeout_s=PATIENCE_S, stall_timeout_s=PATIENCE_S),
    )
