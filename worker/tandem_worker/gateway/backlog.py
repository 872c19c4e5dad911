"""How many seconds of work wait in a phase: what is pending over the rate at which it has been done."""

from dataclasses import dataclass
from math import log

HALF_LIFE_S = 60.0
"""After so long, what was measured counts half: loads and prompts change."""

USUAL_S = 10.0
"""What was measured in less time than this says less of a worker than what is usual: its first prompts are slow."""


@dataclass(slots=True)
class Meter:
    """One phase. The unit of work is the caller's: bytes of requests for prefill, requests for decode."""

    pending: float = 0.0
    done: float = 0.0
    busy_s: float = 0.0
    """Time with work pending, in which `done` was done; both fade."""
    seen_s: float | None = None

    def begin(self, work: float, now_s: float) -> None:
        """Work has come."""
        self._pass(now_s)
        self.pending += work

    def end(self, work: float, now_s: float, *, finished: bool) -> None:
        """Work has gone, finished or given up."""
        self._pass(now_s)
        self.pending = max(0.0, self.pending - work)
        if finished:
            self.done += work

    def seconds(self, now_s: float, *, waiting: float = 0.0) -> float:
        """How long the pending work (and `waiting` more) takes at the measured rate; 0 while none was measured."""
        self._pass(now_s)
        return (self.pending + waiting) * self.busy_s / self.done if self.done else 0.0

    def now(self, now_s: float) -> tuple[float, float, float]:
        """`pending`, `done` and `busy_s` as they are by now."""
        self._pass(now_s)
        return self.pending, self.done, self.busy_s

    def busy_share(self, now_s: float) -> float:
        """Share of the time with work pending, of about the last two half-lives."""
        self._pass(now_s)
        return min(1.0, self.busy_s * log(2) / HALF_LIFE_S)

    @property
    def rate(self) -> float:
        """Work per second while there is any, as last measured; 0 while none was."""
        return self.done / self.busy_s if self.busy_s else 0.0

    def rate_beside(self, usual: float) -> float:
        """The rate, as far as it was measured; the usual one of others counts as much as `USUAL_S` of measuring.

        So a worker that was slow once is tried again when that is long ago: while it gets no work, nothing else would
        say that it is not slow any more.
        """
        return (self.done + usual * USUAL_S) / (self.busy_s + USUAL_S)

    def _pass(self, now_s: float) -> None:
        passed_s = 0.0 if self.seen_s is None else max(0.0, now_s - self.seen_s)
        self.seen_s = now_s
        if not passed_s:
            return
        fade = 0.5 ** (passed_s / HALF_LIFE_S)
        self.done *= fade
        self.busy_s = self.busy_s * fade + (passed_s if self.pending else 0.0)
