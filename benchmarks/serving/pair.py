"""Two real CPU engines under their agents, and our gateway before them."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pulumi_tandem as tandem
from benchmarks.serving.engines import Door, Say, engines, from_environment, front
from pulumi_tandem.check import accept
from pulumi_tandem.lower import lower

MODEL = "SmolLM2-135M-Instruct"
PATIENCE_S = 300.0


def declare() -> tandem.Service:
    """The pair: each engine on half of the cores. Without a prefix cache, so that no prompt is answered from it."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(len(cores) // 2, 1)
    shares = (cores[:half], cores[half:] or cores[:half])
    prefill, decode = (tandem.Pool(gpu="cpu", cpu_cores=",".join(map(str, share))) for share in shares)
    return tandem.Service(
        name="bench",
        model=tandem.Model(name=MODEL, path=from_environment("TANDEM_MODEL_DIR")),
        engine=tandem.Vllm(version="0.32.0", prefix_caching=False),
        prefill=prefill,
        decode=decode,
        context_tokens=2048,
        # A machine that does other work besides must give bad times, not a failed run.
        limits=tandem.Limits(prefill_timeout_s=PATIENCE_S, stall_timeout_s=PATIENCE_S),
    )


@asynccontextmanager
async def running(say: Say) -> AsyncIterator[Door]:
    """Starts engines and gateway, ends them afterwards, whatever happens."""
    fleet = lower(accept(declare())[0])
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        async with engines(fleet, folder, say) as records, front(fleet.gateway, records, folder, say) as door:
            yield door
