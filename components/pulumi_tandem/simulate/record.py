"""What a simulation writes down while it runs."""

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from pulumi_tandem.simulate.engine import Engine
from pulumi_tandem.simulate.request import UNSENT, Request
from pulumi_tandem.simulate.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pulumi_tandem.simulate.pool import Pool

OUTCOMES = ("unanswered", "answered", "turned_away", "failed", "too_long")
"""`unanswered` is what has not ended; `too_long` fits into no worker's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLook:
    """A pool at the end of a window."""

    ready: int
    starting: int
    waiting: int
    """Requests that a worker has and has not begun."""
    busy: float
    """Share of the window in which ready workers computed."""
    kv_share: float
    """Share of their memory for keys and values that was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The service at the end of a window."""

    at_s: float
    running: int
    waiting_at_door: int
    pools: tuple[PoolLook, ...]


class Record:
    """Times of every request, and regular looks at the pools."""

    def __init__(self, scenario: Scenario, pools: "Sequence[Pool]", window_s: float) -> None:
        count = len(scenario.traffic)
        self.window_s = window_s
        self.arrival_s = [nan] * count
        self.first_s = [nan] * count
        self.end_s = [nan] * count
        self.outcome = bytearray(count)
        self.retried = 0
        """Hand-offs that were repeated before the client had anything."""
        self.resumed = 0
        """Streams that went on elsewhere."""
        self.deaths = 0
        self.events = 0
        self.looks: list[Look] = []
        self.prefix_hit = 0.0
        """Share of the tokens of prompts that the worker which read them had already."""
        self.ended_s = 0.0
        """When the last request was over."""
        self.gpu_s = [0.0 for _ in pools]
        self.worker_s = [0.0 for _ in pools]
        self._pools = pools
        self._looked_s = 0.0
        self._looked_busy_s = [0.0 for _ in pools]

    def came(self, request: Request) -> None:
        """A request is at the door."""
        self.arrival_s[request.index] = request.arrival_s

    def over(self, request: Request, now_s: float, outcome: str) -> None:
        """A request is answered or lost."""
        self.ended_s = now_s
        self.outcome[request.index] = OUTCOMES.index(outcome)
        if outcome == "answered":
            assert request.first_s != UNSENT, "an answer has a first token"
            self.first_s[request.index] = request.first_s
            self.end_s[request.index] = now_s

    def gone(self, engine: Engine, now_s: float) -> None:
        """A worker's GPUs are free."""
        self.gpu_s[engine.pool] += (now_s - engine.since_s) * engine.model.gpus
        self.worker_s[engine.pool] += now_s - engine.since_s

    def died(self, engine: Engine, now_s: float) -> None:
        """A worker's process has ended by itself."""
        self.deaths += 1
        self.gone(engine, now_s)

    def look(self, now_s: float, *, waiting_at_door: int, running: int) -> None:
        """Ends a window."""
        shares: list[float] = []
        for number, pool in enumerate(self._pools):
            busy_s = pool.busy_s(now_s)
            shares.append((busy_s - self._looked_busy_s[number]) / max(1e-9, (now_s - self._looked_s) * pool.ready))
            self._looked_busy_s[number] = busy_s
        pools = tuple(
            PoolLook(
                ready=pool.ready,
                starting=pool.starting,
                waiting=pool.waiting(),
                busy=min(1.0, share),
                kv_share=pool.kv_share(),
            )
            for pool, share in zip(self._pools, shares, strict=True)
        )
        self._looked_s = now_s
        self.looks.append(Look(at_s=now_s, running=running, waiting_at_door=waiting_at_door, pools=pools))

    def end(self) -> None:
        """Nothing more happens."""
        engines = [engine for pool in self._pools for engine in pool.engines]
        self.prefix_hit = sum(each.hit_tokens for each in engines) / max(1, sum(each.prompt_tokens for each in engines))
        for engine in engines:
            if engine.state != "gone":
                self.gone(engine, max(engine.since_s, self.ended_s))
