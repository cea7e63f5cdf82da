"""Bodies that users of httpx read by themselves, watched: the deadline holds, and what the attempt held is freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx

from moorline.calls.adapters.httpcore_pools import Marks, mend
from moorline.calls.timer import BodyTimer
from moorline.calls.watching import Watch
from moorline.errors import CallError

__all__ = ["WIRE_ERRORS", "AsyncBody", "Body"]

WIRE_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError)


class Body(httpx.SyncByteStream):
    """A body read blocking: each read on the socket is clamped, and each part checked."""

    def __init__(self, stream: httpx.SyncByteStream, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        watch = self._watch
        try:
            for part in self._stream:
                if watch.over:
                    raise watch.late()
                yield part
        except WIRE_ERRORS as error:
            self._stream.close()
            if isinstance(error, CallError):
                raise
            raise watch.failed(error) from error
        watch.settle(worked=True)

    def close(self) -> None:
        """Free the connection and what the attempt held."""
        try:
            self._stream.close()
        finally:
            self._watch.settle(worked=True)


class AsyncBody(httpx.AsyncByteStream):
    """A body read on the loop within the deadline, from a connection of *transport*."""

    def __init__(self, stream: Any, watch: Watch, marks: Marks, transport: Any) -> None:
        self._stream = stream
        self._watch = watch
        self._marks = marks
        self._transport = transport
        self._cancelled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        watch = self._watch
        parts = aiter(self._stream)
        timer = BodyTimer(watch.left())
        try:
            while True:
                if watch.over:  # data that is always there at once never lets the timer ring
                    raise watch.late()
                try:
                    with timer:
                        part = await anext(parts)
                except StopAsyncIteration:
                    break
                except WIRE_ERRORS as error:
                    raise (watch.late() if timer.expired else watch.failed(error)) from error
                yield part
        except CallError:
            await self.aclose()
            raise
        except asyncio.CancelledError:
            self._cancelled = True
            watch.settle(worked=None)
            raise
        finally:
            timer.close()
        watch.settle(worked=True)

    async def aclose(self) -> None:
        """Free the connection and what the attempt held."""
        try:
            await self._stream.aclose()
        except asyncio.CancelledError:
            self._cancelled = True
            raise
        finally:
            self._marks.alive = False  # not earlier: until here the pool has its own hold on it
            self._watch.settle(worked=True)
            if self._cancelled:  # a second cancellation stops the pool in giving the slot back, and it tries only once
                await mend(self._transport)
