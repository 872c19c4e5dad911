"""Flexible workers with the real Pulumi CLI, agents and gateway: each is proved, and they follow the load."""

import asyncio
from collections import Counter
from typing import Any

import httpx2 as httpx
import pytest

from tests.engine.conftest import Project
from tests.engine.test_update import until

pytestmark = pytest.mark.engine

SLOW = ("--fake-prefill-ms", "300", "--fake-step-ms", "20")
THREE: dict[str, Any] = {"flexible": {"workers": 3, "sequences": 2, "extra_args": SLOW}}
CLIENTS = 12


def phases(url: str) -> Counter[str]:
    """How many workers take which phase now."""
    return Counter(worker["phase"] for worker in httpx.get(f"{url}/fleet").json()["workers"])


async def load_until(url: str, tokens: int, wanted: Counter[str]) -> None:
    """Ask for answers of so many tokens, as fast as they come, until the workers have gone where it takes them."""
    done = asyncio.Event()

    async def client(http: httpx.AsyncClient, number: int) -> None:
        while not done.is_set():
            prompt = f"client {number} wants to know " * 40
            body = {"model": "SmolLM2-135M-Instruct", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
            response = await http.post(f"{url}/v1/completions", json=body, timeout=60)
            assert response.status_code == 200, response.text
            assert response.json()["usage"]["completion_tokens"] == tokens

    async with httpx.AsyncClient() as http, asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(client(http, number))
        try:
            await asyncio.to_thread(until, lambda: phases(url) == wanted)
        finally:
            done.set()


def test_flexible_workers_are_proved_each_and_go_where_the_load_is(project: Project) -> None:
    up = project.up(**THREE)
    assert up.returncode == 0, up.stdout
    outputs = project.outputs()
    assert outputs["evidence"]["path"] == "disaggregated"
    pairs = outputs["evidence"]["pairs"]
    assert len({pair["prefill"] for pair in pairs}) == len({pair["decode"] for pair in pairs}) == 3
    url = outputs["url"]
    until(lambda: phases(url) == Counter(prefill=1, decode=2))

    asyncio.run(load_until(url, 1, Counter(prefill=2, decode=1)))
    asyncio.run(load_until(url, 150, Counter(prefill=1, decode=2)))
