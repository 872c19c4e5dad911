"""Relaying one answer's events, and knowing at every moment what can become of it.

Pure: bytes of an engine in, bytes for the client out.
"""

from typing import Protocol

from tandem_worker.gateway.handoff import Offer

DONE = b"data: [DONE]"
ERROR = b'data: {"error"'


class EngineErrorEvent(Exception):
    """The engine ended the stream with an error event of its own."""


class Relay(Protocol):
    """What turns an engine's stream into the client's."""

    tokens: int

    def feed(self, data: bytes) -> bytes:
        """The client's bytes for the engine's. Raises: EngineErrorEvent."""
        ...

    def offer(self) -> Offer:
        """What can become of the stream if the engine is gone now."""
        ...


class OpaqueRelay:
    """Passes a stream on as it is; such a stream cannot be resumed.

    `done_mark`: what the last event begins with, None where the end of the body is the only mark.
    """

    def __init__(self, done_mark: bytes | None) -> None:
        self._done_mark = done_mark
        self._tail = b""
        self._done = False
        self.tokens = 0

    def feed(self, data: bytes) -> bytes:
        """The same bytes; looks for the end and for an error of the engine."""
        self.tokens += data.count(b"data: ")
        if self._done_mark is not None:
            seam = self._tail + data[:32]
            if ERROR in data or ERROR in seam:
                raise EngineErrorEvent
            self._done = self._done or self._done_mark in data or self._done_mark in seam
            self._tail = data[-16:]
        return data

    def offer(self) -> Offer:
        """Complete once the end mark has passed, lost otherwise."""
        return Offer.COMPLETE if self._done or self._done_mark is None else Offer.LOST
