"""What is simulated: pools, front door, network, and what goes wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Literal, Protocol

from pulumi_tandem.declare.workload import Objectives
from pulumi_tandem.simulate.traffic import Traffic
from pulumi_tandem.simulate.worker import WorkerModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """What a scaling policy is shown of its pool."""

    now_s: float
    ready: int
    """Workers that take requests."""
    starting: int
    requests: int
    """Requests routed to the pool's workers and not done there, waiting ones included."""
    waiting: int
    """Those among them that no worker has begun."""
    busy: float
    """Share of the time since the last look in which ready workers computed."""


Policy = Callable[[PoolView], int]
"""How many workers a pool should have."""


def requests_per_worker(target: float) -> Policy:
    """So many workers that each has `target` requests: what an autoscaler does with an average value per pod."""
    return lambda view: ceil(view.requests / target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A pool whose size follows its load. Workers above what is wanted finish their requests first."""

    policy: Policy
    workers_min: int
    workers_max: int
    interval_s: float = 15.0
    """Time between two looks. Default: that of Kubernetes' horizontal pod autoscaler."""
    calm_s: float = 300.0
    """A pool shrinks to the most that was wanted in so much time. Default: as there."""


Role = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """What a policy of roles is shown of a worker: what the gateway knows of it too."""

    number: int
    """Its number in the pool, from 0."""
    unread_tokens: int
    """Of prompts that it reads for other workers, waiting ones included."""
    read_tokens: int
    """Of prompts that it has ever read for others."""
    decodes: int
    """Requests that it has to answer, waiting ones included."""
    kv_share: float
    """Share of its memory for keys and values that is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flexible:
    """Workers of which each takes either phase: new requests go where its role says, and what it has stays there."""

    policy: Callable[[float, Sequence[WorkerView]], Mapping[int, Role]]
    """The role of each worker that takes requests, by its number, from the time in seconds and a look at all of them.
    Its answer holds until the next look."""
    interval_s: float = 0.25
    """Time between two looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as a front door sees it."""

    index: int
    prompt_tokens: int
    session: int
    beginning: int
    beginning_tokens: int
    held_tokens: Sequence[int] = ()
    """What each prefill worker's cache has of the prompt now: no front door knows it, but one that engines tell."""
    cached_and_read: Sequence[tuple[int, int]] = ()
    """Tokens of all prompts up to now that each prefill worker had in its cache, and that it read: its own counters."""


class Pairing(Protocol):
    """Which workers a request goes to, in place of the least loaded ones; it learns what a front door learns."""

    def choose(self, asked: Asked, now_s: float, /) -> tuple[int | None, int]:
        """The numbers of the workers that read and answer; None: the second one does both."""
        ...

    def read(self, index: int, now_s: float, /) -> int:
        """The prompt of that request has been read for another worker; tells which one, the one chosen or any other."""
        ...

    def over(self, index: int, now_s: float, /) -> None:
        """The request is answered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolModel:
    """Workers of one phase, or of both."""

    name: str
    """`prefill`, `decode` or `serve`."""
    workers: tuple[tuple[WorkerModel, int], ...]
    """Kinds of workers and how many of each there are at the start; scaling adds the first kind."""
    scaling: Scaling | None = None
    routing: Literal["least_loaded", "in_turn"] = "least_loaded"
    """`least_loaded`: as the gateway does it. `in_turn`: as a load balancer does that knows nothing of its workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOff:
    """What moving a prompt's keys and values takes.

    Each worker's line, and the network between them, carries one transfer after the other, and a transfer is done when
    the slowest of the three has carried it. Lines are never idle while something waits for them, as where transfers
    share them, though of those that would share one the first is done too early.
    """

    kv_bytes: Callable[[int], float] = lambda _tokens: 0.0
    """Bytes of so many tokens, over all GPUs of a worker."""
    posted_s: Callable[[int], float] = lambda _tokens: 0.0
    """Time beside the bytes: the request to the decode worker, the pieces that are posted."""
    fabric_gb_per_s: float = inf
    """What the network between all workers carries at once. Default: more than all their lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A worker dies, and comes back after its start time."""

    at_s: float
    pool: str
    worker: int
    """Its number in the pool, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontDoor:
    """What the gateway admits and retries; `Limits` and `Service` say more."""

    requests_running_max: int
    requests_waiting_max: int
    attempts_max: int = 4
    resume: bool = True
    survivors_serve_both: bool = True
    request_s: float = 0.0
    """From a request's arrival until an engine has it: HTTP, tokens of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A service under load.

    Raises ValueError where a worker of an unknown pool is to die.
    """

    traffic: Traffic
    decode: PoolModel
    """Workers that write answers; those that do both where there is no `prefill`."""
    flexible: Flexible | None = None
    """Roles of the workers of `decode`, where there is no `prefill` and they serve as one or the other."""
    prefill: PoolModel | None = None
    pairing: Pairing | None = None
    """Who chooses among workers of which none dies, comes or goes. Default: the least loaded are chosen."""
    hand_off: HandOff = HandOff()
    door: FrontDoor
    objectives: Objectives | None = None
    clients: int | None = None
    """So many clients, each of which sends its next request when the last one is answered; when the requests of the
    traffic would come does not matter then. Default: requests come when the traffic says."""
    deaths: tuple[Death, ...] = ()
    hours_between_deaths: float = inf
    """Mean time between two deaths of one worker, besides those that are listed; they come independent of each other.
    Llama 3's training on 16,384 H100 was interrupted 419 times in 54 days (The Llama 3 Herd of Models, 3.3.4): one
    GPU in about 50,000 hours."""
    seed: int = 0
    """Decides which workers die when, and how passes vary."""
    warm_up_s: float = 0.0
    """Requests that come earlier load the service and do not count."""

    def __post_init__(self) -> None:
        assert not (self.flexible and self.prefill), "flexible workers are one pool"
        assert not self.pairing or (self.prefill and not self.deaths), "pairs are chosen of two pools that stay"
        names = [pool.name for pool in self.pools]
        for death in self.deaths:
            if death.pool not in names:
                raise ValueError(f"a worker of {death.pool!r} is to die; the pools are {', '.join(names)}")

    @property
    def pools(self) -> tuple[PoolModel, ...]:
        """The pools there are, in the way of a request."""
        return (self.decode,) if self.prefill is None else (self.prefill, self.decode)
