"""The gateway's own leaving: nothing new is accepted, what is under way is finished, within a limit."""

from dataclasses import dataclass
from enum import Enum, auto


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

    def look(self, under_way: int, now_s: float) -> Leaving:
        """Whether to go now; `under_way` counts requests running and waiting."""
        if under_way == 0:
            return Leaving.DONE
        return Leaving.TIMED_OUT if now_s >= self.began_s + self.timeout_s else Leaving.WAIT
