"""An engine that reads prompts and decodes, and how the one slows the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from pulumi_tandem.estimate.constants import Constants, constants, spread
from pulumi_tandem.estimate.decode import decode_pass
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import PassTime
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.prefill import prefill_passes

ROUNDS = 10
"""Requests that each client sends in a closed loop: InferenceMAX and vLLM's own benchmark send ten times as many
requests as there are clients. All clients start at once, so one request in ten meets the crowd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What the clients of an engine see."""

    ttft_s: Interval
    """Mean time to the first token."""
    tpot_s: Interval
    """Mean time per output token after the first."""
    tokens_per_s: Interval
    """Output tokens of all clients."""


def aggregated(
    setup: EngineSetup, *, concurrency: int, prompt_tokens: int, output_tokens: int, rounds: int = ROUNDS
) -> Latency:
    """Latencies when `concurrency` clients each send their next request as soon as the last is answered.

    Prompts are read in the same passes in which others decode, so each token waits for its share of all reading.
    Every client is taken to decode all the time, and the KV cache to hold them all.
    """
    known = constants(setup)
    ranks = setup.data_parallel
    step_s = decode_pass(setup, sequences=concurrency, context_tokens=prompt_tokens + output_tokens / 2).total_s
    reading = prefill_passes(setup, prompt_tokens)
    together = prefill_passes(setup, prompt_tokens, ranks=ranks) if ranks > 1 else reading
    reading_s = sum(each.total_s for each in reading)
    # Only the start makes a queue: what is read later is in `interference_s`, and so in the clients' own pace.
    queue_s = max(0.0, concurrency / ranks - 1) / 2 / rounds * reading_s
    ttft_s = first_token_s(known, step_s=step_s, reading_s=reading_s) + queue_s
    tpot_s = step_s + interference_s(known, work_s(together), sequences=concurrency / ranks) / output_tokens
    cycle_s = ttft_s + tpot_s * (output_tokens - 1)
    return Latency(
        ttft_s=spread(setup, "ttft", ttft_s),
        tpot_s=spread(setup, "tpot", tpot_s),
        tokens_per_s=spread(setup, "throughput", concurrency * output_tokens / cycle_s),
    )


def work_s(passes: Sequence[PassTime]) -> float:
    """Seconds of the passes without their overhead, which the step of those that decode has anyway."""
    return sum(each.total_s - each.overhead_s for each in passes)


def first_token_s(known: Constants, *, step_s: float, reading_s: float) -> float:
    """Time to the first token of a prompt that takes `reading_s` and waits for no other prompt."""
    return known.request_ms * 1e-3 + known.steps_waited * step_s + reading_s


def interference_s(known: Constants, reading_s: float, *, sequences: float) -> float:
    """Seconds that each sequence waits, over its whole answer, for prompts that are read meanwhile.

    There are as many of those as `sequences` on its rank, and each takes `reading_s`.
    """
    return known.overlap * reading_s * sequences
