"""When an engine's silence means that it is gone.

An engine under load is silent for good reasons before its first token, so the limit there is the
prefill's; between tokens it is the stall limit. Its agent's word shortens both: an engine that does
not answer its health check, or is stopped, will not answer this request either.
"""

from dataclasses import dataclass

from tandem_worker.contract import Phase

UNWELL_S = 1.0
"""How long an agent must have been calling its engine unwell, and the engine silent, to act on it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The declared times."""

    prefill_timeout_s: float
    stall_timeout_s: float


@dataclass(frozen=True, slots=True)
class Silence:
    """One request's engine, as seen now."""

    phase: Phase
    streaming: bool
    """Whether the client asked for a stream; a whole answer comes after a silence as long as it takes."""
    begun: bool
    """Whether the first token has come."""
    silent_s: float
    unwell_s: float
    """For how long the worker's agent has been answering that it is not ready; 0 when it is, or drains."""


def judge(silence: Silence, limits: Limits) -> str:
    """Why the engine counts as gone; empty while it does not."""
    if silence.silent_s >= UNWELL_S and silence.unwell_s >= UNWELL_S:
        return f"silent for {silence.silent_s:.1f} s while its agent reports it unwell"
    if silence.phase == "prefill":
        limit_s = limits.prefill_timeout_s
    elif not silence.streaming:
        return ""
    else:
        limit_s = limits.stall_timeout_s if silence.begun else max(limits.prefill_timeout_s, limits.stall_timeout_s)
    return f"silent for {silence.silent_s:.1f} s" if silence.silent_s >= limit_s else ""
