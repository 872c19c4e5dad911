"""Reading a prompt."""

from pulumi_tandem.estimate.constants import spread
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import PassTime, pass_time
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.work import Batch


def prefill_passes(setup: EngineSetup, prompt_tokens: int, *, cached_tokens: int = 0) -> tuple[PassTime, ...]:
    """The passes that read one prompt, in chunks of the engine's batch.

    At least one token is always computed, as the last one's logits are needed, however much is cached.
    """
    passes: list[PassTime] = []
    start = max(0, min(cached_tokens, prompt_tokens - 1))
    while start < prompt_tokens:
        chunk = min(setup.batch_tokens, prompt_tokens - start)
        # A token looks back at itself and all before it: on average at half of its chunk.
        passes.append(pass_time(setup, Batch(prompt_tokens=chunk, prompt_context_tokens=start + (chunk + 1) / 2)))
        start += chunk
    return tuple(passes)


def prefill_s(setup: EngineSetup, prompt_tokens: int, *, cached_tokens: int = 0) -> Interval:
    """Seconds from a prompt's start to its first token on an engine that does nothing else.

    `cached_tokens` of it are found in the prefix cache.
    """
    passes = prefill_passes(setup, prompt_tokens, cached_tokens=cached_tokens)
    return spread("prefill", sum(each.total_s for each in passes))
