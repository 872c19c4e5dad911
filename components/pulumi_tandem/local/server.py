"""The supervisor's process: a server on a unix socket, started by the first client and watched by its guard."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pulumi_tandem.local.paths import StackPaths
from pulumi_tandem.local.supervisor import RefusedError, Supervisor

LINE_BYTES_MAX = 1 << 20
TICK_S = 1.0
IDLE_EXIT_S = 60.0
"""An empty supervisor waits this long for more work before it ends."""
LOG_BYTES_MAX = 64 << 20

log = logging.getLogger("tandem.supervisor")


class Server:
    """Lets clients call the verbs of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.last_used_s = time.monotonic()

    async def serve(self) -> None:
        """Answer clients until told to end, or until nothing is owned for a while."""
        paths = self.supervisor.paths
        paths.socket.unlink(missing_ok=True)
        with paths.short_socket() as path:
            server = await asyncio.start_unix_server(self._answer, path, limit=LINE_BYTES_MAX)
        paths.socket.chmod(0o600)
        rests: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGTERM, lambda: rests.add(asyncio.create_task(self.supervisor.rest()))
        )
        async with server:
            while not self.supervisor.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.supervisor.ended.wait(), TICK_S)
                self._tick()
        paths.socket.unlink(missing_ok=True)
        await asyncio.gather(*rests)
        await self.supervisor.http.close()

    def _tick(self) -> None:
        if self.supervisor.keepers:
            self.last_used_s = time.monotonic()
        elif time.monotonic() - self.last_used_s > IDLE_EXIT_S:
            self.supervisor.ended.set()
        for name in self.supervisor.keepers:
            written = self.supervisor.paths.log_of(name)
            if written.exists() and written.stat().st_size > LOG_BYTES_MAX:
                os.truncate(written, 0)  # appended to, so the writer goes on at the start

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(answer: dict[str, Any]) -> None:
            if not writer.is_closing():
                writer.write(json.dumps(answer).encode() + b"\n")

        self.last_used_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            request = json.loads(await reader.readline() or b"{}")
            verb = getattr(self.supervisor, f"do_{request.pop('verb', '')}", None)
            if verb is None:
                send({"error": "this supervisor is of another version: run `make down` with the one that started it"})
            else:
                # A task of its own: the work goes on when the client is killed, and the next client finds it done.
                work = asyncio.create_task(verb(lambda line: send({"progress": line}), **request))
                try:
                    send({"result": await asyncio.shield(work)})
                except RefusedError as error:
                    send({"error": str(error)})
                except OSError as error:
                    send({"error": self.supervisor.paths.told(error)})
                except Exception as error:  # a bug in one verb must not end what owns the engines
                    log.exception("bug in %s", verb.__name__)
                    where = self.supervisor.paths.log
                    send({"error": f"the supervisor failed: {error!r}; its log is {where}"})
            await writer.drain()
        writer.close()


def main() -> None:
    """Serve the stack in the folder named by the first argument; ends at once where another supervisor lives."""
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.INFO, stream=sys.stderr)
    paths = StackPaths(Path(sys.argv[1]))
    paths.make()
    with paths.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return

        async def run() -> None:
            await Server(Supervisor(paths)).serve()

        asyncio.run(run())


if __name__ == "__main__":
    main()
