"""What stands between pods: ports over which KV moves, and to which no connection gets."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from pulumi_tandem.prove.plan import Candidate

CONNECT_TIMEOUT_S = 3.0
"""A packet that was lost is sent again after one second and after two more. Source: RFC 6298."""


async def closed_ports(workers: Sequence[Candidate]) -> list[str]:
    """A sentence for each set of ports that let nobody in.

    A worker that refuses a connection is reached: its engine may listen on other ports of the same run.
    """
    asked = [(worker, f"{port} ({run})", port) for worker in workers for run, port in worker.kv_ports.items()]
    reached = await asyncio.gather(*(_is_reached(worker, port) for worker, _, port in asked))
    closed: dict[str, list[str]] = {}
    for (worker, port, _), is_reached in zip(asked, reached, strict=True):
        if not is_reached:
            closed.setdefault(worker.name, []).append(port)
    alike: dict[str, list[str]] = {}
    for name, ports in closed.items():
        alike.setdefault(", ".join(ports), []).append(name)
    return [
        f"no connection from the prover gets to port {ports} of {_told(names)}, over which KV moves: "
        f"a NetworkPolicy or a firewall is in between"
        for ports, names in alike.items()
    ]


def _told(names: Sequence[str]) -> str:
    """Whose they are, short: a pod's last words are cut after 4 KiB."""
    first, *others = names
    return f"{first} and {len(others)} other workers" if len(others) > 1 else " and ".join(names)


async def _is_reached(worker: Candidate, port: int) -> bool:
    host = urlsplit(worker.agent_url).hostname
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_TIMEOUT_S)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
