"""What is written in one turn of the loop leaves as one piece, whole and in its order."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moorline.cli.joined import Joined


class Written(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.pieces: list[bytes] = []
        self.closed = False
        self.ended = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def write_eof(self) -> None:
        self.ended = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Lost(Written):
    """Its connection was lost."""

    def write(self, data: Any) -> None:
        raise RuntimeError("the handler is closed")


def joined(transport: Written | None = None) -> tuple[Joined, Written]:
    transport = transport or Written()
    return Joined(transport, asyncio.get_running_loop()), transport


async def test_head_and_body_are_one_piece() -> None:
    """They are sent with the body, and nothing is left for later."""
    transport, sent = joined()
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert sent.pieces == []
    transport.write(b"stored")
    assert sent.pieces == [b"HTTP/1.1 200 OK\r\n\r\nstored"]
    await asyncio.sleep(0)
    assert len(sent.pieces) == 1


async def test_a_head_alone_is_sent_at_the_end_of_the_turn() -> None:
    """As that of an answer without a body, or of one whose body takes its time."""
    transport, sent = joined()
    transport.write(b"head")
    await asyncio.sleep(0)
    assert sent.pieces == [b"head"]


async def test_a_buffer_may_be_filled_anew() -> None:
    """What was written is sent as it was then, whatever its writer does with his buffer after that."""
    for buffer in (bytearray(5), memoryview(bytearray(5))):
        transport, sent = joined()
        buffer[:] = b"first"
        transport.write(buffer)
        buffer[:] = b"other"
        transport.write(buffer)
        assert sent.pieces == [b"firstother"]


async def test_closing_sends_what_is_held() -> None:
    """An answer that ends with the connection is whole."""
    transport, sent = joined()
    transport.write(b"head")
    transport.close()
    assert (sent.pieces, transport.is_closing()) == ([b"head"], True)
    await asyncio.sleep(0)
    assert sent.pieces == [b"head"]


async def test_a_connection_that_is_lost_meanwhile_is_no_failure() -> None:
    """What is written to it raises in uvloop: there is nobody to send to, and nothing to be told of."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    transport, _ = joined(Lost())
    transport.write(b"head")
    await asyncio.sleep(0)
    assert told == []


async def test_all_else_is_the_transports() -> None:
    """Who asks it for anything gets the answer of what is below."""
    transport, sent = joined()
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)
    protocol = asyncio.Protocol()
    transport.set_protocol(protocol)
    assert transport.get_protocol() is protocol is sent.protocol
    transport.writelines([b"a", b"b"])
    transport.write_eof()
    assert (sent.pieces, sent.ended) == ([b"ab"], True)


@given(pieces=st.lists(st.one_of(st.none(), st.integers(0, 40_000)), max_size=12))
def test_nothing_is_lost_or_changes_places(pieces: list[int | None]) -> None:
    """Of any sizes, with the ends of turns between them."""

    async def main() -> tuple[bytes, bytes]:
        transport, sent = joined()
        wanted = b""
        for number, size in enumerate(pieces):
            if size is None:
                await asyncio.sleep(0)
                assert b"".join(sent.pieces) == wanted
            else:
                wanted += bytes([number]) * size
                transport.write(bytes([number]) * size)
        transport.close()
        return wanted, b"".join(sent.pieces)

    wanted, sent = asyncio.run(main())
    assert wanted == sent
