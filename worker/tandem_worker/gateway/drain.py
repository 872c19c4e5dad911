"""The gateway's own leaving: nothing new is accepted, what is under way is finished, within a limit.

Before it closes a connection it says goodbye. One that is closed while its client sends the next request on it looks to
the client like a server that died; so every answer says that its connection ends, and none is closed unasked until a
while after the last answer: what had begun before could not say so.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

GOODBYE_S = 2.0
"""Within it a client that keeps asking has had an answer; one that rests longer finds its connection closed."""


class Leaving(Enum):
    """How far the gateway's drain is."""

    WAIT = auto()
    DONE = auto()
    TIMED_OUT = auto()


@dataclass(slots=True)
class Drain:
    """A drain that began at `began_s` and may take `timeout_s`."""

    began_s: float
    timeout_s: float
    busy_s: float = field(init=False)
    """When something was last seen under way."""

    def __post_init__(self) -> None:
        self.busy_s = self.began_s

    def look(self, under_way: int, connections: int, now_s: float) -> Leaving:
        """Whether to go now; `under_way` counts requests running and waiting, `connections` all that are open."""
        if under_way:
            self.busy_s = now_s
        if now_s >= self.began_s + self.timeout_s:
            return Leaving.TIMED_OUT if under_way else Leaving.DONE
        rests = connections > 0 and now_s < self.busy_s + GOODBYE_S
        return Leaving.WAIT if under_way or rests else Leaving.DONE
