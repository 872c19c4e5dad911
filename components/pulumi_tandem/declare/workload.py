"""What a service is asked, and how fast it must answer."""

from math import exp, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from pulumi_tandem.declare.noun import Noun
from pulumi_tandem.finding import DeclarationError, Finding


class Lengths(Noun):
    """How many tokens prompts or answers have; taken as log-normal."""

    mean: float = Field(ge=1)
    """Tokens."""
    variation: float = Field(default=1.0, ge=0)
    """Standard deviation over mean: 0 when all are alike, as in benchmarks; about 1 for chats."""

    @classmethod
    def from_percentiles(cls, *, p50: float, p95: float) -> "Lengths":
        """The log-normal lengths of which half are at most `p50` tokens, and 95 % at most `p95`.

        Raises DeclarationError where the two are not in order.
        """
        if not 1 <= p50 <= p95:
            message = f"p50 is {p50:g} tokens and p95 is {p95:g}; half of all lengths cannot be above 95 % of them"
            fix = "give at least 1 token for p50, and no less for p95"
            raise DeclarationError(
                [Finding(code="TND0002", severity="error", path="Lengths", message=message, fix=fix, source=__name__)]
            )
        spread = log(p95 / p50) / NormalDist().inv_cdf(0.95)
        return cls(mean=p50 * exp(spread**2 / 2), variation=sqrt(exp(spread**2) - 1))

    def at(self, quantile: float) -> float:
        """Tokens that the share `quantile` of lengths does not exceed."""
        spread = sqrt(log(1 + self.variation**2))
        return self.mean * exp(spread * NormalDist().inv_cdf(quantile) - spread**2 / 2)


def _as_lengths(given: object) -> object:
    """A plain number stands for lengths that are all alike."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return Lengths(mean=given, variation=0.0)
    return given


if TYPE_CHECKING:
    Tokens = Lengths | float
else:
    Tokens = Annotated[Lengths, BeforeValidator(_as_lengths)]


class Workload(Noun):
    """What a service is asked: how often, how much to read, how much to write."""

    requests_per_s: float = Field(gt=0)
    """Arrivals of the busiest hour that must still be served well; taken as independent of each other."""
    prompt_tokens: Tokens
    """A number: all prompts are of that length. Prefixes that are found in the cache count."""
    output_tokens: Tokens
    prefix_hit: float = Field(default=0.0, ge=0, lt=1)
    """Share of prompt tokens that prefill finds in its prefix cache and does not read again."""

    @property
    def prompts(self) -> Lengths:
        """Lengths of prompts, however they were given."""
        assert isinstance(self.prompt_tokens, Lengths)
        return self.prompt_tokens

    @property
    def outputs(self) -> Lengths:
        """Lengths of answers, likewise."""
        assert isinstance(self.output_tokens, Lengths)
        return self.output_tokens


class Objectives(Noun):
    """How fast a service must answer."""

    ttft_ms: float = Field(gt=0)
    """Longest time to the first token, waiting included."""
    tpot_ms: float = Field(gt=0)
    """Longest mean time per output token after the first."""
    e2e_ms: float | None = Field(default=None, gt=0)
    """Longest time to the last token of an answer of mean length. Default: what the other two make of it."""
    quantile: float = Field(default=0.95, ge=0.5, le=0.999)
    """Share of requests that must be within each of them."""
