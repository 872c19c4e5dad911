"""Which workers a request goes to.

A hand-off needs one worker of each phase, of one generation and one pair key. Where a phase has
none, and the service allows it, a survivor serves the whole request. A prompt of which little is left to read, because
it is short or because its beginning is cached where it would be answered, is not worth a hand-off.

Of the workers that read prompts, the one that is done first is chosen: with what it has to read already, and then with
what its cache lacks of this prompt. Where several would be done about as soon, the prompt itself chooses between them:
gateways that know nothing of each other then send one conversation to one worker, its home. Where engines find more in
their caches than this gateway knows of, the home is believed to hold what others may have sent there.

Of the workers that write answers, the one with most room is chosen, in the zone of who reads while there is room there.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from tandem_worker.gateway.fleet import Fleet, Worker, usual_rate
from tandem_worker.gateway.prefix import BYTES_PER_TOKEN, Prompt, draw

ABOUT_AS_SOON = 1.1
"""Workers whose times differ by less than this factor count as equal: the rates that times come from are no better."""
KV_SHARE_ROOM = 0.8
"""Up to this share of its KV memory a decode worker of the reader's zone is preferred to those of others: above it
vLLM's scheduler begins to preempt where answers are long, which costs more than the way between zones."""

SHORT, CACHED = "short-prompt", "cached-prompt"
"""Why a hand-off would not pay, as `Route.reason` has it."""


class Pinned(Struct, frozen=True):
    """Workers that a proof named; they are used as named and no others instead."""

    prefill: str | None = None
    decode: str | None = None


class Ask(Struct, frozen=True):
    """What a request needs of the fleet."""

    generation: str | None
    disaggregate: bool
    reason: str = ""
    """Why the request runs whole on one worker, when it does not want a hand-off."""
    survivors_serve_both: bool = True
    blamed: tuple[str, ...] = ()
    """Workers that have failed this request, once per failure; they come last."""
    pinned: Pinned | None = None
    prompt: Prompt = Prompt()
    hand_off_tokens_min: int = 0
    """Prompts with fewer tokens to read run whole on a decode worker."""


class Route(Struct, frozen=True):
    """Where a request goes: a pair, or one worker for both phases when `prefill` is None."""

    decode: str
    prefill: str | None = None
    reason: str = ""
    """Why there is no hand-off, as the header `x-tandem-reason` says it."""
    fallback: bool = False
    """Whether a survivor serves both phases because a phase has none."""
    blame: int = 0
    """How often its workers have failed this request before."""
    unread_bytes: int = 0
    """What the prefill worker has to read of the prompt."""


def choose(fleet: Fleet, ask: Ask) -> Route | None:
    """The best route there is now, None when there is none.

    The least blamed one; of those a pair, or for a whole request a worker of the decode phase, before a survivor.
    So two workers of which one is broken are enough: what fails in a pair may be the fault of the other of the two.
    """
    ready = fleet.ready(ask.generation)
    if ask.pinned is not None:
        return _pinned(fleet, ready, ask, ask.pinned)
    if ask.disaggregate and ask.hand_off_tokens_min and (direct := _direct(fleet, ready, ask)) is not None:
        return direct
    regular = _pair(fleet, ready, ask) if ask.disaggregate else _whole(ready, ask)
    if regular is not None and not regular.blame:
        return regular
    survivor = _survivor(ready, ask) if ask.survivors_serve_both else None
    if survivor is not None and (regular is None or survivor.blame < regular.blame):
        return survivor
    return regular


def redirect(fleet: Fleet, ask: Ask, route: Route) -> Route:
    """The route with the decode worker of the same pair key that has most room now, when the prompt is read.

    While it was read, others were sent to the worker that had most room before, and it may be gone.
    """
    prefill = fleet.get(route.prefill)
    if ask.pinned is not None or prefill is None:
        return route
    key = prefill.record.pair_key
    able = (w for w in fleet.ready(ask.generation) if w.phase == "decode" and w.record.pair_key == key)
    other = _writer(ask, (worker for worker in able if worker is not prefill), near=prefill)
    return route if other is None else replace(route, decode=other.record.name, blame=_blame(ask, other))


def can_serve(fleet: Fleet, ask: Ask) -> bool:
    """Whether a request could be served now."""
    return choose(fleet, ask) is not None


def _direct(fleet: Fleet, ready: list[Worker], ask: Ask) -> Route | None:
    """The decode worker that lacks so little of the prompt that a hand-off would not pay, if one does."""
    least_bytes = ask.hand_off_tokens_min * BYTES_PER_TOKEN
    able = [w for w in ready if w.phase == "decode" and not _blame(ask, w)]
    if ask.prompt.bytes < least_bytes:
        worker, reason = _writer(ask, able), SHORT
    else:
        worker = _writer(ask, (w for w in able if fleet.unread_bytes(w, ask.prompt) < least_bytes))
        reason = CACHED
    return worker and Route(worker.record.name, reason=reason)


def _pair(fleet: Fleet, ready: list[Worker], ask: Ask) -> Route | None:
    best: tuple[tuple[float, ...], Route] | None = None
    for key in {worker.record.pair_key for worker in ready}:
        same = [worker for worker in ready if worker.record.pair_key == key]
        prefill = _reader(fleet, ask, [worker for worker in same if worker.phase == "prefill"])
        if prefill is None:
            continue
        decode = _writer(ask, (worker for worker in same if worker.phase == "decode"), near=prefill)
        if decode is None:
            continue
        blame = _blame(ask, prefill) + _blame(ask, decode)
        rank = (blame, prefill.prompts.pending, prefill.turn, decode.decodes)
        if best is None or rank < best[0]:
            best = rank, _handed(fleet, ask, prefill, decode, blame=blame)
    return best and best[1]


def _handed(fleet: Fleet, ask: Ask, prefill: Worker, decode: Worker, *, blame: int = 0) -> Route:
    unread = fleet.unread_bytes(prefill, ask.prompt)
    return Route(decode.record.name, prefill.record.name, blame=blame, unread_bytes=unread)


def _whole(ready: list[Worker], ask: Ask) -> Route | None:
    worker = _writer(ask, (worker for worker in ready if worker.phase == "decode"))
    return worker and Route(worker.record.name, reason=ask.reason, blame=_blame(ask, worker))


def _survivor(ready: list[Worker], ask: Ask) -> Route | None:
    able = [worker for worker in ready if set(worker.record.phases) >= {"prefill", "decode"}]
    worker = _writer(ask, able)
    if worker is None:
        return None
    phases = {worker.phase for worker in ready}
    lacking = next((f"no-{phase}-ready" for phase in ("prefill", "decode") if phase not in phases), "pair-failed")
    if not ask.disaggregate:
        return Route(worker.record.name, reason=ask.reason, fallback=True, blame=_blame(ask, worker))
    return Route(worker.record.name, reason=lacking, fallback=True, blame=_blame(ask, worker))


def _pinned(fleet: Fleet, ready: list[Worker], ask: Ask, pinned: Pinned) -> Route | None:
    if not ask.disaggregate or (pinned.prefill is not None and pinned.prefill == pinned.decode):
        wanted = pinned.decode or pinned.prefill
        worker = _writer(ask, (worker for worker in ready if wanted in (None, worker.record.name)))
        return worker and Route(worker.record.name, reason=ask.reason or "proof")
    prefills = [
        w for w in ready if w.record.name == pinned.prefill or (pinned.prefill is None and w.phase == "prefill")
    ]
    decodes = [w for w in ready if w.record.name == pinned.decode or (pinned.decode is None and w.phase == "decode")]
    for prefill in sorted(prefills, key=_prefill_load):
        for decode in sorted(decodes, key=_decode_load):
            if prefill.record.pair_key == decode.record.pair_key and prefill is not decode:
                return _handed(fleet, ask, prefill, decode)
    return None


def _reader(fleet: Fleet, ask: Ask, workers: list[Worker]) -> Worker | None:
    """Who would be done with the prompt first."""
    if len(workers) < 2:
        return workers[0] if workers else None
    blame = min(_blame(ask, worker) for worker in workers)
    able = [worker for worker in workers if _blame(ask, worker) == blame]
    usual = usual_rate(able) or 1.0
    done_s = [
        (worker.prompts.pending + unread) / worker.prompts.rate_beside(usual)
        for worker, unread in zip(able, _likely_unread(fleet, ask.prompt, able), strict=True)
    ]
    soon_s = min(done_s) * ABOUT_AS_SOON
    equal = [worker for worker, at_s in zip(able, done_s, strict=True) if at_s <= soon_s]
    return _home(fleet, ask.prompt, equal) or min(equal, key=_prefill_load)


def _likely_unread(fleet: Fleet, prompt: Prompt, workers: list[Worker]) -> list[float]:
    """Bytes that each worker has to read of a prompt, what other gateways have likely sent it taken off."""
    unread = [float(fleet.unread_bytes(worker, prompt)) for worker in workers]
    if share := fleet.hearsay.share:
        least = min(unread)
        holders = [worker for worker, left in zip(workers, unread, strict=True) if left == least]
        if (home := _home(fleet, prompt, holders)) is not None:
            unread[workers.index(home)] *= 1 - share
    return unread


def _home(fleet: Fleet, prompt: Prompt, workers: list[Worker]) -> Worker | None:
    """Which of the workers a prompt goes to by itself, whoever asks; None for one that is too short to tell."""
    piece = fleet.history.first_unheld(prompt, [worker.record.name for worker in workers])
    return None if piece is None else max(workers, key=lambda worker: draw(piece, worker.record.name))


def _writer(ask: Ask, workers: Iterable[Worker], near: Worker | None = None) -> Worker | None:
    """Who has most room for another answer, of those that have failed the request least; near the reader if it can."""

    def rank(worker: Worker) -> tuple[float, ...]:
        return (_blame(ask, worker), near is not None and not _is_near(near, worker), *_decode_load(worker))

    return min(workers, key=rank, default=None)


def _is_near(reader: Worker, writer: Worker) -> bool:
    """Whether KV should stay in the zone of both: it is the same one, and there is room."""
    return reader.record.zone == writer.record.zone and writer.kv_share_now <= KV_SHARE_ROOM


def _blame(ask: Ask, worker: Worker) -> int:
    return ask.blamed.count(worker.record.name)


def _prefill_load(worker: Worker) -> tuple[float, int]:
    return worker.prompts.pending, worker.turn


def _decode_load(worker: Worker) -> tuple[float, int, int]:
    return round(worker.kv_share_now, 2), worker.running, worker.turn
