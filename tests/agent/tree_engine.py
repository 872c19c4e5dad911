"""A program shaped like an engine: an API server that starts a core, which starts a worker.

The core and the worker map a segment of shared memory each and ignore SIGTERM; the API server
answers /health and /metrics. `POST /load?running=N` sets what /metrics tells, so that a test can
hold a drain open.
"""

import argparse
import json
import mmap
import os
import signal
import subprocess
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

WORK_DONE = "[shutdown] EngineCore: request processing complete; starting resource teardown"
"""As vLLM 0.32 says it; with `--stop linger` it is all that SIGTERM leads to."""


def hold_segment() -> mmap.mmap:
    """Map a named file in /dev/shm and leave its name behind, as a killed engine would."""
    with Path(f"/dev/shm/test-tandem-{uuid.uuid4().hex}").open("wb+") as file:
        file.truncate(4096)
        return mmap.mmap(file.fileno(), 4096)


def say(role: str) -> None:
    """Tell the test who runs; one write, so that the lines of three processes do not mix."""
    sys.stdout.write(json.dumps({"role": role, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()


def run_part(role: str) -> None:
    """The core starts the worker; both then wait to be killed."""
    if role == "worker":
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    segment = hold_segment()
    if role == "core":
        start_part("worker")
    say(role)
    signal.pause()
    segment.close()


def start_part(role: str) -> None:
    subprocess.Popen([sys.executable, __file__, "--role", role])


def run_api(port: int, stop: str) -> None:
    load = {"running": 0, "steps": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = ""
            if self.path == "/metrics":
                load["steps"] += 1
                labels = '{engine="0",model_name="m"}'
                text = (
                    f"vllm:num_requests_running{labels} {load['running']}.0\n"
                    f"vllm:num_requests_waiting{labels} 0.0\n"
                    f"vllm:iteration_tokens_total_count{labels} {load['steps']}.0\n"
                )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            load["running"] = int(parse_qs(urlsplit(self.path).query)["running"][0])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if stop == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if stop == "linger":
        signal.signal(signal.SIGTERM, lambda *_: say(WORK_DONE))
    say("api")
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", default="api")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stop", default="obey", choices=["obey", "ignore", "linger"])
    parser.add_argument("--fail", action="store_true")
    options = parser.parse_args()
    if options.fail:
        sys.stdout.write("ValueError: no such model\n")
        sys.exit(3)
    if options.role != "api":
        run_part(options.role)
        return
    start_part("core")
    run_api(options.port, options.stop)


if __name__ == "__main__":
    main()
