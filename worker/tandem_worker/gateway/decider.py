"""Tells when the threshold of hand-offs decides nothing any more: always the same is seldom what was meant."""

from dataclasses import dataclass

from tandem_worker.gateway.pair import CACHED, SHORT

REQUESTS_MIN = 1000
"""Of one generation, before all of one kind is worth a line."""


@dataclass(slots=True)
class Decisions:
    """What became of the requests of one generation that could have been handed off."""

    generation: str | None = None
    handed_off: int = 0
    direct: int = 0
    told: bool = False

    def count(self, generation: str | None, *, handed_off: bool, reason: str) -> str | None:
        """Take one request; returns what is to be logged, once in a generation, when all went one way."""
        if not handed_off and reason not in (SHORT, CACHED):
            return None
        if generation != self.generation:
            self.generation, self.handed_off, self.direct, self.told = generation, 0, 0, False
        self.handed_off += handed_off
        self.direct += not handed_off
        if self.told or self.handed_off + self.direct < REQUESTS_MIN or (self.handed_off and self.direct):
            return None
        self.told = True
        if self.direct:
            return (
                f"generation {generation}: none of {self.direct} requests was handed off, as all were below "
                "hand_off_tokens_min; prefill workers are idle: lower it, or serve with one pool"
            )
        return (
            f"generation {generation}: all of {self.handed_off} requests were handed off, as none was below "
            "hand_off_tokens_min; it decides nothing for this load"
        )
