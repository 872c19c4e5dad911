"""Which prefill worker gets a prompt: `python -m benchmarks.pairing [--quick]`.

Conversations that grow, of users who share system prompts, through round robin, the least loaded worker, a model of
vllm-router's cache_aware, and the gateway's own choice: `choose` over a `Fleet` with its history of prompts, as it
runs. Workers and network are simulated; decode workers are the least loaded ones in all of them.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from time import process_time
from timeit import repeat
from zlib import crc32

from msgspec import Raw, json

from benchmarks.flexible import OPEN, Machine, cores, h100s
from pulumi_tandem.declare import Lengths
from pulumi_tandem.simulate import (
    Arrivals,
    Asked,
    Conversations,
    Outcome,
    Pairing,
    PoolModel,
    Scenario,
    Traffic,
    generate,
    simulate,
)
from tandem_worker.contract import Phase, WorkerRecord
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.pair import Ask, Route, choose
from tandem_worker.gateway.prefix import BYTES_PER_TOKEN, PIECE_BYTES, PIECES_MAX, Prompt, prompt_of

PIECE_TOKENS = PIECE_BYTES // BYTES_PER_TOKEN
GENERATION = "1"
SEEDS = (1, 2, 3)
LOADS = (0.3, 0.5, 0.7, 0.85)
GATEWAYS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A machine, its two pools, and conversations for it."""

    machine: Machine
    name: str
    readers: int
    writers: int
    beginnings: int
    """System prompts, each of `beginning_tokens`; a conversation has one of them."""
    beginning_tokens: int
    turn_tokens: int
    """What a user says at a time; each answer has `answer_tokens`."""
    answer_tokens: int
    turns: int
    pause_s: float
    conversations_per_s: float
    """At load 1: about what the prefill workers could read with no cache at all."""
    duration_s: float
    block_tokens: int


def chats() -> Iterator[Chat]:
    """Four prefill workers each, of either machine."""
    yield Chat(
        machine=cores(),
        name="4 prefill and 4 decode CPU cores with SmolLM2-135M, calibrated on the measured pair",
        readers=4,
        writers=4,
        beginnings=8,
        beginning_tokens=512,
        turn_tokens=120,
        answer_tokens=40,
        turns=5,
        pause_s=20.0,
        conversations_per_s=0.55,
        duration_s=1200.0,
        block_tokens=128,
    )
    yield Chat(
        machine=h100s(),
        name="4 prefill and 4 decode H100s with Llama 3.1 8B, by the estimate",
        readers=4,
        writers=4,
        beginnings=40,
        beginning_tokens=2000,
        turn_tokens=400,
        answer_tokens=200,
        turns=6,
        pause_s=20.0,
        conversations_per_s=11.0,
        duration_s=300.0,
        block_tokens=64,
    )


def conversations(chat: Chat, load: float, seed: int) -> Traffic:
    """Growing prompts, each after the system prompt of its conversation."""
    said = generate(
        Arrivals(requests_per_s=load * chat.conversations_per_s),
        prompt_tokens=Lengths(mean=chat.turn_tokens, variation=0.5),
        output_tokens=Lengths(mean=chat.answer_tokens, variation=0.5),
        duration_s=chat.duration_s,
        seed=seed,
        conversations=Conversations(turns=chat.turns, pause_s=chat.pause_s),
    )
    return replace(
        said,
        prompt_tokens=[tokens + chat.beginning_tokens for tokens in said.prompt_tokens],
        beginning=[crc32(b"%d" % session) % chat.beginnings for session in said.session],
        beginning_tokens=[chat.beginning_tokens] * len(said),
    )


def pieces(asked: Asked) -> tuple[int, ...]:
    """The prompt's pieces, as unlike each other as hashes: of the beginning, then of the session."""
    count = min(asked.prompt_tokens // PIECE_TOKENS, PIECES_MAX)
    shared = asked.beginning_tokens // PIECE_TOKENS
    words = (
        b"b%d %d" % (asked.beginning, number) if number < shared else b"s%d %d" % (asked.session, number)
        for number in range(count)
    )
    return tuple(crc32(word) << 32 | crc32(word + b"'") for word in words)


def ready_fleet(readers: int, writers: int) -> Fleet:
    """A fleet of workers that are all well."""
    fleet = Fleet()
    counts: dict[Phase, int] = {"prefill": readers, "decode": writers}
    fleet.observe([_record(phase, number) for phase, count in counts.items() for number in range(count)], GENERATION)
    for worker in fleet:
        fleet.probed(worker.record.name, good=True, draining=False, asked_s=0.0, now_s=0.0)
    return fleet


class Ours:
    """A gateway: its fleet, its choice, and what it remembers."""

    def __init__(self, readers: int, writers: int) -> None:
        self._fleet = ready_fleet(readers, writers)
        self._routes: dict[int, tuple[Route, Phase]] = {}

    def choose(self, asked: Asked, now_s: float) -> tuple[int | None, int]:
        """As `handoff` does it for a request that wants a hand-off."""
        prompt = Prompt(asked.prompt_tokens * BYTES_PER_TOKEN, pieces(asked))
        route = choose(self._fleet, Ask(GENERATION, disaggregate=True, prompt=prompt))
        assert route is not None
        assert route.prefill is not None
        self._begin(asked.index, route, "prefill", now_s)
        self._fleet.history.remember(route.prefill, prompt)
        return _number(route.prefill), _number(route.decode)

    def read(self, index: int, now_s: float) -> None:
        """The hand-off's second half begins."""
        route, phase = self._routes[index]
        self._end(index, now_s)
        assert phase == "prefill"
        self._begin(index, route, "decode", now_s)

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

    readers: int
    writers: int
    reading: list[int] = field(init=False)
    writing: list[int] = field(init=False)
    pairs: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    count: int = 0

    def __post_init__(self) -> None:
        self.reading, self.writing = [0] * self.readers, [0] * self.writers

    def reader(self, _asked: Asked, /) -> int:
        """In turn."""
        return self.count % self.readers

    def choose(self, asked: Asked, _now_s: float) -> tuple[int | None, int]:
        """A pair."""
        reads = self.reader(asked)
        self.count += 1
        answers = min(range(self.writers), key=lambda each: (self.writing[each], (each - self.count) % self.writers))
        self.reading[reads] += 1
        self.writing[answers] += 1
        self.pairs[asked.index] = reads, answers
        return reads, answers

    def read(self, index: int, _now_s: float) -> None:
        """The prompt is read."""
        self.reading[self.pairs[index][0]] -= 1

    def over(self, index: int, _now_s: float) -> None:
        """The request is answered."""
        self.writing[self.pairs.pop(index)[1]] -= 1


class LeastLoaded(Counting):
    """The prefill worker with the fewest requests, in turn among equals."""

    def reader(self, _asked: Asked, /) -> int:
        """The least loaded."""
        return min(range(self.readers), key=lambda each: (self.reading[each], (each - self.count) % self.readers))


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
        chosen = min(range(self.readers), key=lambda each: (self.reading[each], (each - start) % self.readers))
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

    def read(self, index: int, now_s: float) -> None:
        """Only one of them hears of it."""
        self._has[index].read(index, now_s)

    def over(self, index: int, now_s: float) -> None:
        """So here."""
        self._has.pop(index).over(index, now_s)


Make = Callable[[int, int], Pairing]


def several(make: Make, *, clients_stay: bool = False) -> Make:
    """So many of a kind behind one address."""
    return lambda readers, writers: Several(
        [make(readers, writers) for _ in range(GATEWAYS)], clients_stay=clients_stay
    )


def cache_aware(readers: int, writers: int) -> CacheAware:
    """With the defaults of vllm-router 0.1.17's command line."""
    return CacheAware(readers, writers)


def cache_aware_rust(readers: int, writers: int) -> CacheAware:
    """With the defaults of its Rust type, where prompts go by load sooner."""
    return CacheAware(readers, writers, threshold=0.5, balance_abs=32, balance_rel=1.1)


def cache_aware_in_turn(readers: int, writers: int) -> CacheAware:
    """The command line's defaults, and workers with equally many requests take turns."""
    return CacheAware(readers, writers, ties_in_turn=True)


WAYS: dict[str, Make] = {
    "round robin": Counting,
    "least loaded": LeastLoaded,
    "cache_aware, 0.3 / 64 / 1.5": cache_aware,
    "cache_aware, 0.5 / 32 / 1.1": cache_aware_rust,
    "cache_aware, if ties took turns": cache_aware_in_turn,
    "ours": Ours,
    f"cache_aware, {GATEWAYS} gateways": several(cache_aware),
    f"ours, {GATEWAYS} gateways": several(Ours),
    f"ours, {GATEWAYS} gateways, clients stay": several(Ours, clients_stay=True),
}


def run(chat: Chat, make: Make, traffic: Traffic) -> Outcome:
    """One way, one load."""
    worker = replace(chat.machine.worker, block_tokens=chat.block_tokens)
    found = simulate(
        Scenario(
            traffic=traffic,
            prefill=PoolModel(name="prefill", workers=((worker, chat.readers),)),
            decode=PoolModel(name="decode", workers=((worker, chat.writers),)),
            pairing=make(chat.readers, chat.writers),
            hand_off=chat.machine.hand_off,
            door=OPEN,
            warm_up_s=chat.duration_s / 5,
        )
    )
    assert found.answered == found.requests, f"{found.requests - found.answered} requests were not answered"
    return found


def print_chat(chat: Chat, loads: Sequence[float], seeds: Sequence[int]) -> None:
    """A table of all ways and loads; medians over the seeds."""
    print(f"\n### {chat.name}\n")
    print("| way | " + " | ".join(f"load {load:.0%}: hits, TTFT p50 / p99" for load in loads) + " |")
    print("| --- |" + " --- |" * len(loads))
    traffics = {(load, seed): conversations(chat, load, seed) for load in loads for seed in seeds}
    for name, make in WAYS.items():
        cells: list[str] = []
        for load in loads:
            runs = [run(chat, make, traffics[load, seed]) for seed in seeds]
            p50_ms, p99_ms = (
                1e3 * median(times) for times in zip(*((r.ttft_s.p50, r.ttft_s.p99) for r in runs), strict=True)
            )
            cells.append(f"{median(r.prefix_hit for r in runs):.0%}, {p50_ms:.0f} / {p99_ms:.0f} ms")
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_cost() -> None:
    """Processor time of one request's hashing, choice and memory, in a conversation that is known."""
    print("\n### Cost of one request: prompt_of, choose, remember\n")
    print("| prompt | 4 + 4 workers | 32 + 32 workers |")
    print("| --- | --- | --- |")
    for kib in (2, 16, 128):
        text = "".join(f"word {number} " for number in range(kib * 1024 // 8))[: kib * 1024]
        fields = {"messages": Raw(json.encode([{"role": "user", "content": text}]))}
        cells = [f"{_request_us(fields, workers):.0f} us" for workers in (4, 32)]
        print(f"| {kib} KiB | " + " | ".join(cells) + " |")


def _request_us(fields: dict[str, Raw], workers: int) -> float:
    fleet = ready_fleet(workers, workers)

    def request() -> None:
        prompt = prompt_of(fields)
        route = choose(fleet, Ask(GENERATION, disaggregate=True, prompt=prompt))
        assert route is not None
        fleet.history.remember(route.prefill or "", prompt)

    return min(repeat(request, number=200, repeat=5, timer=process_time)) / 200 * 1e6


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and two loads")
    quick = parser.parse_args().quick
    print_cost()
    for chat in chats():
        print_chat(chat, LOADS[1::2] if quick else LOADS, SEEDS[:1] if quick else SEEDS)


if __name__ == "__main__":
    main()
