"""A request to the fake engine, parsed and checked as vLLM does, and its sequences."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from tests.fakes import tokens, wire
from tests.fakes.faults import Phase
from tests.fakes.kv import wants_hold, wants_read

WHOLE_CHAT_TOKENS = 256
"""Answer of a chat that sets no max_tokens (vLLM would go on to the end of the context)."""


Api = Literal["text", "chat", "messages", "responses"]


@dataclass(slots=True)
class Sequence:
    """One choice under generation."""

    index: int
    prompt: list[int]
    model: tokens.Generation
    tokens_max: int
    tokens_min: int
    ignore_eos: bool
    stop: tuple[str, ...]
    script: list[int] | None = None
    """Tokens of a tool call, which are written rather than generated."""
    text: str = ""
    released: int = 0
    """Characters of `text` that were handed out; a stop string holds some back."""
    finish: str | None = None
    stopped_by: str | None = None

    @property
    def ids(self) -> list[int]:
        """Tokens made so far."""
        return self.model.ids

    def step(self) -> tuple[int, str]:
        """Makes one token; the text that it sets free."""
        if self.script is not None:
            token = self.script[len(self.ids)]
            self.ids.append(token)
            piece = tokens.decode([token])
            if len(self.ids) == len(self.script):
                self.finish = "stop"
        else:
            token, piece = self.model.step()
        self.text += piece
        made = len(self.ids)
        if token == tokens.EOS and not self.ignore_eos and made > self.tokens_min:
            self.finish = "stop"
        elif self.stop and made > self.tokens_min:
            self._look_for_stop()
        if self.finish is None and made >= self.tokens_max:
            self.finish = "length"
        if not self.stop:
            return token, piece
        held_back = 0 if self.finish else max(map(len, self.stop)) - 1
        shown = self.text[self.released : max(len(self.text) - held_back, self.released)]
        self.released += len(shown)
        return token, shown

    def _look_for_stop(self) -> None:
        for stop in self.stop:
            at = self.text.find(stop, max(self.released - len(stop), 0))
            if at >= 0:
                self.text, self.finish, self.stopped_by = self.text[:at], "stop", stop
                return


@dataclass(slots=True)
class Job:
    """One completion or chat request."""

    body: dict[str, Any]
    api: Api
    model: str
    stream: bool
    prompts: list[list[int]]
    sequences: list[Sequence]
    return_token_ids: bool
    include_usage: bool
    continuous_usage: bool
    tool: str | None
    """Name of the function that the answer calls; None: the answer is text."""
    kv_read: dict[str, Any] | None
    kv_hold: bool
    phase: Phase = "whole"
    kv_answer: dict[str, Any] | None = field(default=None)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))

    @property
    def produced(self) -> int:
        """Tokens of all choices so far."""
        return sum(len(s.ids) for s in self.sequences)


def parse_json(raw: bytes) -> dict[str, Any]:
    """The body as an object. Raises: ApiError."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise wire.ApiError(
            400, f"[{{'type': 'json_invalid', 'msg': 'JSON decode error: {error}'}}]", "Bad Request"
        ) from error
    if not isinstance(body, dict):
        raise wire.ApiError(400, "Input should be a valid dictionary", "Bad Request")
    return cast(dict[str, Any], body)


def phase_of(body: dict[str, Any]) -> Phase:
    """What the request asks of the engine."""
    params = body.get("kv_transfer_params")
    return "prefill" if wants_hold(params) else "decode" if wants_read(params) else "whole"


def parse_job(body: dict[str, Any], *, api: Api, names: tuple[str, ...], context_max: int, eos_one_in: int) -> Job:
    """Checks a request and makes its sequences. Raises: ApiError."""
    chat = api != "text"
    model = body.get("model") or names[0]
    if model not in names:
        raise wire.ApiError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
    prompts = [chat_prompt(body)] if chat else _text_prompts(body.get("prompt"))
    asked = body.get("max_completion_tokens") if chat else None
    asked = body.get("max_tokens") if asked is None else asked
    tool = _tool(body) if api == "chat" else None
    kv_params = body.get("kv_transfer_params")
    options = cast(dict[str, Any], body.get("stream_options") or {})
    if options and not body.get("stream"):
        raise wire.ApiError(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
    job = Job(
        body=body,
        api=api,
        model=model,
        stream=bool(body.get("stream")),
        prompts=prompts,
        sequences=[],
        return_token_ids=bool(body.get("return_token_ids")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage")) and bool(options.get("continuous_usage_stats")),
        tool=tool,
        kv_read=wants_read(kv_params),
        kv_hold=wants_hold(kv_params),
        phase=phase_of(body),
    )
    stop = body.get("stop") or ()
    for number, prompt in enumerate(prompts):
        limit = _tokens_max(prompt, asked, chat, context_max)
        for i in range(_count(body.get("n"), "n")):
            job.sequences.append(
                Sequence(
                    index=number * _count(body.get("n"), "n") + i,
                    prompt=prompt,
                    model=tokens.Generation(prompt, salt=i * 0x9E37, eos_one_in=eos_one_in),
                    tokens_max=limit,
                    tokens_min=int(body.get("min_tokens") or 0),
                    ignore_eos=bool(body.get("ignore_eos")),
                    stop=(stop,) if isinstance(stop, str) else tuple(stop),
                    script=tool_script(tool, prompt) if tool else None,
                )
            )
    return job


def _count(value: object, name: str) -> int:
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wire.ApiError(400, f"{name} must be at least 1, got {value}.", param=name)
    return value


def _tokens_max(prompt: list[int], asked: object, chat: bool, context_max: int) -> int:
    room = context_max - len(prompt)
    default = min(WHOLE_CHAT_TOKENS, room) if chat else 16
    wanted = default if asked is None else _count(asked, "max_tokens")
    if room < 1 or wanted > room:
        raise wire.ApiError(
            400,
            f"This model's maximum context length is {context_max} tokens. However, you requested {wanted} output "
            f"tokens and your prompt contains {len(prompt)} input tokens.",
            param="input_tokens",
        )
    return wanted


def _text_prompts(prompt: object) -> list[list[int]]:
    match prompt:
        case str():
            return [tokens.encode(prompt) or [tokens.EOS]]
        case [str(), *_]:
            return [tokens.encode(p) for p in cast(list[str], prompt)]
        case [int(), *_]:
            return [_ids(cast(list[object], prompt))]
        case [list(), *_]:
            return [_ids(p) for p in cast(list[list[object]], prompt)]
        case _:
            raise wire.ApiError(400, "Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")


def _ids(prompt: list[object]) -> list[int]:
    for token in prompt:
        if not tokens.known(token):
            raise wire.ApiError(400, f"Token id {token} is out of vocabulary", param="prompt")
    return cast(list[int], prompt)


def chat_prompt(body: dict[str, Any]) -> list[int]:
    """Token ids of a conversation under the toy chat template."""
    messages = body.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) for m in cast(list[Any], messages))
    ):
        raise wire.ApiError(
            400, "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]", "Bad Request"
        )
    text = wire.dumps(body["tools"]) if body.get("tools") else ""
    for message in cast(list[dict[str, Any]], messages):
        said = message.get("content")
        if isinstance(said, list):
            said = "".join(part.get("text", "") for part in cast(list[dict[str, Any]], said))
        calls = wire.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
        text += f"<|{message.get('role')}|>{said or ''}{calls}\n\n"
    return tokens.encode(text + "<|assistant|>")


def _tool(body: dict[str, Any]) -> str | None:
    choice = body.get("tool_choice")
    if not body.get("tools") or choice == "none":
        return None
    if isinstance(choice, dict):
        return str(cast(dict[str, Any], choice)["function"]["name"])
    return str(body["tools"][0]["function"]["name"])


def tool_script(name: str, prompt: list[int]) -> list[int]:
    """Tokens of a call's arguments: an object with one string, a function of the prompt."""
    word = tokens.fingerprint(prompt) % 1000
    return tokens.encode(f'{{"of": "{name}", "the": "{word} é漢 time"}}')
