"""The JSON of vLLM 0.32's OpenAI server: chunks, whole answers, errors, in its order of keys.

Source: vllm/entrypoints/openai/{completion,chat_completion}/{serving,protocol}.py of 0.32.0. A chunk is
dumped without unset fields, so a key that the server sets to None is there as null; a whole answer
holds every key.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

FINGERPRINT = "vllm-0.32.0-fa4e0000"


def dumps(value: object) -> str:
    """JSON as the server writes it: compact, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ApiError(Exception):
    """A refusal with vLLM's error body."""

    status: int
    message: str
    kind: str = "BadRequestError"
    param: str | None = None

    def body(self) -> bytes:
        """The JSON of it."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return dumps({"error": error}).encode()


INTERNAL = ApiError(500, "Internal server error", "InternalServerError")


def event(data: str) -> bytes:
    """One server-sent event."""
    return f"data: {data}\n\n".encode()


DONE = event("[DONE]")


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Usage as a chunk carries it."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}


@lru_cache(8192)
def _completion_choice(
    index: int, text: str, ids: tuple[int, ...] | None, finish: str | None, stop: str | None
) -> tuple[str, str]:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": stop}
    return dumps(choice)[:-1] + ',"prompt_token_ids":', f',"token_ids":{_ids(ids)}}}]'


@lru_cache(8192)
def _chat_choice(index: int, delta: str, ids: tuple[int, ...] | None, finish: str | None, stop: str | None) -> str:
    stopped = f',"stop_reason":{dumps(stop)}' if finish is not None else ""
    ended = f'"finish_reason":{dumps(finish)}{stopped}'
    return f'{{"index":{index},"delta":{delta},"logprobs":null,{ended},"token_ids":{_ids(ids)}}}]'


@lru_cache(8192)
def content(text: str) -> str:
    """A chat delta of text."""
    return dumps({"content": text})


def _ids(ids: tuple[int, ...] | None) -> str:
    return "null" if ids is None else f"[{','.join(map(str, ids))}]"


class Renderer(Protocol):
    """How one API writes an answer."""

    request_id: str

    def opening(self, prompts: list[tuple[int, list[int]]]) -> list[bytes]: ...
    def chunk(
        self,
        index: int,
        text: str,
        ids: tuple[int, ...],
        *,
        produced: int,
        finish: str | None = None,
        stop: str | None = None,
        prompt: list[int] | None = None,
    ) -> bytes: ...
    def closing(self, completion_tokens: int) -> list[bytes]: ...
    def whole(self, choices: "list[Choice]", kv_transfer_params: dict[str, Any] | None) -> bytes: ...


@dataclass(slots=True)
class OpenAIRenderer:
    """/v1/completions and /v1/chat/completions."""

    request_id: str
    model: str
    created: int
    chat: bool
    return_token_ids: bool
    prompt_tokens: int
    include_usage: bool
    """One more chunk at the end; without it the terminal chunk carries the fingerprint."""
    continuous_usage: bool
    _head: str = ""

    def __post_init__(self) -> None:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        begin = {"id": self.request_id, "object": kind, "created": self.created, "model": self.model}
        self._head = f'data: {dumps(begin)[:-1]},"choices":['

    def opening(self, prompts: list[tuple[int, list[int]]]) -> list[bytes]:
        """What comes with the first token and before it: a chat's role chunks. Index and prompt of each choice."""
        return [self._role(index, prompt) for index, prompt in prompts] if self.chat else []

    def _role(self, index: int, prompt: list[int]) -> bytes:
        choice = (
            f'{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]'
        )
        used = self._usage(0) if self.continuous_usage else ""
        ids = _ids(tuple(prompt)) if self.return_token_ids else "null"
        return f'{self._head}{choice}{used},"prompt_token_ids":{ids},"prompt_text":null}}\n\n'.encode()

    def chunk(
        self,
        index: int,
        text: str,
        ids: tuple[int, ...],
        *,
        produced: int,
        finish: str | None = None,
        stop: str | None = None,
        prompt: list[int] | None = None,
    ) -> bytes:
        """New tokens of a choice. `text` is the delta's JSON in a chat; `prompt` only in a completion's first."""
        shown = ids if self.return_token_ids else None
        if self.chat:
            choice = _chat_choice(index, text, shown, finish, stop)
        else:
            before, after = _completion_choice(index, text, shown, finish, stop)
            first = prompt is not None and self.return_token_ids
            choice = f"{before}{_ids(tuple(prompt or ())) if first else 'null'}{after}"
        used = self._usage(produced) if self.continuous_usage else ""
        mark = f',"system_fingerprint":"{FINGERPRINT}"' if finish is not None and not self.include_usage else ""
        return f"{self._head}{choice}{used}{mark}}}\n\n".encode()

    def closing(self, completion_tokens: int) -> list[bytes]:
        """The end of a stream: usage when asked for, then [DONE]."""
        if not self.include_usage:
            return [DONE]
        used = dumps(usage(self.prompt_tokens, completion_tokens))
        return [f'{self._head}],"usage":{used},"system_fingerprint":"{FINGERPRINT}"}}\n\n'.encode(), DONE]

    def whole(self, choices: "list[Choice]", kv_transfer_params: dict[str, Any] | None) -> bytes:
        """The body of an answer that is not streamed."""
        answer: dict[str, Any] = {
            "id": self.request_id,
            "object": "chat.completion" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                (_chat_whole if self.chat else _text_whole)(i, c, self.return_token_ids) for i, c in enumerate(choices)
            ],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage(self.prompt_tokens, sum(len(c.ids) for c in choices))
            | {"prompt_tokens_details": None, "completion_tokens_details": None},
        }
        if self.chat:
            ids = choices[0].prompt if self.return_token_ids else None
            answer |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
        answer |= {"kv_transfer_params": kv_transfer_params, "ec_transfer_params": None, "metrics": None}
        return dumps(answer).encode()

    def _usage(self, produced: int) -> str:
        return f',"usage":{dumps(usage(self.prompt_tokens, produced))}'


@dataclass(frozen=True, slots=True)
class Choice:
    """A finished choice."""

    text: str
    ids: list[int]
    prompt: list[int]
    finish: str
    stop: str | None
    tool_calls: list[dict[str, Any]] | None = None


def _text_whole(index: int, choice: Choice, with_ids: bool) -> dict[str, Any]:
    return {
        "index": index,
        "text": choice.text,
        "logprobs": None,
        "finish_reason": choice.finish,
        "stop_reason": choice.stop,
        "token_ids": choice.ids if with_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": choice.prompt if with_ids else None,
        "routed_experts": None,
    }


def _chat_whole(index: int, choice: Choice, with_ids: bool) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text or None if choice.tool_calls else choice.text,
    }
    message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
    if choice.tool_calls:
        message["tool_calls"] = choice.tool_calls
    message["reasoning"] = None
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice.finish,
        "stop_reason": choice.stop,
        "token_ids": choice.ids if with_ids else None,
        "routed_experts": None,
    }
