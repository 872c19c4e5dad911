"""An engine that reads prompts and decodes, and how the one slows the other."""

from dataclasses import dataclass

from pulumi_tandem.estimate.constants import spread
from pulumi_tandem.estimate.decode import decode_pass
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.prefill import prefill_passes
from pulumi_tandem.estimate.queueing import closed_wait_s

ROUNDS = 3
"""The share of clients that decode depends on the times it decides; it settles within three rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What the clients of an engine see."""

    ttft_s: Interval
    """Mean time to the first token."""
    tpot_s: Interval
    """Mean time per output token after the first."""
    tokens_per_s: Interval
    """Output tokens of the whole engine."""


def aggregated(setup: EngineSetup, *, concurrency: int, prompt_tokens: int, output_tokens: int) -> Latency:
    """Latencies when `concurrency` clients each send their next request as soon as the last is answered.

    Prompts are read in the same passes in which others decode, so a token waits for its share of all reading.
    """
    reading_s = sum(each.total_s - each.overhead_s for each in prefill_passes(setup, prompt_tokens))
    decoding, ttft_s, tpot_s = float(concurrency), 0.0, 0.0
    for _ in range(ROUNDS):
        step = decode_pass(setup, sequences=decoding, context_tokens=prompt_tokens + output_tokens / 2)
        tpot_s = step.total_s + decoding * reading_s / output_tokens
        ttft_s = step.total_s + closed_wait_s(service_s=reading_s, away_s=tpot_s * output_tokens, clients=concurrency)
        decoding = concurrency * tpot_s * output_tokens / (tpot_s * output_tokens + ttft_s)
    ttft, tpot = spread("ttft", ttft_s), spread("tpot", tpot_s)
    return Latency(
        ttft_s=ttft, tpot_s=tpot, tokens_per_s=_rate(concurrency * output_tokens, ttft, tpot * output_tokens)
    )


def _rate(tokens: float, ttft: Interval, decoding: Interval) -> Interval:
    return Interval(
        tokens / (ttft.high + decoding.high), tokens / (ttft.mid + decoding.mid), tokens / (ttft.low + decoding.low)
    )
