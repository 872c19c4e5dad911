"""How long one pass takes, and what of it is what."""

from dataclasses import dataclass

from pulumi_tandem.estimate.constants import Constants, constants, matrix_bits
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.work import Batch, Work, work


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What the vendor says a GPU can do."""

    memory_bytes_per_s: float
    matrix_flops_per_s: float
    """In the type in which it multiplies this model's weights."""
    attention_flops_per_s: float
    """In 16 bits."""
    link_bytes_per_s: float
    """To the other GPUs, one way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTime:
    """Seconds of one pass by what takes them."""

    weights_s: float
    """Reading the weights that the batch touches."""
    matrices_s: float
    """Multiplying with them."""
    attention_s: float
    """Reading cached keys and values, and attention's own products."""
    activations_s: float
    """Writing and reading what goes from kernel to kernel."""
    exchange_s: float
    """Exchanges between the GPUs."""
    overhead_s: float
    """Starting kernels, scheduling, sampling."""

    @property
    def busy_s(self) -> float:
        """Weights and the products with them.

        They are read while they are multiplied with; near the point where both take as long neither is hidden
        wholly, so the two add up like the sides of a right angle.
        """
        return (self.weights_s**2 + self.matrices_s**2) ** 0.5

    @property
    def total_s(self) -> float:
        """The whole pass."""
        return self.busy_s + self.attention_s + self.activations_s + self.exchange_s + self.overhead_s


def peaks(setup: EngineSetup) -> Peaks:
    """The peaks that count for one engine."""
    gpu = setup.gpu
    matrices = {16: gpu.bf16_tflops, 8: gpu.fp8_tflops, 4: gpu.fp4_tflops}[matrix_bits(setup)]
    return Peaks(
        memory_bytes_per_s=gpu.memory_gb_per_s * 1e9,
        matrix_flops_per_s=matrices * 1e12,
        attention_flops_per_s=gpu.bf16_tflops * 1e12,
        link_bytes_per_s=(gpu.nvlink_gb_per_s or gpu.pcie_gb_per_s) * 1e9 / 2.0,
    )


def pass_time(setup: EngineSetup, batch: Batch) -> PassTime:
    """What one pass takes, by terms."""
    return time_of(work(setup, batch), peaks(setup), constants(setup))


def time_of(todo: Work, peak: Peaks, known: Constants) -> PassTime:
    """What that much work takes. Arithmetic without branches, so that the fit can give whole columns for numbers."""
    bandwidth = peak.memory_bytes_per_s * known.memory_share
    matrices = peak.matrix_flops_per_s * known.matrix_share
    exchange_us = known.exchange_us + known.exchange_doubling_us * todo.exchange_doublings
    overhead_us = (
        known.pass_us
        + known.layer_us * todo.layers
        + known.expert_layer_us * todo.expert_layers
        + known.latent_layer_us * todo.latent_layers
        + known.sequence_us * todo.sequences
    )
    return PassTime(
        weights_s=(todo.weight_bytes + todo.expert_bytes * known.expert_bytes) / bandwidth,
        matrices_s=(todo.flops + todo.expert_flops / known.expert_matrix_share) / matrices,
        attention_s=todo.kv_bytes / bandwidth
        + todo.attention_flops / (peak.attention_flops_per_s * known.attention_share),
        activations_s=todo.activation_bytes * known.activation_passes / peak.memory_bytes_per_s,
        exchange_s=todo.exchanges * exchange_us * 1e-6
        + todo.exchange_bytes / (peak.link_bytes_per_s * known.exchange_share),
        overhead_s=overhead_us * 1e-6,
    )
