"""One more token for every sequence."""

from pulumi_tandem.estimate.constants import spread
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import PassTime, pass_time
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.work import Batch


def decode_pass(setup: EngineSetup, *, sequences: float, context_tokens: float) -> PassTime:
    """The pass that gives every sequence one more token."""
    return pass_time(setup, Batch(sequences=sequences, context_tokens=context_tokens))


def decode_step_s(setup: EngineSetup, *, sequences: float, context_tokens: float) -> Interval:
    """Seconds of one step of an engine that only decodes: the time per output token of each of its sequences."""
    return spread(setup, "tpot", decode_pass(setup, sequences=sequences, context_tokens=context_tokens).total_s)
