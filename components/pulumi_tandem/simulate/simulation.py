"""The service under load: one clock, one queue of what happens next.

The queue is a heap of our own: taking an event from it costs a microsecond. A process of simpy costs ten times that,
and a service of thousands of GPUs has millions of events.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from math import ceil, inf

from pulumi_tandem.simulate.engine import Engine, Shared
from pulumi_tandem.simulate.fabric import Fabric
from pulumi_tandem.simulate.gaps import Gaps
from pulumi_tandem.simulate.pool import Load, Pool, decode_load, no_load, prefill_load
from pulumi_tandem.simulate.record import Record
from pulumi_tandem.simulate.request import UNSENT, Request
from pulumi_tandem.simulate.scenario import Asked, Flexible, Pairing, PoolModel, PoolView, Role, Scaling, Scenario

Progress = Callable[[float], None]
"""Is told the simulated seconds now and then."""


class Simulation:
    """One run of a scenario. `run` may be called once."""

    def __init__(self, scenario: Scenario, *, window_s: float, progress: Progress | None = None) -> None:
        self.scenario = scenario
        self.gaps = Gaps()
        self.fabric = Fabric(scenario.hand_off)
        self.now_s = 0.0
        shared = Shared(gaps=self.gaps, normal=_normal(scenario.seed))
        self.pools = [
            Pool(number, model, _load(scenario, model), shared) for number, model in enumerate(scenario.pools)
        ]
        self.record = Record(scenario, self.pools, window_s)
        self._prefill = self.pools[0] if scenario.prefill else None
        self._decode = self.pools[-1]
        self._flexible = scenario.flexible
        self._pairing = scenario.pairing
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._events_planned = 0
        self._periodic = 0
        """Events in the queue that come again and again as long as there are others."""
        self._queue: deque[Request] = deque()
        self._running = 0
        self._next = 0
        self._progress = progress

    # --- the clock ------------------------------------------------------------------------------

    def run(self) -> Record:
        """Runs until every request is answered or lost."""
        for pool in self.pools:
            for model, count in pool.model.workers:
                for _ in range(count):
                    pool.change(pool.create(model, 0.0), "ready")
            if pool.model.scaling:
                self._again(pool.model.scaling.interval_s, self._scale, pool, pool.model.scaling, [], 0.0)
        if self._flexible:
            self._give_roles(self._flexible)
            self._again(self._flexible.interval_s, self._look_at_roles, self._flexible)
        for death in self.scenario.deaths:
            pool = next(pool for pool in self.pools if pool.model.name == death.pool)
            self._plan(death.at_s, self._die, pool, death.worker)
        self._plan_deaths_by_chance()
        self._again(self.record.window_s, self._look)
        if self.scenario.clients is None:
            self._plan_arrival()
        else:
            for _ in range(min(self.scenario.clients, len(self.scenario.traffic))):
                self._plan(self.scenario.door.request_s, self._come, 0.0)
        events = self._events
        while events:
            self.now_s, _, happen, subject = heappop(events)
            happen(*subject)
        self.record.events = self._events_planned
        self.record.end()
        return self.record

    def _plan(self, at_s: float, happen: Callable[..., None], *subject: object) -> None:
        self._events_planned += 1
        heappush(self._events, (at_s, self._events_planned, happen, subject))

    def _again(self, interval_s: float, happen: Callable[..., None], *subject: object) -> None:
        """Plans what happens regularly, and does not by itself keep the simulation going."""
        self._periodic += 1
        self._plan(self.now_s + interval_s, happen, *subject)

    def _goes_on(self) -> bool:
        """Whether anything but what happens regularly is still to come; to be asked by what does."""
        self._periodic -= 1
        return len(self._events) > self._periodic

    # --- the front door -------------------------------------------------------------------------

    def _plan_arrival(self) -> None:
        if self._next < len(self.scenario.traffic):
            at_s = self.scenario.traffic.arrival_s[self._next]
            self._plan(at_s + self.scenario.door.request_s, self._come, at_s)

    def _come(self, at_s: float) -> None:
        traffic, index = self.scenario.traffic, self._next
        if index >= len(traffic):
            return
        self._next += 1
        request = Request(index, at_s, traffic.prompt_tokens[index], traffic.output_tokens[index])
        request.cached, request.session = traffic.cached_tokens[index], traffic.session[index]
        if traffic.beginning:
            request.beginning, request.beginning_tokens = traffic.beginning[index], traffic.beginning_tokens[index]
        self.record.came(request)
        door = self.scenario.door
        if self._running < door.requests_running_max:
            self._running += 1
            self._send(request)
        elif len(self._queue) < door.requests_waiting_max:
            self._queue.append(request)
        else:
            self._over(request, "turned_away")
        if self.scenario.clients is None:
            self._plan_arrival()

    def _leave(self, request: Request, outcome: str) -> None:
        """A request is over, well or not: the next one gets its place."""
        self._running -= 1
        if self._pairing:
            self._pairing.over(request.index, self.now_s)
        self._over(request, outcome)
        if self._queue and self._running < self.scenario.door.requests_running_max:
            self._running += 1
            self._send(self._queue.popleft())

    def _over(self, request: Request, outcome: str) -> None:
        self.record.over(request, self.now_s, outcome)
        if self.scenario.clients is not None:
            self._plan(self.now_s + self.scenario.door.request_s, self._come, self.now_s)

    def _send(self, request: Request) -> None:
        """Routes a request to a pair, or to one worker where there is no pair."""
        door = self.scenario.door
        if request.attempts >= door.attempts_max:
            self._leave(request, "failed")
            return
        request.attempts += 1
        prefill, decode = self._chosen(request, self._pairing) if self._pairing else (self._reader(), self._writer())
        if not self._pairing and (self._prefill or self._flexible) and (prefill is None or decode is None):
            survivor = prefill or decode if door.survivors_serve_both else None
            prefill, decode = None, survivor
        if decode is None:
            self._leave(request, "failed")
            return
        if request.prompt + request.output > min(each.model.kv_tokens for each in (prefill, decode) if each):
            self._leave(request, "too_long")
            return
        request.prefill, request.decode = prefill, decode
        request.context = request.prompt + request.sent
        self._charge(decode, request, 1)
        if prefill is None:
            request.hands_off = False
            self._accept(decode, request)
        else:
            request.hands_off = True
            self._charge(prefill, request, 1)
            self._accept(prefill, request)

    def _chosen(self, request: Request, pairing: Pairing) -> tuple[Engine | None, Engine]:
        asked = Asked(
            index=request.index,
            prompt_tokens=request.prompt,
            session=request.session,
            beginning=request.beginning,
            beginning_tokens=request.beginning_tokens,
            held_tokens=[engine.cache.held_tokens(request) for engine in self.pools[0].engines],
            cached_and_read=[(each.hit_tokens, each.prompt_tokens - each.hit_tokens) for each in self.pools[0].engines],
        )
        reads, answers = pairing.choose(asked, self.now_s)
        return None if reads is None else self.pools[0].engines[reads], self._decode.engines[answers]

    def _reader(self) -> Engine | None:
        """Where a prompt is read for another worker."""
        if self._flexible:
            return self._least("prefill", prefill_load)
        return self._prefill.least() if self._prefill else None

    def _writer(self) -> Engine | None:
        """Where an answer is written."""
        return self._least("decode", decode_load) if self._flexible else self._decode.least()

    def _least(self, role: Role, load: Load) -> Engine | None:
        """The least loaded of the flexible workers that have the role; they are few, so all are looked at."""
        able = (engine for engine in self._decode.engines if engine.state == "ready" and engine.role == role)
        return min(able, key=lambda engine: (load(engine), engine.turn, engine.number), default=None)

    def _charge(self, engine: Engine, request: Request, sign: int) -> None:
        """Counts a request for or against a worker; one that drains goes with its last request."""
        pool = self.pools[engine.pool]
        engine.load += sign
        pool.requests += sign
        if sign > 0:
            pool.take_turn(engine)
        if engine is request.prefill:
            engine.queued_tokens += sign * request.prompt
        if engine.state == "ready":
            pool.rank(engine)
        elif engine.state == "draining" and not engine.load:
            pool.change(engine, "gone")
            self.record.gone(engine, self.now_s)

    # --- engines --------------------------------------------------------------------------------

    def _accept(self, engine: Engine, request: Request) -> None:
        if engine.accept(request, self.now_s):
            self._plan_change(engine)

    def _plan_change(self, engine: Engine) -> None:
        engine.version += 1
        if engine.run is None:
            self._proceed(engine)
        else:
            self._plan(engine.run.end_s, self._change, engine, engine.version)

    def _change(self, engine: Engine, version: int) -> None:
        if version != engine.version or engine.run is None:
            return
        finished, read = engine.settle(engine.run.passes)
        self._proceed(engine)
        for request in read:
            self._hand_off(request)
        for request in finished:
            self._charge(engine, request, -1)
            self._leave(request, "answered")

    def _proceed(self, engine: Engine) -> None:
        fetching = engine.begin(self.now_s)
        if engine.run:
            engine.version += 1
            self._plan(engine.run.end_s, self._change, engine, engine.version)
        for request in fetching:
            assert request.prefill is not None, "only what another worker read is fetched"
            done_s = self.fabric.done_s(self.now_s, request.prefill, engine, request.context)
            self._plan(done_s, self._fetched, request, request.attempts)

    def _hand_off(self, request: Request) -> None:
        """A prompt is read: the decode worker may fetch it, or another one if that takes no requests any more."""
        request.hands_off = False
        decode = request.decode
        assert decode is not None, "a hand-off has two ends"
        other = None
        if self._pairing:
            other = self._decode.engines[self._pairing.read(request.index, self.now_s)]
        elif decode.state != "ready":
            other = self._writer()
        if other is not None and other is not decode:
            self._charge(decode, request, -1)
            request.decode = decode = other
            self._charge(decode, request, 1)
        if decode.state == "gone":
            self._break(request)
        else:
            self._accept(decode, request)

    def _fetched(self, request: Request, attempt: int) -> None:
        """Keys and values are where they are needed, unless one of the two workers died meanwhile."""
        prefill, decode = request.prefill, request.decode
        if request.attempts != attempt or prefill is None or decode is None or request not in decode.incoming:
            return
        self._charge(prefill, request, -1)
        changed = prefill.released(request, self.now_s)
        request.prefill = None
        if changed:
            self._plan_change(prefill)
        if decode.arrived(request, self.now_s):
            self._plan_change(decode)

    # --- workers come and go --------------------------------------------------------------------

    def _die(self, pool: Pool, number: int) -> None:
        if number < len(pool.engines) and pool.engines[number].state in ("ready", "draining"):
            self._end(pool, pool.engines[number])

    def _die_by_chance(self, pool: Pool, chance: float) -> None:
        ready = [engine for engine in pool.engines if engine.state == "ready"]
        if ready:
            self._end(pool, ready[int(chance * len(ready))])

    def _end(self, pool: Pool, engine: Engine) -> None:
        """A worker's process ends; whoever had something on it goes elsewhere, and it starts again."""
        finished, read = engine.settle(engine.run.done_by(self.now_s) if engine.run else 0)
        broken = [*engine.requests()]
        for _, _, request in engine.decoding:
            engine.stop_decoding(request, self.now_s)
        pool.change(engine, "gone")
        self.record.died(engine, self.now_s)
        for request in finished:
            self._charge(engine, request, -1)
            self._leave(request, "answered")
        for request in dict.fromkeys([*broken, *read]):
            self._break(request)
        successor = pool.create(engine.model, self.now_s)
        self._plan(self.now_s + engine.model.start_s, self._start, pool, successor)

    def _break(self, request: Request) -> None:
        """Takes a request from its workers and sends it anew; what the client has becomes part of the prompt."""
        prefill, decode = request.prefill, request.decode
        request.hands_off = False
        for engine in (prefill, decode):
            if engine is None:
                continue
            if engine.state != "gone":
                self._drop(engine, request)
            self._charge(engine, request, -1)
        request.prefill = request.decode = None
        if request.first_s == UNSENT:
            self.record.retried += 1
        elif self.scenario.door.resume:
            self.record.resumed += 1
        else:
            self._leave(request, "failed")
            return
        self._send(request)

    def _drop(self, engine: Engine, request: Request) -> None:
        if request in engine.held:
            if engine.released(request, self.now_s):
                self._plan_change(engine)
        else:
            engine.dropped(request)

    def _start(self, pool: Pool, engine: Engine) -> None:
        if engine.state == "starting":
            pool.change(engine, "ready")

    def _plan_deaths_by_chance(self) -> None:
        """Of every pool: a Poisson process at the rate of all workers that it begins with, one of which it hits."""
        if self.scenario.hours_between_deaths == inf:
            return
        import numpy as np  # noqa: PLC0415 (see traffic)

        chance = np.random.default_rng([self.scenario.seed, 1])
        for pool in self.pools:
            workers = sum(count for _, count in pool.model.workers)
            mean_s = self.scenario.hours_between_deaths * 3600.0 / workers
            at_s = chance.exponential(mean_s)
            while at_s < self.scenario.traffic.duration_s:
                self._plan(at_s, self._die_by_chance, pool, float(chance.random()))
                at_s += chance.exponential(mean_s)

    def _scale(self, pool: Pool, scaling: Scaling, wanted: list[tuple[float, int]], busy_s: float) -> None:
        """Shows the policy its pool and follows it, upwards at once, downwards when it has been calm."""
        goes_on = self._goes_on()
        busy_now_s = pool.busy_s(self.now_s)
        view = PoolView(
            now_s=self.now_s,
            ready=pool.ready,
            starting=pool.starting,
            requests=pool.requests,
            waiting=pool.waiting() + (len(self._queue) if pool is self.pools[0] else 0),
            busy=(busy_now_s - busy_s) / (max(1, pool.ready) * scaling.interval_s),
        )
        now_wanted = min(scaling.workers_max, max(scaling.workers_min, ceil(scaling.policy(view))))
        recent = [(at_s, count) for at_s, count in wanted if at_s > self.now_s - scaling.calm_s]
        recent.append((self.now_s, now_wanted))
        there = pool.ready + pool.starting
        self._grow(pool, now_wanted - there)
        self._shrink(pool, there - max(count for _, count in recent))
        if goes_on:
            self._again(scaling.interval_s, self._scale, pool, scaling, recent, busy_now_s)

    def _look_at_roles(self, flexible: Flexible) -> None:
        goes_on = self._goes_on()
        self._give_roles(flexible)
        if goes_on:
            self._again(flexible.interval_s, self._look_at_roles, flexible)

    def _give_roles(self, flexible: Flexible) -> None:
        """Asks who takes new requests of which phase; what runs is left where it is."""
        ready = {engine.number: engine for engine in self._decode.engines if engine.state == "ready"}
        for number, role in flexible.policy(self.now_s, [engine.view() for engine in ready.values()]).items():
            ready[number].role = role

    def _grow(self, pool: Pool, workers: int) -> None:
        model = pool.model.workers[0][0]
        for _ in range(workers):
            self._plan(self.now_s + model.start_s, self._start, pool, pool.create(model, self.now_s))

    def _shrink(self, pool: Pool, workers: int) -> None:
        """Those that start go first, then the least loaded."""
        if workers <= 0:
            return
        order = {"starting": 0, "ready": 1}
        able = sorted((e for e in pool.engines if e.state in order), key=lambda e: (order[e.state], e.load, e.number))
        for engine in able[:workers]:
            pool.change(engine, "draining" if engine.load else "gone")
            if not engine.load:
                self.record.gone(engine, self.now_s)

    def _look(self) -> None:
        goes_on = self._goes_on()
        self.record.look(self.now_s, waiting_at_door=len(self._queue), running=self._running)
        if self._progress:
            self._progress(self.now_s)
        if goes_on:
            self._again(self.record.window_s, self._look)


def _load(scenario: Scenario, pool: PoolModel) -> Load:
    if pool.routing == "in_turn":
        return no_load
    return prefill_load if pool is scenario.prefill else decode_load


def _normal(seed: int) -> Iterator[float]:
    """Drawn in thousands, since a single draw costs more than a step of the simulation."""
    import numpy as np  # noqa: PLC0415 (see traffic)

    chance = np.random.default_rng([seed, 2])
    while True:
        yield from chance.standard_normal(4096).tolist()
