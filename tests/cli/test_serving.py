"""How connections are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
import uvloop

from moorline.cli.runner import listen
from moorline.cli.serving import Server

CLIENTS = 200


async def _app(scope: Any, receive: Any, send: Any) -> None: ...


@contextlib.asynccontextmanager
async def serving(app: Any = _app) -> AsyncIterator[tuple[Server, Any]]:
    """A server of *app*, and its address; it has ended afterwards."""
    listener = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110 -- uvicorn sets no event
        await asyncio.sleep(0)
    try:
        yield server, listener.getsockname()
    finally:
        server.should_exit = True
        await task


def test_all_who_wait_are_accepted_in_a_few_turns() -> None:
    """200 connections take far fewer turns of uvloop, which accepts one in each; all are let go at the end."""

    async def main() -> int:
        async with serving() as (server, address):
            clients = [socket.create_connection(address) for _ in range(CLIENTS)]
            turns = 0
            while len(server.server_state.connections) < CLIENTS and turns < CLIENTS:
                await asyncio.sleep(0)
                turns += 1
            server.should_exit = True
            for client in clients:
                client.close()
        assert not server.server_state.connections
        return turns

    assert uvloop.run(main()) < CLIENTS // 4


def test_a_connection_that_has_ended_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to it is freed at once: cycles would stay until there are thousands of them."""
    made: list[weakref.ref[asyncio.Protocol]] = []
    protocol_of = Server._protocol

    def noted(server: Server) -> asyncio.Protocol:
        protocol = protocol_of(server)
        made.append(weakref.ref(protocol))
        return protocol

    monkeypatch.setattr(Server, "_protocol", noted)

    async def main() -> None:
        async with serving() as (_, address):
            gc.disable()
            try:
                for _ in range(3):
                    _, writer = await asyncio.open_connection(*address)
                    writer.close()
                    await writer.wait_closed()
                async with asyncio.timeout(10):
                    while len(made) < 3 or any(one() for one in made):  # noqa: ASYNC110 -- the sockets' ends are the kernel's
                        await asyncio.sleep(0)
            finally:
                gc.enable()

    uvloop.run(main())


def test_who_has_closed_its_side_is_answered() -> None:
    """A sender that says that it will send no more, while its answer is made, gets the answer, be it a head alone."""
    answered, closed = threading.Event(), threading.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        answered.set()
        assert closed.wait(10)  # the turn of the loop in which it was written lasts until then

    def ask(address: Any, method: str) -> bytes:
        with socket.create_connection(address) as client:
            client.sendall(f"{method} / HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            assert answered.wait(10)
            client.shutdown(socket.SHUT_WR)
            closed.set()
            return client.makefile("rb").read()

    async def main() -> None:
        async with serving(busy) as (_, address):
            for method in ("GET", "HEAD"):
                answered.clear()
                closed.clear()
                assert (await asyncio.to_thread(ask, address, method)).startswith(b"HTTP/1.1 200 OK")

    uvloop.run(main())
