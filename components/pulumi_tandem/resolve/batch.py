"""How many tokens one engine step holds, where nobody says."""

from pulumi_tandem.catalog import Gpu
from pulumi_tandem.declare import Architecture, Pool, Vllm
from pulumi_tandem.declare.engine import Engine
from pulumi_tandem.estimate import EngineSetup, saturation_tokens
from pulumi_tandem.resolve.engine import split_flags

BATCH_TOKENS = 8_192
"""Of a pool that also decodes, or whose GPU's speed is not known."""
CPU_BATCH_TOKENS = 2_048


def default_batch_tokens(pool: Pool, engine: Engine, *, gpu: Gpu, shape: Architecture, dtype: str, reads: bool) -> int:
    """For a pool that only reads prompts (`reads`), the smallest batch that saturates its GPUs.

    A smaller one leaves arithmetic idle, a larger one makes prompts wait for each other: estimate.saturation_tokens.
    """
    if gpu.name == "cpu":
        return CPU_BATCH_TOKENS
    in_chunks = isinstance(engine, Vllm) and ("--no-enable-chunked-prefill",) not in split_flags(pool.extra_args)
    if not (reads and in_chunks and gpu.bf16_tflops and gpu.memory_gb_per_s):
        return BATCH_TOKENS
    setup = EngineSetup(
        gpu=gpu,
        shape=shape,
        weight_dtype=shape.quantisation.weights if shape.quantisation else dtype,
        dtype=dtype,
        kv_dtype=pool.kv_dtype,
        tensor_parallel=pool.tensor_parallel or pool.gpus_per_worker or 1,
        pipeline_parallel=pool.pipeline_parallel,
        data_parallel=pool.data_parallel,
        expert_parallel=pool.expert_parallel,
    )
    return saturation_tokens(setup)
