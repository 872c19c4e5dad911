"""The fake's answers have the shape of those that vLLM 0.32.0 gave, key by key and in order.

The recordings were made by tests/fakes/record.py from a CPU engine with a NixlConnector.
"""

import json
from typing import Any

import aiohttp
import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.record import CASES, FOLDER, MODEL, ask


def shape(value: object) -> object:
    """Keys in order and types; of a list the shapes that occur in it."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return ["list", *dict.fromkeys(json.dumps(shape(inner)) for inner in value)]
    return "null" if value is None else type(value).__name__


def shapes(parts: list[Any]) -> list[str]:
    """Shapes of the parts, runs of equal ones taken together: a stream may hold any number of content chunks."""
    found: list[str] = []
    for part in parts:
        one = json.dumps(part if part == "[DONE]" else shape(part))
        if not found or found[-1] != one:
            found.append(one)
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize("name", CASES)
async def test_the_fake_answers_in_the_shape_of_the_engine(name: str) -> None:
    """Status, content type, and every key of every kind of chunk."""
    lines = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    assert lines[0]["request"] == CASES[name][1], "recorded with another request; record it again"
    async with FakeEngine(context_max=2048, served_names=(MODEL,)) as engine, aiohttp.ClientSession() as client:
        answer = await ask(client, engine.url, name)
    assert answer[0] == lines[1]
    fake, real = shapes(answer[1:]), shapes(lines[2:])
    if name == "chat-stream-two":  # the order in which two choices take turns is the scheduler's
        fake, real = sorted(set(fake)), sorted(set(real))
    assert fake == real
