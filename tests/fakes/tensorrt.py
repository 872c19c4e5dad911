"""A fake TensorRT-LLM server: the wire of 1.2's hand-off, and nothing of its engine.

It was held against sources that were read (serve/openai_server.py, openai_disagg_service.py and openai_protocol.py of
TensorRT-LLM's repository), never against a running server: none runs without a GPU. It keeps the rules that a gateway
can break: a hand-off is read once, by the id that it was made under, and only while its context server lives.
"""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, cast

from tests.fakes.agent import FakeFleet
from tests.fakes.engine import FakeEngine
from tests.fakes.server import Connection, Request, Server

WORDS = ("one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ")
KV_BYTES_PER_TOKEN = 1024


def dumps(value: object) -> bytes:
    """JSON as the server writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(slots=True)
class Contexts:
    """KV that context servers keep for generation servers, by the id of its hand-off."""

    held: dict[int, str] = field(default_factory=dict[int, str])
    used: set[int] = field(default_factory=set[int])


@dataclass(slots=True, eq=False)
class FakeTensorRt:
    """One server; in which phase it works is what each request says."""

    name: str
    contexts: Contexts
    served_names: tuple[str, ...] = ("fake",)
    seen: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    violations: list[str] = field(default_factory=list[str])
    fail_next: list[str] = field(default_factory=list[str])
    """What the next requests meet: `executor` (400, as the server answers its executor's errors), `cut` (the stream
    ends after its first chunk), `bare` (a context answer without parameters)."""
    ends_at_first: bool = False
    """Whether the first token of every answer is its last."""
    healthy: bool = True
    alive: bool = False
    address: tuple[str, int] = ("127.0.0.1", 0)
    """Where it is to listen; port 0: any that is free."""
    _server: Server = field(init=False)
    _iterations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _ended: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._server = Server(self._answer, *self.address)

    @property
    def host(self) -> str:
        return self._server.host

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self) -> None:
        """Listens."""
        await self._server.start()
        self.alive = True

    def kill(self) -> None:
        """Ends as by SIGKILL; the KV it held is gone."""
        self.alive = False
        self._server.kill()
        for number in [number for number, holder in self.contexts.held.items() if holder == self.name]:
            del self.contexts.held[number]

    async def _answer(self, request: Request, connection: Connection) -> None:
        match request.path:
            case "/health":
                connection.respond(200 if self.healthy else 503, b"")
            case "/metrics":
                self._iterations, told = [], self._iterations
                connection.respond(200, dumps(told))
            case "/perf_metrics":
                self._ended, told = [], self._ended
                connection.respond(200, dumps(told))
            case "/v1/completions" | "/v1/chat/completions":
                self._generate(json.loads(request.body), connection, chat="chat" in request.path)
            case _:
                connection.respond(404, b'{"detail":"Not Found"}')

    def _generate(self, body: dict[str, Any], connection: Connection, *, chat: bool) -> None:
        self.seen.append(body)
        fault = self.fail_next.pop(0) if self.fail_next else ""
        handed: dict[str, Any] = body.get("disaggregated_params") or {}
        if fault == "executor" or not body.get("max_tokens", 1) > 0:
            connection.respond(400, _refusal("the request could not be executed"))
            return
        match handed.get("request_type"):
            case "context_only":
                connection.respond(200, dumps(self._context(body, handed, chat=chat, bare=fault == "bare")))
            case "generation_only" if why := self._read(handed):
                connection.respond(400, _refusal(why))
            case _:
                self._decode(body, connection, chat=chat, cut=fault == "cut")

    def _context(self, body: dict[str, Any], handed: dict[str, Any], *, chat: bool, bare: bool) -> dict[str, Any]:
        if body.get("stream") or "stream_options" in body:
            self.violations.append("a context request streams")
        number = handed.get("disagg_request_id") or next(self._numbers)
        if number in self.contexts.used:
            self.violations.append(f"hand-off {number} was used before")
        self.contexts.used.add(number)
        answer = self._whole(1, chat=chat, finish="stop" if self.ends_at_first else "length")
        if not bare and not self.ends_at_first:
            self.contexts.held[number] = self.name
            answer["choices"][0]["disaggregated_params"] = {
                "request_type": "context_only",
                "first_gen_tokens": [11],
                "ctx_request_id": number,
                "encoded_opaque_state": "b3BhcXVl",
                "draft_tokens": None,
            }
        answer["prompt_token_ids"] = [1, 2, 3]
        self._count(1)
        return answer

    def _read(self, handed: dict[str, Any]) -> str:
        """Takes the KV of a hand-off; why not, otherwise."""
        number: int = handed.get("disagg_request_id") or handed.get("ctx_request_id", 0)
        if handed.get("first_gen_tokens") != [11] or handed.get("encoded_opaque_state") != "b3BhcXVl":
            self.violations.append("the context server's parameters were changed")
        if self.contexts.held.pop(number, None) is None:
            return "the KV of the context request is gone"
        timing = {"kv_cache_size": 3 * KV_BYTES_PER_TOKEN, "kv_cache_transfer_start": 5.0, "kv_cache_transfer_end": 5.5}
        self._ended.append({"request_id": 1, "perf_metrics": {"timing_metrics": timing}})
        return ""

    def _decode(self, body: dict[str, Any], connection: Connection, *, chat: bool, cut: bool) -> None:
        if body.get("disaggregated_params") and [1, 2, 3] not in (body.get("prompt"), body.get("prompt_token_ids")):
            self.violations.append("a generation request without the prompt's ids")
        count = min(body.get("max_tokens", 4), len(WORDS))
        self._count(count)
        if not body.get("stream"):
            connection.respond(200, dumps(self._whole(count, chat=chat, finish="length")))
            return
        connection.begin_stream()
        for number in range(count):
            connection.chunk(self._chunk(number, chat=chat, finish="length" if number == count - 1 else None))
            if cut:
                connection.abort()
                return
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = self._whole(count, chat=chat, finish="length")["usage"]
            connection.chunk(b"data: " + dumps({"choices": [], "usage": usage}) + b"\n\n")
        connection.chunk(b"data: [DONE]\n\n")
        connection.end_stream()

    def _count(self, steps: int) -> None:
        batch = {"numScheduledRequests": 1, "numContextRequests": 1}
        self._iterations += [
            {
                "iter": next(self._numbers),
                "numActiveRequests": 1,
                "numQueuedRequests": 0,
                "inflightBatchingStats": batch,
            }
            for _ in range(steps)
        ]
        idle = {"numScheduledRequests": 0, "numContextRequests": 0}
        self._iterations.append({"numActiveRequests": 0, "numQueuedRequests": 0, "inflightBatchingStats": idle})

    def _whole(self, count: int, *, chat: bool, finish: str) -> dict[str, Any]:
        text = "".join(WORDS[:count])
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
        kind = "chat.completion" if chat else "text_completion"
        choice = {"index": 0, "finish_reason": finish, "disaggregated_params": None, **said}
        return {"id": "1", "object": kind, "created": 1, "model": "engine", "choices": [choice], "usage": usage}

    def _chunk(self, number: int, *, chat: bool, finish: str | None) -> bytes:
        first = {"role": "assistant"} if number == 0 else {}
        said = {"delta": {"content": WORDS[number], **first}} if chat else {"text": WORDS[number]}
        kind = "chat.completion.chunk" if chat else "text_completion"
        choice = {"index": 0, "finish_reason": finish, **said}
        return b"data: " + dumps({"id": "1", "object": kind, "choices": [choice]}) + b"\n\n"


@dataclass(slots=True, eq=False)
class TensorRtFleet(FakeFleet):
    """Context and generation servers, and the KV between them."""

    contexts: Contexts = field(default_factory=Contexts)

    def __post_init__(self) -> None:
        self.dialect = "trtllm-disagg"
        self.survivors_serve_both = False

    def make_engine(self, name: str, names: tuple[str, ...]) -> FakeEngine:
        """A server that is not started yet."""
        return cast(FakeEngine, FakeTensorRt(name, self.contexts, names))  # what a fleet asks of an engine, it has

    def server(self, name: str) -> FakeTensorRt:
        """The server of a worker."""
        return cast(FakeTensorRt, self.engine(name))


def _refusal(message: str) -> bytes:
    """An error as the server words it: whatever went wrong, it is 400."""
    return dumps({"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400})
