"""A body that a session's user reads by itself, watched: the deadline holds, and what the attempt held is freed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import aiohttp
from aiohttp.streams import AsyncStreamIterator, ChunkTupleAsyncStreamIterator, StreamReader

from moorline.calls.effects import Lease
from moorline.calls.timer import BodyTimer
from moorline.clock import Clock
from moorline.errors import CallError

__all__ = ["Body", "Watch"]

T = TypeVar("T")


class Blamer(Protocol):
    """Who knows the call, and makes its errors."""

    clock: Clock

    def late(self) -> CallError:
        """The deadline passed while the body was read."""
        ...

    def lost(self, cause: Exception) -> CallError:
        """The body broke off."""
        ...


class Watch:
    """One body: its deadline, its failures, and the lease that ends with it."""

    __slots__ = ("_blamer", "_deadline", "_lease", "_over", "_timer")

    def __init__(self, blamer: Blamer, lease: Lease | None, deadline: float) -> None:
        self._blamer = blamer
        self._lease = lease
        self._deadline = deadline
        self._timer: BodyTimer | None = None
        self._over = False

    async def read(self, reading: Coroutine[Any, Any, T]) -> T:
        """What *reading* gives, within the deadline. Raises CallError."""
        if self._over or math.isinf(self._deadline):
            timer = BodyTimer(None)
        else:
            timer = self._timer = self._timer or BodyTimer(self._deadline - self._blamer.clock.monotonic())
        try:
            with timer:
                return await reading
        except asyncio.CancelledError:
            self.settle(worked=None)
            raise
        except (aiohttp.ClientError, OSError) as error:
            self.settle(worked=False)
            if timer.expired:
                raise self._blamer.late() from None
            raise self._blamer.lost(error) from error
        finally:
            reading.close()  # never begun where the time was over before

    def over(self) -> None:
        """The connection is free again: the body was read, or is not wanted."""
        self._over = True
        if self._timer is not None:
            self._timer.close()
        self.settle(worked=True)  # where it broke off, its reader knew before

    def settle(self, *, worked: bool | None) -> None:
        """Free what the attempt held."""
        if self._lease is not None:
            self._lease.settle(worked=worked)


class Body:
    """Reads like the StreamReader that it wraps."""

    def __init__(self, content: StreamReader, watch: Watch) -> None:
        self._content = content
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self, n: int = -1) -> bytes:
        """As StreamReader's."""
        return await self._watch.read(self._content.read(n))

    async def readany(self) -> bytes:
        """As StreamReader's."""
        return await self._watch.read(self._content.readany())

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        """As StreamReader's."""
        return await self._watch.read(self._content.readline(max_line_length=max_line_length))

    async def readuntil(self, separator: bytes = b"\n", *, max_size: int | None = None) -> bytes:
        """As StreamReader's."""
        return await self._watch.read(self._content.readuntil(separator, max_size=max_size))

    async def readexactly(self, n: int) -> bytes:
        """As StreamReader's."""
        return await self._watch.read(self._content.readexactly(n))

    async def readchunk(self) -> tuple[bytes, bool]:
        """As StreamReader's."""
        return await self._watch.read(self._content.readchunk())

    async def wait_eof(self) -> None:
        """As StreamReader's."""
        await self._watch.read(self._content.wait_eof())

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
