"""Relaying one answer's events, and knowing at every moment what can become of it.

Pure: bytes of an engine in, bytes for the client out.
"""

from dataclasses import dataclass
from typing import Protocol

from tandem_worker.gateway.handoff import Loss, Offer

DONE = b"data: [DONE]"
ERROR = b'data: {"error"'
FINISHED = b'"finish_reason":"'
"""A choice has ended. In text the quotes would be escaped, so this is never a part of an answer."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How the streams of one endpoint end, and how they begin.

    Marks begin with the end of the event before: in an answer's text a line's end is escaped, so that none of them
    can be a part of it.
    """

    done: tuple[bytes, ...]
    """The event after which nothing is missing."""
    error: bytes
    """The event by which an engine gives up."""
    hold_events: int
    """The event with the first text; while the client has nothing, a failure can still be answered by a retry."""


_OPENAI = Marks(done=(b"\n\n" + DONE,), error=b"\n\n" + ERROR, hold_events=1)
MARKS = {
    "completions": _OPENAI,
    "chat": Marks(done=_OPENAI.done, error=_OPENAI.error, hold_events=2),
    "messages": Marks(done=(b"\n\nevent: message_stop\n",), error=b"\n\nevent: error\n", hold_events=3),
    "responses": Marks(
        done=tuple(b"\n\nevent: response.%b\n" % end for end in (b"completed", b"incomplete", b"failed")),
        error=b"\n\nevent: error\n",
        hold_events=5,
    ),
}
"""By endpoint. Source: vLLM 0.32.0, entrypoints/anthropic/serving.py and openai/responses/{serving,api_router}.py."""

SEAM_BYTES = 32
"""More than any of the marks is long: what is looked at again when they may lie across two reads."""


class Relay(Protocol):
    """What turns an engine's stream into the client's."""

    tokens: int
    """Tokens (or events, where nothing better is known) that have passed."""
    failure: Loss | None
    """ERROR when the engine ended the stream with an error event, GARBAGE when what came is no event of it."""

    def feed(self, data: bytes) -> bytes:
        """The client's bytes for the engine's: all that are good, up to a failure."""
        ...

    def offer(self) -> Offer:
        """What can become of the stream if the engine is gone now."""
        ...

    def tail(self) -> bytes:
        """The end marks that are missing (Offer.TAIL)."""
        ...


class OpaqueRelay:
    """Passes a stream on as it is; such a stream cannot be resumed.

    Nothing goes out before the first event that can hold text.
    """

    def __init__(self, endpoint: str, *, choices: int = 1, usage_asked: bool = False) -> None:
        self._marks = MARKS[endpoint]
        self._choices_left = choices
        self._hold_events = self._marks.hold_events
        self._usage_asked = usage_asked
        self._held = b""
        self._seam = b"\n\n"
        self._done = False
        self._begun = False
        self.tokens = 0
        self.failure: Loss | None = None

    def feed(self, data: bytes) -> bytes:
        """The same bytes; looks for the end and for an error of the engine."""
        self.tokens += data.count(b"data: ")
        seen = self._seam + data
        error_at = seen.find(self._marks.error)
        if error_at >= 0:
            self.failure = Loss.ERROR
            # Held or in one piece with the error: the client has nothing yet, and need not get this.
            good = max(0, error_at + len(b"\n\n") - len(self._seam))
            return data[:good] if self._begun else b""
        self._done = self._done or any(mark in seen for mark in self._marks.done)
        # A mark wholly inside the seam was counted before.
        self._choices_left -= seen.count(FINISHED) - self._seam.count(FINISHED)
        self._seam = seen[-SEAM_BYTES:]
        if not self._hold_events:
            return data
        self._held += data
        if self._held.count(b"\n\n") < self._hold_events and not self._done:
            return b""
        self._hold_events, held, self._held = 0, self._held, b""
        self._begun = True
        return held

    def offer(self) -> Offer:
        """Complete once the end mark has passed; only that missing once every choice has ended."""
        if self._done:
            return Offer.COMPLETE
        return Offer.TAIL if self._choices_left <= 0 and not self._usage_asked else Offer.LOST

    def tail(self) -> bytes:
        """The end mark."""
        return DONE + b"\n\n"
