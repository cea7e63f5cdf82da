"""Retention: what is kept of events, and for how long; and how large bodies become small.

1. An event older than ``dedup_days`` is deleted: should its sender send it again, it is new.
2. Of one older than ``keep_days`` body and headers are emptied; its key stays, so that a duplicate is still one.
3. Bodies larger than ``compress_over`` that were stored as they came, as earlier versions did, are compressed once they
   are an hour old.

An event with a job that is unfinished or dead is kept as it is. Each batch is a transaction of its own, after which it
pauses, and locks no more than its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorline.errors import ConfigurationError
from moorline.events import audit, retention_sql
from moorline.events.retention_sql import Batch, Found
from moorline.events.selection_sql import id_at
from moorline.store.actors import check_actor
from moorline.store.leases import Lease, take_leases
from moorline.store.steps import Read, Sleep, Steps, Write, perform, perform_sync

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = ["Retention", "RetentionConfig", "Swept"]

_DAY: Final = 86_400.0
_LEASE: Final = 60.0
_RENEWED: Final = 15.0
_AGAIN: Final = _DAY
"""Seconds after which it begins at the oldest again: for what could not go because a job was unfinished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """How much is kept. Raises ConfigurationError that names the field.

    ``keep_days``: bodies and headers; ``dedup_days``: keys, not less; ``compress_over``: bytes, 0 for never;
    ``compress_after``: seconds; ``batch``: rows of a transaction; ``pause``: seconds after each; ``refusals``: refused
    requests of a service; ``count_days``: counts by the minute.
    """

    keep_days: float = 30.0
    dedup_days: float = 30.0
    compress_over: int = 2048
    compress_after: float = 3600.0
    batch: int = 50
    pause: float = 0.02
    refusals: int = 1000
    count_days: float = 14.0

    def __post_init__(self) -> None:
        least = {"keep_days": 1, "dedup_days": 1, "compress_over": 0, "compress_after": 0, "batch": 1, "pause": 0}
        for name, minimum in (least | {"refusals": 1, "count_days": 1}).items():
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value < math.inf:
                raise ConfigurationError(f"{name}: expected a number, {minimum} or more, got {value!r}")
        if self.dedup_days < self.keep_days:
            raise ConfigurationError(
                f"dedup_days: {self.dedup_days:g} is less than keep_days ({self.keep_days:g}): a body goes with its key"
            )


@dataclass(frozen=True, slots=True)
class Swept:
    """How many events were ``deleted``, ``emptied`` and ``compressed``; rows of the small tables that went."""

    deleted: int = 0
    emptied: int = 0
    compressed: int = 0
    refusals: int = 0
    counts: int = 0

    @property
    def nothing(self) -> bool:
        """Whether all is as it was."""
        return self == Swept()


class _Part(NamedTuple):
    """One of the three: ``find(connection, after, before, limit)`` what is older than *before*, and change it.

    It begins at the end of the part before it, if that is later than where it got to.
    """

    field: str
    begin: str
    before: str
    find: Callable[[Connection, str, str, int], Found]
    apply: retention_sql.Apply


class Retention:
    """Keeps the promises of its config on a store. ``run_once`` is one pass over all that is due."""

    def __init__(self, store: Store, config: RetentionConfig | None = None) -> None:
        self._store = store
        self._config = RetentionConfig() if config is None else config

    async def run_once(self, *, holder: str | None = None, progress: Callable[[Swept], None] | None = None) -> Swept:
        """All that is due now, batch by batch; ``progress`` after each.

        With a *holder* it does nothing while another one is at it, and does not begin where it ended before.
        """
        return await perform(self._store, self._pass(holder, progress))

    def run_once_sync(self, *, actor: str, progress: Callable[[Swept], None] | None = None) -> Swept:
        """As ``run_once``, blocking, from the oldest event on and whoever else is at it; noted in the audit."""
        check_actor(actor)
        swept = perform_sync(self._store, self._pass(None, progress))
        self._store.write_sync(_note, (self._store.clock.wall(), actor, swept))
        return swept

    def count_sync(self) -> Swept:
        """What is due now, and would be changed. Changes nothing."""
        return perform_sync(self._store, self._count())

    def _parts(self) -> list[_Part]:
        config, now = self._config, self._store.clock.wall()
        dedup, keep = id_at(now - config.dedup_days * _DAY), id_at(now - config.keep_days * _DAY)
        parts = [
            _Part("deleted", "", dedup, partial(retention_sql.find, kept=False), retention_sql.delete),
            _Part("emptied", dedup, keep, partial(retention_sql.find, kept=True), retention_sql.empty),
        ]
        if config.compress_over:
            large = partial(retention_sql.find_large, over=config.compress_over)
            parts.append(_Part("compressed", keep, id_at(now - config.compress_after), large, retention_sql.compress))
        return parts

    def _pass(self, holder: str | None, progress: Callable[[Swept], None] | None) -> Steps[Swept]:
        swept = Swept()
        leased = yield from self._leased(holder, -math.inf)
        if leased is None:
            return swept
        cursor = yield from self._cursor(holder)
        for part in self._parts():
            position, final = max(cursor.get(part.field, ""), part.begin), False
            while not final:
                found: Found = yield Read(part.find, position, part.before, self._config.batch)
                cursor[part.field] = position = found.position
                final = found.final
                if found.rows:
                    done: int = yield Write(part.apply, Batch(found.rows))
                    swept = replace(swept, **{part.field: getattr(swept, part.field) + done})
                    if progress is not None:
                        progress(swept)
                    yield Sleep(self._config.pause)
                leased = yield from self._leased(holder, leased)
                if leased is None:
                    return swept
            if holder is not None:
                yield Write(retention_sql.keep_cursor, dict(cursor))
        since = int((self._store.clock.wall() - self._config.count_days * _DAY) // 60)
        refusals, counts = yield Write(retention_sql.trim, (self._config.refusals, since))
        return replace(swept, refusals=refusals, counts=counts)

    def _count(self) -> Steps[Swept]:
        swept = Swept()
        for part in self._parts():
            position, final = part.begin, False
            while not final:
                found: Found = yield Read(part.find, position, part.before, self._config.batch)
                position, final = found.position, found.final
                swept = replace(swept, **{part.field: getattr(swept, part.field) + len(found.rows)})
        return swept

    def _cursor(self, holder: str | None) -> Steps[dict[str, Any]]:
        """Where each part begins. By hand, at the oldest; in the background where it ended, and anew once a day."""
        if holder is None:
            return {}
        cursor: dict[str, Any] = yield Read(retention_sql.load_cursor)
        now, over = self._store.clock.wall(), self._config.compress_over
        if now - cursor.get("began", -math.inf) > _AGAIN:
            cursor |= {"began": now, "deleted": "", "emptied": ""}
        if cursor.get("over") != over:
            cursor |= {"over": over, "compressed": ""}
        return cursor

    def _leased(self, holder: str | None, taken: float) -> Steps[float | None]:
        """When the lease was last taken; None if another one has it."""
        now = self._store.clock.monotonic()
        if holder is None or now - taken < _RENEWED:
            return taken
        lease = Lease("retention", holder, self._store.clock.wall(), _LEASE)
        return now if (yield Write(take_leases, lease)) else None


def _note(connection: Connection, payloads: list[tuple[float, str, Swept]]) -> list[None]:
    for at, actor, swept in payloads:
        detail = {name: getattr(swept, name) for name in swept.__dataclass_fields__}
        audit.note(connection, at=at, actor=actor, action="events.prune", detail=detail)
    return [None] * len(payloads)
