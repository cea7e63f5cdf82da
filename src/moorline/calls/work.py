"""``Work``: what takes several requests, or other means than ours, as a value with the face of a Call.

It is written once, as a coroutine. Awaited, that runs on the caller's loop; for ``result()`` on a loop of this process,
in a thread that all such results share, while the caller waits. What is the caller's own (the source of an upload, a
function that is told of progress) is always run where it may be: blocking code in a thread of the loop's, or, for
``result()``, in the very thread that waits for it, so that a generator over a database's cursor works as it does
everywhere else.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar

from moorline.errors import Misuse

__all__ = ["Home", "Progress", "Work", "on_shared_loop"]

T = TypeVar("T")
P = ParamSpec("P")

Progress = Callable[[int, int | None], None]
"""Is told how many bytes are done, and of how many (None: unknown)."""


class Home(Protocol):
    """Where the caller's own code runs."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of the caller's that may block returns."""
        ...

    async def tell(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of the caller's that returns at once does."""
        ...


class _OnLoop:
    """The caller awaits: what may block gets a thread, what does not runs here."""

    @staticmethod
    async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(function, *args, **kwargs)

    @staticmethod
    async def tell(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


class _Waiting:
    """The caller's thread waits for the end, and runs what is its own meanwhile."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        answer: Future[Any] = Future()
        self._asked.put((answer, lambda: function(*args, **kwargs)))
        return await asyncio.wrap_future(answer)

    tell = run

    def over(self, _future: Future[Any]) -> None:
        """Nothing more will be asked."""
        self._asked.put(None)

    def serve(self) -> None:
        """Run what is asked until it is over."""
        while (asked := self._asked.get()) is not None:
            answer, function = asked
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                found = function()
            except Exception as error:  # noqa: BLE001 (raised where it was asked)
                answer.set_exception(error)
            else:
                answer.set_result(found)


_ON_LOOP: Final = _OnLoop()


class Work(Generic[T]):
    """Something to do for *service*, that was not begun yet: ``await`` it, or block with ``result()``. Each time it is
    done anew. It cannot be enqueued; a job of yours that does it can.
    """

    __slots__ = ("_begin", "operation", "service")

    def __init__(self, service: str, operation: str, begin: Callable[[Home], Coroutine[Any, Any, T]]) -> None:
        self.service = service
        self.operation = operation
        self._begin = begin

    def __repr__(self) -> str:
        return f"<Work {self.service}.{self.operation}>"

    def __await__(self) -> Generator[Any, None, T]:
        return self._begin(_ON_LOOP).__await__()

    def result(self) -> T:
        """Do it and block until it is done. Raises Misuse inside a running event loop, and what the work raises."""
        check_blocking(f"{self.service}.{self.operation}")
        home = _Waiting()
        future = on_shared_loop(self._begin(home))
        future.add_done_callback(home.over)
        try:
            home.serve()
            return future.result()
        except BaseException:  # KeyboardInterrupt, above all: what nobody waits for is not done
            future.cancel()
            raise


def check_blocking(name: str) -> None:
    """Raise Misuse where blocking would stop a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise Misuse(f"{name}.result() would block the running event loop; use `await` here instead")


class _SharedLoop:
    """The loop of a process, in a thread of its own, begun when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def get(self) -> asyncio.AbstractEventLoop:
        """The running loop; a process that was forked has one of its own."""
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="moorline-work", daemon=True).start()
            return self._loop

    def started(self) -> bool:
        """Whether this process has one."""
        return self._loop is not None and self._process == os.getpid()


_shared: Final = _SharedLoop()


def on_shared_loop(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop of this process, in the context of the caller (its deadline)."""
    return asyncio.run_coroutine_threadsafe(work, _shared.get())


def has_shared_loop() -> bool:
    """Whether any work was done blocking in this process."""
    return _shared.started()
