"""The one table of the estimator's constants: `constants.toml`, which `python -m benchmarks.estimator.fit` writes."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.interval import Interval

Table = Mapping[str, Any]
Quantity = Literal["prefill", "tpot", "ttft", "handed_over", "throughput"]
"""What an interval is around; a decode step counts as `tpot`, a first token by way of two pools as `handed_over`."""

GENERATIONS = ((100, "blackwell"), (0, "hopper"))
"""Smallest compute capability of each generation that rows were measured on. Ampere and Ada were not: they take
Hopper's shares of their own peaks, and the wider interval."""
MEASURED_FROM = 90
NARROW_FROM = {"fp8": 89, "int8": 75, "nvfp4": 100, "mxfp4": 100, "int4": 1000}
"""Compute capability from which matrices are multiplied in the weights' own type. Below it, and for INT4 always, they
are unpacked and multiplied in 16 bits (Marlin kernels in vLLM)."""

SCALED: dict[str, frozenset[tuple[str, int]]] = {
    "vllm": frozenset({("fp8", 8), ("fp8", 16), ("int4", 16)}),
    "sglang": frozenset({("fp8", 8), ("fp8", 16), ("int4", 16)}),
    "tensorrt-llm": frozenset({("mxfp4", 16), ("int4", 16)}),
}
"""Types of expert weights, with the bits in which they are multiplied, that an engine scales or unpacks in steps of
their own around the products: block FP8 in vLLM and SGLang, whatever the GPU lacks in TensorRT-LLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What the table says of one engine, on one generation of GPUs, with weights of one type."""

    memory_share: float
    """Share of the memory's peak bandwidth at which weights, keys and values are read."""
    matrix_share: float
    """Share of the arithmetic peak that products with weights reach once it limits them."""
    expert_matrix_share: float
    """Of that, what a mixture of experts reaches: its products are many and small."""
    attention_share: float
    """Share of the 16-bit peak at which attention over a prompt runs."""
    activation_passes: float
    """How often the activations of a layer are written or read between kernels."""
    expert_bytes: float
    """Time of reading experts against the formula: below 1 as routers prefer some experts, so that fewer are
    touched; above 1 where kernels unpack while they read (INT4)."""
    pass_us: float
    """Once per pass: scheduling, input, sampling."""
    sequence_us: float
    """Per sequence that decodes, and pass."""
    layer_us: float
    """Per layer: kernels that start, wait and end."""
    expert_layer_us: float
    """Per layer with experts besides: router, sorting, scales."""
    latent_layer_us: float
    """Per layer with latent attention besides: its projections."""
    exchange_us: float
    """Per all-reduce between two GPUs, beside its bytes."""
    exchange_doubling_us: float
    """For each doubling of the GPUs besides."""
    exchange_share: float
    """Share of the links' speed that an exchange reaches."""
    request_ms: float
    """Per request: HTTP, tokens of the text, admission."""
    steps_waited: float
    """Decode steps that a new prompt waits for, on average."""
    overlap: float
    """What reading a prompt costs those that decode, against reading it alone: its pass also does their step."""
    handoff_ms: float
    """Per request of a prefill worker besides: the answer that hands over to decode."""


@cache
def fitted() -> Table:
    """The table as it is shipped."""
    return tomllib.loads(files("pulumi_tandem.estimate").joinpath("constants.toml").read_text("utf-8"))


def generation(setup: EngineSetup) -> str:
    """The generation of GPUs whose constants are taken."""
    return next(name for least, name in GENERATIONS if setup.gpu.compute_capability >= least)


def matrix_bits(setup: EngineSetup) -> int:
    """Bits in which this GPU multiplies this model's weights: 16, 8 or 4.

    MXFP4 counts as 8 on Blackwell, where its activations are MXFP8.
    """
    least = NARROW_FROM.get(setup.weight_dtype)
    if least is None or setup.gpu.compute_capability < least:
        return 16
    return 4 if setup.weight_dtype == "nvfp4" else 8


def constants(setup: EngineSetup, table: Table | None = None) -> Constants:
    """The constants of an engine; of the shipped table by default."""
    return (
        _constants(setup.engine, generation(setup), setup.weight_dtype, matrix_bits(setup))
        if table is None
        else (select(table, setup.engine, generation(setup), setup.weight_dtype, matrix_bits(setup)))
    )


@cache
def _constants(engine: str, on: str, weights: str, bits: int) -> Constants:
    return select(fitted(), engine, on, weights, bits)


def select(table: Table, engine: str, on: str, weights: str, bits: int) -> Constants:
    """The rows of a table that one engine needs; a type of weights that it lacks counts as 16 bits."""
    gpu, own, experts = table["generation"][on], table["engine"][engine], table["experts"]
    kind = experts.get(weights, experts["bfloat16"])
    return Constants(
        **table["all"],
        memory_share=gpu["memory_share"],
        matrix_share=gpu[f"matrix_share_{bits}bit"],
        activation_passes=gpu["activation_passes"],
        expert_matrix_share=gpu["expert_matrix_share"],
        expert_bytes=kind["bytes"],
        layer_us=own[f"layer_us_{on}"],
        expert_layer_us=own[f"expert_layer_us_{on}"]
        + (own["scaled_expert_layer_us"] if (weights, bits) in SCALED[engine] else 0.0),
        latent_layer_us=own[f"latent_layer_us_{on}"],
        sequence_us=own["sequence_us"],
        exchange_us=own["exchange_us"],
        exchange_doubling_us=own["exchange_doubling_us"],
        request_ms=own["request_ms"],
    )


def kind_of(setup: EngineSetup) -> str:
    """The engine and the kind of model, by which errors differ."""
    return f"{setup.engine}-{'experts' if setup.shape.experts > 1 else 'dense'}"


def spread(setup: EngineSetup, what: Quantity, mid: float) -> Interval:
    """The 80 % interval around a prediction.

    From the errors on groups of rows that the fit had not seen; for a generation of GPUs without rows, from the errors
    on model families that it had not seen.
    """
    measured = setup.gpu.compute_capability >= MEASURED_FROM
    low, high = fitted()["spread"][what][kind_of(setup) if measured else "unmeasured"]
    return Interval(min(low, 1.0) * mid, mid, max(high, 1.0) * mid)
