"""Serves the engine: prints its port, and ends with the process that started it."""

import asyncio
import os
import signal
import sys

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from tests.standin.provider import Provider

PARENT_INTERVAL_S = 1.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def serve(engine_address: str | None) -> None:
    server = grpc.aio.server(options=UNLIMITED)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(engine_address), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    engine = os.getppid()
    while await server.wait_for_termination(PARENT_INTERVAL_S):  # true: it timed out
        if os.getppid() != engine:  # an engine that is killed ends no plugin
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the engine calls Cancel
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else None))
