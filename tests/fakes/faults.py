"""What can go wrong with one request, and the book of what is to go wrong next."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Kind = Literal[
    "before_headers",  # the connection is cut, no byte was sent
    "after_headers",  # the head was sent, then a cut
    "mid_stream",  # cut after `after_tokens` tokens; a whole answer is cut in half
    "cut_event",  # as mid_stream, but the last event is cut in the middle
    "finish_then_die",  # cut after the chunk with the finish_reason, before usage and [DONE]
    "no_done",  # a clean end of the answer without [DONE], after `after_tokens` tokens
    "gate",  # no answer until `release()`, or for `delay_s` seconds
    "stall",  # silence after `after_tokens` tokens until `release()`, the connection stays open
    "half_open",  # no answer for ever, the connection stays open
    "garbage",  # bytes that are no HTTP; after `after_tokens` > 0 an event that is no JSON
    "status",  # `status` with vLLM's error body
    "stream_error",  # vLLM's error event after `after_tokens` tokens (finish_reason error)
    "null_kv",  # kv_transfer_params: null in the prefill's answer
    "kv_load",  # the KV cannot be read: HTTP 500, or an error event in a stream
]
Phase = Literal["prefill", "decode", "whole"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, for the next `times` requests that match."""

    kind: Kind
    times: int = 1
    """How many requests it hits; -1: all."""
    phase: Phase | None = None
    """Hits only requests of this phase; None: any."""
    contains: str = ""
    """Hits only requests whose raw body contains this."""
    path: str = ""
    """Hits only requests to this path; empty: any POST."""
    after_tokens: int = 0
    status: int = 500
    delay_s: float = 0.0
    rst: bool = False
    """Cuts with a TCP reset; else the socket is closed, as the kernel does for a killed process."""
    whole_engine: bool = False
    """A cut takes the whole engine with it: port closed, all requests and held blocks gone."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no such fault: {self.kind!r}; there are {', '.join(get_args(Kind))}")

    def matches(self, path: str, phase: Phase, body: bytes) -> bool:
        """Whether it hits this request."""
        return (
            self.phase in (None, phase)
            and self.path in ("", path)
            and (not self.contains or self.contains.encode() in body)
        )


def fault_from_json(value: dict[str, Any]) -> Fault:
    """The fault as the control endpoint takes it."""
    unknown = set(value) - {f.name for f in fields(Fault)}
    if unknown:
        raise ValueError(f"unknown fields of a fault: {', '.join(sorted(unknown))}")
    return Fault(**value)


@dataclass(slots=True)
class FaultBook:
    """Faults to come, first in first served, and the gate that some of them wait at."""

    _left: list[tuple[Fault, int]] = field(default_factory=list[tuple[Fault, int]])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    """Requests that are kept waiting now: at the gate, stalled, half-open."""
    taken: list[Fault] = field(default_factory=list[Fault])

    def add(self, fault: Fault) -> None:
        """Books a fault."""
        self._left.append((fault, fault.times))
        if fault.kind in ("gate", "stall"):
            self.gate.clear()

    def take(self, path: str, phase: Phase, body: bytes) -> Fault | None:
        """The fault of this request, used up; None when all is well."""
        for i, (fault, left) in enumerate(self._left):
            if fault.matches(path, phase, body):
                self._left[i] = (fault, left - 1)
                if left == 1:
                    del self._left[i]
                self.taken.append(fault)
                return fault
        return None

    @asynccontextmanager
    async def at_gate(self) -> AsyncIterator[None]:
        """Counts the request as waiting."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def clear(self) -> None:
        """Forgets faults to come and opens the gate."""
        self._left.clear()
        self.gate.set()
