"""What another broker has in the database, if there is one: what it cannot hold, and what waits to be relayed to it."""
# ruff: noqa: ARG002 -- of ``Nowhere``, which looks at nothing, and ``InOutbox``, which looks at no keys

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorline.errors import ConfigurationError, JobNotFound
from moorline.jobs.broker import Broker, Claimed, Completion, JobFilter, Keyed, Rescued, WorkerInfo
from moorline.jobs.brokers.many import Outcome, newest, to_each
from moorline.jobs.brokers.sql import CHANNEL, SqlBroker
from moorline.jobs.brokers.sql_insert import insert_missing
from moorline.jobs.brokers.sql_order import apart
from moorline.jobs.brokers.sql_outbox import OUTBOX, outbox_within, remove
from moorline.jobs.job import Job, JobFailure, JobRow, State
from moorline.jobs.notes import Notes
from moorline.jobs.notes import Nowhere as NoNotes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = ["InDatabase", "InOutbox", "Keeper", "Nowhere"]

_OF_OUTBOX: Final = frozenset[State]({"outbox", "cancelled"})
_POLL: Final = 1.0  # seconds between two looks when nothing was heard


class Keeper(Broker, Protocol):
    """A broker for the jobs that a carrier cannot hold."""

    def check(self) -> None:
        """Raises ConfigurationError if it takes no jobs."""
        ...

    def both_within(self, connection: object, carried: Sequence[JobRow], kept: Sequence[JobRow]) -> list[str]:
        """Insert both in that transaction: the first are relayed to the carrier. The ids of the second."""
        ...


class InDatabase(SqlBroker):
    """Asked for jobs only as often as there may be some."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._look_at = -math.inf  # by the monotonic clock
        self._unlisten: Callable[[], None] | None = None

    def check(self) -> None:
        """See ``Keeper``."""

    def close(self) -> None:
        """See ``Broker``."""
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    def both_within(self, connection: object, carried: Sequence[JobRow], kept: Sequence[JobRow]) -> list[str]:
        """See ``Keeper``."""
        if carried:
            outbox_within(self.store, connection, carried)
        return self.enqueue_within(connection, kept) if kept else []

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """See ``Broker``. Those that wait to be relayed have arrived: they stay in this database."""
        if not again:
            return await super().enqueue(rows)
        ids: list[str] = await self.store.write(*apart(_adopt, rows, [row.order_key for row in rows]))
        self._announce()
        return ids

    async def claim(self, worker: WorkerInfo, limit: int, *, alone: bool = False) -> Claimed:
        """See ``Broker``."""
        if self._unlisten is None:
            self._unlisten = self.store.listen(CHANNEL, self._heard)
        now = self._clock.monotonic()
        if not alone and now < self._look_at:
            return Claimed([])
        self._look_at = now + _POLL
        claimed = await super().claim(worker, limit, alone=alone)
        if claimed.jobs:
            self._heard()
        elif claimed.next_at is not None:
            self._look_at = min(self._look_at, now + claimed.next_at - self._clock.wall())
        return claimed

    def _announce(self, *, delay: float = 0.0) -> None:
        super()._announce(delay=delay)
        self._heard()

    def _heard(self) -> None:
        self._look_at = -math.inf


class InOutbox(SqlBroker):
    """For a broker that claims nothing here: what waits to be relayed to it, and what of that was called off."""

    async def counts(self) -> dict[tuple[str, State], int]:
        """See ``Broker``."""
        return {lane: count for lane, count in (await super().counts()).items() if lane[1] in _OF_OUTBOX}

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``. Unique keys are looked at only when they are relayed."""
        outbox_within(self.store, connection, rows)
        return [row.id for row in rows]

    def _state_again(self, connection: Connection, job: Job) -> State:
        return "outbox"

    def _announce(self, *, delay: float = 0.0) -> None:
        self.store.notify(OUTBOX, delay=delay)

    async def list(self, which: JobFilter) -> list[Job]:  # last: below it, ``list`` is this method
        """See ``Broker``."""
        states = _OF_OUTBOX if which.state is None else {which.state} & _OF_OUTBOX
        found: list[Job] = []
        for state in states:
            found += await super().list(replace(which, state=state))
        return newest(found, which.limit)


class Nowhere:
    """There is no database, so there are no such jobs."""

    def __init__(self) -> None:
        self.notes: Notes = NoNotes()

    def check(self) -> None:
        """See ``Keeper``."""
        raise ConfigurationError("unique, key, within: this queue needs a database (outbox=) for such jobs")

    def both_within(self, connection: object, carried: Sequence[JobRow], kept: Sequence[JobRow]) -> list[str]:
        """See ``Keeper``."""
        self.check()
        return []

    def home(self, *, keyed: Keyed | None = None, job: str | None = None) -> str | None:
        """None."""
        return None

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """Raises ConfigurationError."""
        self.check()
        return []

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        """Raises ConfigurationError."""
        self.check()
        return []

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """Raises ConfigurationError."""
        self.check()
        return []

    async def claim(self, worker: WorkerInfo, limit: int, *, alone: bool = False) -> Claimed:
        """None."""
        return Claimed([])

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """None is known."""
        return [False] * len(completions)

    async def give_back(self, worker: WorkerInfo, held: Sequence[str]) -> int:
        """None is held."""
        return 0

    def heartbeat(self, worker: WorkerInfo) -> None:
        """Nobody asks."""

    async def leave(self, worker: WorkerInfo) -> None:
        """Nobody asks."""

    async def rescue(self, worker: WorkerInfo) -> Rescued:
        """There is nothing to be rescued."""
        return Rescued()

    async def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        raise JobNotFound(f"no job has the id {job_id!r}")

    async def failures(self, job_id: str) -> list[JobFailure]:
        """None."""
        return []

    async def counts(self) -> dict[tuple[str, State], int]:
        """None."""
        return {}

    async def retry(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        return await self.get(job_id)

    async def retry_many(self, job_ids: Sequence[str]) -> list[Outcome]:
        """None is there."""
        return await to_each(job_ids, self.get)

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """Raises JobNotFound."""
        return await self.get(job_id)

    async def skip(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        return await self.get(job_id)

    async def prune(self, ended_before: float, *, limit: int = 1000) -> int:
        """None."""
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Nothing ever comes."""
        return lambda: None

    async def list(self, which: JobFilter) -> list[Job]:  # last: below it, ``list`` is this method
        """None."""
        return []


def _adopt(connection: Connection, payloads: list[Sequence[JobRow]]) -> list[Any]:
    remove(connection, [[row.id for row in rows] for rows in payloads])
    return [insert_missing(connection, rows) for rows in payloads]
