"""How connections are accepted."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

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
