"""Notes on jobs in the store's database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from moorline.jobs.notes import JobNote, Note
from moorline.store.schema import job_notes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = ["SqlNotes"]

_WRITE: Final = sa.text(
    "INSERT INTO job_notes (job_id, deliveries, at, done, message, result)"
    " VALUES (:job_id, :deliveries, :at, :done, :message, :result)"
    " ON CONFLICT (job_id) DO UPDATE SET deliveries = excluded.deliveries, at = excluded.at,"
    " done = coalesce(excluded.done, job_notes.done), message = coalesce(excluded.message, job_notes.message),"
    " result = coalesce(excluded.result,"
    " CASE WHEN excluded.deliveries = job_notes.deliveries THEN job_notes.result END)"
    " WHERE excluded.deliveries >= job_notes.deliveries"
).bindparams(sa.bindparam("result", type_=sa.LargeBinary))
_ASK: Final = sa.text(
    "INSERT INTO job_notes (job_id, deliveries, at, stop, stop_deliveries)"
    " VALUES (:job_id, 0, :at, :stop, :deliveries)"
    " ON CONFLICT (job_id) DO UPDATE SET stop = excluded.stop, stop_deliveries = excluded.stop_deliveries"
)
_STOPS: Final = {
    "sqlite": sa.text(
        "SELECT job_id, stop, stop_deliveries FROM job_notes"
        " WHERE job_id IN (SELECT value FROM json_each(:ids)) AND stop IS NOT NULL"
    ),
    "postgresql": sa.text(
        "SELECT job_id, stop, stop_deliveries FROM job_notes"
        " WHERE job_id = ANY(CAST(:ids AS text[])) AND stop IS NOT NULL"
    ),
}
_PRUNE: Final = sa.text(
    "DELETE FROM job_notes WHERE job_id IN (SELECT job_id FROM job_notes WHERE at < :before ORDER BY at LIMIT :limit)"
)


class SqlNotes:
    """See ``moorline.jobs.notes.Notes``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self) -> None:
        """See ``Notes``."""

    async def write(self, notes: Sequence[Note]) -> None:
        """See ``Notes``."""
        await self._store.write(_write, notes)

    async def read(self, job_id: str) -> JobNote | None:
        """See ``Notes``."""
        return await self._store.read(_read, job_id)

    async def ask_to_stop(self, job_id: str, deliveries: int, reason: str) -> None:
        """See ``Notes``."""
        asked = {"job_id": job_id, "at": self._store.clock.wall(), "stop": reason, "deliveries": deliveries}
        await self._store.write(_ask, asked)

    async def stops(self, held: Mapping[str, int]) -> dict[str, str]:
        """See ``Notes``."""
        return await self._store.read(_stops, held)

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """See ``Notes``."""
        return await self._store.write(_prune, (before, limit))


def _write(connection: Connection, payloads: list[Sequence[Note]]) -> list[None]:
    # In one order, lest two workers wait for each other's rows; the last of a job's goes last.
    rows = sorted((note for notes in payloads for note in notes), key=lambda note: (note.job_id, note.at))
    if rows:
        connection.execute(_WRITE, [note._asdict() for note in rows])
    return [None] * len(payloads)


def _read(connection: Connection, job_id: str) -> JobNote | None:
    columns = job_notes.c
    query = sa.select(
        columns.done, columns.message, columns.result, columns.at, columns.stop, columns.stop_deliveries
    ).where(columns.job_id == job_id)
    found = connection.execute(query).one_or_none()
    if found is None:
        return None
    done, message, result, at, stop, stop_deliveries = found
    return JobNote(done, message, None if result is None else bytes(result), at, stop, stop_deliveries)


def _ask(connection: Connection, payloads: list[dict[str, Any]]) -> list[None]:
    for asked in payloads:
        connection.execute(_ASK, asked)
    return [None] * len(payloads)


def _stops(connection: Connection, held: Mapping[str, int]) -> dict[str, str]:
    dialect = connection.dialect.name
    ids: Any = list(held) if dialect == "postgresql" else json.dumps(list(held))
    found = connection.execute(_STOPS[dialect], {"ids": ids})
    return {job_id: stop for job_id, stop, deliveries in found if held[job_id] == deliveries}


def _prune(connection: Connection, payloads: list[tuple[float, int]]) -> list[int]:
    return [connection.execute(_PRUNE, {"before": before, "limit": limit}).rowcount for before, limit in payloads]
