"""What a newcomer sees after `up`, with real engines and real KV transfers."""

import asyncio
import json
import subprocess
from typing import Any

import openai
import pytest

from tests.serving.load import MODEL, TOOLS, steady
from tests.serving.service import Serving

pytestmark = pytest.mark.serving


def test_up_ends_with_the_proof_and_an_answer(serving: Serving) -> None:
    """The table names both directions, and the model knows its capitals."""
    evidence = serving.project.outputs()["evidence"]

    assert "is disaggregated, proven" in serving.first_up
    assert "Paris" in evidence["answer"]
    assert evidence["transport"] == "tcp"
    assert evidence["kv_gb_per_s"] > 0
    assert {(pair["prefill"].split("-")[1], pair["decode"].split("-")[1]) for pair in evidence["pairs"]} == {
        ("prefill", "decode"),
        ("decode", "prefill"),
    }
    assert all(pair["same_tokens"] == pair["output_tokens"] for pair in evidence["pairs"]), "float32 answers are equal"


def test_nothing_changes_when_nothing_changed(serving: Serving) -> None:
    """A second `up` and a preview find the stack as declared."""
    assert "6 unchanged" in serving.project.up().stdout
    assert serving.project.preview("--expect-no-changes").returncode == 0


def test_curl_works_against_the_printed_address(serving: Serving) -> None:
    """The address is an OpenAI API."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8})
    command = [
        "curl",
        "-s",
        "-i",
        f"{serving.url}/v1/chat/completions",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ]

    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    head, _, content = answer.partition("\n\n")
    assert "x-tandem-path: disaggregated" in head.lower()
    assert json.loads(content)["choices"][0]["message"]["content"]


def test_the_openai_client_works(serving: Serving) -> None:
    """Chat, streaming chat, completions, tools and models through the official client."""
    client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": "What is the capital of France?"}]
    tools: Any = TOOLS

    chat: Any = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=16)
    stream = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=16, stream=True)
    text: Any = client.completions.create(model=MODEL, prompt="Paris is", temperature=0, max_tokens=4)
    tool: Any = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=tools,
        max_tokens=64,
        temperature=0,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )

    assert [model.id for model in client.models.list()] == [MODEL]
    assert "Paris" in chat.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == chat.choices[0].message.content
    assert text.usage.completion_tokens == 4
    assert tool.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_several_answers_to_one_prompt_are_served_whole(serving: Serving) -> None:
    """n > 1 cannot be handed over, and the response says how it was served."""
    client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none")

    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=2, max_tokens=4
    )

    assert raw.headers["x-tandem-path"] == "aggregated"
    assert raw.headers["x-tandem-reason"]
    assert len(raw.parse().choices) == 2


def test_embeddings_are_refused_clearly(serving: Serving) -> None:
    """A generation service says so."""
    client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)

    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model=MODEL, input="x")

    assert refused.value.status_code == 501


def test_disaggregated_answers_equal_the_undisturbed_ones_under_load(serving: Serving) -> None:
    """Batches of any make-up give the same tokens in float32."""

    async def run() -> None:
        async with steady(serving.url, serving.expected) as load:
            await load.answered(15)

    asyncio.run(run())


def test_status_shows_the_pair_at_work(serving: Serving) -> None:
    """One command tells pools, generations, latencies and KV speed."""
    status = serving.project.run("tandem", "status", "--stack", "test", "--json")

    seen = json.loads(status.stdout)
    assert seen["fleets"]["chat"]["ttft_ms"]["p50"] > 0
    assert any(speed and speed > 0 for speed in seen["kv_gb_per_s"].values())
    shown = serving.project.run("tandem", "status", "--stack", "test").stdout
    assert shown.count("serving") == 2
