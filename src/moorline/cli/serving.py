"""uvicorn, as moorline serves: the signals are left alone, and connections are accepted many at a time.

uvloop accepts one connection in each turn of the loop. Under load a turn is long, and senders, most of which open a
connection for each event, would wait for seconds in the kernel's queue, where nobody sees that they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

from moorline.cli.joined import Joined
from moorline.cli.runner import BACKLOG

__all__ = ["Server"]

_YOUNG: Final = 50_000  # new objects between two looks for cycles; a request makes some hundreds
_TURN: Final = 0.0002
"""Seconds that the event loop may keep the interpreter from the thread that writes. At Python's 5 ms that thread, which
gives it up a dozen times in each transaction, waits longer than it writes.
"""
_PAUSE: Final = 0.5  # seconds without accepting when no file descriptor is left


class Server(uvicorn.Server):
    """Serves listening sockets that it is given, until ``should_exit``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to us: uvicorn would take them from the worker."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application's lifespan, then accept."""
        await super().startup(sockets=[])
        _collect_less()
        sys.setswitchinterval(_TURN)
        self._loop = asyncio.get_running_loop()
        self._joining = _joining(self.config.http_protocol_class)
        self._opening: set[asyncio.Task[object]] = set()
        self._listening = list(sockets or [])
        for listener in self._listening:
            listener.setblocking(False)
            self._listen(listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, answer what was begun."""
        listening, self._listening = self._listening, []
        for listener in listening:
            self._loop.remove_reader(listener)
        await super().shutdown(sockets)

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listening:
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left: those that are open must end first
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE, self._listen, listener)
                return
            connection.setblocking(False)
            if connection.family in {socket.AF_INET, socket.AF_INET6}:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opening: asyncio.Task[object] = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # it is gone already
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self._joining(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _joining(protocol: type[asyncio.Protocol]) -> Any:
    """That protocol, over a transport that joins what it writes."""

    class Joining(protocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(Joined(transport, asyncio.get_running_loop()))

        def eof_received(self) -> bool | None:
            self.transport.flush()  # the loop closes its transport now, which sends nothing after that
            kept: bool | None = super().eof_received()
            return kept

    return Joining


def _collect_less() -> None:
    """What was loaded until now stays for good, and a request leaves next to no cycles: looking for them took a tenth
    of the time that requests take.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 100)
