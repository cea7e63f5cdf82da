"""Brokers and stores without threads, so that a history of them can be had again; and calls that are cut."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from moorline.jobs.brokers.carried import CarriedBroker
from moorline.store import Store

__all__ = ["Cut", "InTurn", "Loop", "UnthreadedBroker", "awaited", "unthreaded"]

R = TypeVar("R")


async def awaited(deed: Awaitable[R]) -> R:
    """As a coroutine, which loops want."""
    return await deed


class Cut(Awaitable[R]):
    """*deed*, cancelled where it waits for the time number *at* (None: never)."""

    def __init__(self, deed: Awaitable[R], at: int | None) -> None:
        self._deed = deed
        self._at = at

    def __await__(self) -> Generator[Any, Any, R]:
        inner = self._deed.__await__()
        left = self._at
        try:
            waits = next(inner)
            while True:
                if left == 0:
                    yield  # what it has begun is under way
                    waits.cancel()
                    waits = inner.throw(asyncio.CancelledError())
                else:
                    try:
                        yield waits
                    except BaseException as error:  # noqa: BLE001 -- what the wait has come to is the deed's
                        waits = inner.throw(error)
                    else:
                        waits = next(inner)
                left = None if left is None else left - 1
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Loop(asyncio.SelectorEventLoop):
    """What others do in threads it does itself, so that each history can be had again."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """See ``asyncio``."""
        del executor
        return self.soon(func, *args)

    def soon(self, function: Callable[..., R], *arguments: Any) -> asyncio.Future[R]:
        """In its next turn, whether or not somebody still waits for it by then."""
        future: asyncio.Future[R] = self.create_future()

        def act() -> None:
            try:
                answer = function(*arguments)
                if isinstance(answer, Exception):
                    raise answer
            except Exception as error:  # noqa: BLE001 -- whatever it is belongs to who asked
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(answer)

        self.call_soon(act)
        return future


class InTurn:
    """A writer without a thread."""

    def __init__(self, group: Callable[[Any, Any], Any]) -> None:
        self._group = group

    def submit_async(self, apply: Any, payload: Any, *, within: float | None = None) -> asyncio.Future[Any]:
        del within
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        return loop.soon(self._group, apply, payload)

    def submit(self, apply: Any, payload: Any, *, within: float | None = None) -> concurrent.futures.Future[Any]:
        del within
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            answer = self._group(apply, payload)
            if isinstance(answer, Exception):
                raise answer
            future.set_result(answer)
        except Exception as error:  # noqa: BLE001 -- as above
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing waits."""


def unthreaded(store: Store) -> None:
    """Its writes are transactions in whatever thread asks, and nobody is woken."""
    assert store._writer is not None
    assert store._engines is not None
    store._writer.close()
    engine = store._engines.write

    def group(apply: Any, payload: Any) -> Any:
        with engine.begin() as connection:
            (answer,) = apply(connection, [payload])
        return answer

    store._writer = InTurn(group)  # type: ignore[assignment]
    store.listen = lambda *_: lambda: None  # type: ignore[method-assign]


class UnthreadedBroker(CarriedBroker):
    """As it is, on an ``InTurn`` instead of each of its threads."""

    def _thread(self, name: str) -> Any:
        del name
        return InTurn(lambda apply, payload: apply(None, [payload])[0])
