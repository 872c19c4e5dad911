"""A client that keeps asking, and knows what the undisturbed answers are.

Requests are few kinds, each deterministic (greedy, float32), so every answer can be compared token for token with the
one that was recorded while nothing was disturbed.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2 as httpx

MODEL = "SmolLM2-135M-Instruct"
REQUEST_TIMEOUT_S = 240.0
EARLY_PIECES = 12
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@dataclass(frozen=True)
class Kind:
    """One request of the load."""

    name: str
    path: str
    body: dict[str, Any] = field(hash=False)
    unread: bool = False
    """Whether no prefix cache may know the prompt, however often it is asked."""

    @property
    def streams(self) -> bool:
        """Whether the answer comes as events."""
        return bool(self.body.get("stream"))


def kinds(max_tokens: int = 32) -> tuple[Kind, ...]:
    """Chat and completions, streaming and not, one with tools."""
    question = [
        {
            "role": "user",
            "content": "Tell me a short story about a fox, a dog and a river.",
        }
    ]
    prompt = "The three most important things to know about the city of Paris are"
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    common = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }
    return (
        Kind("chat", "/v1/chat/completions", {**common, "messages": question}),
        Kind(
            "chat-stream",
            "/v1/chat/completions",
            {**common, **stream, "messages": question},
        ),
        Kind("text", "/v1/completions", {**common, "prompt": prompt}),
        Kind("text-stream", "/v1/completions", {**common, **stream, "prompt": prompt}),
        Kind(
            "tools",
            "/v1/chat/completions",
            {**common, "messages": question, "tools": TOOLS, "tool_choice": "none"},
        ),
    )


LONG_PROMPT = Kind(
    "long-prompt",
    "/v1/completions",
    {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 4,
        "ignore_eos": True,
        "prompt": "The river rose by a hand's breadth in the night, and in the morning the fox could not cross it. "
        * 75,
    },
    unread=True,
)
"""Its prefill takes seconds on a core of a CPU, long enough to meet it there."""


@dataclass(frozen=True)
class Answer:
    """What the client saw."""

    text: str
    usage: tuple[int, int]
    """Prompt and completion tokens."""
    finish: str


@dataclass
class Outcome:
    """What became of one request: an answer, or why there is none."""

    kind: Kind
    answer: Answer | None = None
    failure: str = ""


async def ask(client: httpx.AsyncClient, kind: Kind, on_text: Callable[[], None] = lambda: None) -> Outcome:
    """Send one request as any client would, without a retry of its own; `on_text` hears of each piece of a stream."""
    body = {**kind.body, "cache_salt": uuid.uuid4().hex} if kind.unread else kind.body
    try:
        if not kind.streams:
            response = await client.post(kind.path, json=body)
            if response.status_code != 200:
                return Outcome(kind, failure=f"{response.status_code}: {response.text[:200]}")
            return Outcome(kind, _whole(response.json()))
        async with client.stream("POST", kind.path, json=body) as response:
            if response.status_code != 200:
                return Outcome(
                    kind,
                    failure=f"{response.status_code}: {(await response.aread())[:200]!r}",
                )
            return Outcome(kind, await _streamed(response.aiter_lines(), on_text))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return Outcome(kind, failure=f"{type(error).__name__}: {error}")


def _whole(body: dict[str, Any]) -> Answer:
    choice = body["choices"][0]
    text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
    return Answer(
        text,
        (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]),
        choice["finish_reason"],
    )


async def _streamed(lines: AsyncIterator[str], on_text: Callable[[], None]) -> Answer:
    text, usage, finish, done = "", (0, 0), "", False
    async for line in lines:
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise ValueError(f"error event: {chunk['error']}")
            # null is vLLM's own word for ids that nobody asked for
            assert 'token_ids":[' not in line, f"ids that the client did not ask for reached it: {line}"
            for choice in chunk["choices"]:
                text += (choice["text"] if "text" in choice else choice["delta"].get("content")) or ""
                finish = choice.get("finish_reason") or finish
                on_text()
            if chunk.get("usage"):
                usage = (
                    chunk["usage"]["prompt_tokens"],
                    chunk["usage"]["completion_tokens"],
                )
    if not done:
        raise ValueError(f"the stream ended without [DONE] after {text!r}")
    return Answer(text, usage, finish)


class Load:
    """Several clients that ask one after the other, until told to stop."""

    def __init__(
        self,
        url: str,
        expected: dict[str, Answer],
        *,
        clients: int = 3,
        asked: Sequence[Kind] | None = None,
    ) -> None:
        """Expects, for each kind, the answer of the undisturbed run; `asked`: those of `kinds`."""
        self.url = url
        self.expected = expected
        self.clients = clients
        self.kinds = asked or kinds()
        self.outcomes: list[Outcome] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._pieces = [0] * clients
        self.pace_s = 0.0
        """Pause of each client between two requests."""
        self._answered = asyncio.Condition()
        self._turn = [asyncio.Lock() for _ in range(clients)]

    async def __aenter__(self) -> Self:
        turns = itertools.cycle(self.kinds)
        self._tasks = [asyncio.create_task(self._keep_asking(index, turns)) for index in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _keep_asking(self, index: int, turns: Any) -> None:
        def on_text() -> None:
            self._pieces[index] += 1

        async with httpx.AsyncClient(base_url=self.url, timeout=REQUEST_TIMEOUT_S) as client:
            while not self._stopping:
                async with self._turn[index]:
                    outcome = await ask(client, next(turns), on_text)
                self._pieces[index] = 0
                await self._note(outcome)
                await asyncio.sleep(self.pace_s)

    async def _note(self, outcome: Outcome) -> None:
        async with self._answered:
            self.outcomes.append(outcome)
            self._answered.notify_all()

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """While it lasts no client waits for an answer, and none asks."""
        async with contextlib.AsyncExitStack() as held:
            for turn in self._turn:
                await held.enter_async_context(turn)
            yield

    async def one_more(self, kind: Kind) -> None:
        """Ask once beside the clients; its answer counts as theirs do."""
        async with httpx.AsyncClient(base_url=self.url, timeout=REQUEST_TIMEOUT_S) as client:
            await self._note(await ask(client, kind))

    @property
    def is_mid_stream(self) -> bool:
        """Whether a client has had a part of a stream and waits for the rest, most of which is still to come."""
        return any(0 < pieces <= EARLY_PIECES for pieces in self._pieces)

    async def answered(self, count: int) -> None:
        """Wait until `count` more requests have come back, whatever became of them."""
        wanted = len(self.outcomes) + count
        async with self._answered:
            await self._answered.wait_for(lambda: len(self.outcomes) >= wanted)

    @property
    def failures(self) -> list[str]:
        """Every request that did not get the undisturbed answer, in words."""
        failed = [f"{o.kind.name}: {o.failure}" for o in self.outcomes if o.answer is None]
        wrong = [
            f"{o.kind.name}: {o.answer} instead of {self.expected[o.kind.name]}"
            for o in self.outcomes
            if o.answer is not None and o.answer != self.expected[o.kind.name]
        ]
        return failed + wrong

    def summary(self) -> dict[str, int]:
        """How many of each kind were answered."""
        return dict(collections.Counter(outcome.kind.name for outcome in self.outcomes if outcome.answer))


async def undisturbed(url: str, asked: Sequence[Kind] | None = None) -> dict[str, Answer]:
    """The answers while nothing is disturbed; each asked twice, which must agree. `asked`: those of `kinds`."""
    answers: dict[str, Answer] = {}
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        for kind in asked or kinds():
            first, second = await ask(client, kind), await ask(client, kind)
            assert first.answer is not None, f"{kind.name}: {first.failure}"
            assert first.answer == second.answer, f"{kind.name} is not deterministic"
            answers[kind.name] = first.answer
    return answers


@contextlib.asynccontextmanager
async def steady(url: str, expected: dict[str, Answer], **options: Any) -> AsyncIterator[Load]:
    """A load that must have come through without one failure when the block ends."""
    async with Load(url, expected, **options) as load:
        yield load
    failures = load.failures
    assert failures == [], f"{len(failures)} of {len(load.outcomes)} requests failed, the first: {failures[0]}"
