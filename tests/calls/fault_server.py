"""A scripted HTTP server on loopback that misbehaves as told, on its own loop in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Self

Behaviour = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FaultServer:
    """Runs *behaviour* for each request head; ``heads`` keeps them."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.heads: list[bytes] = []
        self.url = ""
        self._behaviour = behaviour
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def arrived(self, count: int) -> None:
        """Wait until *count* request heads are here."""
        assert await asyncio.to_thread(self._await, count)

    def _await(self, count: int) -> bool:
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.heads) >= count, 10)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._hang_up(server))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _hang_up(self, server: asyncio.Server) -> None:
        """Close all connections: also one that is only just accepted, whose socket nobody owns for a few turns."""
        self._loop.remove_reader(server.sockets[0].fileno())
        for _ in range(10):
            await asyncio.sleep(0)
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        for _ in range(10):
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    with self._arrived:
                        self.heads.append(head)
                        self._arrived.notify_all()
                    await self._behaviour(head, reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # what is not sent yet is never read
        finally:
            writer.close()


async def drip(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte of the body now and then."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(_head: bytes, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accepts, and says nothing; does not read bodies either."""
    await asyncio.sleep(60)


async def stalled_body(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head, and then nothing."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(60)


async def truncated(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Half a body, then the end."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":')
    await writer.drain()
    raise ConnectionResetError


async def hang_up(_head: bytes, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """No answer at all."""
    raise ConnectionResetError
