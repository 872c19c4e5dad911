"""A fake engine as a process: `python -m tests.fakes.engine`, with the flags of vLLM's API server.

Flags that it does not know are ignored, as a WorkerSpec's argv holds many; VLLM_NIXL_SIDE_CHANNEL_HOST
and _PORT name the side channel. SIGTERM ends it with 0. `--fake-...` flags are its own.
"""

import argparse
import asyncio
import os
import signal
import sys

import uvloop

from tests.fakes.engine import FakeEngine


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fake-engine", description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--served-model-name", nargs="+", default=None)
    parser.add_argument("--max-model-len", type=int, default=131_072)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument(
        "--fake-step-ms", type=float, default=0.0, help="time between engine steps; 0: as fast as it goes"
    )
    parser.add_argument("--fake-prefill-ms", type=float, default=0.0, help="time of a prefill")
    parser.add_argument("--fake-one-prefill", action="store_true", help="reads prompts one after the other")
    parser.add_argument("--fake-start-s", type=float, default=0.0, help="time before it listens")
    parser.add_argument("--fake-eos-one-in", type=int, default=0, help="ends about one state in so many with EOS")
    parser.add_argument("--fake-keep-requests", action="store_true", help="remembers every request")
    return parser.parse_known_args(argv)[0]


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = FakeEngine(
        host=options.host,
        port=options.port,
        side_channel_host=os.environ.get("VLLM_NIXL_SIDE_CHANNEL_HOST", ""),
        side_channel_port=int(os.environ.get("VLLM_NIXL_SIDE_CHANNEL_PORT", "0")),
        served_names=tuple(options.served_model_name or [options.model]),
        context_max=options.max_model_len,
        running_max=options.max_num_seqs,
        step_s=options.fake_step_ms / 1000,
        prefill_s=options.fake_prefill_ms / 1000,
        one_prefill=options.fake_one_prefill,
        eos_one_in=options.fake_eos_one_in,
        keep_requests=options.fake_keep_requests,
    )
    if options.fake_start_s:
        await asyncio.sleep(options.fake_start_s)
    await engine.start()
    sys.stderr.write(f"INFO:     Uvicorn running on {engine.url} (fake engine, pid {os.getpid()})\n")
    sys.stderr.flush()
    await stop.wait()
    engine.kill()


def main(argv: list[str] | None = None) -> None:
    """Runs until SIGTERM."""
    uvloop.run(_serve(_arguments(argv)))
