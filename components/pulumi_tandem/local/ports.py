"""Blocks of TCP ports, claimed for as long as their supervisor lives.

A claim is an abstract unix socket named after the block's first port. Abstract names belong to the network namespace,
as ports do, so two stacks never get the same block, whoever runs them; and the kernel takes the name back when the
process dies.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_PORTS = 32
FIRST_PORT = 20_000
LAST_PORT = 32_000
"""Below 32768, where Linux starts to hand out ports of its own for outgoing connections."""


@dataclass
class Block:
    """`BLOCK_PORTS` consecutive ports that no other stack hands out while `claim` is open."""

    first: int
    claim: socket.socket

    def release(self) -> None:
        """Give the block back."""
        self.claim.close()


def claim(address: str, wanted: int | None = None) -> Block:
    """A free block; the one that starts at `wanted` when given (a process that is adopted already listens there).

    Raises:
        OSError: every block is taken, or the wanted one is.
    """
    for first in (wanted,) if wanted is not None else _candidates():
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mark.bind(f"\0tandem-ports-{first}")
        except OSError:
            mark.close()
            continue
        if wanted is not None or all(is_free(address, port) for port in range(first, first + BLOCK_PORTS)):
            return Block(first, mark)
        mark.close()
    what = f"ports {wanted}-{wanted + BLOCK_PORTS - 1} are" if wanted is not None else "every block of ports is"
    msg = f"{what} taken between {FIRST_PORT} and {LAST_PORT}; another stack holds them: stop one with `make down`"
    raise OSError(msg)


def _candidates() -> Iterator[int]:
    return iter(range(FIRST_PORT, LAST_PORT - BLOCK_PORTS, BLOCK_PORTS))


def is_free(address: str, port: int) -> bool:
    """Whether a listener could bind the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
