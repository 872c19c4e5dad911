"""What a prediction is made of, in words and milliseconds."""

from dataclasses import dataclass, fields

from pulumi_tandem.estimate.aggregated import interference_s, work_s
from pulumi_tandem.estimate.constants import constants
from pulumi_tandem.estimate.decode import decode_pass
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import PassTime, pass_time
from pulumi_tandem.estimate.prefill import prefill_passes
from pulumi_tandem.estimate.saturation import saturation_tokens
from pulumi_tandem.estimate.work import Batch

WORDS = {
    "weights_s": "reads the weights that the batch touches",
    "matrices_s": "multiplies with them, while they are read",
    "attention_s": "reads cached keys and values, and attends",
    "activations_s": "hands activations from kernel to kernel",
    "exchange_s": "exchanges between the GPUs",
    "overhead_s": "starts kernels, schedules, samples",
}
"""By the fields of `PassTime`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A part of a prediction."""

    what: str
    ms: float
    """Terms of one prediction add up to its middle."""


def explain_prefill(setup: EngineSetup, prompt_tokens: int, *, cached_tokens: int = 0) -> tuple[Term, ...]:
    """The terms of `prefill_s`."""
    passes = prefill_passes(setup, prompt_tokens, cached_tokens=cached_tokens)
    request = Term(what="takes the request in and the text apart", ms=constants(setup).request_ms)
    return (*_terms(passes), request)


def explain_decode(setup: EngineSetup, *, sequences: int, context_tokens: int) -> tuple[Term, ...]:
    """The terms of `decode_step_s`."""
    return _terms((decode_pass(setup, sequences=sequences, context_tokens=context_tokens),))


def explain_saturation(setup: EngineSetup) -> tuple[Term, ...]:
    """The terms of a pass over so many prompt tokens as `saturation_tokens` says."""
    return _terms((pass_time(setup, Batch(prompt_tokens=saturation_tokens(setup))),))


def explain_aggregated(
    setup: EngineSetup, *, concurrency: int, prompt_tokens: int, output_tokens: int
) -> tuple[Term, ...]:
    """The terms of the TPOT that `aggregated` predicts."""
    step = decode_pass(setup, sequences=concurrency, context_tokens=prompt_tokens + output_tokens / 2)
    reading_s = work_s(prefill_passes(setup, prompt_tokens, ranks=setup.data_parallel))
    sequences = concurrency / setup.data_parallel
    waited_s = interference_s(constants(setup), reading_s, sequences=sequences) / output_tokens
    return (*_terms((step,)), Term(what="waits for prompts of others that are read meanwhile", ms=waited_s * 1e3))


def _terms(passes: tuple[PassTime, ...]) -> tuple[Term, ...]:
    """Terms of the passes together.

    Weights and products overlap: they share the time that both take together in proportion to their own.
    """
    sums = dict.fromkeys(WORDS, 0.0)
    for each in passes:
        apart_s = each.weights_s + each.matrices_s
        shrink = each.busy_s / apart_s if apart_s else 0.0
        for field in fields(each):
            overlapping = field.name in {"weights_s", "matrices_s"}
            sums[field.name] += getattr(each, field.name) * (shrink if overlapping else 1.0)
    return tuple(Term(what=WORDS[name], ms=seconds * 1e3) for name, seconds in sums.items())
