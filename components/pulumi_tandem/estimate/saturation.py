"""The smallest batch of prompt tokens that keeps a GPU's arithmetic busy."""

from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import pass_time
from pulumi_tandem.estimate.work import Batch

SATURATED = 0.9
"""A batch saturates the GPU when it reads prompts at this share of the speed that no batch exceeds."""
TOKENS_STEP = 256
TOKENS_MAX = 65_536


def saturation_tokens(setup: EngineSetup) -> int:
    """Smallest batch, in steps of 256 tokens, that reads prompts at 90 % of the GPU's best speed.

    Below it a pass still waits for weights, exchanges and kernel starts; above it prompts only wait longer for
    each other. Attention's own quadratic part is left out: it grows with the prompt, however it is cut.
    """
    best = _tokens_per_s(setup, TOKENS_MAX)
    low, high = 1, TOKENS_MAX // TOKENS_STEP
    while low < high:
        middle = (low + high) // 2
        if _tokens_per_s(setup, middle * TOKENS_STEP) >= SATURATED * best:
            high = middle
        else:
            low = middle + 1
    return low * TOKENS_STEP


def _tokens_per_s(setup: EngineSetup, tokens: int) -> float:
    return tokens / pass_time(setup, Batch(prompt_tokens=tokens)).total_s
