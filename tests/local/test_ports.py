"""Blocks of ports."""

import socket

from pulumi_tandem.local import ports


def test_two_claims_get_two_blocks() -> None:
    """What one stack holds, another one never gets."""
    one, other = ports.claim("127.0.0.1"), ports.claim("127.0.0.1")

    assert abs(one.first - other.first) >= ports.BLOCK_PORTS
    one.release()
    other.release()


def test_a_released_block_is_free_again() -> None:
    """A claim lasts as long as its holder."""
    block = ports.claim("127.0.0.1")
    block.release()

    again = ports.claim("127.0.0.1", block.first)

    assert again.first == block.first
    again.release()


def test_a_block_with_a_port_in_use_is_passed_over() -> None:
    """Somebody else's listener in the middle of a block spoils it."""
    block = ports.claim("127.0.0.1")
    block.release()
    with socket.create_server(("127.0.0.1", block.first + 7)):
        other = ports.claim("127.0.0.1")

    assert other.first != block.first
    other.release()
