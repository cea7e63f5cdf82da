"""A body that a session's user reads by itself, watched: the deadline holds, and what the attempt held is freed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import aiohttp
from aiohttp.streams import AsyncStreamIterator, ChunkTupleAsyncStreamIterator, StreamReader

from moorline.calls.timer import BodyTimer
from moorline.calls.watching import Watch

__all__ = ["Body"]

T = TypeVar("T")


class Body:
    """Reads like the StreamReader that it wraps, within the deadline. Raises CallError in the session's dress."""

    def __init__(self, content: StreamReader, watch: Watch) -> None:
        self._content = content
        self._watch = watch
        self._timer: BodyTimer | None = None
        self._over = False

    def over(self) -> None:
        """The connection is free again: the body was read, or is not wanted."""
        self._over = True
        if self._timer is not None:
            self._timer.close()
        self._watch.settle(worked=True)  # where it broke off, its reader knew before

    async def _within(self, reading: Coroutine[Any, Any, T]) -> T:
        watch = self._watch
        if self._over:  # what came in time may be read late
            timer = BodyTimer(None)
        else:
            timer = self._timer = self._timer or BodyTimer(watch.left())
        try:
            with timer:
                return await reading
        except asyncio.CancelledError:
            watch.settle(worked=None)
            raise
        except (aiohttp.ClientError, OSError) as error:
            if timer.expired:
                raise watch.late() from None
            raise watch.failed(error) from error
        finally:
            reading.close()  # never begun where the time was over before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self, n: int = -1) -> bytes:
        """As StreamReader's."""
        return await self._within(self._content.read(n))

    async def readany(self) -> bytes:
        """As StreamReader's."""
        return await self._within(self._content.readany())

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        """As StreamReader's."""
        return await self._within(self._content.readline(max_line_length=max_line_length))

    async def readuntil(self, separator: bytes = b"\n", *, max_size: int | None = None) -> bytes:
        """As StreamReader's."""
        return await self._within(self._content.readuntil(separator, max_size=max_size))

    async def readexactly(self, n: int) -> bytes:
        """As StreamReader's."""
        return await self._within(self._content.readexactly(n))

    async def readchunk(self) -> tuple[bytes, bool]:
        """As StreamReader's."""
        return await self._within(self._content.readchunk())

    async def wait_eof(self) -> None:
        """As StreamReader's."""
        await self._within(self._content.wait_eof())

    def __aiter__(self) -> AsyncStreamIterator[bytes]:
        return AsyncStreamIterator(self.readline)

    def iter_chunked(self, n: int) -> AsyncStreamIterator[bytes]:
        """As StreamReader's."""
        self._content.set_read_chunk_size(n)
        return AsyncStreamIterator(lambda: self.read(n))

    def iter_any(self) -> AsyncStreamIterator[bytes]:
        """As StreamReader's."""
        return AsyncStreamIterator(self.readany)

    def iter_chunks(self) -> ChunkTupleAsyncStreamIterator:
        """As StreamReader's."""
        return ChunkTupleAsyncStreamIterator(self)  # type: ignore[arg-type]  # it asks for readchunk() only
