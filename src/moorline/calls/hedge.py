"""Hedging: when an answer is late, ask a second time, and take whichever comes first. Reads only, and opt-in."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from moorline.errors import CallerFault, ConfigurationError, CredentialFault
from moorline.policies.checks import check_count, check_seconds

__all__ = ["Hedge", "hedged", "hedged_async", "stoppable"]

T = TypeVar("T")
E = TypeVar("E")
_FIRST: Final = 0


@dataclass(frozen=True, slots=True)
class Hedge:
    """Send the request again when no answer came within *after* seconds, and again after as long, *most* times in all.

    The first answer wins, the others are cancelled. Choose *after* near the 95th percentile of the service's
    latency, so that one request in twenty is sent twice.

    Raises ConfigurationError naming the field.
    """

    after: float
    most: int = 1

    def __post_init__(self) -> None:
        check_seconds("Hedge", "after", self.after)
        check_count("Hedge", "most", self.most)

    @classmethod
    def of(cls, value: Any) -> Hedge | None:
        """A Hedge from itself or a number of seconds; None stays None. Raises ConfigurationError for all else."""
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(value)
        raise ConfigurationError(f"using.hedge must be seconds, a Hedge or None, not {type(value).__name__}")


class _Race(Generic[T]):
    """Who is under way, and what their ends mean: decisions for both colours."""

    def __init__(self, hedge: Hedge, may: Callable[[], bool]) -> None:
        self._hedge = hedge
        self._may = may
        self._errors: dict[int, BaseException] = {}
        self.sent = 1
        self.open = True  # whether another one may still be sent

    @property
    def patience(self) -> float | None:
        """Seconds to wait for an answer before the next is sent; None: for as long as it takes."""
        return self._hedge.after if self.open else None

    def late(self) -> bool:
        """No answer in time: whether to send another, which is paid for then."""
        if self.sent > self._hedge.most or not self._may():
            self.open = False
            return False
        self.sent += 1
        self.open = self.sent <= self._hedge.most
        return True

    def failed(self, number: int, error: BaseException) -> None:
        """One ended without an answer. Raises when this is the end of all: the first one's error tells most."""
        self._errors[number] = error
        answered = isinstance(error, (CallerFault, CredentialFault)) or not isinstance(error, Exception)
        if answered:  # the service did answer, that the caller is wrong
            raise error
        if len(self._errors) == self.sent:
            raise self._errors[_FIRST]


async def hedged_async(
    hedge: Hedge, first: Callable[[], Awaitable[T]], again: Callable[[], Awaitable[T]], may: Callable[[], bool]
) -> T:
    """The first answer of *first* and as many of *again* as it takes; *may* says, and pays, before each of those.

    The losers are cancelled and over when this returns. Raises the error of *first* when none has an answer.
    """
    race: _Race[T] = _Race(hedge, may)
    numbers = {_task(first): _FIRST}
    running = set(numbers)
    try:
        while True:
            done, running = await asyncio.wait(running, timeout=race.patience, return_when=asyncio.FIRST_COMPLETED)
            if not done and race.late():
                task = _task(again)
                numbers[task] = race.sent - 1
                running.add(task)
            for task in sorted(done, key=numbers.__getitem__):
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                if error is None:
                    return task.result()
                race.failed(numbers[task], error)
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for task in numbers:
            if task.done() and not task.cancelled():
                task.exception()  # it was looked at, or nobody wants to know


def _task(send: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
    async def sending() -> T:
        return await send()

    return asyncio.ensure_future(sending())


def hedged(
    hedge: Hedge,
    first: Callable[[threading.Event], T],
    again: Callable[[threading.Event], T],
    may: Callable[[], bool],
) -> T:
    """As ``hedged_async``, with a thread for each request. Each gets an Event that says that nobody wants its answer.

    A blocked socket cannot be told to stop: a loser sends nothing more, waits for no retry, and frees what it holds
    when its own answer or timeout comes; nobody waits for it.
    """
    race: _Race[T] = _Race(hedge, may)
    ends: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()
    unwanted = threading.Event()

    def start(number: int, send: Callable[[threading.Event], T]) -> None:
        def work() -> None:
            try:
                ends.put((number, send(unwanted), None))
            except BaseException as error:  # noqa: BLE001 (the caller raises it)
                ends.put((number, None, error))

        context = contextvars.copy_context()  # the caller's deadline holds in there too
        threading.Thread(target=context.run, args=(work,), name="moorline-hedge", daemon=True).start()

    try:
        start(_FIRST, first)
        while True:
            try:
                number, answer, error = ends.get(timeout=race.patience)
            except queue.Empty:
                if race.late():
                    start(race.sent - 1, again)
                continue
            if error is None:
                return answer  # type: ignore[return-value]
            race.failed(number, error)
    finally:
        unwanted.set()


def stoppable(steps: Generator[E, Any, T], unwanted: threading.Event) -> Generator[E, Any, T]:
    """*steps*, which end before the next effect once *unwanted* is set; what they hold is freed."""
    try:
        effect = steps.send(None)
        while True:
            if unwanted.is_set():
                raise _Unwanted
            try:
                value = yield effect
            except BaseException as error:  # noqa: BLE001 (the pipeline raises it again)
                effect = steps.throw(error)
            else:
                effect = steps.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


class _Unwanted(BaseException):
    """Another request had an answer first."""
