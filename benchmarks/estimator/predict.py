"""One row, predicted through the estimator's public functions."""

from dataclasses import dataclass

from benchmarks.estimator.rows import Row
from pulumi_tandem.estimate import Interval, aggregated, disaggregated


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the estimator says of a row."""

    ttft_ms: Interval
    tpot_ms: Interval
    tokens_per_s: Interval


def predict(row: Row) -> Prediction:
    """The row's setup, prompt, answer and clients, as a user would ask."""
    load = {
        "concurrency": row.concurrency,
        "prompt_tokens": row.prompt_tokens,
        "output_tokens": row.output_tokens,
    }
    if row.mode == "agg":
        found = aggregated(row.decode.setup, **load)
    else:
        found = disaggregated(row.prefill, row.decode, **load)
    return Prediction(found.ttft_s * 1e3, found.tpot_s * 1e3, found.tokens_per_s)
