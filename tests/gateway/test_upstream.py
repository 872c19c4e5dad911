"""Connections to engines: which of them carry another request."""

import asyncio

import pytest

from tandem_worker.gateway.upstream import Wire

ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b'13\r\ndata: {"error":1}\n\n\r\n0\r\n\r\n'
)


class Line(asyncio.Transport):
    """A connection on which nothing goes wrong."""

    def write(self, data: object) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("takes_it", [True, False])
def test_a_connection_that_is_not_read_from_any_more_carries_no_other_request(takes_it: bool) -> None:
    """An engine that dies ends its streams with an error and the end mark, all in one read.

    The reader wants no more then, though the answer is whole; the next request would never hear of its own.
    """

    async def run() -> bool:
        wire = Wire(asyncio.get_running_loop(), ("127.0.0.1", 8000))
        wire.connection_made(Line())
        wire.send(b"POST / HTTP/1.1\r\n\r\n")
        reading = asyncio.create_task(wire.pump(lambda _: takes_it))
        await asyncio.sleep(0)  # until it waits
        wire.data_received(ANSWER)
        assert await reading is takes_it
        return wire.reusable

    assert asyncio.run(run()) is takes_it
