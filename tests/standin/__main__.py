"""Serves the engine: prints its port, and ends when the engine says so, or with the engine."""

import asyncio
import contextlib
import os
import signal
import sys

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from tests.standin.provider import Provider

PARENT_INTERVAL_S = 1.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def serve(engine_address: str | None) -> None:
    provider = Provider(engine_address)
    server = grpc.aio.server(options=UNLIMITED)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await _ended(os.getppid())
    await server.stop(grace=None)
    await provider.close()


async def _ended(engine: int) -> None:
    """Return when the engine asks to end, or is gone itself: one that is killed ends no plugin."""
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    while os.getppid() == engine and not asked.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), PARENT_INTERVAL_S)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else None))
