"""Stands in for the agents of workers that nobody runs: `python -m benchmarks.scale.agents FILE`.

FILE says who lives at which address: `{ADDRESS: answer of /factors}`. Each address is listened at, so the machine must
have it (the test cluster gives itself those of fake pods). It prints a line once it listens everywhere, and answers
from prepared bytes, so as to take little of the processor that the gateway is measured on.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import cast

import uvloop

AGENT_PORT = 8001


class Agent(asyncio.Protocol):
    """One connection to one of them."""

    def __init__(self, factors: bytes) -> None:
        self._factors = factors
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *requests, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._factors if request.startswith(b"GET /factors ") else READY)


def answer(body: str) -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


READY = answer('{"ready": true, "reason": ""}')


async def serve(who: dict[str, dict[str, object]]) -> None:
    """Until it is ended."""
    loop = asyncio.get_running_loop()
    for address, factors in who.items():
        prepared = answer(json.dumps(factors))
        await loop.create_server(lambda prepared=prepared: Agent(prepared), address, AGENT_PORT, backlog=16)
    print(len(who), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text())))
