"""One engine with continuous batching: what it does next, and how long that takes.

A pass reads chunks of prompts, or gives every running sequence one more token, or both. Passes that only decode are
taken together up to the next one that changes the batch, since nothing else happens in between: that makes thousands
of engines affordable.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil, exp
from typing import Literal

from pulumi_tandem.simulate.cache import PrefixCache
from pulumi_tandem.simulate.gaps import Gaps
from pulumi_tandem.simulate.request import UNSENT, Request
from pulumi_tandem.simulate.scenario import Role, WorkerView
from pulumi_tandem.simulate.worker import WorkerModel

State = Literal["starting", "ready", "draining", "gone"]


@dataclass(slots=True)
class Shared:
    """What all engines of a simulation write to and draw from."""

    gaps: Gaps
    normal: Iterator[float]
    """Draws of the standard normal distribution."""


@dataclass(slots=True)
class Run:
    """Equal passes, one after the other."""

    start_s: float
    pass_s: float
    told_s: float
    """What the model says of a pass, before chance has its say."""
    passes: int
    chunks: list[tuple[Request, int]]
    """Prompts that are read, and how many tokens of each; only ever in a run of one pass."""
    sequences: int

    @property
    def end_s(self) -> float:
        """When the last pass ends."""
        return self.start_s + self.pass_s * self.passes

    def done_by(self, now_s: float) -> int:
        """Passes that have ended, or end now."""
        return min(self.passes, int((now_s - self.start_s) / self.pass_s + 1e-9))


class Engine:
    """State of one worker."""

    __slots__ = (
        "_fresh", "_normal", "_steps", "busy_s", "cache", "context", "decoding", "gaps", "held", "hit_tokens",
        "incoming", "joining", "kv_used", "load", "model", "number", "pool", "prompt_tokens", "queued_tokens",
        "read_tokens", "reading", "role", "run", "since_s", "state", "turn", "version", "waiting",
    )  # fmt: skip

    def __init__(self, number: int, pool: int, model: WorkerModel, shared: Shared) -> None:
        self.number = number
        self.pool = pool
        self.model = model
        self.gaps = shared.gaps
        self._normal = shared.normal
        self.state: State = "starting"
        self.since_s = 0.0
        """When it was asked for."""
        self.load = 0
        """Requests that are routed to it and not done with it."""
        self.queued_tokens = 0
        """Prompt tokens that are routed to it to be read for another worker."""
        self.read_tokens = 0
        """Prompt tokens that it has read for others."""
        self.role: Role = "decode"
        """Which new requests a flexible worker takes."""
        self.turn = 0
        """When it was chosen last, to go round among equals."""
        self.version = 0
        """Grows when a planned end of a run does not hold any more."""
        self.run: Run | None = None
        self.waiting: deque[Request] = deque()
        self.reading: list[Request] = []
        self.incoming: set[Request] = set()
        """Admitted, memory taken, keys and values on their way."""
        self.joining: list[Request] = []
        """Have all they need to decode from the next pass on."""
        self.decoding: list[tuple[int, int, Request]] = []
        """A heap: (step that gives the last token, order, request)."""
        self.held: set[Request] = set()
        """Read for another worker that does not have the keys and values yet."""
        self.context = 0
        """Tokens of all that decode."""
        self.kv_used = 0
        self.busy_s = 0.0
        self.cache = PrefixCache(model.kv_tokens, model.block_tokens)
        self.prompt_tokens = 0
        """Of all that it was given to read; of them, `hit_tokens` were there already."""
        self.hit_tokens = 0
        self._steps = 0
        self._fresh: list[Request] = []

    @property
    def running(self) -> int:
        """Requests that take a place of the batch."""
        return len(self.decoding) + len(self.reading) + len(self.incoming) + len(self.joining)

    def view(self) -> WorkerView:
        """What a gateway knows of it."""
        unread = [request for request in (*self.waiting, *self.reading) if request.hands_off]
        here = len(self.waiting) + len(self.reading) + len(self.incoming) + len(self.joining) + len(self.decoding)
        return WorkerView(
            number=self.number,
            unread_tokens=sum(request.context for request in unread),
            read_tokens=self.read_tokens,
            decodes=here - len(unread),
            kv_share=self.kv_used / self.model.kv_tokens,
        )

    def requests(self) -> list[Request]:
        """All that it has, its waiting ones and those that it holds for others included."""
        decoding = [request for _, _, request in self.decoding]
        return [*self.waiting, *self.reading, *sorted(self.incoming | self.held, key=_order), *self.joining, *decoding]

    # --- what comes from outside ----------------------------------------------------------------

    def accept(self, request: Request, now_s: float) -> bool:
        """A request comes; tells whether the engine's next change is now due earlier."""
        self.waiting.append(request)
        return self.running < self.model.sequences and self.interrupt(now_s)

    def arrived(self, request: Request, now_s: float) -> bool:
        """A request's keys and values are here; tells whether the engine's next change is now due earlier."""
        self.incoming.discard(request)
        self.joining.append(request)
        return self.interrupt(now_s)

    def released(self, request: Request, now_s: float) -> bool:
        """Another worker has what was held; tells whether the engine's next change is now due earlier."""
        self.held.discard(request)
        self.kv_used -= request.context
        return (bool(self.waiting) or self.run is None) and self.interrupt(now_s)

    def dropped(self, request: Request) -> None:
        """A request that waits here, or whose keys and values were to come, is not to be served here any more."""
        if request in self.incoming:
            self.incoming.discard(request)
            self.kv_used -= request.context
        elif request in self.waiting:
            self.waiting.remove(request)

    def interrupt(self, now_s: float) -> bool:
        """Ends the run with the pass that is under way; tells whether the next change is now due earlier."""
        run = self.run
        if run is None:
            return True
        passes = max(1, ceil((now_s - run.start_s) / run.pass_s - 1e-9))
        if passes >= run.passes:
            return False
        run.passes = passes
        return True

    def due_s(self, now_s: float) -> float:
        """When the engine changes next if nothing comes: now when it does nothing."""
        return self.run.end_s if self.run else now_s

    # --- what it does ---------------------------------------------------------------------------

    def settle(self, passes: int) -> tuple[list[Request], list[Request]]:
        """Ends the run after so many passes; gives the requests that are finished, and those read for others."""
        run, self.run = self.run, None
        finished: list[Request] = []
        if run is None or not passes:
            return finished, []
        now_s = run.start_s + run.pass_s * passes
        self.busy_s += run.pass_s * passes
        self._steps += passes
        grown = run.sequences * passes
        self.context += grown
        self.kv_used += grown
        if self._fresh:
            self._first_tokens(run)
        self.gaps.add(run.told_s, grown)
        decoding = self.decoding
        while decoding and decoding[0][0] <= self._steps:
            request = heappop(decoding)[2]
            tokens = request.context + request.output - request.sent
            request.sent = request.output
            self.context -= tokens
            self.kv_used -= tokens
            self.cache.keep(request, tokens)
            finished.append(request)
        if not run.chunks:
            return finished, []
        read = [request for request, chunk in run.chunks if self._read(request, chunk)]
        for_others = [request for request in read if request.hands_off]
        finished += [each for each in read if not each.hands_off and self._first_after_reading(each, now_s)]
        return finished, for_others

    def begin(self, now_s: float) -> list[Request]:
        """Starts the next run, if there is anything to do; gives the requests that now have room for their transfer."""
        assert self.run is None, "an engine does one thing at a time"
        model = self.model
        if self.joining:
            for request in self.joining:
                self._join(request)
            self.joining.clear()
        preempted = self._make_room(now_s)
        fetching = [] if preempted or not self.waiting else self._admit()
        batch = len(self.decoding)
        if self.reading:
            self._begin_reading(now_s, batch)
        elif batch:
            passes = min(self.decoding[0][0] - self._steps, (model.kv_tokens - self.kv_used) // batch)
            if passes > 0:
                at_middle = self.context / batch + (passes - 1) / 2
                self._run(now_s, model.pass_s(0, 0, batch, at_middle), passes, [])
        return fetching

    def _begin_reading(self, now_s: float, batch: int) -> None:
        budget = self.model.batch_tokens - batch
        chunks: list[tuple[Request, int]] = []
        looked_back = 0.0
        for request in self.reading:
            if budget <= 0:
                break
            chunk = min(request.unread, budget)
            budget -= chunk
            chunks.append((request, chunk))
            looked_back += chunk * (request.context - request.unread + (chunk + 1) / 2)
        tokens = sum(chunk for _, chunk in chunks)
        pass_s = self.model.pass_s(tokens, looked_back / max(tokens, 1), batch, self.context / batch if batch else 0.0)
        self._run(now_s, pass_s, 1, chunks)

    def _run(self, now_s: float, told_s: float, passes: int, chunks: list[tuple[Request, int]]) -> None:
        """Begins equal passes, of which each varies by itself: their mean varies the less the more they are."""
        jitter, pass_s = self.model.jitter, told_s
        if jitter:
            pass_s *= exp(jitter * next(self._normal) / passes**0.5)
        self.run = Run(now_s, pass_s, told_s, passes, chunks, len(self.decoding))

    def _admit(self) -> list[Request]:
        """First come, first served, while there are places, memory for a whole prompt, and tokens in the next pass."""
        fetching: list[Request] = []
        places = self.model.sequences - self.running
        budget = self.model.batch_tokens - len(self.decoding) - sum(request.unread for request in self.reading)
        while self.waiting and places > 0 and budget > 0:
            request = self.waiting[0]
            if self.kv_used + request.context > self.model.kv_tokens:
                break
            self.waiting.popleft()
            self.kv_used += request.context
            places -= 1
            if request.prefill is not None and not request.hands_off:
                self.incoming.add(request)
                fetching.append(request)
            else:
                # The last token is always read, as what follows it is not known.
                request.unread = max(1, request.context - max(request.cached, self.cache.held_tokens(request)))
                self.prompt_tokens += request.context
                self.hit_tokens += request.context - request.unread
                budget -= request.unread
                self.reading.append(request)
        return fetching

    def _make_room(self, now_s: float) -> bool:
        """Sends the sequences that came last back to the queue until the others can grow; tells whether it did."""
        preempted = False
        while len(self.decoding) > 1 and self.kv_used + len(self.decoding) > self.model.kv_tokens:
            last = max(self.decoding, key=lambda entry: entry[1])
            self.decoding.remove(last)
            heapify(self.decoding)
            request = last[2]
            self.stop_decoding(request, now_s)
            self.waiting.appendleft(request)
            preempted = True
        return preempted

    def stop_decoding(self, request: Request, now_s: float) -> None:
        """Takes a sequence's tokens out of memory; the request knows afterwards how far the client is."""
        left = request.ends_at_step - self._steps
        sent = request.output - left
        tokens = request.context + sent - request.sent
        self.context -= tokens
        self.kv_used -= tokens
        if request in self._fresh:
            self._fresh.remove(request)
        else:
            request.last_s = now_s
        request.sent = sent
        request.context = request.prompt + sent
        request.prefill = None

    def _join(self, request: Request) -> None:
        self._fresh.append(request)
        self._continue(request)

    def _continue(self, request: Request) -> None:
        request.ends_at_step = self._steps + request.output - request.sent
        heappush(self.decoding, (request.ends_at_step, request.index, request))
        self.context += request.context

    def _first_tokens(self, run: Run) -> None:
        """Those that joined got their first token of this engine with the run's first pass, after another gap."""
        self.gaps.add(run.told_s, -len(self._fresh))
        for request in self._fresh:
            self._first_token(request, run.start_s + run.pass_s)
        self._fresh.clear()

    def _first_token(self, request: Request, at_s: float) -> None:
        if request.first_s == UNSENT:
            request.first_s = at_s
        else:
            self.gaps.add(at_s - request.last_s, 1)

    def _read(self, request: Request, chunk: int) -> bool:
        request.unread -= chunk
        if request.unread:
            return False
        self.reading.remove(request)
        self.cache.keep(request, request.context)
        if request.hands_off:
            self.held.add(request)
            self.read_tokens += request.context
        return True

    def _first_after_reading(self, request: Request, now_s: float) -> bool:
        """A prompt's last pass gives the next token; tells whether that was the answer's last one."""
        self._first_token(request, now_s)
        request.sent += 1
        request.context += 1
        self.kv_used += 1
        if request.sent < request.output:
            self._continue(request)
            return False
        self.kv_used -= request.context
        return True


def _order(request: Request) -> int:
    return request.index


def occupied_until(engine: Engine, now_s: float) -> float:
    """Seconds that the engine has computed up to now, the run that is under way included."""
    run = engine.run
    return engine.busy_s + (max(0.0, min(now_s, run.end_s) - run.start_s) if run else 0.0)
