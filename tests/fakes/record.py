"""Records what a real vLLM engine answers to a list of requests, for the comparison in test_recorded.py.

    python -m tests.fakes.record http://127.0.0.1:PORT [NAME ...]

The engine is vLLM 0.32.0 (CPU) with a NixlConnector; its answers go to tests/fakes/recorded/NAME.jsonl: the
request, the status and content type, then each event's data, or the whole body.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

FOLDER = Path(__file__).parent / "recorded"
MODEL = "SmolLM2-135M-Instruct"
PREFILL = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 6, "temperature": 0}
_TEXT: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}
_STREAM = {"stream": True}
_IDS = {"return_token_ids": True}
_USAGE = {"stream_options": {"include_usage": True}}

CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "chat-stream": ("/v1/chat/completions", _CHAT | _STREAM),
    "chat-stream-ids-usage": ("/v1/chat/completions", _CHAT | _STREAM | _IDS | _USAGE),
    "chat-stream-two": ("/v1/chat/completions", _CHAT | _STREAM | _IDS | {"n": 2, "max_tokens": 2, "temperature": 1}),
    "chat-whole": ("/v1/chat/completions", _CHAT),
    "chat-whole-ids": ("/v1/chat/completions", _CHAT | _IDS),
    "chat-prefill": ("/v1/chat/completions", _CHAT | {"max_tokens": 1, "kv_transfer_params": PREFILL}),
    "text-stream": ("/v1/completions", _TEXT | _STREAM),
    "text-stream-ids-usage": ("/v1/completions", _TEXT | _STREAM | _IDS | _USAGE),
    "text-stream-continuous-usage": (
        "/v1/completions",
        _TEXT | _STREAM | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ),
    "text-whole-of-ids": ("/v1/completions", _TEXT | _IDS | {"prompt": [300, 301, 302]}),
    "text-prefill": ("/v1/completions", _TEXT | {"max_tokens": 1, "kv_transfer_params": PREFILL}),
    "messages-stream": ("/v1/messages", _CHAT | _STREAM | {"model": MODEL}),
    "messages-whole": ("/v1/messages", _CHAT | {"model": MODEL}),
    "responses-stream": ("/v1/responses", {"input": "Say hello.", "max_output_tokens": 6, "temperature": 0} | _STREAM),
    "responses-whole": ("/v1/responses", {"input": "Say hello.", "max_output_tokens": 6, "temperature": 0}),
    "tokenize": ("/tokenize", {"prompt": "Once upon a time"}),
    "tokenize-chat": ("/tokenize", {"messages": _CHAT["messages"]}),
    "detokenize": ("/detokenize", {"tokens": [300, 301, 302]}),
    "models": ("/v1/models", None),
    "refused-model": ("/v1/chat/completions", _CHAT | {"model": "other"}),
    "refused-length": ("/v1/completions", _TEXT | {"max_tokens": 10_000_000}),
    "refused-options": ("/v1/completions", _TEXT | _USAGE),
    "refused-empty": ("/v1/completions", {"prompt": "", "max_tokens": 0}),
}
"""Name to path and body; a body of None is a GET."""


async def ask(client: aiohttp.ClientSession, url: str, name: str) -> list[Any]:
    """Status with content type, then the data of each event, or the one whole body."""
    path, body = CASES[name]
    request = client.get(url + path) if body is None else client.post(url + path, json=body)
    async with request as answer:
        text = await answer.text()
        kind = answer.headers["content-type"]
        head = {"status": answer.status, "content_type": kind}
    if not kind.startswith("text/event-stream"):
        return [head, json.loads(text)]
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [head, *(line if line == "[DONE]" else json.loads(line) for line in data)]


async def record(url: str, names: list[str]) -> None:
    """Asks the engine and writes its answers."""
    FOLDER.mkdir(exist_ok=True)
    async with aiohttp.ClientSession() as client:
        for name in names or CASES:
            lines = [{"path": CASES[name][0], "request": CASES[name][1]}, *await ask(client, url, name)]
            if name == "models":
                lines[2]["data"][0]["root"] = "a folder of the machine it was recorded on"
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (FOLDER / f"{name}.jsonl").write_text(text)
            sys.stdout.write(f"{name}: {lines[1]['status']}, {len(lines) - 2} parts\n")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1], sys.argv[2:]))
