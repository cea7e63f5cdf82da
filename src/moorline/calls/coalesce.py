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


class _Seat:
    """One who waits: how to wake it, and whether it has to send, because who did before is gone."""

    __slots__ = ("leads", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.leads = False


class _Flight:
    """One request under way, who waits for its end, and the end when it is there."""

    __slots__ = ("end", "waiting")

    def __init__(self) -> None:
        self.end: Exchange | CallError | None = None
        self.waiting: list[_Seat] = []


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
        future: asyncio.Future[None] = loop.create_future()
        flight, seat = self._board(place, partial(_arrive, future))
        if seat is not None:
            with self._seated(place, flight, seat):
                try:
                    async with asyncio.timeout(waiter.left()):
                        await future
                except TimeoutError:
                    raise waiter.late() from None
            if flight.end is not None:
                return _own(flight.end)
        with self._flown(place, flight), nullcontext() if seat is None else waiter.rest():
            flight.end = answer = await send()
        return answer

    def share(self, key: Any, send: Callable[[], Exchange], waiter: Waiter) -> Exchange:
        """As ``share_async``, among the threads of this process."""
        place = None, key
        arrived = threading.Event()
        flight, seat = self._board(place, arrived.set)
        if seat is not None:
            with self._seated(place, flight, seat):
                if not arrived.wait(waiter.left()):
                    raise waiter.late()
            if flight.end is not None:
                return _own(flight.end)
        with self._flown(place, flight), nullcontext() if seat is None else waiter.rest():
            flight.end = answer = send()
        return answer

    def _board(self, place: Any, wake: Callable[[], None]) -> tuple[_Flight, _Seat | None]:
        """The flight of *place*, and the caller's seat in it; without one the caller must fly it."""
        with self._lock:
            flight = self._flights.get(place)
            if flight is None:
                flight = self._flights[place] = _Flight()
                return flight, None
            seat = _Seat(wake)
            flight.waiting.append(seat)
            return flight, seat

    @contextmanager
    def _seated(self, place: Any, flight: _Flight, seat: _Seat) -> Iterator[None]:
        """Who leaves before the end gives up the seat, and hands on what it was just asked to do."""
        try:
            yield
        except BaseException:
            with self._lock:
                leads = seat.leads
                if seat in flight.waiting:
                    flight.waiting.remove(seat)
            if leads:
                self._hand_over(place, flight)
            raise

    @contextmanager
    def _flown(self, place: Any, flight: _Flight) -> Iterator[None]:
        """Land with the end, and wake all; without one that can be shared, the next in line flies on."""
        try:
            yield
        except BaseException as error:
            flight.end = _shareable(error)
            raise
        finally:
            if flight.end is None:
                self._hand_over(place, flight)
            else:
                with self._lock:
                    del self._flights[place]
                    waiting, flight.waiting = flight.waiting, []
                for seat in waiting:
                    seat.wake()

    def _hand_over(self, place: Any, flight: _Flight) -> None:
        with self._lock:
            if not flight.waiting:
                del self._flights[place]
                return
            seat = flight.waiting.pop(0)
            seat.leads = True
        seat.wake()


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
