"""What the gateway knows of its workers: who is there, who answers, who is busy with what.

State without I/O: `watch` reports what it read and probed, exchanges report how they fared, and
`pair` reads. Time is a parameter everywhere (`now_s`, any monotonic clock).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tandem_worker.contract import FLEXIBLE_POOL, Phase, WorkerRecord
from tandem_worker.gateway.backlog import Meter
from tandem_worker.gateway.hearsay import Hearsay
from tandem_worker.gateway.prefix import BYTES_PER_TOKEN, History, Prompt
from tandem_worker.gateway.roles import Roles, Seen, decide

SUSPICION_S = (0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Shortest time a worker stays out after its n-th failure in a row; a good probe ends it only then.

The first two cost nothing but the wait for the next good probe: a cut connection is no illness.
"""

ERRORS_UNTIL_SUSPECT = 3
"""Answers of status 5xx in a row that make a worker suspect; one alone may be the request's fault."""


@dataclass(slots=True)
class Worker:
    """One worker: its record, what its agent last said, and what this gateway has running there."""

    record: WorkerRecord
    answering: bool = False
    """Whether the agent's last `/ready` was good."""
    draining: bool = False
    """Whether the agent says it is leaving: no new requests, but running ones are safe."""
    unwell_since_s: float | None = None
    """Since when `/ready` has been bad without a drain as its reason."""
    suspect_since_s: float | None = None
    failures: int = 0
    """Failures since the last success."""
    errors: int = 0
    """Answers of status 5xx since the last success."""
    prefills: int = 0
    decodes: int = 0
    prompts: Meter = field(default_factory=Meter)
    """Bytes of prompts that are to be read here, and how fast that goes; what its cache holds is not counted."""
    turn: int = 0
    """When this worker was last chosen, counted in choices; the longest unused one breaks ties."""
    role: Phase | None = None
    """The phase that a flexible worker takes now; None: the one it was made for."""
    kv_share: float = 0.0
    """Share of its memory for KV that is taken, as its agent last said."""
    kv_tokens: int | None = None
    """Tokens that it has room for, as its agent last said; None: not told."""
    running_then: int = 0
    """What ran here of this gateway's when the agent said so."""

    @property
    def phase(self) -> Phase:
        """The phase of which it takes new requests."""
        return self.role or self.record.phase

    @property
    def running(self) -> int:
        """This gateway's requests that are here."""
        return self.prefills + self.decodes

    @property
    def kv_share_now(self) -> float:
        """The share of KV that is taken now, if what came since takes as much as what was there."""
        return self.kv_share * self.running / self.running_then if self.running_then else self.kv_share

    @property
    def ready(self) -> bool:
        """Whether new requests may go there."""
        return self.answering and self.suspect_since_s is None and not self.draining and not self.record.draining


class Fleet:
    """All workers of one service, of every generation, and which generation serves clients."""

    def __init__(self) -> None:
        self.active: str | None = None
        self.workers: dict[str, Worker] = {}
        self.meters: dict[Phase, Meter] = {"prefill": Meter(), "decode": Meter()}
        self.served_names: dict[str, tuple[str, ...]] = {}
        """Model names that the workers of each generation know: a new name serves when its generation does."""
        self.history = History()
        self.hearsay = Hearsay()
        self.roles = Roles()
        self.gateways = 1
        """How many gateways send requests to these workers, this one among them."""
        self._turn = 0

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers.values())

    def get(self, name: str | None) -> Worker | None:
        """The worker of that name, None when it has left."""
        return None if name is None else self.workers.get(name)

    def observe(self, records: Iterable[WorkerRecord], active: str | None) -> bool:
        """Take over what the fleet's source says now; returns whether anything changed.

        A record that changed in more than its draining mark is another process: nothing is known of it.
        """
        found = {record.name: record for record in records}
        changed = active != self.active
        self.active = active
        for name in [name for name in self.workers if name not in found]:
            del self.workers[name]
            self.history.forget(name)
            self.hearsay.forget(name)
            changed = True
        for name, record in found.items():
            known = self.workers.get(name)
            if known is not None and known.record == record:
                continue
            changed = True
            if known is not None and known.record.model_copy(update={"draining": record.draining}) == record:
                known.record = record
            else:
                self.workers[name] = Worker(record)
                self.history.forget(name)
        if changed:
            named = (worker.record for worker in self if worker.record.served_names)
            self.served_names = {record.generation: record.served_names for record in named}
        return changed

    def probed(self, name: str, *, good: bool, draining: bool, asked_s: float, now_s: float) -> bool:
        """Take over one answer of a worker's agent; returns whether the worker became ready by it.

        `asked_s` is when the question was sent: an answer to an older question clears no suspicion.
        What a worker is not well may have been its end, and what comes back has an empty cache.
        """
        worker = self.workers.get(name)
        if worker is None:
            return False
        was_ready = worker.ready
        worker.prompts.now(now_s)  # what was measured of it fades while it has nothing to do
        worker.answering = good
        worker.draining = draining
        if not good:
            # Its agent saw what was wrong, so a good answer later is worth more than time.
            worker.failures = min(worker.failures, 1)
            if not draining:
                self.history.forget(name)
        if good or draining:
            worker.unwell_since_s = None
        elif worker.unwell_since_s is None:
            worker.unwell_since_s = now_s
        since_s = worker.suspect_since_s
        if good and since_s is not None and asked_s >= since_s + _suspicion_s(worker.failures):
            worker.suspect_since_s = None
            worker.errors = 0
        return worker.ready and not was_ready

    def suspect(self, name: str, now_s: float) -> None:
        """A worker failed a request in a way that speaks against the worker itself.

        Requests that fail there while it is already under suspicion tell nothing new.
        """
        if worker := self.workers.get(name):
            if worker.suspect_since_s is None:
                worker.failures += 1
            worker.suspect_since_s = now_s

    def erred(self, name: str, now_s: float) -> None:
        """A worker answered with an error of its own (5xx)."""
        if worker := self.workers.get(name):
            worker.errors += 1
            if worker.errors >= ERRORS_UNTIL_SUSPECT:
                self.suspect(name, now_s)

    def worked(self, name: str) -> None:
        """A worker did what it was asked."""
        if worker := self.workers.get(name):
            worker.failures = 0
            worker.errors = 0

    def loaded(self, name: str, kv_share: float | None, kv_tokens: int | None = None) -> None:
        """A worker's agent said how full its memory for KV is, and how large; None: it did not say."""
        worker = self.workers.get(name)
        if worker is None:
            return
        worker.kv_tokens = kv_tokens or worker.kv_tokens
        if kv_share is not None and kv_share != worker.kv_share:  # else it is the same reading, told again
            worker.kv_share = kv_share
            worker.running_then = worker.running

    def begin(self, name: str, phase: Phase, unread_bytes: int, now_s: float) -> None:
        """A request of this gateway starts on a worker; of its prompt so much is to be read there."""
        self.meters[phase].begin(unread_bytes if phase == "prefill" else 1, now_s)
        if worker := self.workers.get(name):
            self._turn += 1
            worker.turn = self._turn
            if phase == "prefill":
                worker.prefills += 1
                worker.prompts.begin(unread_bytes, now_s)
            else:
                worker.decodes += 1

    def end(self, name: str, phase: Phase, unread_bytes: int, now_s: float, *, finished: bool) -> None:
        """A request of this gateway ends on a worker, however it went."""
        self.meters[phase].end(unread_bytes if phase == "prefill" else 1, now_s, finished=finished)
        if worker := self.workers.get(name):
            if phase == "prefill":
                worker.prefills = max(0, worker.prefills - 1)
                worker.prompts.end(unread_bytes, now_s, finished=finished)
            else:
                worker.decodes = max(0, worker.decodes - 1)

    def read(self, name: str, cached_tokens: int, read_tokens: int, now_s: float) -> None:
        """A worker's agent said how many tokens of prompts it has had in its cache, and how many it has read."""
        worker = self.workers.get(name)
        if worker is not None and worker.phase == "prefill":
            self.hearsay.heard(name, cached_tokens, read_tokens, now_s)

    def remember(self, name: str, phase: Phase, prompt: Prompt, now_s: float) -> None:
        """A worker reads a prompt, or gets its keys and values, and forgets what it has no room for any more.

        What other gateways send there takes as much of the room as what this one does.
        """
        if phase == "prefill":
            self.hearsay.sent(self.history.held_bytes(name, prompt), prompt.bytes, now_s)
        worker = self.workers.get(name)
        room_tokens = worker.kv_tokens if worker is not None else None
        room_bytes = None if room_tokens is None else room_tokens * BYTES_PER_TOKEN // self.gateways
        self.history.remember(name, prompt, room_bytes)

    def unread_bytes(self, worker: Worker, prompt: Prompt) -> int:
        """What a worker would have to read of a prompt."""
        return prompt.bytes - self.history.held_bytes(worker.record.name, prompt)

    def assign(self, decodes_max: float, now_s: float) -> dict[str, Phase]:
        """Give flexible workers of the active generation their roles; returns those that changed.

        A flexible worker can write `decodes_max` answers of this gateway's at once.
        """
        flexible = [worker for worker in self.ready(self.active) if worker.record.pool == FLEXIBLE_POOL]
        usual = usual_rate(flexible)
        seen = [
            Seen(
                name=worker.record.name,
                prompts_s=worker.prompts.pending / rate if (rate := worker.prompts.rate or usual) else 0.0,
                decode_share=worker.decodes / decodes_max,
                kv_share=min(1.0, worker.kv_share_now),
            )
            for worker in flexible
        ]
        self.roles = decide(self.roles, seen, now_s)
        changed: dict[str, Phase] = {}
        for worker in flexible:
            role = self.roles.of[worker.record.name]
            if role != worker.phase:
                worker.role = changed[worker.record.name] = role
        return changed

    def ready(self, generation: str | None) -> list[Worker]:
        """Workers of a generation that may take new requests."""
        return [worker for worker in self if worker.record.generation == generation and worker.ready]

    def has(self, generation: str | None) -> bool:
        """Whether a generation has any worker at all that is not leaving."""
        return any(
            worker.record.generation == generation and not worker.draining and not worker.record.draining
            for worker in self
        )


def usual_rate(workers: Iterable[Worker]) -> float:
    """Bytes of prompts per second that a worker reads, on average of all time that was measured; 0: none was."""
    meters = [worker.prompts for worker in workers]
    busy_s = sum(meter.busy_s for meter in meters)
    return sum(meter.done for meter in meters) / busy_s if busy_s else 0.0


def _suspicion_s(failures: int) -> float:
    return SUSPICION_S[min(failures, len(SUSPICION_S)) - 1] if failures else 0.0
