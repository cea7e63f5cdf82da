"""The refreshes of tokens that are under way in this process: one for each connection, and all of a database."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from moorline.calls.flight import Flight

if TYPE_CHECKING:
    from moorline.secrets.secret import Secret
    from moorline.store.store import Store

__all__ = ["LEASE", "Aim", "Refreshing", "flights_of", "land_refreshes"]

LEASE: Final = 30.0
"""Seconds: longer than any refresh takes."""


class Aim(NamedTuple):
    """What a refresh is for: another token than the one that was *refused*, if any, *at_once* however new that is."""

    refused: Secret | None = None
    at_once: bool = False


class Refreshing(Flight[bool]):
    """A look at the row, and the refresh that it calls for, for all in this process who have that *aim*; False: another
    process is at it, and there is no token until it is done.
    """

    def __init__(self, aim: Aim) -> None:
        super().__init__()
        self.aim = aim


_flights: Final[weakref.WeakKeyDictionary[Store, _All]] = weakref.WeakKeyDictionary()
_flights_lock: Final = threading.Lock()


class _All:
    """The refreshes under way on one database, which is not closed before they have ended."""

    def __init__(self) -> None:
        self._flights: set[Refreshing] = set()
        self._lock = threading.Lock()

    def add(self, flight: Refreshing) -> None:
        with self._lock:
            self._flights.add(flight)

    def discard(self, flight: Refreshing) -> None:
        with self._lock:
            self._flights.discard(flight)

    def land(self) -> None:
        with self._lock:
            flights = list(self._flights)
        for flight in flights:
            flight.linger(LEASE)


def flights_of(store: Store) -> _All:
    """Those of that database."""
    with _flights_lock:
        found = _flights.get(store)
        if found is None:
            found = _flights[store] = _All()
            store.before_close(found.land)
        return found


def land_refreshes(store: Store) -> None:
    """Wait for the refreshes that are under way there: before what they need is closed. Blocks."""
    flights_of(store).land()
