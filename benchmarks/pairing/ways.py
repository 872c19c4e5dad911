"""The ways of choosing: the gateway's own, `choose` over a `Fleet` with its history as it runs, and others'.

Decode workers are the least loaded ones in all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from benchmarks.pairing.chats import PIECE_TOKENS, Chat, pieces
from pulumi_tandem.simulate import Asked, Pairing
from tandem_worker.contract import Phase, WorkerRecord
from tandem_worker.gateway.fleet import Fleet, Worker
from tandem_worker.gateway.pair import Ask, Route, choose, redirect
from tandem_worker.gateway.prefix import BYTES_PER_TOKEN, Prompt

GENERATION = "1"
GATEWAYS = 3
LOOK_S = 2.5
"""How old an engine's counters are at most when a gateway hears of them: its agent reads them every two seconds, and is
asked twice a second."""


class Told(Fleet):
    """A gateway's picture with what the caches of prefill workers hold in truth: what their KV events would say."""

    held_tokens: Sequence[int] = ()
    """Of the prompt that is asked about, by the workers' numbers."""

    def unread_bytes(self, worker: Worker, prompt: Prompt) -> int:
        """By the truth."""
        return prompt.bytes - self.held_tokens[_number(worker.record.name)] * BYTES_PER_TOKEN


def ready(fleet: Fleet, readers: int, writers: int) -> Fleet:
    """The fleet with workers that are all well."""
    counts: dict[Phase, int] = {"prefill": readers, "decode": writers}
    fleet.observe([_record(phase, number) for phase, count in counts.items() for number in range(count)], GENERATION)
    for worker in fleet:
        fleet.probed(worker.record.name, good=True, draining=False, asked_s=0.0, now_s=0.0)
    return fleet


class Ours:
    """A gateway: its fleet, its choice, and what it remembers."""

    def __init__(self, chat: Chat, gateways: int = 1, *, told: bool = False) -> None:
        self._fleet = ready(Told() if told else Fleet(), chat.readers, chat.writers)
        self._fleet.gateways = gateways
        for worker in self._fleet:
            self._fleet.loaded(worker.record.name, 0.0, chat.machine.worker.kv_tokens)
        self._look_at_s = 0.0
        self._routes: dict[int, tuple[Route, Phase]] = {}

    def choose(self, asked: Asked, now_s: float) -> tuple[int | None, int]:
        """As `handoff` does it for a request that wants a hand-off."""
        if isinstance(self._fleet, Told):
            self._fleet.held_tokens = asked.held_tokens
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_S
            for number, counted in enumerate(asked.cached_and_read):
                self._fleet.read(f"prefill-{number}", *counted, now_s)
        prompt = Prompt(asked.prompt_tokens * BYTES_PER_TOKEN, pieces(asked))
        route = choose(self._fleet, Ask(GENERATION, disaggregate=True, prompt=prompt))
        assert route is not None
        assert route.prefill is not None
        self._begin(asked.index, route, "prefill", now_s)
        self._fleet.remember(route.prefill, "prefill", prompt, now_s)
        return _number(route.prefill), _number(route.decode)

    def read(self, index: int, now_s: float) -> int:
        """The hand-off's second half begins."""
        route, phase = self._routes[index]
        self._end(index, now_s)
        assert phase == "prefill"
        route = redirect(self._fleet, Ask(GENERATION, disaggregate=True), route)
        self._begin(index, route, "decode", now_s)
        return _number(route.decode)

    def over(self, index: int, now_s: float) -> None:
        """The request is answered."""
        self._end(index, now_s)
        del self._routes[index]

    def _begin(self, index: int, route: Route, phase: Phase, now_s: float) -> None:
        self._routes[index] = route, phase
        self._fleet.begin(_worker(route, phase), phase, route.unread_bytes, now_s)

    def _end(self, index: int, now_s: float) -> None:
        route, phase = self._routes[index]
        self._fleet.end(_worker(route, phase), phase, route.unread_bytes, now_s, finished=True)


def _worker(route: Route, phase: Phase) -> str:
    return route.decode if phase == "decode" else route.prefill or ""


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _record(phase: Phase, number: int) -> WorkerRecord:
    return WorkerRecord(
        name=f"{phase}-{number}",
        service="chat",
        pool=phase,
        phase=phase,
        phases=("prefill", "decode"),
        dialect="vllm-nixl-pull",
        generation=GENERATION,
        pair_key="1",
        address="host",
        http_port=1,
        agent_port=2,
    )


@dataclass(slots=True)
class Counting:
    """Requests under way on each worker; the least loaded decode worker, in turn among equals."""

    chat: Chat
    reading: list[int] = field(init=False)
    writing: list[int] = field(init=False)
    pairs: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    count: int = 0

    def __post_init__(self) -> None:
        self.reading, self.writing = [0] * self.chat.readers, [0] * self.chat.writers

    def reader(self, _asked: Asked, /) -> int:
        """In turn."""
        return self.count % self.chat.readers

    def choose(self, asked: Asked, _now_s: float) -> tuple[int | None, int]:
        """A pair."""
        reads = self.reader(asked)
        self.count += 1
        answers = min(
            range(self.chat.writers), key=lambda each: (self.writing[each], (each - self.count) % self.chat.writers)
        )
        self.reading[reads] += 1
        self.writing[answers] += 1
        self.pairs[asked.index] = reads, answers
        return reads, answers

    def read(self, index: int, _now_s: float) -> int:
        """The prompt is read."""
        self.reading[self.pairs[index][0]] -= 1
        return self.pairs[index][1]

    def over(self, index: int, _now_s: float) -> None:
        """The request is answered."""
        self.writing[self.pairs.pop(index)[1]] -= 1


class LeastLoaded(Counting):
    """The prefill worker with the fewest requests, in turn among equals."""

    def reader(self, _asked: Asked, /) -> int:
        """The least loaded."""
        return min(
            range(self.chat.readers), key=lambda each: (self.reading[each], (each - self.count) % self.chat.readers)
        )


@dataclass(slots=True)
class CacheAware(Counting):
    """vllm-router's policy of that name, as its repository has it (src/policies/cache_aware.rs).

    One tree of all prompts says who read the longest beginning of this one last. Where that is more than `threshold`
    of the prompt, it goes there; else, or where loads are out of balance, to the worker with the fewest requests, the
    first one among equals. Requests count on a prefill worker while it reads them, as in the router's two-stage mode
    for vLLM (src/routers/http/vllm_pd_router.rs). The tree is kept by pieces of 128 tokens here, by characters there.
    """

    threshold: float = 0.3
    balance_abs: int = 64
    balance_rel: float = 1.5
    ties_in_turn: bool = False
    """Not so in the router: what it would be if equals took turns."""
    tree: dict[int, int] = field(default_factory=dict[int, int])
    """Who read a prompt up to a piece last."""

    def reader(self, asked: Asked, /) -> int:
        """By the tree, or by load."""
        path = pieces(asked)
        fewest, most = min(self.reading), max(self.reading)
        start = self.count if self.ties_in_turn else 0
        chosen = min(
            range(self.chat.readers), key=lambda each: (self.reading[each], (each - start) % self.chat.readers)
        )
        if not (most - fewest > self.balance_abs and most > fewest * self.balance_rel):
            known = [piece for piece in path if piece in self.tree]
            if len(known) * PIECE_TOKENS > self.threshold * asked.prompt_tokens:
                chosen = self.tree[known[-1]]
        self.tree.update(dict.fromkeys(path, chosen))
        return chosen


class Several:
    """Gateways that know nothing of each other; a request, or all of a client's, comes to one of them by chance."""

    def __init__(self, gateways: Sequence[Pairing], *, clients_stay: bool) -> None:
        self._gateways = gateways
        self._clients_stay = clients_stay
        self._has: dict[int, Pairing] = {}

    def choose(self, asked: Asked, now_s: float) -> tuple[int | None, int]:
        """As the gateway chooses that has it."""
        by = asked.session if self._clients_stay else asked.index
        gateway = self._has[asked.index] = self._gateways[crc32(b"%d" % by) % len(self._gateways)]
        return gateway.choose(asked, now_s)

    def read(self, index: int, now_s: float) -> int:
        """Only one of them hears of it."""
        return self._has[index].read(index, now_s)

    def over(self, index: int, now_s: float) -> None:
        """So here."""
        self._has.pop(index).over(index, now_s)


Make = Callable[[Chat], Pairing]


def several(make: Make, *, clients_stay: bool = False) -> Make:
    """So many of a kind behind one address."""
    return lambda chat: Several([make(chat) for _ in range(GATEWAYS)], clients_stay=clients_stay)


def cache_aware(chat: Chat) -> CacheAware:
    """With the defaults of vllm-router 0.1.17's command line."""
    return CacheAware(chat)


def cache_aware_rust(chat: Chat) -> CacheAware:
    """With the defaults of its Rust type, where prompts go by load sooner."""
    return CacheAware(chat, threshold=0.5, balance_abs=32, balance_rel=1.1)


def cache_aware_in_turn(chat: Chat) -> CacheAware:
    """The command line's defaults, and workers with equally many requests take turns."""
    return CacheAware(chat, ties_in_turn=True)


def told(chat: Chat) -> Ours:
    """The gateway, if it knew caches in truth."""
    return Ours(chat, told=True)


def one_of_several(chat: Chat) -> Ours:
    """A gateway that knows that there are others."""
    return Ours(chat, GATEWAYS)


WAYS: dict[str, Make] = {
    "round robin": Counting,
    "least loaded": LeastLoaded,
    "cache_aware, 0.3 / 64 / 1.5": cache_aware,
    "cache_aware, 0.5 / 32 / 1.1": cache_aware_rust,
    "cache_aware, if ties took turns": cache_aware_in_turn,
    "ours": Ours,
    "ours, told what caches hold": told,
    f"cache_aware, {GATEWAYS} gateways": several(cache_aware),
    f"ours, {GATEWAYS} gateways": several(one_of_several),
    f"ours, {GATEWAYS} gateways, told what caches hold": several(told),
    f"ours, {GATEWAYS} gateways, clients stay": several(one_of_several, clients_stay=True),
}
