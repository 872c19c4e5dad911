"""The other two APIs of the engine, /v1/messages and /v1/responses: a chat in other words.

Source: vllm/entrypoints/anthropic/serving.py and vllm/entrypoints/openai/responses/serving.py of 0.32.0.
Text only: no tools, no reasoning, no stored responses.
"""

import time
from dataclasses import dataclass
from typing import Any, cast

from tests.fakes import wire
from tests.fakes.job import Api, Job


def as_chat(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """The chat request that a request of another API stands for. Raises: ApiError."""
    if api == "messages":
        if not isinstance(body.get("max_tokens"), int):
            raise wire.ApiError(400, "[{'type': 'missing', 'loc': ('body', 'max_tokens')}]", "Bad Request")
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        return body | {"messages": system + list(body.get("messages") or [])}
    if api == "responses":
        asked = body.get("input")
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return body | {"messages": messages, "max_tokens": body.get("max_output_tokens")}
    return body


def renderer(job: Job, request_id: str) -> wire.Renderer:
    """What writes the answer of this job."""
    created = int(time.time())
    if job.api == "messages":
        return MessagesRenderer(f"chatcmpl-{request_id}", job.model, job.prompt_tokens)
    if job.api == "responses":
        return ResponsesRenderer(
            f"resp_{request_id}", job.model, created, job.prompt_tokens, job.sequences[0].tokens_max
        )
    return wire.OpenAIRenderer(
        request_id=f"{'chatcmpl' if job.api == 'chat' else 'cmpl'}-{request_id}",
        model=job.model,
        created=created,
        chat=job.api == "chat",
        return_token_ids=job.return_token_ids,
        prompt_tokens=job.prompt_tokens,
        include_usage=job.include_usage,
        continuous_usage=job.continuous_usage,
    )


def _named(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {wire.dumps(data)}\n\n".encode()


@dataclass(slots=True)
class MessagesRenderer:
    """/v1/messages."""

    request_id: str
    model: str
    prompt_tokens: int
    _finish: str | None = None
    _stop: str | None = None

    def opening(self, prompts: list[tuple[int, list[int]]]) -> list[bytes]:
        """The message and its text block begin."""
        message = {"id": self.request_id, "type": "message", "role": "assistant", "content": [], "model": self.model}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": self._usage(0)}
        block = {"content_block": {"type": "text", "text": ""}, "index": 0}
        return [self._event("message_start", {"message": message}), self._event("content_block_start", block)]

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
        """New text; the API has no place for token ids."""
        self._finish, self._stop = finish, stop
        return self._event("content_block_delta", {"delta": {"type": "text_delta", "text": text}, "index": 0})

    def closing(self, completion_tokens: int) -> list[bytes]:
        """Block, usage and message end; there is no [DONE]."""
        delta = {"stop_reason": self._reason(self._finish, self._stop), "stop_sequence": self._stop}
        return [
            self._event("content_block_stop", {"index": 0}),
            self._event("message_delta", {"delta": delta, "usage": self._usage(completion_tokens)}),
            self._event("message_stop", {}),
        ]

    def whole(self, choices: list[wire.Choice], kv_transfer_params: dict[str, Any] | None) -> bytes:
        """The message; null fields are left out."""
        choice = choices[0]
        answer = {
            "id": self.request_id,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": choice.text}],
            "model": self.model,
            "stop_reason": self._reason(choice.finish, choice.stop),
            "stop_sequence": choice.stop,
            "usage": self._usage(len(choice.ids)),
            "kv_transfer_params": kv_transfer_params,
        }
        return wire.dumps({k: v for k, v in answer.items() if v is not None}).encode()

    def _event(self, kind: str, data: dict[str, Any]) -> bytes:
        return _named(kind, {"type": kind} | data)

    def _usage(self, output_tokens: int) -> dict[str, int]:
        return {"input_tokens": self.prompt_tokens, "output_tokens": output_tokens}

    def _reason(self, finish: str | None, stop: str | None) -> str:
        return "stop_sequence" if stop else "max_tokens" if finish == "length" else "end_turn"


_INPUT_DETAILS: dict[str, Any] = {"cached_tokens": 0, "cache_write_tokens": 0}
_INPUT_DETAILS |= {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
_OUTPUT_DETAILS: dict[str, Any] = {"reasoning_tokens": 0, "tool_output_tokens": 0}
_OUTPUT_DETAILS |= {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}


@dataclass(slots=True)
class ResponsesRenderer:
    """/v1/responses, stateless."""

    request_id: str
    model: str
    created: int
    prompt_tokens: int
    tokens_max: int
    _number: int = 0
    _text: str = ""
    _finish: str | None = None

    def opening(self, prompts: list[tuple[int, list[int]]]) -> list[bytes]:
        """The response, its item and its part begin."""
        item = {"id": self._item_id, "content": [], "role": "assistant", "status": "in_progress", "type": "message"}
        item["phase"] = None
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        return [
            self._event("response.created", {"response": self._response("in_progress", None, None)}),
            self._event("response.in_progress", {"response": self._response("in_progress", None, None)}),
            self._event("response.output_item.added", {"output_index": 0, "item": item}),
            self._event("response.content_part.added", self._place | {"part": part}),
        ]

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
        """New text."""
        self._text += text
        self._finish = finish
        return self._event("response.output_text.delta", self._place | {"delta": text, "logprobs": []})

    def closing(self, completion_tokens: int) -> list[bytes]:
        """Part, item and response end; there is no [DONE]."""
        response = self._response("completed", self._text, None, completion_tokens)
        return [
            self._event("response.output_text.done", self._place | {"text": self._text, "logprobs": []}),
            self._event("response.content_part.done", self._place | {"part": self._part(self._text)}),
            self._event("response.output_item.done", {"output_index": 0, "item": self._item(self._text)}),
            self._event("response.completed", {"response": response}),
        ]

    def whole(self, choices: list[wire.Choice], kv_transfer_params: dict[str, Any] | None) -> bytes:
        """The response."""
        self._finish = choices[0].finish
        response = self._response("completed", choices[0].text, kv_transfer_params, len(choices[0].ids))
        return wire.dumps(response).encode()

    @property
    def _item_id(self) -> str:
        return f"msg_{self.request_id[5:]}"

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, data: dict[str, Any]) -> bytes:
        self._number += 1
        fields = data | {"sequence_number": self._number - 1, "type": kind}
        return _named(kind, {name: fields[name] for name in sorted(fields)})  # as the server does, for the outer object

    def _part(self, text: str) -> dict[str, Any]:
        return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}

    def _item(self, text: str) -> dict[str, Any]:
        content = [self._part(text)]
        item = {"id": self._item_id, "content": content, "role": "assistant", "status": "completed", "type": "message"}
        return item | {"phase": None}

    def _response(self, status: str, text: str | None, kv: dict[str, Any] | None, made: int = 0) -> dict[str, Any]:
        cut = status == "completed" and self._finish == "length"
        used: dict[str, Any] = {"input_tokens": self.prompt_tokens, "input_tokens_details": _INPUT_DETAILS}
        used |= {"output_tokens": made, "output_tokens_details": _OUTPUT_DETAILS}
        used["total_tokens"] = self.prompt_tokens + made
        answer: dict[str, Any] = {"id": self.request_id, "created_at": self.created}
        answer["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        answer |= {"instructions": None, "metadata": None, "model": self.model, "object": "response"}
        answer["output"] = [] if text is None else cast(list[Any], [self._item(text)])
        answer |= {"parallel_tool_calls": True, "temperature": 0.0, "tool_choice": "auto", "tools": [], "top_p": 1.0}
        answer |= {"background": False, "max_output_tokens": self.tokens_max, "max_tool_calls": None}
        answer |= {"previous_response_id": None, "prompt": None, "reasoning": None, "service_tier": "auto"}
        answer |= {"status": "incomplete" if cut else status, "text": None, "top_logprobs": None}
        answer |= {"truncation": "disabled", "usage": used if text is not None else None, "user": None}
        answer |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "kv_transfer_params": kv}
        return answer | {"ec_transfer_params": None, "input_messages": None, "output_messages": None}
