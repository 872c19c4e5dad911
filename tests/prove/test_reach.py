"""What a proof that failed says of ports that nobody gets through to."""

import asyncio
import socket

import pytest

from pulumi_tandem.prove.plan import Candidate
from pulumi_tandem.prove.reach import closed_ports


def worker(name: str, ports: dict[str, int], host: str = "127.0.0.1") -> Candidate:
    return Candidate(name, "prefill", ("prefill",), f"http://{host}:8001", ports)


@pytest.mark.asyncio
async def test_a_port_that_listens_or_refuses_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # taken by us, and nobody listens
        ports = {"side_channel": listening.getsockname()[1], "transfer": silent.getsockname()[1]}
        assert await closed_ports([worker("a", ports)]) == []


@pytest.mark.asyncio
async def test_ports_that_drop_what_comes_are_named_once_for_all_their_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dropped(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", dropped)
    monkeypatch.setattr("pulumi_tandem.prove.reach.CONNECT_TIMEOUT_S", 0.01)
    kv = {"side_channel": 5600, "transfer": 20000}
    workers = [worker(name, kv) for name in "abc"] + [worker("d", {"transfer": 21000}), worker("e", {})]
    between = "over which KV moves: a NetworkPolicy or a firewall is in between"
    expected = {"5600 (side_channel), 20000 (transfer)": "a and 2 other workers", "21000 (transfer)": "d"}
    assert await closed_ports(workers) == [
        f"no connection from the prover gets to port {ports} of {whose}, {between}" for ports, whose in expected.items()
    ]
