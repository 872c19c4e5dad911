"""Bounded admission: so many requests in the service, so many waiting, the rest turned away.

First come, first served. Pure: the shell reports arrivals, departures and expiries, and starts
whoever is named in the answer.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto

RETRY_AFTER_S_MAX = 30
"""Longest wait a turned-away client is told, so that it comes back while places free up."""


def share(limit: int, gateways: int) -> int:
    """This gateway's part of a service's limit, of which each of so many admits as much as any other.

    Rounded up: together they may admit a few more, which the engines' own queues hold; none is left without a place.
    """
    return -(-limit // max(1, gateways))


class Admission(Enum):
    """What becomes of an arriving request."""

    RUN = auto()
    WAIT = auto()
    TURN_AWAY = auto()


@dataclass(slots=True)
class Queue:
    """Requests in the service and those waiting for a place."""

    running_max: int
    waiting_max: int
    running: int = 0
    waiting: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])
    """Ids of waiting requests, the longest waiting first."""
    stay_s: float = 1.0
    """Moving average of how long a request stays in the service."""

    def arrive(self, request_id: int, *, privileged: bool = False) -> Admission:
        """A request arrives. A privileged one (a proof) takes a place beyond the limit rather than wait."""
        if privileged or (self.running < self.running_max and not self.waiting):
            self.running += 1
            return Admission.RUN
        if len(self.waiting) >= self.waiting_max:
            return Admission.TURN_AWAY
        self.waiting[request_id] = None
        return Admission.WAIT

    def leave(self, stayed_s: float) -> list[int]:
        """A running request is over; returns the waiting ones that run now, in order."""
        self.running -= 1
        assert self.running >= 0, "more requests left than had come"
        self.stay_s += 0.1 * (stayed_s - self.stay_s)
        return self._admit()

    def resize(self, running_max: int, waiting_max: int) -> list[int]:
        """Other limits from now on; returns the waiting ones that run now. Nobody who runs or waits is turned away."""
        self.running_max, self.waiting_max = running_max, waiting_max
        return self._admit()

    def give_up(self, request_id: int) -> bool:
        """A waiting request goes away; returns False when it was not waiting any more."""
        if request_id not in self.waiting:
            return False
        del self.waiting[request_id]
        return True

    def retry_after_s(self) -> int:
        """When a turned-away client may find a place: the queue's length over the rate of departures."""
        rounds = (len(self.waiting) + self.running) / max(1, self.running_max)
        return max(1, min(RETRY_AFTER_S_MAX, round(rounds * self.stay_s)))

    def _admit(self) -> list[int]:
        admitted: list[int] = []
        while self.waiting and self.running < self.running_max:
            request_id, _ = self.waiting.popitem(last=False)
            self.running += 1
            admitted.append(request_id)
        return admitted
