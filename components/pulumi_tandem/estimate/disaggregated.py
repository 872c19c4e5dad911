"""A pool that reads prompts and a pool that decodes."""

from dataclasses import dataclass

from pulumi_tandem.estimate.aggregated import ROUNDS, Latency, first_token_s
from pulumi_tandem.estimate.constants import constants, spread
from pulumi_tandem.estimate.decode import decode_pass
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.prefill import prefill_passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """So many engines of one kind."""

    setup: EngineSetup
    number: int


def disaggregated(
    prefill: Workers,
    decode: Workers,
    *,
    concurrency: int,
    prompt_tokens: int,
    output_tokens: int,
    rounds: int = ROUNDS,
) -> Latency:
    """Latencies when `concurrency` clients each send their next request as soon as the last is answered.

    Decode is not disturbed by prompts; prompts queue for the workers that read them, at the start for all clients at
    once, and beyond what they can read for as long as the loop lasts. A fabric's `transfer_s` comes on top of TTFT;
    the handing over of a request is in it.
    """
    known = constants(prefill.setup)
    sequences = concurrency / decode.number
    context_tokens = prompt_tokens + output_tokens / 2
    step_s = decode_pass(decode.setup, sequences=sequences, context_tokens=context_tokens).total_s
    reading_s = sum(each.total_s for each in prefill_passes(prefill.setup, prompt_tokens))
    clients = concurrency / prefill.number / prefill.setup.data_parallel
    queue_s = prompt_queue_s(reading_s, clients=clients, away_s=step_s * output_tokens, rounds=rounds)
    ttft_s = first_token_s(known, step_s=step_s, reading_s=reading_s) + queue_s + known.handoff_ms * 1e-3
    cycle_s = ttft_s + step_s * (output_tokens - 1)
    return Latency(
        ttft_s=spread(prefill.setup, "handed_over", ttft_s),
        tpot_s=spread(decode.setup, "tpot", step_s),
        tokens_per_s=spread(decode.setup, "throughput", concurrency * output_tokens / cycle_s),
    )


def prompt_queue_s(reading_s: float, *, clients: float, away_s: float, rounds: int) -> float:
    """Mean wait of a prompt for others in a closed loop of `clients`, each `away_s` with its answer in between.

    All start at once, so the first of `rounds` requests finds on average half of the others before it. Afterwards
    they come as they were served, one after the other, and wait only if the worker cannot keep up.
    """
    at_start_s = max(0.0, clients - 1.0) / 2.0 / rounds * reading_s
    return max(at_start_s, clients * reading_s - away_s)
