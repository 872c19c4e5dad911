#!/usr/bin/env python3
"""Stands in for `python -m tandem_worker`: an agent or a gateway that does as its spec's environment says.

Only for tests of the supervisor, which cares about processes and ports, not about engines.
`FAKE` in a worker's env: `dies` (at once), `never-ready`, `leaves-child` (a grandchild that ignores SIGTERM).
"""

import json
import os
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    """Parse the flags that the supervisor passes, serve until SIGTERM."""
    kind, arguments = sys.argv[3], sys.argv[4:]
    flags: dict[str, list[str]] = {}
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        flags.setdefault(name, []).append(value)
    spec = json.loads(Path(flags["--spec"][0]).read_text())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if kind == "agent":
        serve_agent(spec, flags)
    else:
        serve_gateway(flags)


def serve_agent(spec: dict, flags: dict[str, list[str]]) -> None:
    behaviour = spec["env"].get("FAKE", "")
    if behaviour == "dies":
        sys.stdout.write("ValueError: No available memory for the cache blocks\n")
        last_words = {"exit": 66, "reason": "the engine ended while starting", "engine_tail": []}
        sys.stderr.write(json.dumps(last_words) + "\n")
        sys.exit(66)
    if behaviour == "leaves-child":
        ignore = "from signal import *; import time; signal(SIGTERM, SIG_IGN); print('up', flush=True); time.sleep(600)"
        child = subprocess.Popen(
            [sys.executable, "-c", ignore],
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        assert child.stdout
        child.stdout.readline()
    ports = dict(pair.split("=") for pair in flags["--port"])

    def answer(_path: str) -> tuple[int, object]:
        return (503 if behaviour == "never-ready" else 200), {}

    serve(ThreadingHTTPServer((flags["--address"][0], int(ports["agent"])), handler(answer)))


def serve_gateway(flags: dict[str, list[str]]) -> None:
    fleet = Path(flags["--fleet-dir"][0])

    def answer(path: str) -> tuple[int, object]:
        if path == "/live":
            return 200, {"instance": os.environ["TANDEM_INSTANCE"]}
        state = fleet / "service.json"
        active = json.loads(state.read_text())["active_generation"] if state.exists() else None
        workers = [{"name": record.stem} for record in (fleet / "workers").glob("[!.]*.json")]
        return 200, {"active_generation": active, "workers": workers}

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(answer), bind_and_activate=False)
    server.socket = socket.socket(fileno=int(flags["--listen-fd"][0]))
    serve(server)


def handler(answer):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    return Handler


def serve(server: ThreadingHTTPServer) -> None:
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    server.serve_forever()


main()
