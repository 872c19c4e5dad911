"""`tandem-worker gateway`: from a command line to a served listener."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop
from pydantic import ValidationError

from tandem_worker.apiserver import ApiError, ApiServer
from tandem_worker.contract import GatewaySpec
from tandem_worker.dialects.table import HAND_OFFS
from tandem_worker.gateway.cluster import ClusterSource
from tandem_worker.gateway.drain import Drain, Leaving
from tandem_worker.gateway.exchange import Shared
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.keys import Keys, read_keys
from tandem_worker.gateway.listener import Listener
from tandem_worker.gateway.metrics import Metrics
from tandem_worker.gateway.peers import Peers
from tandem_worker.gateway.scale import figures
from tandem_worker.gateway.server import TICK_S, Gateway
from tandem_worker.gateway.silence import Limits
from tandem_worker.gateway.upstream import Upstream
from tandem_worker.gateway.watch import CONTRACTS_READ, FolderSource, Source, Watcher

EXIT_USAGE = 64
GC_THRESHOLDS = (20_000, 20, 20)
"""Requests leave few cycles behind; Python's own 700 would look for them several times per hand-off."""
DRAIN_POLL_S = 0.05
LAST_WORDS_S = 1.0
"""For the last bytes of finished answers to be taken."""
log = logging.getLogger("tandem.gateway")


def main(argv: Sequence[str]) -> int:
    """Run the gateway until it is told to stop; returns its exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    options = _parse(argv)
    # What is loaded now stays for ever: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        spec = _load_spec(options.spec)
        keys = read_keys(options.api_keys_file, options.proof_token_file)
        listener = _listener(options.listen, options.listen_fd)
        scale = _scale_listener(spec, options.scale_listen)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"tandem-worker gateway: {error}\n")
        return EXIT_USAGE
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_until_signal(spec, keys, options.fleet_dir, listener, scale))
        except ApiError as error:
            sys.stderr.write(f"tandem-worker gateway: {error}\n")
            return EXIT_USAGE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tandem-worker gateway", description="The service's OpenAI-compatible door.")
    parser.add_argument("--spec", type=Path, required=True, help="the gateway's spec, JSON")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--fleet-dir", type=Path, help="folder with service.json and workers/")
    source.add_argument(
        "--kubernetes", action="store_true", help="the cluster that this pod is in says which workers there are"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--listen", metavar="HOST:PORT", help="where to listen")
    where.add_argument("--listen-fd", type=int, help="an inherited listening socket")
    parser.add_argument("--scale-listen", metavar="HOST:PORT", help="where autoscalers and other gateways read figures")
    parser.add_argument("--api-keys-file", type=Path, help="one API key a line; without it the door is open")
    parser.add_argument("--proof-token-file", type=Path, help="the token that proofs address workers with")
    return parser.parse_args(argv)


def _load_spec(path: Path) -> GatewaySpec:
    """Raises: OSError, ValueError with every fault of the file."""
    try:
        spec = GatewaySpec.model_validate_json(path.read_bytes())
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'the file'}: {f['msg'].lower()}" for f in error.errors())
        msg = f"the gateway spec {str(path)!r} is not valid: {faults}"
        raise ValueError(msg) from error
    if spec.contract not in CONTRACTS_READ:
        msg = f"the gateway spec {str(path)!r} has contract version {spec.contract}; use a matching worker image"
        raise ValueError(msg)
    return spec


def _listener(listen: str | None, listen_fd: int | None) -> socket.socket:
    """Raises: OSError when the address is taken, ValueError when it is none."""
    if listen_fd is not None:
        return socket.socket(fileno=listen_fd)
    host, _, port = (listen or "").rpartition(":")
    if not port.isdigit():
        msg = f"{listen!r} is not HOST:PORT, as an address to listen at must be"
        raise ValueError(msg)
    return socket.create_server((host.strip("[]"), int(port)), backlog=1024, reuse_port=False)


def _scale_listener(spec: GatewaySpec, listen: str | None) -> socket.socket | None:
    """Raises: OSError when the address is taken, ValueError when it is none, or there is nothing to serve there."""
    if listen is None:
        return None
    if spec.scaling is None:
        msg = f"--scale-listen {listen!r}: the gateway spec has no `scaling`, so there are no figures to serve"
        raise ValueError(msg)
    return _listener(listen, None)


async def _until_signal(
    spec: GatewaySpec, keys: Keys, fleet_dir: Path | None, listener: socket.socket, scale: socket.socket | None
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if fleet_dir is not None:
        await serve(spec, keys, FolderSource(fleet_dir, spec.service), listener, stop, scale)
        return 0
    async with ApiServer.in_cluster() as api:
        source = ClusterSource(api, spec.service, loop.time)
        keys = replace(keys, proof_digest=lambda: source.proof_digest)
        await serve(spec, keys, source, listener, stop, scale)
    return 0


async def serve(
    spec: GatewaySpec,
    keys: Keys,
    source: Source,
    listener: socket.socket,
    stop: asyncio.Event,
    scale: socket.socket | None = None,
) -> None:
    """Serve on a listening socket until `stop` is set and everything under way is done; at `scale`, autoscalers."""
    loop = asyncio.get_running_loop()
    fleet, upstream = Fleet(), Upstream(loop)
    shared = Shared(
        fleet,
        upstream,
        Metrics(),
        loop.time,
        Limits(spec.prefill_timeout_s, spec.stall_timeout_s),
        HAND_OFFS[spec.dialect],
        spec.resume_tokens_max if spec.resume else 0,
        spec.context_tokens_max,
    )
    gateway = Gateway(spec, shared, keys)
    watcher = Watcher(source, fleet, upstream, shared.fleet_changed.fire)
    watcher.refresh()
    server = Listener(gateway.handle)
    accepting = await loop.create_server(server, sock=listener, backlog=1024)
    work = [source.run(upstream), watcher.run(), _tick(gateway, source)]
    if scale is not None:
        name = os.urandom(8).hex()
        peers = Peers(spec, lambda: figures(name, fleet, loop.time()), lambda: source.peers, upstream)
        gateway.scale = peers.scale
        work.append(_tell_autoscalers(peers, scale))
    chores = [asyncio.create_task(chore) for chore in work]
    log.info("serving %s on %s", spec.service, listener.getsockname())
    await stop.wait()
    gateway.draining = True
    accepting.close()
    server.is_leaving = True
    drain = Drain(loop.time(), spec.drain_timeout_s)
    while drain.says_goodbye(len(server.connections), loop.time()):  # noqa: ASYNC110 - asked by the clock, too
        await asyncio.sleep(DRAIN_POLL_S)
    server.pre_shutdown()  # connections end with their running request, unused ones at once
    while (leaving := drain.look(gateway.under_way, loop.time())) is Leaving.WAIT:  # noqa: ASYNC110 - asked by the clock, too
        await asyncio.sleep(DRAIN_POLL_S)
    if leaving is Leaving.TIMED_OUT:
        log.warning("leaving with %d requests unfinished after %g s", gateway.under_way, spec.drain_timeout_s)
    await server.shutdown(LAST_WORDS_S)
    for chore in chores:
        chore.cancel()
    upstream.close()


async def _tell_autoscalers(peers: Peers, at: socket.socket) -> None:
    """Serve figures until cancelled: while this gateway drains, too, since what it has under way is load."""
    listener = Listener(peers.handle)
    accepting = await asyncio.get_running_loop().create_server(listener, sock=at, backlog=64)
    try:
        await accepting.serve_forever()
    finally:
        await listener.shutdown(0)


async def _tick(gateway: Gateway, source: Source) -> None:
    while True:
        gateway.tick()
        gateway.divide(source.gateways)
        await asyncio.sleep(TICK_S)
