"""The one table of the estimator's constants: `constants.toml`, which the fit writes."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pulumi_tandem.catalog import Gpu
from pulumi_tandem.estimate.engine import EngineKind
from pulumi_tandem.estimate.interval import Interval

GENERATIONS = ((100, "blackwell"), (90, "hopper"), (89, "ada"), (0, "ampere"))
"""Smallest compute capability of each generation of GPUs; what is older than Ampere counts like it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What kernels reach of a GPU generation's peaks."""

    memory_share: float
    """Share of the memory's bandwidth at which weights and keys are read."""
    matrix_share: float
    """Share of the peak at which matrix products with weights run once they are limited by it."""
    attention_share: float
    """Share of the 16-bit peak at which attention over a prompt runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What an engine adds to the work itself."""

    pass_us: float
    """Once per pass: scheduling, input, sampling."""
    layer_us: float
    """Per layer: kernels that start, wait and end."""
    exchange_us: float
    """Per all-reduce between GPUs, of which a layer has two, beside its bytes."""


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("pulumi_tandem.estimate").joinpath("constants.toml").read_text("utf-8"))


@cache
def generation(gpu: Gpu) -> Generation:
    """Constants of the GPU's generation."""
    name = next(name for least, name in GENERATIONS if gpu.compute_capability >= least)
    return Generation(**_table()["generation"][name])


@cache
def overhead(engine: EngineKind) -> Overhead:
    """Constants of the engine."""
    return Overhead(**_table()["engine"][engine])


def spread(what: str, mid: float) -> Interval:
    """The 80 % interval around a prediction of `prefill`, `decode`, `ttft` or `tpot`, from the errors of the fit."""
    low, high = _table()["spread"][what]
    return Interval(low * mid, mid, high * mid)
