"""`tandem-worker gateway`: from a command line to a served listener."""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop
from aiohttp import web
from pydantic import ValidationError

from tandem_worker.apiserver import ApiError, ApiServer
from tandem_worker.contract import GatewaySpec, why_apart
from tandem_worker.gateway.cluster import ClusterSource
from tandem_worker.gateway.drain import Drain, Leaving
from tandem_worker.gateway.front import Front
from tandem_worker.gateway.hosted import Hosted
from tandem_worker.gateway.keys import Keys, read_keys
from tandem_worker.gateway.listener import Listener
from tandem_worker.gateway.peers import at_one_door
from tandem_worker.gateway.watch import CONTRACTS_READ, FolderSource

EXIT_USAGE = 64
EXIT_BROKEN = 70
"""A part of the gateway ended by a fault of its own; what was under way has been finished."""
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
        specs = [_load_spec(path) for path in options.spec]
        _refuse(specs, options.fleet_dir)
        keys = read_keys(options.api_keys_file, options.proof_token_file)
        listener = _listener(options.listen, options.listen_fd)
        scale = _scale_listener(specs, options.scale_listen)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"tandem-worker gateway: {error}\n")
        return EXIT_USAGE
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_until_signal(specs, keys, options.fleet_dir, listener, scale))
        except ApiError as error:
            sys.stderr.write(f"tandem-worker gateway: {error}\n")
            return EXIT_USAGE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tandem-worker gateway", description="The OpenAI-compatible door of services."
    )
    parser.add_argument("--spec", type=Path, required=True, action="append", help="a service's gateway spec, JSON")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--fleet-dir", type=Path, action="append", help="folder with service.json and workers/, one for each --spec"
    )
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


def _refuse(specs: Sequence[GatewaySpec], fleet_dirs: Sequence[Path] | None) -> None:
    """Raises: ValueError when the services cannot share a door, or not each has its folder."""
    if why := why_apart(specs):
        raise ValueError(why)
    if fleet_dirs is not None and len(fleet_dirs) != len(specs):
        msg = f"there are {len(specs)} --spec and {len(fleet_dirs)} --fleet-dir; give one for each, in the same order"
        raise ValueError(msg)


def _listener(listen: str | None, listen_fd: int | None) -> socket.socket:
    """Raises: OSError when the address is taken, ValueError when it is none."""
    if listen_fd is not None:
        return socket.socket(fileno=listen_fd)
    host, _, port = (listen or "").rpartition(":")
    if not port.isdigit():
        msg = f"{listen!r} is not HOST:PORT, as an address to listen at must be"
        raise ValueError(msg)
    return socket.create_server((host.strip("[]"), int(port)), backlog=1024, reuse_port=False)


def _scale_listener(specs: Sequence[GatewaySpec], listen: str | None) -> socket.socket | None:
    """Raises: OSError when the address is taken, ValueError when it is none, or there is nothing to serve there."""
    if listen is None:
        return None
    if all(spec.scaling is None for spec in specs):
        msg = f"--scale-listen {listen!r}: the gateway spec has no `scaling`, so there are no figures to serve"
        raise ValueError(msg)
    return _listener(listen, None)


async def _until_signal(
    specs: Sequence[GatewaySpec],
    keys: Keys,
    fleet_dirs: Sequence[Path] | None,
    listener: socket.socket,
    scale: socket.socket | None,
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if fleet_dirs is not None:
        folders = zip(specs, fleet_dirs, strict=True)
        hosted = [Hosted(spec, keys, FolderSource(folder, spec.service)) for spec, folder in folders]
        return await serve(hosted, listener, stop, scale)
    async with ApiServer.in_cluster() as api:
        return await serve([_in_cluster(spec, keys, api) for spec in specs], listener, stop, scale)


def _in_cluster(spec: GatewaySpec, keys: Keys, api: ApiServer) -> Hosted:
    source = ClusterSource(api, spec.service, asyncio.get_running_loop().time)
    return Hosted(spec, replace(keys, proof_digest=lambda: source.proof_digest), source)


async def serve(
    services: Sequence[Hosted],
    listener: socket.socket,
    stop: asyncio.Event,
    scale: socket.socket | None = None,
) -> int:
    """Serve on a listening socket until `stop` is set and everything under way is done; at `scale`, autoscalers.

    Returns the exit code.
    """
    loop = asyncio.get_running_loop()
    gateways = [one.gateway for one in services]
    server = Listener(gateways[0].handle if len(gateways) == 1 else Front(gateways).handle)
    accepting = await loop.create_server(server, sock=listener, backlog=1024)
    work = [chore for one in services for chore in one.chores()]
    if scale is not None:
        peers = {one.spec.service: one.peers() for one in services if one.spec.scaling is not None}
        work.append(_tell_autoscalers(at_one_door(peers), scale))
    chores = [asyncio.create_task(chore, name=chore.__qualname__) for chore in work]
    log.info("serving %s on %s", ", ".join(one.spec.service for one in services), listener.getsockname())
    code = await _until_told(stop, chores)
    for gateway in gateways:
        gateway.draining = True
    accepting.close()
    server.is_leaving = True
    await _drain(server, services)
    await server.shutdown(LAST_WORDS_S)
    for chore in chores:
        chore.cancel()
    for one in services:
        one.close()
    return code


async def _until_told(stop: asyncio.Event, chores: Sequence[asyncio.Task[None]]) -> int:
    """Until the gateway is to leave; the exit code. One that lost sight of its fleet leaves, for another to come."""
    broken: list[BaseException] = []

    def ended(chore: asyncio.Task[None]) -> None:
        if not chore.cancelled() and (error := chore.exception()) is not None:
            log.error("leaving, since %s failed", chore.get_name(), exc_info=error)
            broken.append(error)
            stop.set()

    for chore in chores:
        chore.add_done_callback(ended)
    await stop.wait()
    return EXIT_BROKEN if broken else 0


async def _drain(server: Listener, services: Sequence[Hosted]) -> None:
    """Until clients have left and what is under way is done, for as long as the most patient service allows."""
    loop = asyncio.get_running_loop()

    def under_way() -> int:
        return sum(one.gateway.under_way for one in services)

    timeout_s = max(one.spec.drain_timeout_s for one in services)
    drain = Drain(loop.time(), timeout_s)
    while True:
        leaving = drain.look(under_way(), len(server.connections), loop.time())
        if leaving is not Leaving.WAIT:
            break
        await asyncio.sleep(DRAIN_POLL_S)
    if leaving is Leaving.TIMED_OUT:
        log.warning("leaving with %d requests unfinished after %g s", under_way(), timeout_s)
    server.pre_shutdown()  # what still writes its last bytes may end, unused connections at once


async def _tell_autoscalers(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], at: socket.socket
) -> None:
    """Serve figures until cancelled: while this gateway drains, too, since what it has under way is load."""
    listener = Listener(handle)
    accepting = await asyncio.get_running_loop().create_server(listener, sock=at, backlog=64)
    try:
        await accepting.serve_forever()
    finally:
        await listener.shutdown(0)
