"""Reading a prompt."""

from collections.abc import Iterator

from pulumi_tandem.estimate.constants import constants, spread
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import PassTime, pass_time
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.work import Batch


def chunks(setup: EngineSetup, prompt_tokens: int, *, cached_tokens: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """The passes that read one prompt, in chunks of the engine's batch.

    `ranks` of data parallelism each read one such prompt at once.
    At least one token is always computed, as the last one's logits are needed, however much is cached.
    """
    start = max(0, min(cached_tokens, prompt_tokens - 1))
    while start < prompt_tokens:
        tokens = min(setup.batch_tokens, prompt_tokens - start)
        # A token looks back at itself and all before it: on average at half of its chunk.
        yield Batch(prompt_tokens=tokens * ranks, prompt_context_tokens=start + (tokens + 1) / 2, prompt_ranks=ranks)
        start += tokens


def prefill_passes(
    setup: EngineSetup, prompt_tokens: int, *, cached_tokens: int = 0, ranks: int = 1
) -> tuple[PassTime, ...]:
    """What each of those passes takes on an engine that does nothing else."""
    parts = chunks(setup, prompt_tokens, cached_tokens=cached_tokens, ranks=ranks)
    return tuple(pass_time(setup, each) for each in parts)


def prefill_s(setup: EngineSetup, prompt_tokens: int, *, cached_tokens: int = 0) -> Interval:
    """Seconds from a prompt's arrival to its first token on an engine that does nothing else.

    `cached_tokens` of it are found in the prefix cache.
    """
    passes = prefill_passes(setup, prompt_tokens, cached_tokens=cached_tokens)
    return spread(setup, "prefill", sum(each.total_s for each in passes) + constants(setup).request_ms * 1e-3)
