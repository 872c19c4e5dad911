"""vLLM's streamed chunks with token ids.

The ids are taken out, and a continuation's chunks are written in the shape of the stream it continues.

With `return_token_ids` every chunk ends with `"token_ids":[...]`, and the first one carries
`"prompt_token_ids":[...]`. Both are found by searching bytes: inside a JSON string their quotes would
be escaped. What is left is byte for byte what the client would have got without asking for ids.
Source: vLLM 0.32.0, entrypoints/openai/{chat_completion,completion}/serving.py.
"""

import msgspec

from tandem_worker.gateway.handoff import Loss, Offer
from tandem_worker.gateway.resume import History
from tandem_worker.gateway.stream import DONE, ERROR, FINISHED

_IDS = b'"token_ids":['
_PROMPT_IDS = b'"prompt_token_ids":['
_CHOICES = b'"choices":['
_NO_CHOICES = b'"choices":[]'
_CHAT_TEXT = b'"delta":{"content":"'
_CHAT_NOTHING = b'"delta":{}'
_CHAT_ROLE = b'"delta":{"role":'
_TEXT = b'"text":"'
_QUOTE = ord('"')
_EVENT = b'data: {"id":'
_END = b"\n\n"
_LAST = b"]}]}" + _END
"""What a chunk ends with after its ids, but for usage and fingerprints."""
EVENT_BYTES_MAX = 32 * 1024 * 1024
"""Longest event; the ids of a prompt of a million tokens are 7 MB."""


class _Choice(msgspec.Struct):
    text: msgspec.Raw
    finish_reason: msgspec.Raw = msgspec.Raw(b"null")
    stop_reason: msgspec.Raw = msgspec.Raw(b"null")


class _Chunk(msgspec.Struct):
    choices: list[_Choice]
    usage: dict[str, msgspec.Raw] = {}
    system_fingerprint: msgspec.Raw = msgspec.Raw(b"null")


_CHUNK = msgspec.json.Decoder(_Chunk)


class _Bad(Exception):
    """An event that ends the stream: the engine's error, or garbage."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.value)
        self.loss = loss


class IdRelay:
    """Relays one stream whose engine was asked for token ids, over as many engines as it takes."""

    def __init__(self, *, chat: bool, tokens_max: int, usage_asked: bool) -> None:
        self.history = History(tokens_max)
        self.tokens = 0
        self.failure: Loss | None = None
        self._chat = chat
        self._text_mark = _CHAT_TEXT if chat else _TEXT
        self._usage_asked = usage_asked
        self._usage_sent = False
        self._finished = False
        self._done = False
        self._rest = b""
        """The beginning of an event whose end has not come yet."""
        self._held = b""
        self._head = b""
        """What every chunk of the client's stream begins with, up to its choices."""
        self._continued = False
        self._before = 0
        """Tokens that the client had when the running continuation began."""

    def feed(self, data: bytes) -> bytes:
        """The client's bytes: all that are good, up to a failure."""
        if (usual := self._usual(data)) is not None:
            return usual
        data = self._rest + data if self._rest else data
        *events, self._rest = data.split(_END)
        out: list[bytes] = []
        try:
            for event in events:  # one by one: what came before a bad one still counts
                out.append(self._event(event))  # noqa: PERF401
            if len(self._rest) > EVENT_BYTES_MAX:
                self.failure = Loss.GARBAGE
        except _Bad as bad:
            self.failure = bad.loss
        if not self._held:
            return out[0] if len(out) == 1 else b"".join(out)
        if not self.tokens and not self._done:
            return b""  # Only the role has come; while the client has nothing, a retry is invisible.
        held, self._held = self._held, b""
        return held + b"".join(out)

    def _usual(self, data: bytes) -> bytes | None:
        """What nearly every read is in a running stream: one event, one token, with text. None for all else.

        The same as the general way below in a third of its time; a stream costs little more than its system calls.
        """
        history = self.history
        start = data.rfind(_IDS) + len(_IDS)
        end = len(data) - len(_LAST)
        ids = data[start:end]
        if not (ids.isdigit() and history.output and data.endswith(_LAST) and data.startswith(_EVENT)):
            return None
        if self._rest or self._held or self._continued or history.pending or history.closed:
            return None
        at = data.find(self._text_mark)
        if at < 0 or data[at + len(self._text_mark)] == _QUOTE or FINISHED in data or data.count(_END) != 1:
            return None
        history.add(ids, with_text=True)
        self.tokens += 1
        return data[: start - 1] + b"null" + _LAST[1:]

    def offer(self) -> Offer:
        """What can become of the stream if the engine is gone now."""
        if self._done:
            return Offer.COMPLETE
        if self._finished:
            return Offer.TAIL if self._usage_sent or not self._usage_asked or not self.history.closed else Offer.LOST
        return Offer.LOST if self.history.closed or not self.history.prompt else Offer.RESUMABLE

    def tail(self) -> bytes:
        """The usage, where it was asked for and has not come, and the end mark."""
        if not self._usage_asked or self._usage_sent:
            return DONE + _END
        prompt, made = self.history.prompt_count, self.history.made
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
        return self._head + b'],"usage":' + msgspec.json.encode(usage) + b"}" + _END + DONE + _END

    def continue_elsewhere(self) -> None:
        """The engine is gone; what comes next are the chunks of a continuation of `history`."""
        self._rest = b""
        self.failure = None
        self.history.drop_pending()
        self._continued = True
        self._text_mark = _TEXT
        self._before = self.history.output_count

    def _event(self, event: bytes) -> bytes:
        start = event.rfind(_IDS)
        if start < 0:
            return self._event_without_ids(event)
        start += len(_IDS)
        end = event.find(b"]", start)
        ids = event[start:end]
        one = ids.isdigit()
        if not (one or _are_ids(ids)) or not event.startswith(_EVENT) or not event.endswith(b"}"):
            raise _Bad(Loss.GARBAGE)
        event = b"%bnull%b" % (event[: start - 1], event[end + 1 :])
        if self._continued or not self._head:
            event = self._take_prompt(event)
        self.tokens += 1 if one else 1 + ids.count(b",")
        finished = FINISHED in event
        # Whether the chunk brings text; what brings something else is a tool call or reasoning.
        at = event.find(self._text_mark)
        with_text = at >= 0 and event[at + len(self._text_mark)] != _QUOTE
        if at < 0 and _CHAT_NOTHING not in event:
            self.history.close("parsed-output")
        if finished:
            self._finished = with_text = True
        self.history.add(ids, with_text=with_text)
        return self._translate(event) if self._continued else event + _END

    def _event_without_ids(self, event: bytes) -> bytes:
        if event.startswith(DONE):
            self._done = True
        elif event.startswith(ERROR):
            raise _Bad(Loss.ERROR)
        elif event.startswith(b":"):
            pass
        elif _NO_CHOICES in event:
            self._usage_sent = True
            if self._continued:
                return self._translate(event)
        elif _CHAT_ROLE in event:
            event = self._take_prompt(event)
            self._held = event + _END
            return b""
        elif not event.startswith(_EVENT) or _CHOICES not in event:
            raise _Bad(Loss.GARBAGE)
        else:
            self.history.close("no-ids")
            self._finished = self._finished or FINISHED in event
            self.tokens += 1
        return event + _END

    def _take_prompt(self, event: bytes) -> bytes:
        """Remember the prompt's ids and how chunks begin; ids are set to null, as unasked ones are."""
        if not self._head:
            before, mark, _ = event.partition(_CHOICES)
            self._head = before + mark
        start = event.find(_PROMPT_IDS)
        if start < 0:
            return event
        end = event.find(b"]", start)
        ids = event[start + len(_PROMPT_IDS) : end]
        if not _are_ids(ids):
            raise _Bad(Loss.GARBAGE)
        if not self._continued:
            self.history.begin(ids)
        return b"%bnull%b" % (event[: start + len(_PROMPT_IDS) - 1], event[end + 1 :])

    def _translate(self, event: bytes) -> bytes:
        """A continuation's chunk as the client's stream would have had it."""
        try:
            chunk = _CHUNK.decode(event.removeprefix(b"data: "))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Bad(Loss.GARBAGE) from error
        parts = [self._head]
        if chunk.choices:
            parts.append(self._choice(chunk.choices[0]))
        parts.append(b"]")
        if chunk.usage:
            parts += [b',"usage":', msgspec.json.encode(self._whole_usage(chunk.usage))]
        if bytes(chunk.system_fingerprint) != b"null":
            parts += [b',"system_fingerprint":', bytes(chunk.system_fingerprint)]
        return b"".join([*parts, b"}", _END])

    def _choice(self, choice: _Choice) -> bytes:
        text, finish, stop = bytes(choice.text), bytes(choice.finish_reason), bytes(choice.stop_reason)
        if not self._chat:
            return (
                b'{"index":0,"text":%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b,'
                b'"prompt_token_ids":null,"token_ids":null}' % (text, finish, stop)
            )
        stopped = b"" if finish == b"null" else b',"stop_reason":' + stop
        return b'{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":%b%b,"token_ids":null}' % (
            text,
            finish,
            stopped,
        )

    def _whole_usage(self, usage: dict[str, msgspec.Raw]) -> dict[str, object]:
        """The continuation's usage as that of the unbroken run."""
        prompt = self.history.prompt_count
        made = self._before + int(bytes(usage.get("completion_tokens", b"0")))
        counts = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
        return {**usage, **counts}


def _are_ids(ids: bytes) -> bool:
    return not ids or ids.replace(b",", b"").isdigit()
