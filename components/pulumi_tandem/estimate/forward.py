"""How long one pass takes, and what of it is what."""

from dataclasses import dataclass

from pulumi_tandem.estimate.constants import generation, overhead
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.work import Batch, work

EXCHANGES_PER_LAYER = 2
"""All-reduces with tensor parallelism: after attention and after the feed-forward block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTime:
    """Seconds of one pass by what takes them."""

    weights_s: float
    """Reading the weights that the batch touches."""
    matrices_s: float
    """Multiplying with them."""
    attention_s: float
    """Reading cached keys and values, and attention's own products."""
    exchange_s: float
    """Exchanges between the GPUs."""
    overhead_s: float
    """Starting kernels, scheduling, sampling."""

    @property
    def total_s(self) -> float:
        """The whole pass: the weights are read while they are multiplied with, the rest comes on top."""
        return max(self.weights_s, self.matrices_s) + self.attention_s + self.exchange_s + self.overhead_s


def matrix_flops_per_s(setup: EngineSetup) -> float:
    """Peak of the GPU in the type in which it multiplies this model's weights.

    A type that the hardware lacks is unpacked and multiplied in 16 bits (Marlin kernels in vLLM); so is INT4, and
    so is MXFP4 before Blackwell.
    """
    gpu = setup.gpu
    peaks = {"fp8": gpu.fp8_tflops, "int8": gpu.fp8_tflops, "nvfp4": gpu.fp4_tflops, "mxfp4": gpu.fp4_tflops}
    return (peaks.get(setup.weight_dtype) or gpu.bf16_tflops) * 1e12


def pass_time(setup: EngineSetup, batch: Batch) -> PassTime:
    """What one pass takes by terms."""
    gpu, reach, extra = setup.gpu, generation(setup.gpu), overhead(setup.engine)
    todo = work(setup, batch)
    bandwidth = gpu.memory_gb_per_s * 1e9 * reach.memory_share
    exchanges = EXCHANGES_PER_LAYER * setup.shape.layers if setup.gpus > setup.pipeline_parallel else 0
    return PassTime(
        weights_s=todo.weight_bytes / bandwidth,
        matrices_s=todo.flops / (matrix_flops_per_s(setup) * reach.matrix_share),
        attention_s=todo.kv_bytes / bandwidth + todo.attention_flops / (gpu.bf16_tflops * 1e12 * reach.attention_share),
        exchange_s=exchanges * (extra.exchange_us * 1e-6 + _exchange_s(setup, todo.exchange_bytes)),
        overhead_s=(extra.pass_us + extra.layer_us * setup.shape.layers) * 1e-6,
    )


def _exchange_s(setup: EngineSetup, carried_bytes: float) -> float:
    """A ring all-reduce carries 2 * (n - 1) / n of its bytes out of every GPU, and as much in."""
    ways = setup.tensor_parallel
    one_way = (setup.gpu.nvlink_gb_per_s or setup.gpu.pcie_gb_per_s) * 1e9 / 2.0
    return 2.0 * (ways - 1) / ways * carried_bytes / one_way
