"""Bodies that plain clients read by themselves, watched: the deadline holds, and what the attempt held is freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2

from moorline.calls.timer import BodyTimer
from moorline.calls.watching import Watch
from moorline.calls.wires import WIRE_ERRORS
from moorline.errors import CallError

__all__ = ["AsyncBody", "SyncBody"]


class AsyncBody(httpx2.AsyncByteStream):
    """A body read on the loop within the deadline."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        watch = self._watch
        parts = aiter(self._stream)
        timer = BodyTimer(watch.left())
        try:
            while True:
                left = watch.left()
                if left is not None and left <= 0:  # data that is always there at once never lets the timer ring
                    raise watch.late()
                try:
                    with timer:
                        part = await anext(parts)
                except StopAsyncIteration:
                    break
                except WIRE_ERRORS as error:
                    if isinstance(error, TimeoutError) and timer.expired:
                        raise watch.late() from None
                    raise watch.failed(error) from error
                yield part
        except CallError:
            watch.settle(worked=False)
            await self._stream.aclose()
            raise
        except asyncio.CancelledError:
            watch.settle(worked=None)
            raise
        finally:
            timer.close()
        watch.settle(worked=True)

    async def aclose(self) -> None:
        """Free the connection and what the attempt held."""
        try:
            await self._stream.aclose()
        finally:
            self._watch.settle(worked=True)


class SyncBody(httpx2.SyncByteStream):
    """A body read blocking: each read on the socket is clamped, and each part checked."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch
        context: Any = watch.context
        context.clamp_body(watch.deadline)

    def __iter__(self) -> Iterator[bytes]:
        watch = self._watch
        try:
            try:
                for part in self._stream:
                    left = watch.left()
                    if left is not None and left <= 0:
                        raise watch.late()
                    yield part
            except WIRE_ERRORS as error:
                if isinstance(error, CallError):
                    raise
                raise watch.failed(error) from error
        except CallError:
            watch.settle(worked=False)
            self._stream.close()
            raise
        watch.settle(worked=True)

    def close(self) -> None:
        """Free the connection and what the attempt held."""
        try:
            self._stream.close()
        finally:
            self._watch.settle(worked=True)
