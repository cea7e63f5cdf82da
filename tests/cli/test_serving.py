"""How connections are accepted."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from typing import Any

import pytest
import uvicorn
import uvloop

from moorline.cli.runner import listen
from moorline.cli.serving import Server

CLIENTS = 200


async def _app(scope: Any, receive: Any, send: Any) -> None: ...


def test_all_who_wait_are_accepted_in_a_few_turns() -> None:
    """200 connections take far fewer turns of uvloop, which accepts one in each; all are let go at the end."""

    async def main() -> int:
        listener = listen("127.0.0.1", 0)
        server = Server(uvicorn.Config(_app, lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 -- uvicorn sets no event
            await asyncio.sleep(0)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(CLIENTS)]
        turns = 0
        while len(server.server_state.connections) < CLIENTS and turns < CLIENTS:
            await asyncio.sleep(0)
            turns += 1
        server.should_exit = True
        for client in clients:
            client.close()
        await serving
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
        listener = listen("127.0.0.1", 0)
        server = Server(uvicorn.Config(_app, lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 -- uvicorn sets no event
            await asyncio.sleep(0)
        gc.disable()
        try:
            for _ in range(3):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                await writer.wait_closed()
            for _ in range(1_000):
                if len(made) == 3 and not any(one() for one in made):
                    break
                await asyncio.sleep(0.01)
            assert [one() for one in made] == [None] * 3
        finally:
            gc.enable()
            server.should_exit = True
            await serving

    uvloop.run(main())


async def _slow(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
    time.sleep(0.05)  # noqa: ASYNC251 -- a loop that is busy with others


def test_who_has_closed_its_side_is_answered() -> None:
    """A sender that says that it will send no more, while its answer is made, gets the answer, be it a head alone."""

    def ask(address: Any, method: str) -> bytes:
        with socket.create_connection(address) as client:
            client.sendall(f"{method} / HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            time.sleep(0.02)
            client.shutdown(socket.SHUT_WR)
            return client.makefile("rb").read()

    async def main() -> None:
        listener = listen("127.0.0.1", 0)
        server = Server(uvicorn.Config(_slow, lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 -- uvicorn sets no event
            await asyncio.sleep(0)
        for method in ("GET", "HEAD"):
            assert (await asyncio.to_thread(ask, listener.getsockname(), method)).startswith(b"HTTP/1.1 200 OK")
        server.should_exit = True
        await serving

    uvloop.run(main())
