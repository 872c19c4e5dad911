"""Blocks of TCP ports, claimed for as long as their supervisor lives.

A claim is a lock on a file, so two supervisors never hand out the same block, and a dead one leaves none behind.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_PORTS = 32
FIRST_PORT = 20_000
LAST_PORT = 32_000
"""Below 32768, where Linux starts to hand out ports of its own for outgoing connections."""


@dataclass
class Block:
    """`BLOCK_PORTS` consecutive ports that nobody else hands out while `descriptor` is open."""

    first: int
    descriptor: int

    def release(self) -> None:
        """Give the block back."""
        os.close(self.descriptor)


def claim(folder: Path, address: str, wanted: int | None = None) -> Block:
    """A free block; the one that starts at `wanted` when given (a process that is adopted already listens there).

    Raises:
        OSError: every block is taken, or the wanted one is.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for first in (wanted,) if wanted is not None else _candidates():
        descriptor = os.open(folder / f"{first}.ports", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if wanted is not None or all(is_free(address, port) for port in range(first, first + BLOCK_PORTS)):
            return Block(first, descriptor)
        os.close(descriptor)
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
