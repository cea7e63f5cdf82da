"""How much came from each service, and the last requests that were refused: noted in memory, written once a second.

What a stranger sends must cost little: refusals are written in groups, at most ``PER_FLUSH`` a service each second, and
at most ``KEPT`` a service stay. Headers are kept masked and cut; of a body its size and digest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline import redaction
from moorline.errors import Misuse, StoreNotMigrated, StoreOverloaded, StoreUnavailable
from moorline.events.stored_headers import kept
from moorline.store.ids import new_id
from moorline.store.schema import rejected
from moorline.telemetry import logger

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = ["KEPT", "UNKNOWN", "Ledger"]

KEPT: Final = 1_000
"""Refused requests of one service."""
PER_FLUSH: Final = 50
UNKNOWN: Final = "unknown"
"""Under this name stand requests for services that do not exist: their names are anybody's."""

_EVERY: Final = 1.0
_MOST_COUNTS: Final = 10_000
"""Pairs of a service and a minute that wait for a store that is away; beyond it the oldest go."""
_HEADERS: Final = 60
_VALUE: Final = 500

log = logger("events")


@dataclass(slots=True)
class _Counts:
    stored: int = 0
    duplicates: int = 0
    forged: int = 0
    refused: int = 0


class _Refusal(NamedTuple):
    service: str
    at: float
    status: int
    reason: str
    method: str
    headers: Mapping[str, str]
    size: int | None
    digest: str | None


@dataclass(slots=True)
class _Page:
    """What was noted since the last flush."""

    counts: dict[tuple[str, int], _Counts] = field(default_factory=dict)
    refusals: dict[str, deque[_Refusal]] = field(default_factory=dict)

    def count(self, service: str, minute: int) -> _Counts:
        found = self.counts.get((service, minute))
        if found is None:
            if len(self.counts) >= _MOST_COUNTS:
                del self.counts[next(iter(self.counts))]
            found = self.counts[service, minute] = _Counts()
        return found

    def keep(self, refusal: _Refusal) -> None:
        self.refusals.setdefault(refusal.service, deque(maxlen=PER_FLUSH)).append(refusal)

    def add(self, later: _Page) -> None:
        """What was noted after this, within the bounds."""
        for key, more in later.counts.items():
            counts = self.count(*key)
            counts.stored += more.stored
            counts.duplicates += more.duplicates
            counts.forged += more.forged
            counts.refused += more.refused
        for refusals in later.refusals.values():
            for refusal in refusals:
                self.keep(refusal)


class Ledger:
    """The notes of one inbox; threads and loops share it.

    ``close`` writes what is left; what is noted later, or while the store is away, waits for it within bounds.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._page = _Page()
        self._lock = threading.Lock()
        self._noted = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = False
        store.before_close(self.close)

    def stored(self, service: str, at: float, new: int, duplicates: int) -> None:
        """So many events were stored, so many came again."""
        with self._lock:
            counts = self._page.count(service, int(at // 60))
            counts.stored += new
            counts.duplicates += duplicates
        self._wake()

    def refused(
        self,
        service: str,
        at: float,
        *,
        status: int,
        reason: str,
        forged: bool,
        method: str,
        headers: Mapping[str, str],
        size: int | None = None,
        digest: str | None = None,
    ) -> None:
        """A request got another answer than 2xx."""
        refusal = _Refusal(service, at, status, reason[:_VALUE], method[:20], headers, size, digest)
        with self._lock:
            counts = self._page.count(service, int(at // 60))
            counts.refused += 1
            counts.forged += forged
            self._page.keep(refusal)
        self._wake()

    def _wake(self) -> None:
        # Whatever was noted before: a store that is opened after its first note needs the thread none the less.
        if self._thread is None and self._store.is_open:
            with self._lock:
                if self._thread is None:
                    self._closing = threading.Event()  # its own: the one of a thread that ends must stay set
                    self._thread = threading.Thread(
                        target=self._run, args=(self._closing,), name="moorline-ledger", daemon=True
                    )
                    self._thread.start()
        if not self._noted.is_set():
            self._noted.set()

    def _run(self, closing: threading.Event) -> None:
        while not closing.is_set():
            self._noted.wait()
            closing.wait(_EVERY)
            self.flush()

    def flush(self) -> None:
        """Write what was noted; when the store is away it is kept within the bounds, for the next second."""
        self._noted.clear()
        with self._lock:
            page, self._page = self._page, _Page()
        if not page.counts:
            return
        try:
            self._store.write_sync(_write, page)
            self._away = False
        except (StoreUnavailable, StoreOverloaded, StoreNotMigrated, Misuse) as error:
            with self._lock:
                page.add(self._page)
                self._page = page
            if not self._away:  # once, not each second
                self._away = True
                log.warning("event_ledger_not_written", reason=str(error))
            if self._store.is_open:
                self._noted.set()
        except Exception as error:  # noqa: BLE001 -- a page that cannot be written must not stop those after it
            log.error("event_ledger_page_lost", error=repr(error))

    def close(self) -> None:
        """Write what is left and stop. It starts again with the next note, if the store is opened again."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
        self._noted.set()
        if thread is not None:
            thread.join()
        self.flush()


_ADD: Final = sa.text(
    "INSERT INTO event_counts (service, minute, stored, duplicates, forged, refused)"
    " VALUES (:service, :minute, :stored, :duplicates, :forged, :refused)"
    " ON CONFLICT (service, minute) DO UPDATE SET stored = event_counts.stored + excluded.stored,"
    " duplicates = event_counts.duplicates + excluded.duplicates,"
    " forged = event_counts.forged + excluded.forged, refused = event_counts.refused + excluded.refused"
)
_OLDEST: Final = (
    sa.select(rejected.c.id)
    .where(rejected.c.service == sa.bindparam("of"))
    .order_by(rejected.c.id.desc())
    .limit(1)
    .offset(KEPT)
)
_TRIM: Final = sa.delete(rejected).where(
    rejected.c.service == sa.bindparam("of"), rejected.c.id <= _OLDEST.scalar_subquery()
)


def _write(connection: Connection, pages: list[_Page]) -> list[None]:
    for page in pages:
        # In the order of their keys: two processes that write the same counts must not lock them in a ring.
        counted = [
            {
                "service": service, "minute": minute, "stored": one.stored, "duplicates": one.duplicates,
                "forged": one.forged, "refused": one.refused,
            }
            for (service, minute), one in sorted(page.counts.items())
        ]  # fmt: skip
        connection.execute(_ADD, counted)
        for service, refusals in sorted(page.refusals.items()):
            connection.execute(sa.insert(rejected), [_row(one) for one in refusals])
            connection.execute(_TRIM, {"of": service})
    return [None] * len(pages)


def _row(one: _Refusal) -> dict[str, Any]:
    cut = {name[:_VALUE]: redaction.beginning(value, _VALUE) for name, value in list(one.headers.items())[:_HEADERS]}
    return {**one._asdict(), "id": new_id(one.at), "reason": redaction.text(one.reason), "headers": kept(cut)}
