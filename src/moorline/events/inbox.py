"""The inbox: every event is stored once, together with the jobs of its handlers, before its sender gets an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from moorline.errors import ConfigurationError, EventNotFound, EventPruned, StoreOverloaded
from moorline.events.compression import COMPRESSED_OVER, ZSTD
from moorline.events.handlers import Handlers
from moorline.events.inbox_sql import (
    Arrival,
    Replay,
    Stored,
    enqueue_again,
    event_by_id,
    events_by_ids,
    several_events,
    store_arrivals,
    store_deliveries,
)
from moorline.events.inbox_sqlite import STORE_ARRIVALS
from moorline.events.ledger import Ledger
from moorline.events.own import Beside
from moorline.events.stored_headers import kept
from moorline.jobs.brokers.sql import CHANNEL
from moorline.jobs.brokers.sql_order import apart
from moorline.jobs.brokers.sql_outbox import OUTBOX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorline.events.event import Event
    from moorline.events.relay import Relay
    from moorline.events.replay import Replays
    from moorline.store.store import Store
    from moorline.store.writer import Apply

W = TypeVar("W")
R = TypeVar("R")

__all__ = ["Inbox", "Stored", "kept_event"]

MOST_LISTED = 10_000
MAX_WAIT = 1.0
"""Seconds that an event may have to wait for its commit, unless told otherwise."""


class Inbox:
    """The stored events of one application.

    ``add`` deduplicates by service and the sender's id, stores, and enqueues one job for each matching handler, all in
    one transaction that is shared with whatever else arrives at the moment; it returns after the commit. Every method
    has a blocking twin that ends in ``_sync``. All raise StoreUnavailable when the database is down. Bodies of
    more than ``compress_over`` bytes (0: none) are compressed on their way to the disk. With a ``relay`` the jobs are
    for its broker: they wait in the outbox until some process runs the relay.
    """

    ledger: Ledger | None = None
    """Where it is noted how much came, and what was refused."""

    def __init__(
        self,
        store: Store,
        handlers: Handlers | None = None,
        *,
        compress_over: int = COMPRESSED_OVER,
        max_wait: float = MAX_WAIT,
        relay: Relay | None = None,
    ) -> None:
        if relay is not None and relay.store is not store:
            raise ConfigurationError("relay: it relays the jobs of another store")
        self.store = store
        self._relayed = relay is not None
        self._apply = STORE_ARRIVALS if store.dialect == "sqlite" else store_arrivals
        self._channel = OUTBOX if self._relayed else CHANNEL
        self._compress_over = compress_over
        self.handlers = Handlers() if handlers is None else handlers
        self.max_wait = max_wait
        self._waking = False
        self.ledger = Ledger(store)

    def admit(self, waited: float = 0.0) -> None:
        """Raises StoreOverloaded if an event that *waited* so many seconds would not be stored within ``max_wait``.

        To be asked before its body is read and checked; ``add`` asks again.
        """
        if waited > self.max_wait:
            raise StoreOverloaded(f"requests wait for {waited:.2f} s before they are begun")
        self.store.admit(self.max_wait - waited)

    async def add(self, event: Event) -> Stored:
        """Store the event and its jobs; a duplicate is counted and makes no jobs.

        Cancelling it does not undo it. Raises StoreOverloaded when too much waits to be written.
        """
        arrival = self._arrival(event)
        stored = await self.store.write(*self._with_keys(self._apply, arrival, (arrival,)), within=self.max_wait)
        if arrival.handlers and not stored.duplicate:
            self._wake_soon()
        return stored

    async def add_all(self, events: Sequence[Event]) -> list[Stored]:
        """As ``add``, for events that came together: all are stored, or none."""
        arrivals = [self._arrival(event) for event in events]
        stored = await self.store.write(*self._with_keys(store_deliveries, arrivals, arrivals), within=self.max_wait)
        if _to_be_done(arrivals, stored):
            self._wake_soon()
        return stored

    def add_all_sync(self, events: Sequence[Event]) -> list[Stored]:
        """As ``add_all``, blocking."""
        arrivals = [self._arrival(event) for event in events]
        stored = self.store.write_sync(*self._with_keys(store_deliveries, arrivals, arrivals), within=self.max_wait)
        if _to_be_done(arrivals, stored):
            self.store.notify(self._channel)
        return stored

    def add_sync(self, event: Event) -> Stored:
        """As ``add``, blocking."""
        arrival = self._arrival(event)
        stored = self.store.write_sync(*self._with_keys(self._apply, arrival, (arrival,)), within=self.max_wait)
        if arrival.handlers and not stored.duplicate:
            self.store.notify(self._channel)
        return stored

    def beside(self, event: Event) -> Beside:
        """The event, to be stored in a transaction that changes something else, and not without it."""
        arrival = self._arrival(event)
        keys = () if self._relayed else [order_key for _, order_key in arrival.handlers]

        def wake() -> None:
            if arrival.handlers:
                self.store.notify(self._channel)

        return Beside(
            lambda connection: store_arrivals(connection, [arrival]), lambda apply, one: apart(apply, one, keys), wake
        )

    async def get(self, id: str) -> Event:
        """The event with that id in the inbox, or with that id of its sender's. Raises EventNotFound, EventPruned."""
        return kept_event(id, await self.store.read(event_by_id, id))

    def get_sync(self, id: str) -> Event:
        """As ``get``, blocking."""
        return kept_event(id, self.store.read_sync(event_by_id, id))

    async def get_several(self, ids: Sequence[str]) -> dict[str, Event]:
        """The events with these ids in the inbox; those that are not stored are left out."""
        return await self.store.read(events_by_ids, ids)

    def get_several_sync(self, ids: Sequence[str]) -> dict[str, Event]:
        """As ``get_several``, blocking."""
        return self.store.read_sync(events_by_ids, ids)

    async def recent(
        self, *, service: str | None = None, type: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[Event]:
        """The newest events first; the next page is that ``before`` the last one's ``inbox_id``."""
        return await self.store.read(several_events, service, type, before, _limited(limit))

    def recent_sync(
        self, *, service: str | None = None, type: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[Event]:
        """As ``recent``, blocking."""
        return self.store.read_sync(several_events, service, type, before, _limited(limit))

    async def replay(self, id: str, *, handler: str | None = None) -> list[str]:
        """Enqueue the event's handlers again, or the one of that name; the ids of the new jobs.

        Raises EventNotFound, EventPruned; ConfigurationError when there is no such handler for it.
        """
        again = self._again(await self.get(id), handler)
        jobs = await self.store.write(*self._with_keys(enqueue_again, again, (again,)))
        self.store.notify(self._channel)
        return jobs

    def replay_sync(self, id: str, *, handler: str | None = None) -> list[str]:
        """As ``replay``, blocking."""
        again = self._again(self.get_sync(id), handler)
        jobs = self.store.write_sync(*self._with_keys(enqueue_again, again, (again,)))
        self.store.notify(self._channel)
        return jobs

    @property
    def replays(self) -> Replays:
        """Many events handled again: by filter, by time, at a rate, with progress, to be cancelled and resumed."""
        from moorline.events.replay import Replays

        return Replays(self.store, self.handlers, relayed=self._relayed)

    def _arrival(self, event: Event) -> Arrival:
        key = event.dedup_key or event.id
        return Arrival(
            event.service,
            key,
            event.type,
            event.action,
            event.received_at,
            event.timestamp,
            event.secret_index,
            kept(event.headers),
            event.body,
            ZSTD if 0 < self._compress_over < len(event.body) else None,
            None if key == event.id else event.id,
            event.secret or None,
            self.handlers.planned(event),
            event.once_for,
            self._relayed,
        )

    def _again(self, event: Event, handler: str | None) -> Replay:
        planned = self.handlers.planned(event)
        if handler is not None:
            names = [one.name for one, _ in planned]
            if handler not in names:
                known = ", ".join(names) or "none"
                raise ConfigurationError(f"handler: {handler!r} does not handle {event.name}; those that do: {known}")
            planned = [one for one in planned if one[0].name == handler]
        return Replay(str(event.inbox_id), self.store.clock.wall(), planned, self._relayed)

    def _with_keys(self, apply: Apply[W, R], wanted: W, each: Sequence[Arrival | Replay]) -> tuple[Apply[Any, R], Any]:
        """With the keys locked that the jobs need; in the outbox they need none."""
        keys = () if self._relayed else [order_key for one in each for _, order_key in one.handlers]
        return apart(apply, wanted, keys)

    def _wake_soon(self) -> None:
        """A commit answers many at once: the workers are woken once for all of them."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self.store.notify(self._channel)


def _to_be_done(arrivals: Sequence[Arrival], stored: Sequence[Stored]) -> bool:
    return any(arrival.handlers and not one.duplicate for arrival, one in zip(arrivals, stored, strict=True))


def kept_event(id: str, event: Event | None) -> Event:
    """The event, if it was found and is whole. Raises EventNotFound, EventPruned."""
    if event is None:
        raise EventNotFound(f"no event {id!r} is stored")
    if event.pruned:
        raise EventPruned(f"event {id}: its body and headers are no longer kept (webhooks.keep_days)")
    return event


def _limited(limit: int) -> int:
    if not 1 <= limit <= MOST_LISTED:
        raise ConfigurationError(f"limit: expected 1 to {MOST_LISTED:,}, got {limit}")
    return limit
