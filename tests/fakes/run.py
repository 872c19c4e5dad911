"""One answer of the fake engine on its way out: steps its sequences, writes chunks, acts out its fault."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes import wire
from tests.fakes.faults import Fault
from tests.fakes.job import Job, Sequence
from tests.fakes.server import STREAM_HEAD, Connection, head


@dataclass(slots=True)
class Pending:
    """Tokens of a sequence that were made and not yet sent: more than one when the client reads slowly."""

    text: str = ""
    ids: list[int] = field(default_factory=list[int])


@dataclass(slots=True, eq=False)
class Run:
    """A job that is being answered on a connection."""

    job: Job
    connection: Connection
    stream: wire.Renderer
    fault: Fault | None
    die: Callable[["Run", Fault], None]
    """Ends the connection, or the engine, as the fault says."""
    hold_kv: Callable[["Run"], dict[str, Any] | None]
    state: Literal["running", "stalled", "complete", "cut"] = "running"
    """Cut: the client is gone, or a fault has ended the connection."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the state is no longer running."""
    left: list[Sequence] = field(default_factory=list[Sequence])
    """Sequences that are not finished."""
    _pending: dict[int, Pending] = field(default_factory=dict[int, Pending])
    _begun: set[int] = field(default_factory=set[int])
    _tool_begun: set[int] = field(default_factory=set[int])
    _opened: bool = False

    def __post_init__(self) -> None:
        self.left = list(self.job.sequences)
        self.connection.on_resume = self.flush

    def begin(self) -> None:
        """Sends the head of a stream, which vLLM does before the first token is made."""
        if self.job.stream:
            self.connection.write(STREAM_HEAD)

    def resume(self) -> None:
        """Goes on after a stall."""
        self.fault, self.state = None, "running"
        self.changed.clear()
        self.flush()

    def _open(self) -> None:
        if self.job.stream and not self._opened:
            self._opened = True
            for event in self.stream.opening([(s.index, s.prompt) for s in self.job.sequences]):
                self.connection.chunk(event)

    def step(self) -> None:
        """One engine step: a token for every sequence, then what may be sent is sent."""
        self._open()
        for sequence in self.left:
            token, text = sequence.step()
            if self.job.stream:
                waiting = self._pending.setdefault(sequence.index, Pending())
                waiting.text += text
                waiting.ids.append(token)
        self.left = [s for s in self.left if s.finish is None]
        self.flush()

    def flush(self) -> None:
        """Sends all that waits, unless the client does not read; ends the answer after the last token."""
        if self.state != "running" or self.connection.paused:
            return
        if self.job.stream:
            for sequence in self.job.sequences:
                if sequence.index in self._pending:
                    self._send_chunks(sequence, self._pending.pop(sequence.index))
        if self.fault is not None and self._act(self.fault):
            return
        if not self.left:
            self._finish()

    def _send_chunks(self, sequence: Sequence, new: Pending) -> None:
        first = sequence.index not in self._begun
        self._begun.add(sequence.index)
        text = self._delta(sequence, new.text) if self.job.api == "chat" else new.text
        self.connection.chunk(
            self.stream.chunk(
                sequence.index,
                text,
                tuple(new.ids),
                produced=len(sequence.ids),
                finish=self._reason(sequence),
                stop=sequence.stopped_by,
                prompt=sequence.prompt if first else None,
            )
        )

    def _delta(self, sequence: Sequence, text: str) -> str:
        if self.job.tool is None:
            return wire.content(text)
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if sequence.index not in self._tool_begun:
            self._tool_begun.add(sequence.index)
            call = {"id": self._call_id(sequence), "type": "function", "index": 0}
            call["function"] = {"name": self.job.tool, "arguments": text}
        return wire.dumps({"tool_calls": [call]})

    def _call_id(self, sequence: Sequence) -> str:
        return f"chatcmpl-tool-{self.stream.request_id[-8:]}{sequence.index}"

    def _reason(self, sequence: Sequence) -> str | None:
        if (
            self.job.tool is not None
            and sequence.finish == "stop"
            and not isinstance(self.job.body.get("tool_choice"), dict)
        ):
            return "tool_calls"
        return sequence.finish

    def _act(self, fault: Fault) -> bool:
        """Acts the fault out when its time has come; True when nothing else may be sent."""
        made = self.job.produced
        match fault.kind:
            case "mid_stream" | "cut_event" if self.job.stream and made >= fault.after_tokens:
                if fault.kind == "cut_event":
                    half = self.stream.chunk(0, self._delta(self.job.sequences[0], "cut"), (1,), produced=made)
                    self.connection.write(b"%x\r\n%b" % (len(half), half[: len(half) // 2]))
                self.die(self, fault)
            case "finish_then_die" if not self.left and self.job.stream:
                self.die(self, fault)
            case "no_done" if self.job.stream and made >= fault.after_tokens:
                self.connection.end_stream()
                self._change("complete")
            case "stream_error" if self.job.stream and made >= fault.after_tokens:
                self.fail()
            case "garbage" if self.job.stream and made >= fault.after_tokens > 0:
                self.connection.chunk(b'data: {"id": \xff\xfe not json}\n\n\x00\x01')
                self.fault = None
                return False
            case "stall" if made >= fault.after_tokens:
                self._change("stalled")
            case _:
                return False
        return True

    def fail(self) -> None:
        """Ends the answer as vLLM does when the engine fails a request: 500, or an error event and [DONE]."""
        if self.job.stream:
            self._open()
            self.connection.chunk(wire.event(wire.INTERNAL.body().decode()))
            self.connection.chunk(wire.DONE)
            self.connection.end_stream()
        else:
            self.connection.respond(500, wire.INTERNAL.body())
        self._change("complete")

    def _finish(self) -> None:
        kv = self.hold_kv(self)
        if self.job.stream:
            for event in self.stream.closing(self.job.produced):
                self.connection.chunk(event)
            self.connection.end_stream()
            self._change("complete")
        else:
            self._send_whole(kv)

    def _send_whole(self, kv: dict[str, Any] | None) -> None:
        choices = [
            wire.Choice(
                text="" if self.job.tool else s.text,
                ids=s.ids,
                prompt=s.prompt,
                finish=self._reason(s) or "stop",
                stop=s.stopped_by,
                tool_calls=[self._whole_call(s)] if self.job.tool else None,
            )
            for s in self.job.sequences
        ]
        body = self.stream.whole(choices, kv)
        if self.fault is not None and self.fault.kind in ("mid_stream", "cut_event"):
            self.connection.write(head(200, "application/json", len(body)) + body[: len(body) // 2])
            self.die(self, self.fault)
            return
        self.connection.respond(200, body)
        self._change("complete")

    def _whole_call(self, sequence: Sequence) -> dict[str, Any]:
        function = {"name": self.job.tool, "arguments": sequence.text}
        return {"id": self._call_id(sequence), "type": "function", "function": function}

    def _change(self, state: Literal["stalled", "complete", "cut"]) -> None:
        self.state = state
        self.changed.set()

    def cut(self) -> None:
        """Ends without another byte."""
        self._change("cut")
