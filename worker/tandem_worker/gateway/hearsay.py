"""How much of a prompt is likely cached without this gateway's knowing: other gateways have sent it there.

Engines say how many of the tokens that they were given were in their caches, and the gateway knows how many of what it
sent it took to be there. What they found beyond that, they have from others. No I/O; time is a parameter.
"""

from dataclasses import dataclass, field

from tandem_worker.gateway.backlog import HALF_LIFE_S

TRUST = 3.0
"""How many times the share that engines find on average is believed of one prompt: of a conversation's first turn they
find nothing, of a later one nearly all. With less, several gateways agree less often, and so find less; in simulation 3
gives what 9 does (docs/pairing.md)."""
BELIEVED_MAX = 0.9
"""Never all: what was said last is nowhere yet."""


@dataclass(slots=True)
class Share:
    """A part of a whole; what was counted long ago fades."""

    part: float = 0.0
    whole: float = 0.0
    seen_s: float = 0.0

    def add(self, part: float, whole: float, now_s: float) -> None:
        """Count so much of so much."""
        fade = 0.5 ** (max(0.0, now_s - self.seen_s) / HALF_LIFE_S)
        self.part, self.whole = self.part * fade + part, self.whole * fade + whole
        self.seen_s = max(self.seen_s, now_s)

    @property
    def value(self) -> float:
        """The share; 0 of nothing."""
        return self.part / self.whole if self.whole else 0.0


@dataclass(slots=True)
class Hearsay:
    """What was known of the prompts that were sent, and what engines found of all that they got."""

    _known: Share = field(default_factory=Share)
    _found: Share = field(default_factory=Share)
    _counted: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Each worker's counters as they were last told."""

    def sent(self, known_bytes: int, prompt_bytes: int, now_s: float) -> None:
        """A prompt goes to a worker that is known to hold so much of it."""
        self._known.add(known_bytes, prompt_bytes, now_s)

    def heard(self, worker: str, cached_tokens: int, read_tokens: int, now_s: float) -> None:
        """How many tokens of prompts a worker has had in its cache, and how many it has read, since it started."""
        cached_before, read_before = self._counted.get(worker, (cached_tokens, read_tokens))
        self._counted[worker] = cached_tokens, read_tokens
        cached, read = cached_tokens - cached_before, read_tokens - read_before
        if cached >= 0 and read >= 0:  # else it has started anew
            self._found.add(cached, cached + read, now_s)

    def forget(self, worker: str) -> None:
        """A worker is gone."""
        self._counted.pop(worker, None)

    @property
    def share(self) -> float:
        """Of what a prompt's home is not known to hold, the share that it is believed to hold: 0 to `BELIEVED_MAX`."""
        known = self._known.value
        beyond = (self._found.value - known) / (1.0 - known) if known < 1.0 else 0.0
        return min(BELIEVED_MAX, max(0.0, TRUST * beyond))
