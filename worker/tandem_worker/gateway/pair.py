"""Which workers a request goes to.

A hand-off needs one worker of each phase, of one generation and one pair key. Where a phase has
none, and the service allows it, a survivor serves the whole request.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from tandem_worker.gateway.fleet import Fleet, Worker


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


def choose(fleet: Fleet, ask: Ask) -> Route | None:
    """The best route there is now, None when there is none.

    The least blamed one; of those a pair, or for a whole request a worker of the decode phase, before a survivor.
    So two workers of which one is broken are enough: what fails in a pair may be the fault of the other of the two.
    """
    ready = fleet.ready(ask.generation)
    if ask.pinned is not None:
        return _pinned(ready, ask, ask.pinned)
    regular = _pair(ready, ask) if ask.disaggregate else _whole(ready, ask)
    if regular is not None and not regular.blame:
        return regular
    survivor = _survivor(ready, ask) if ask.survivors_serve_both else None
    if survivor is not None and (regular is None or survivor.blame < regular.blame):
        return survivor
    return regular


def redirect(fleet: Fleet, ask: Ask, route: Route) -> Route:
    """The route with another decode worker of the same pair key, where the chosen one takes no requests any more."""
    chosen, prefill = fleet.get(route.decode), fleet.get(route.prefill)
    if ask.pinned is not None or prefill is None or (chosen is not None and chosen.ready):
        return route
    key = prefill.record.pair_key
    able = (w for w in fleet.ready(ask.generation) if w.record.phase == "decode" and w.record.pair_key == key)
    other = _least(ask, able, _decode_load)
    return route if other is None else Route(other.record.name, route.prefill, blame=_blame(ask, other))


def can_serve(fleet: Fleet, ask: Ask) -> bool:
    """Whether a request could be served now."""
    return choose(fleet, ask) is not None


def _pair(ready: list[Worker], ask: Ask) -> Route | None:
    best: tuple[tuple[int, ...], Route] | None = None
    for key in {worker.record.pair_key for worker in ready}:
        same = [worker for worker in ready if worker.record.pair_key == key]
        prefill = _least(ask, (worker for worker in same if worker.record.phase == "prefill"), _prefill_load)
        decode = _least(ask, (worker for worker in same if worker.record.phase == "decode"), _decode_load)
        if prefill is None or decode is None:
            continue
        blame = _blame(ask, prefill) + _blame(ask, decode)
        rank = (blame, *_prefill_load(prefill), decode.decodes)
        if best is None or rank < best[0]:
            best = rank, Route(decode.record.name, prefill.record.name, blame=blame)
    return best and best[1]


def _whole(ready: list[Worker], ask: Ask) -> Route | None:
    worker = _least(ask, (worker for worker in ready if worker.record.phase == "decode"), _decode_load)
    return worker and Route(worker.record.name, reason=ask.reason, blame=_blame(ask, worker))


def _survivor(ready: list[Worker], ask: Ask) -> Route | None:
    able = [worker for worker in ready if set(worker.record.phases) >= {"prefill", "decode"}]
    worker = _least(ask, able, _decode_load)
    if worker is None:
        return None
    phases = {worker.record.phase for worker in ready}
    lacking = next((f"no-{phase}-ready" for phase in ("prefill", "decode") if phase not in phases), "pair-failed")
    if not ask.disaggregate:
        return Route(worker.record.name, reason=ask.reason, fallback=True, blame=_blame(ask, worker))
    return Route(worker.record.name, reason=lacking, fallback=True, blame=_blame(ask, worker))


def _pinned(ready: list[Worker], ask: Ask, pinned: Pinned) -> Route | None:
    if not ask.disaggregate or (pinned.prefill is not None and pinned.prefill == pinned.decode):
        wanted = pinned.decode or pinned.prefill
        able = [worker for worker in ready if wanted in (None, worker.record.name)]
        worker = _least(ask, able, _decode_load)
        return worker and Route(worker.record.name, reason=ask.reason or "proof")
    named = [
        worker
        for worker in ready
        if worker.record.name in (pinned.prefill, pinned.decode)
        or (pinned.prefill is None and worker.record.phase == "prefill")
        or (pinned.decode is None and worker.record.phase == "decode")
    ]
    prefills = [w for w in named if pinned.prefill in (None, w.record.name) and w.record.name != pinned.decode]
    decodes = [w for w in named if pinned.decode in (None, w.record.name) and w.record.name != pinned.prefill]
    for prefill in sorted(prefills, key=_prefill_load):
        for decode in sorted(decodes, key=_decode_load):
            if prefill.record.pair_key == decode.record.pair_key and prefill is not decode:
                return Route(decode.record.name, prefill.record.name)
    return None


def _least(ask: Ask, workers: Iterable[Worker], load: Callable[[Worker], tuple[int, int]]) -> Worker | None:
    return min(workers, key=lambda worker: (_blame(ask, worker), *load(worker)), default=None)


def _blame(ask: Ask, worker: Worker) -> int:
    return ask.blamed.count(worker.record.name)


def _prefill_load(worker: Worker) -> tuple[int, int]:
    return worker.prefill_bytes, worker.turn


def _decode_load(worker: Worker) -> tuple[int, int]:
    return worker.decodes + worker.prefills, worker.turn
