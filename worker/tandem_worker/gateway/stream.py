"""Relaying one answer's events, and knowing at every moment what can become of it.

Pure: bytes of an engine in, bytes for the client out.
"""

from typing import Protocol

from tandem_worker.gateway.handoff import Loss, Offer

DONE = b"data: [DONE]"
ERROR = b'data: {"error"'
FINISHED = b'"finish_reason":"'
"""A choice has ended. In text the quotes would be escaped, so this is never a part of an answer."""

SEAM_BYTES = 24
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

    Nothing goes out before `hold_events` events have come: a chat's first one holds no text, and while
    the client has nothing, a failure can still be answered by a retry.
    """

    def __init__(self, *, marked: bool, choices: int = 1, hold_events: int = 1, usage_asked: bool = False) -> None:
        self._marked = marked
        """Whether the stream ends with `[DONE]`, as chats and completions do."""
        self._choices_left = choices
        self._hold_events = hold_events
        self._usage_asked = usage_asked
        self._held = b""
        self._seam = b""
        self._done = False
        self._begun = False
        self.tokens = 0
        self.failure: Loss | None = None

    def feed(self, data: bytes) -> bytes:
        """The same bytes; looks for the end and for an error of the engine."""
        self.tokens += data.count(b"data: ")
        if not self._marked:
            return data
        seen = self._seam + data
        error_at = seen.find(ERROR)
        if error_at >= 0:
            self.failure = Loss.ERROR
            # Held or in one piece with the error: the client has nothing yet, and need not get this.
            return data[: max(0, error_at - len(self._seam))] if self._begun else b""
        self._done = self._done or DONE in seen
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
        if self._done or not self._marked:
            return Offer.COMPLETE
        return Offer.TAIL if self._choices_left <= 0 and not self._usage_asked else Offer.LOST

    def tail(self) -> bytes:
        """The end mark."""
        return DONE + b"\n\n"
