"""Coalescing: identical reads that are under way at the same time become one request, whose answer all of them get."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.exchange import Exchange
from moorline.clock import Clock
from moorline.errors import CallError, DeadlineExceeded, RateLimited
from moorline.policies.deadline import ambient, deadline

if TYPE_CHECKING:
    from moorline.calls.guards import Guards

__all__ = ["Flights", "Waiter", "flights_of"]

_boards: Final[weakref.WeakKeyDictionary[Guards, Flights]] = weakref.WeakKeyDictionary()
_lock: Final = threading.Lock()


class _Flight:
    """One request under way, and who is told of its end. ``end`` is None when it gave nothing that can be shared."""

    __slots__ = ("end", "waiting")

    def __init__(self) -> None:
        self.end: Exchange | CallError | None = None
        self.waiting: list[Callable[[], None]] = []


class Waiter:
    """One caller's share: its own deadline, which the request of another does not change."""

    __slots__ = ("at", "clock", "operation", "seconds", "service")

    def __init__(self, service: str, operation: str, seconds: float | None, clock: Clock) -> None:
        self.service = service
        self.operation = operation
        self.seconds = seconds
        self.clock = clock
        self.at = min(ambient(), math.inf if seconds is None else clock.monotonic() + seconds)

    def left(self) -> float | None:
        """Seconds until the deadline; None without one. Raises DeadlineExceeded when it is over."""
        if math.isinf(self.at):
            return None
        left = self.at - self.clock.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def rest(self) -> AbstractContextManager[None]:
        """Bounds who takes over another's request by what is left: it began to wait long ago."""
        left = self.left()
        return nullcontext() if left is None else deadline(left, clock=self.clock)

    def late(self) -> DeadlineExceeded:
        """The error of a caller whose time is over while another's request is under way."""
        bound = "the caller's deadline" if self.seconds is None else f"the deadline of {self.seconds:g} s"
        message = f"no complete answer within {bound}, to a request shared with others"
        return DeadlineExceeded(message, service=self.service, operation=self.operation)


class Flights:
    """The requests under way, by what makes them equal; those of each event loop, and of all threads, by themselves.

    The first caller sends, on its own task or thread; the others wait. When the first is cancelled, or gives up
    because its own time is over, one of the others takes over. Nothing is kept once the answer is there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Any, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def share_async(self, key: Any, send: Callable[[], Awaitable[Exchange]], waiter: Waiter) -> Exchange:
        """The answer of *send*, or of the equal request that is already under way."""
        loop = asyncio.get_running_loop()
        place = loop, key
        rest: AbstractContextManager[None] = nullcontext()
        while True:
            future: asyncio.Future[None] = loop.create_future()
            flight, leads = self._board(place, partial(_arrive, future))
            if leads:
                with self._flown(place, flight), rest:
                    flight.end = answer = await send()
                return answer
            try:
                async with asyncio.timeout(waiter.left()):
                    await future
            except TimeoutError:
                raise waiter.late() from None
            if flight.end is not None:
                return _own(flight.end)
            rest = waiter.rest()

    def share(self, key: Any, send: Callable[[], Exchange], waiter: Waiter) -> Exchange:
        """As ``share_async``, among the threads of this process."""
        place = None, key
        rest: AbstractContextManager[None] = nullcontext()
        while True:
            arrived = threading.Event()
            flight, leads = self._board(place, arrived.set)
            if leads:
                with self._flown(place, flight), rest:
                    flight.end = answer = send()
                return answer
            if not arrived.wait(waiter.left()):
                raise waiter.late()
            if flight.end is not None:
                return _own(flight.end)
            rest = waiter.rest()

    def _board(self, place: Any, wake: Callable[[], None]) -> tuple[_Flight, bool]:
        """The flight of *place*, and whether the caller must fly it; if not, it is woken at its end."""
        with self._lock:
            flight = self._flights.get(place)
            if flight is None:
                flight = self._flights[place] = _Flight()
                return flight, True
            flight.waiting.append(wake)
            return flight, False

    @contextmanager
    def _flown(self, place: Any, flight: _Flight) -> Iterator[None]:
        """Land whatever happens, and wake who waits."""
        try:
            yield
        except BaseException as error:
            flight.end = _shareable(error)
            raise
        finally:
            with self._lock:
                del self._flights[place]
                waiting, flight.waiting = flight.waiting, []
            for wake in waiting:
                wake()


def flights_of(guards: Guards) -> Flights:
    """What is under way for all services that share *guards*."""
    with _lock:
        found = _boards.get(guards)
        if found is None:
            found = _boards[guards] = Flights()
        return found


def _arrive(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _shareable(error: BaseException) -> CallError | None:
    """*error* if it would have been everybody's; not what only the sender's own end or deadline explains."""
    if not isinstance(error, CallError) or isinstance(error, DeadlineExceeded):
        return None
    if isinstance(error, RateLimited) and error.outcome == "not_sent":
        return None
    return error


def _own(end: Exchange | CallError) -> Exchange:
    """The answer, or the error raised, as the caller's own: what one does to it the others do not see."""
    if isinstance(end, Exchange):
        return end.copy(age=end.age, from_cache=end.from_cache, stale=end.stale)
    raise copy.copy(end) from end
