"""The gateway's own leaving: nothing new is accepted, what is under way is finished, within a limit.

First it says goodbye. A connection that is closed while its client sends the next request on it looks to the client
like a server that died; so for a while every answer says that its connection ends, and none is closed unasked.
"""

from dataclasses import dataclass
from enum import Enum, auto

GOODBYE_S = 2.0
"""Within it a client that keeps asking has had an answer; one that rests longer finds its connection closed."""


class Leaving(Enum):
    """How far the gateway's drain is."""

    WAIT = auto()
    DONE = auto()
    TIMED_OUT = auto()


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain that began at `began_s` and may take `timeout_s`."""

    began_s: float
    timeout_s: float

    def says_goodbye(self, connections: int, now_s: float) -> bool:
        """Whether unused connections are left open still; `connections` counts all that are open."""
        return connections > 0 and now_s < self.began_s + min(GOODBYE_S, self.timeout_s)

    def look(self, under_way: int, now_s: float) -> Leaving:
        """Whether to go now; `under_way` counts requests running and waiting."""
        if under_way == 0:
            return Leaving.DONE
        return Leaving.TIMED_OUT if now_s >= self.began_s + self.timeout_s else Leaving.WAIT
