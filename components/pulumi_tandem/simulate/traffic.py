"""The requests of a simulation: when they come, and what they ask for.

Everything that chance decides about the load is decided here, once, before the clock starts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite
from typing import TYPE_CHECKING

from pulumi_tandem.declare.workload import Lengths

if TYPE_CHECKING:
    import numpy as np

NO_SESSION = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge:
    """A stretch of time in which requests come more often, or less."""

    start_s: float
    end_s: float
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How requests come."""

    requests_per_s: float
    variation: float = 1.0
    """Standard deviation over mean of the time between two: 0 like a clock, 1 independent of each other (Poisson),
    above 1 in bursts. The times are gamma distributed; vLLM's `--burstiness` is 1 / variation**2."""
    surges: tuple[Surge, ...] = ()
    """Factors of overlapping surges multiply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Several turns that share what was said before."""

    turns: int
    """Each arrival begins a conversation of so many requests; a prompt holds all prompts and answers before it."""
    pause_s: float
    """Mean time from one request to the next of its conversation, exponentially distributed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests in the order of their arrival; one entry per request in every field."""

    arrival_s: Sequence[float]
    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    cached_tokens: Sequence[int]
    """Of the prompt: what every worker has in its prefix cache, such as a system prompt."""
    session: Sequence[int]
    """Requests of one session extend each other's prompts; -1: belongs to none. A worker that read an earlier prompt
    of the session does not read that part again while it still has it."""
    duration_s: float
    """How long requests come. What is still running then is simulated to its end."""
    beginning: Sequence[int] = ()
    """Which beginning a prompt shares with those of other sessions, a system prompt say. Default: none does."""
    beginning_tokens: Sequence[int] = ()
    """How long it is; part of the prompt, and known to a worker that has read it."""

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True, slots=True)
class TraceError(ValueError):
    """A trace that cannot be read, with the row and what to write instead."""

    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(slots=True)
class _Columns:
    arrival_s: list[float] = field(default_factory=list[float])
    prompt_tokens: list[int] = field(default_factory=list[int])
    output_tokens: list[int] = field(default_factory=list[int])
    cached_tokens: list[int] = field(default_factory=list[int])
    session: list[int] = field(default_factory=list[int])


def from_rows(rows: Iterable[Mapping[str, object]], *, duration_s: float | None = None) -> Traffic:
    """The traffic of a trace: rows with `arrival_s`, `prompt_tokens`, `output_tokens`.

    A row may have `cached_tokens` and `session` (any word or number). Arrivals count from the first one on.
    Default of `duration_s`: the last arrival.

    Raises TraceError, with the number of the first row that is wrong.
    """
    sessions: dict[str, int] = {}
    read = sorted(_row(number, row, sessions) for number, row in enumerate(rows, start=1))
    if not read:
        raise TraceError("the trace has no rows; each needs arrival_s, prompt_tokens and output_tokens")
    first_s = read[0][0]
    columns = _Columns()
    for at_s, prompt, output, cached, session in read:
        if duration_s is not None and at_s - first_s > duration_s:
            break
        columns.arrival_s.append(at_s - first_s)
        columns.prompt_tokens.append(prompt)
        columns.output_tokens.append(output)
        columns.cached_tokens.append(cached)
        columns.session.append(session)
    return _traffic(columns, columns.arrival_s[-1] if duration_s is None else duration_s)


def constant(requests: int, *, prompt_tokens: int, output_tokens: int) -> Traffic:
    """So many equal requests, all at once: what clients of a closed loop take theirs from."""
    return Traffic(
        arrival_s=[0.0] * requests,
        prompt_tokens=[prompt_tokens] * requests,
        output_tokens=[output_tokens] * requests,
        cached_tokens=[0] * requests,
        session=[NO_SESSION] * requests,
        duration_s=inf,
    )


def generate(  # noqa: PLR0913
    arrivals: Arrivals,
    *,
    prompt_tokens: Lengths,
    output_tokens: Lengths,
    duration_s: float,
    seed: int,
    prefix_hit: float = 0.0,
    conversations: Conversations | None = None,
    context_tokens: int | None = None,
) -> Traffic:
    """Traffic drawn at random; the same seed gives the same traffic.

    `prefix_hit` is the share of every prompt that all workers have cached. A request is cut to `context_tokens`, its
    prompt first.
    """
    import numpy as np  # noqa: PLC0415 (a fifth of a second that only a simulation should pay)

    chance = np.random.default_rng(seed)
    starts = _arrival_times(arrivals, duration_s, chance)
    turns = conversations.turns if conversations else 1
    count = len(starts) * turns
    prompts = _draw(prompt_tokens, count, chance)
    outputs = _draw(output_tokens, count, chance)
    at_s, session = starts, np.full(count, NO_SESSION)
    if conversations:
        shape = (len(starts), turns)
        pauses = chance.exponential(conversations.pause_s, shape)
        pauses[:, 0] = 0.0
        at_s = (starts[:, None] + pauses.cumsum(axis=1)).ravel()
        said = (prompts + outputs).reshape(shape).cumsum(axis=1) - (prompts + outputs).reshape(shape)
        prompts = prompts + said.ravel()
        session = np.repeat(np.arange(len(starts)), turns)
    longest = context_tokens or np.iinfo(np.int64).max
    outputs = np.minimum(outputs, longest - 1)
    prompts = np.minimum(prompts, longest - outputs)
    order = np.argsort(at_s, kind="stable")
    order = order[at_s[order] < duration_s]
    return _traffic(
        _Columns(
            arrival_s=at_s[order].tolist(),
            prompt_tokens=prompts[order].tolist(),
            output_tokens=outputs[order].tolist(),
            cached_tokens=(prompts[order] * prefix_hit).astype(int).tolist(),
            session=session[order].tolist(),
        ),
        duration_s,
    )


def _arrival_times(arrivals: Arrivals, duration_s: float, chance: "np.random.Generator") -> "np.ndarray":
    """A renewal process of rate 1, whose time is stretched so that it runs at the rate of each moment."""
    import numpy as np  # noqa: PLC0415

    edges = sorted(
        {0.0, duration_s, *(min(max(t, 0.0), duration_s) for s in arrivals.surges for t in (s.start_s, s.end_s))}
    )
    rates = [arrivals.requests_per_s * _factor(arrivals.surges, (a + b) / 2) for a, b in pairwise(edges)]
    expected = np.concatenate(([0.0], np.cumsum(np.diff(edges) * rates)))
    many = int(expected[-1] + 10.0 * (1.0 + arrivals.variation) * expected[-1] ** 0.5 + 20)
    if arrivals.variation:
        gaps = chance.gamma(arrivals.variation**-2, arrivals.variation**2, many)
    else:
        gaps = np.ones(many)
    ticks = gaps.cumsum()
    return np.interp(ticks[ticks < expected[-1]], expected, edges)


def _factor(surges: tuple[Surge, ...], at_s: float) -> float:
    factor = 1.0
    for surge in surges:
        factor *= surge.factor if surge.start_s <= at_s < surge.end_s else 1.0
    return factor


def _draw(lengths: Lengths, count: int, chance: "np.random.Generator") -> "np.ndarray":
    """Whole tokens, at least one; log-normal."""
    import numpy as np  # noqa: PLC0415

    if not lengths.variation:
        return np.full(count, max(1, round(lengths.mean)))
    spread = np.log1p(lengths.variation**2) ** 0.5
    drawn = chance.lognormal(np.log(lengths.mean) - spread**2 / 2, spread, count)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def _row(number: int, row: Mapping[str, object], sessions: dict[str, int]) -> tuple[float, int, int, int, int]:
    at_s = _number(number, row, "arrival_s")
    prompt, output = (int(_number(number, row, name, least=1)) for name in ("prompt_tokens", "output_tokens"))
    cached = int(_number(number, row, "cached_tokens", default=0.0))
    given = row.get("session")
    session = NO_SESSION if given in (None, "") else sessions.setdefault(str(given), len(sessions))
    return at_s, prompt, output, min(cached, prompt), session


def _number(
    number: int, row: Mapping[str, object], name: str, *, least: float = 0.0, default: float | None = None
) -> float:
    given = row.get(name)
    if given in (None, ""):
        if default is not None:
            return default
        raise TraceError(f"row {number} has no {name}; each row needs arrival_s, prompt_tokens and output_tokens")
    try:
        value = float(str(given))
    except ValueError:
        value = inf
    if not isfinite(value) or value < least:
        raise TraceError(f"row {number}: {name} is {given!r}; write a number of at least {least:g}")
    return value


def _traffic(columns: _Columns, duration_s: float) -> Traffic:
    return Traffic(
        arrival_s=columns.arrival_s,
        prompt_tokens=columns.prompt_tokens,
        output_tokens=columns.output_tokens,
        cached_tokens=columns.cached_tokens,
        session=columns.session,
        duration_s=duration_s,
    )
