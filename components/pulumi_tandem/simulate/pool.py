"""The workers of one phase, and which of them comes next."""

from collections.abc import Callable
from heapq import heappop, heappush

from pulumi_tandem.simulate.engine import Engine, Shared, State, occupied_until
from pulumi_tandem.simulate.scenario import PoolModel
from pulumi_tandem.simulate.worker import WorkerModel

Load = Callable[[Engine], int]


def prefill_load(engine: Engine) -> int:
    """What the gateway compares of workers that read: prompt tokens under way."""
    return engine.queued_tokens


def decode_load(engine: Engine) -> int:
    """What the gateway compares of workers that write: requests under way, of either phase."""
    return engine.load


def no_load(_engine: Engine) -> int:
    """What is compared where workers take turns: nothing."""
    return 0


class Pool:
    """Engines of one phase; the least loaded one is found without looking at all of them."""

    def __init__(self, number: int, model: PoolModel, load: Load, shared: Shared) -> None:
        self.number = number
        self.model = model
        self.engines: list[Engine] = []
        """All that ever were, by their number."""
        self.ready = 0
        self.starting = 0
        self.requests = 0
        """Routed here and not done here."""
        self._load = load
        self._shared = shared
        self._ranked: list[tuple[int, int, int]] = []
        """A heap of (load, turn, number); an entry counts while it is as its engine is now."""
        self._turn = 0

    def create(self, model: WorkerModel, now_s: float) -> Engine:
        """One more worker, which starts."""
        engine = Engine(len(self.engines), self.number, model, self._shared)
        engine.since_s = now_s
        self.engines.append(engine)
        self.starting += 1
        return engine

    def change(self, engine: Engine, state: State) -> None:
        """A worker becomes ready, drains, starts again or goes."""
        for counted, step in ((engine.state, -1), (state, 1)):
            if counted == "ready":
                self.ready += step
            elif counted == "starting":
                self.starting += step
        engine.state = state
        self.rank(engine)

    def rank(self, engine: Engine) -> None:
        """Notes that a worker's load has changed."""
        if engine.state == "ready":
            heappush(self._ranked, (self._load(engine), engine.turn, engine.number))
            if len(self._ranked) > 8 * len(self.engines) + 64:
                ready = (each for each in self.engines if each.state == "ready")
                self._ranked = sorted((self._load(each), each.turn, each.number) for each in ready)

    def take_turn(self, engine: Engine) -> None:
        """Notes that a worker was chosen; its load must be ranked anew afterwards."""
        self._turn += 1
        engine.turn = self._turn

    def least(self) -> Engine | None:
        """The ready worker with the least load, among equals the one whose turn is longest ago."""
        ranked = self._ranked
        while ranked:
            load, turn, number = ranked[0]
            engine = self.engines[number]
            if engine.state == "ready" and engine.turn == turn and self._load(engine) == load:
                return engine
            heappop(ranked)
        return None

    def busy_s(self, now_s: float) -> float:
        """Seconds that all engines have computed up to now."""
        return sum(occupied_until(engine, now_s) for engine in self.engines)

    def waiting(self) -> int:
        """Requests that are here and that no engine has begun."""
        return sum(len(engine.waiting) for engine in self.engines)

    def kv_share(self) -> float:
        """Share of the ready engines' memory for keys and values that is taken."""
        ready = [engine for engine in self.engines if engine.state in ("ready", "draining")]
        room = sum(engine.model.kv_tokens for engine in ready)
        return sum(engine.kv_used for engine in ready) / room if room else 0.0
