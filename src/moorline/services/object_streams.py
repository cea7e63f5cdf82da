"""``Content``: what is read of an object in parts, as many as wait for their reader and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from moorline.calls.work import check_blocking, on_shared_loop
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from moorline.calls.checksums import Checker
    from moorline.policies.policy import Policy
    from moorline.services.objects import Objects
    from moorline.services.storage.protocol import Head

__all__ = ["Content"]

_WAITING: Final = 4  # parts that wait for their reader


class Content:
    """The content of an object in parts, for one use: ``async with`` and ``async for``, or ``with`` and ``for``."""

    def __init__(self, service: Objects, key: str, policy: Policy) -> None:
        self._service = service
        self._key = key
        self._policy = policy
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._known: Head | None = None
        self.verified: str | None = None
        """The checksum that the content was held against, once all of it was read."""

    @property
    def head(self) -> Head:
        """What is known of the object."""
        if self._known is None:
            raise ConfigurationError("the stream is not open yet: use `with` or `async with`")
        return self._known

    async def __aenter__(self) -> Self:
        service = self._service
        self._known = head = await service.named("stream", service.head(self._key))
        self._task = asyncio.create_task(self._fill(head, await service.checker(head)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self._next()) is not None:
            yield part

    def __enter__(self) -> Self:
        check_blocking(f"{self._service.name}.stream")
        return on_shared_loop(self.__aenter__()).result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        on_shared_loop(self.__aexit__(kind, error, trace)).result()

    def __iter__(self) -> Iterator[bytes]:
        while (part := on_shared_loop(self._next()).result()) is not None:
            yield part

    async def _next(self) -> bytes | None:
        if self._task is None:
            raise ConfigurationError("the stream is closed, or not open yet")
        part = await self._parts.get()
        if part is None:
            self._parts.put_nowait(None)  # for who asks again
            await self._task
        return part

    async def _fill(self, head: Head, checker: Checker) -> None:
        service = self._service

        async def take(part: bytes) -> None:
            checker.update(part)
            await self._parts.put(part)

        try:
            await service.read_into("stream", service.wanted(head), take, self._policy)
            self.verified = service.placed(checker.finish, "stream")
        finally:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await self._parts.put(None)
