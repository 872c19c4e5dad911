"""Which broken streams can be taken up on another worker, and the request that does it.

A continuation is a completion whose prompt is the ids of the prompt and of all tokens whose text the
client has, so its first token is the next one of the broken run. That is only the same answer when
nothing else decides about the next token; the table below says for every field whether it does.
A field that is not in the table makes a stream not resumable.

Left out on purpose: what counts or remembers tokens of the output alone (presence and frequency
penalties, bad_words, thinking budgets), what holds text or structure back (stop strings, tool and
reasoning parsers, structured output), random streams (seed), and what reports on tokens (logprobs,
prompt_logprobs, echo, return_token_ids, continuous usage).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import cast

import msgspec

from tandem_worker.gateway.request import ClientRequest, Fields, value


class Role(Enum):
    """What becomes of an allowed field in the continuation."""

    PROMPT = auto()
    """It shaped the prompt, which the continuation has as ids."""
    CARRY = auto()
    """It shapes every token alike; sent again as it is."""
    LENGTH = auto()
    """It counts tokens; sent again less those the client has."""
    MUTE = auto()
    """It is without effect at the value it is allowed at, or altogether."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a field leaves a stream resumable."""

    role: Role
    allows: Callable[[object], bool] = lambda _: True


def _unset(*others: object) -> Callable[[object], bool]:
    return lambda given: given is None or any(type(given) is type(other) and given == other for other in others)


def _plain_format(given: object) -> bool:
    return given is None or given == {"type": "text"}


def _usage_at_end(given: object) -> bool:
    if given is None:
        return True
    if not isinstance(given, dict):
        return False
    options = cast(dict[str, object], given)
    return set(options) <= {"include_usage", "continuous_usage_stats"} and not options.get("continuous_usage_stats")


def _one_prompt(given: object) -> bool:
    if isinstance(given, str):
        return True
    return isinstance(given, list) and all(type(token) is int for token in cast(list[object], given))


def _text_only(given: object) -> bool:
    """Whether every message is text: ids of images or sounds mean nothing without them."""
    if not isinstance(given, list):
        return False
    for message in cast(list[object], given):
        content = cast(dict[str, object], message).get("content") if isinstance(message, dict) else message
        if isinstance(content, list):
            for part in cast(list[object], content):
                if not isinstance(part, dict) or cast(dict[str, object], part).get("type") != "text":
                    return False
        elif not isinstance(content, str | None):
            return False
    return True


_PROMPT, _CARRY, _LENGTH, _MUTE = Rule(Role.PROMPT), Rule(Role.CARRY), Rule(Role.LENGTH), Rule(Role.MUTE)

RULES: dict[str, Rule] = {
    "messages": Rule(Role.PROMPT, _text_only),
    "prompt": Rule(Role.PROMPT, _one_prompt),
    "tools": _PROMPT,
    "documents": _PROMPT,
    "chat_template": _PROMPT,
    "chat_template_kwargs": _PROMPT,
    "add_generation_prompt": _PROMPT,
    "continue_final_message": _PROMPT,
    "add_special_tokens": _PROMPT,
    "model": _CARRY,
    "temperature": _CARRY,
    "top_p": _CARRY,
    "top_k": _CARRY,
    "min_p": _CARRY,
    "logit_bias": _CARRY,
    "allowed_token_ids": _CARRY,
    "stop_token_ids": _CARRY,
    "ignore_eos": _CARRY,
    "skip_special_tokens": _CARRY,
    "spaces_between_special_tokens": _CARRY,
    "stream_interval": _CARRY,
    "priority": _CARRY,
    "cache_salt": _CARRY,
    "session_id": _CARRY,
    "user": _CARRY,
    "stream": _CARRY,
    "stream_options": Rule(Role.CARRY, _usage_at_end),
    "max_tokens": _LENGTH,
    "max_completion_tokens": _LENGTH,
    "min_tokens": _LENGTH,
    "n": Rule(Role.MUTE, _unset(1)),
    "best_of": Rule(Role.MUTE, _unset(1)),
    "use_beam_search": Rule(Role.MUTE, _unset(False)),
    "echo": Rule(Role.MUTE, _unset(False)),
    "suffix": Rule(Role.MUTE, _unset()),
    "stop": Rule(Role.MUTE, lambda given: given is None or given == []),
    "include_stop_str_in_output": _MUTE,
    "logprobs": Rule(Role.MUTE, _unset(False)),
    "top_logprobs": Rule(Role.MUTE, _unset(0)),
    "prompt_logprobs": Rule(Role.MUTE, _unset()),
    "presence_penalty": Rule(Role.MUTE, _unset(0, 0.0)),
    "frequency_penalty": Rule(Role.MUTE, _unset(0, 0.0)),
    "repetition_penalty": Rule(Role.MUTE, _unset(1, 1.0)),
    "length_penalty": _MUTE,
    "bad_words": Rule(Role.MUTE, lambda given: given is None or given == []),
    "response_format": Rule(Role.MUTE, _plain_format),
    "structured_outputs": Rule(Role.MUTE, _unset()),
    "return_token_ids": Rule(Role.MUTE, _unset(False)),
    "parallel_tool_calls": _MUTE,
    "metadata": _MUTE,
    "service_tier": _MUTE,
    "store": _MUTE,
}
"""Fields of /v1/completions and /v1/chat/completions under which a stream can be resumed.

`tool_choice` and `seed` depend on other fields and are judged in `why_not`.
"""


def why_not(request: ClientRequest, context_tokens_max: int) -> str:
    """Why a stream could not be resumed: the field that forbids it; empty when it could.

    `context_tokens_max` is the engines' context, 0 when it is not known: then a stream without a limit of its
    own cannot be resumed, since a continuation has to name one.
    """
    fields = request.fields
    if request.endpoint not in ("chat", "completions"):
        return request.endpoint
    if not request.stream:
        return "stream"
    for name in fields:
        rule = RULES.get(name)
        if rule is None and name not in ("tool_choice", "seed"):
            return name
        if rule is not None and not _allowed(fields, name, rule):
            return name
    if value(fields, "tools") is not None and value(fields, "tool_choice") != "none":
        return "tools"
    if value(fields, "tool_choice") not in (None, "none"):
        return "tool_choice"
    if value(fields, "seed") is not None and value(fields, "temperature") not in (0, 0.0):
        return "seed"
    return "max_tokens" if not context_tokens_max and _limit(request) is None else ""


def _allowed(fields: Fields, name: str, rule: Rule) -> bool:
    if rule.role is Role.CARRY and rule.allows is _CARRY.allows:
        return True
    if name == "messages" and b'"type"' not in bytes(fields[name]):
        # Content is either a string or a list of parts, and every part has a type.
        return True
    return rule.allows(value(fields, name))


@dataclass(slots=True)
class History:
    """The ids of a stream so far, as the bytes the engine wrote: `12,7,9`. Never parsed."""

    tokens_max: int
    """Prompt and output ids kept at most; beyond it the ids are dropped and nothing is resumed."""
    prompt: bytes = b""
    prompt_count: int = 0
    output: bytearray = field(default_factory=bytearray)
    """Ids whose text the client has."""
    output_count: int = 0
    pending: bytes = b""
    """Ids since then that have brought no text: dropped and generated anew by a continuation."""
    pending_count: int = 0
    last_count: int = 0
    """How many ids came with the text sent last; after several, the last may be half a character."""
    closed: str = ""
    """Why the stream can no longer be resumed; empty while it can."""

    def begin(self, prompt: bytes) -> None:
        """The prompt's ids have come."""
        self.prompt, self.prompt_count, self.output = prompt, count_ids(prompt), bytearray()
        self._bound()

    def add(self, ids: bytes, *, with_text: bool) -> None:
        """An event's ids have come."""
        if self.closed or not ids:
            return
        count = count_ids(ids)
        if with_text and not self.pending and self.output:
            # Nearly every token comes this way.
            self.output += b"," + ids
            self.output_count += count
            self.last_count = count
            if self.prompt_count + self.output_count > self.tokens_max:
                self._bound()
            return
        if self.pending:
            ids = self.pending + b"," + ids
        if not with_text:
            self.pending, self.pending_count = ids, self.pending_count + count
            return
        if self.output:
            self.output += b","
        self.output += ids
        self.output_count += count + self.pending_count
        self.last_count = count
        self.pending, self.pending_count = b"", 0
        if self.prompt_count + self.output_count > self.tokens_max:
            self._bound()

    def close(self, why: str) -> None:
        """The stream can no longer be resumed; its ids are let go."""
        self.closed = self.closed or why
        self.prompt, self.pending, self.output = b"", b"", bytearray()

    @property
    def made(self) -> int:
        """Tokens generated so far, those without text included."""
        return self.output_count + self.pending_count

    def drop_last(self) -> None:
        """Take the last id back: it began a character whose text never came."""
        cut = self.output.rfind(b",")
        del self.output[max(cut, 0) :]
        self.output_count -= 1
        self.last_count -= 1

    def drop_pending(self) -> None:
        """Forget the ids that brought no text; the continuation generates them anew."""
        self.pending, self.pending_count = b"", 0

    def last_ids(self, count: int) -> list[int]:
        """The last ids whose text the client has, oldest first."""
        return [int(token) for token in bytes(self.output).rsplit(b",", count)[-count:] if token]

    def _bound(self) -> None:
        if self.prompt_count + self.output_count > self.tokens_max:
            self.close("too-long")


def count_ids(ids: bytes) -> int:
    """How many ids a list without its brackets holds."""
    return ids.count(b",") + 1 if ids else 0


def continuation(request: ClientRequest, history: History, context_tokens_max: int) -> ClientRequest:
    """The request that takes a broken stream up after the last text that the client has.

    It always names `max_tokens`: /v1/completions knows no "to the end of the context" (vLLM 0.32 asserts a number
    while it streams) and refuses more than the context has room for.
    """
    fields = request.fields
    body: Fields = {name: raw for name, raw in fields.items() if name in RULES and RULES[name].role is Role.CARRY}
    ids = b",".join(part for part in (history.prompt, bytes(history.output)) if part)
    body["prompt"] = msgspec.Raw(b"[" + ids + b"]")
    limit = _limit(request)
    if limit is None:
        limit = context_tokens_max - history.prompt_count
    body["max_tokens"] = _number(max(1, limit - history.output_count))
    least = value(fields, "min_tokens")
    if isinstance(least, int) and least > history.output_count:
        body["min_tokens"] = _number(least - history.output_count)
    return ClientRequest("completions", body, stream=True)


COMPLETION_TOKENS_DEFAULT = 16
"""`max_tokens` of /v1/completions when the client names none (vLLM 0.32, completion/protocol.py)."""


def _limit(request: ClientRequest) -> int | None:
    """How many tokens the client allows, None where the context is the only limit."""
    fields = request.fields
    limit = value(fields, "max_completion_tokens") if request.endpoint == "chat" else None
    limit = value(fields, "max_tokens") if limit is None else limit
    if limit is None and request.endpoint == "completions" and "max_tokens" not in fields:
        return COMPLETION_TOKENS_DEFAULT
    return limit if isinstance(limit, int) else None


def _number(count: int) -> msgspec.Raw:
    return msgspec.Raw(str(count).encode())
