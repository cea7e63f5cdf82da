"""Looks for alerts every so often, and tells each once, whichever worker it is that looks.

A lease keeps workers from looking at the same time; what fires is kept in the database and changed by compare-and-set,
so that even without the lease two could not both begin an alert. What is to be told is kept with it until it was told:
after a crash in between it is told by the next one (so perhaps twice, never not at all), and so it is after a failure.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline.errors import StoreError
from moorline.events.alert_telling import Hook, Telling, Untold
from moorline.events.alerts import (
    WINDOW_MINUTES,
    Alert,
    AlertConfig,
    Counts,
    Expiring,
    Facts,
    RefusedKey,
    Stuck,
    decide,
    readings,
)
from moorline.jobs.brokers.sql_order import UNFINISHED
from moorline.jobs.brokers.sql_outbox import oldest_since
from moorline.store.leases import Lease, compare_and_set, take_leases
from moorline.store.schema import connections, event_counts, jobs, key_uses, key_versions, meta

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = ["AlertWatch", "Hook"]

_KEY: Final = "alerts"
_LEASE: Final = 90.0
_MOST_DEAD: Final = 10_000
_REFUSED: Final = 3_600.0
_DAY: Final = 86_400.0


class _State(NamedTuple):
    """What fires, what is still to be told, and since when each service that is named is watched.

    ``kept`` is how the database has it.
    """

    firing: dict[str, Alert]
    untold: list[Untold]
    awaited: dict[str, float]
    kept: str | None

    def dumped(self) -> str:
        return json.dumps(
            {
                "firing": {key: alert.to_dict() for key, alert in self.firing.items()},
                "untold": [one.alert.to_dict() for one in self.untold],
                "left": [one.left for one in self.untold],  # apart, for the release before, which knows of none
                "awaited": self.awaited,
            }
        )


class AlertWatch:
    """``run_once`` looks once. ``secrets`` gives the secrets that end, ``breakers`` for how many seconds the breakers
    of which services have not been closed, and why; ``tell`` are told what changed, and so is what is added to it
    later.
    """

    def __init__(
        self,
        store: Store,
        config: AlertConfig | None = None,
        *,
        secrets: Callable[[], Iterable[tuple[str, str, float]]] = tuple,
        breakers: Callable[[], Mapping[str, tuple[float, str]]] = dict,
        tell: Sequence[Hook] = (),
    ) -> None:
        self._store = store
        self._config = AlertConfig() if config is None else config
        self._secrets = secrets
        self._breakers = breakers
        self._telling = Telling(tell, store.clock)

    async def run_once(self, holder: str) -> list[Alert]:
        """Look, keep what fires, tell what changed; nothing if another holder does. Raises StoreUnavailable."""
        now = self._store.clock.wall()
        if not await self._store.write(take_leases, Lease(_KEY, holder, now, _LEASE)):
            return []
        state = await self._store.read(_load)
        awaited = self._awaited(state, now)
        found = self._readings(await self._store.read(_facts, now, self._config), awaited)
        firing, changed = decide(state.firing, found, now)
        if changed or state.untold or awaited != state.awaited:
            state = _State(firing, [*state.untold, *map(Untold, changed)], awaited, state.kept)
            kept = await self._store.write(_keep, state)
            if kept is None:
                return []  # somebody else was faster, and tells it
            left = await self._telling.tell(state.untold, lambda: self._still_ours(holder))
            if left is not None:
                await self._store.write(_keep, _State(firing, left, awaited, kept))
        return changed

    def firing_sync(self) -> list[Alert]:
        """What fires now, looked at anew; changes nothing and tells nobody."""
        now = self._store.clock.wall()
        state = self._store.read_sync(_load)
        found = self._readings(self._store.read_sync(_facts, now, self._config), self._awaited(state, now))
        firing, _ = decide(state.firing, found, now)
        return list(firing.values())

    def _awaited(self, state: _State, now: float) -> dict[str, float]:
        return {service: state.awaited.get(service, now) for service in sorted(self._config.services)}

    def _readings(self, facts: Facts, awaited: dict[str, float]) -> list[Any]:
        secrets = [Expiring(*one) for one in self._secrets()]
        known = self._breakers() if self._config.breaker_minutes is not None else {}
        stuck = [Stuck(name, facts.at - seconds, why) for name, (seconds, why) in sorted(known.items())]
        return readings(facts._replace(secrets=secrets, awaited=awaited, breakers=stuck), self._config)

    async def _still_ours(self, holder: str) -> bool:
        """Hooks may take longer than the lease; an alert is told rather twice than not at all."""
        with contextlib.suppress(StoreError):
            return await self._store.write(take_leases, Lease(_KEY, holder, self._store.clock.wall(), _LEASE))
        return True


def _load(connection: Connection) -> _State:
    kept = connection.execute(sa.select(meta.c.value).where(meta.c.key == _KEY)).scalar()
    if kept is None:
        return _State({}, [], {}, None)
    read = json.loads(kept)
    firing = {key: Alert(**alert) for key, alert in read["firing"].items()}
    untold = [Alert(**alert) for alert in read["untold"]]
    left = read.get("left") or [None] * len(untold)
    return _State(
        firing,
        [Untold(alert, names and tuple(names)) for alert, names in zip(untold, left, strict=True)],
        read.get("awaited", {}),
        kept,
    )


def _keep(connection: Connection, states: list[_State]) -> list[str | None]:
    """Keep each state if the database still has what it was made from; what is kept then, or None."""
    dumped = [state.dumped() for state in states]
    return [
        new if compare_and_set(connection, _KEY, state.kept, new) else None
        for state, new in zip(states, dumped, strict=True)
    ]


def _facts(connection: Connection, now: float, config: AlertConfig) -> Facts:
    """What is known, as far as it matters to the limits."""
    counts, oldest = _counts(connection, int(now // 60) - WINDOW_MINUTES), _oldest(connection, now)
    dead = 0 if config.dead_letters is None else _dead(connection)
    ended = {} if config.ended_connections is None else _ended(connection, now - _DAY)
    minutes = config.refused_minutes
    refused = [] if minutes is None else _refused(connection, now - max(_REFUSED, minutes * 60))
    return Facts(now, counts, oldest, dead=dead, refused=refused, ended=ended)


def _ended(connection: Connection, since: float) -> dict[str, int]:
    """How many connected accounts have ended since, by service."""
    mine = (connections.c.state == "ended") & (connections.c.updated_at >= since)
    query = sa.select(connections.c.service, sa.func.count()).where(mine).group_by(connections.c.service)
    return {service: count for service, count in connection.execute(query)}  # noqa: C416 (rows are no pairs to mypy)


def _refused(connection: Connection, since: float) -> list[RefusedKey]:
    """Versions of credentials that were refused since then, and not accepted after it; none that is retired."""
    own = (key_uses.c.name == key_versions.c.name) & (key_uses.c.version == key_versions.c.version)
    retired = sa.exists(sa.select(sa.literal(1)).where(own, key_versions.c.status == "retired"))
    query = sa.select(key_uses).where(key_uses.c.refused_at >= since, sa.not_(retired))
    found: dict[tuple[str, str], RefusedKey] = {}
    for row in connection.execute(query.order_by(key_uses.c.refused_at)):
        if row.last_at is None or row.last_at < row.refused_at:
            before = found.get((row.name, row.version))
            times = row.refused + (0 if before is None else before.times)
            by = f"{row.role} {row.pid} on {row.host}"
            found[row.name, row.version] = RefusedKey(row.name, row.version, row.refused_at, times, by)
    return list(found.values())


def _dead(connection: Connection) -> int:
    """How many jobs are dead letters; of very many, that it is very many."""
    some = sa.select(sa.literal(1)).select_from(jobs).where(sa.text("state = 'dead'")).limit(_MOST_DEAD).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(some)).scalar() or 0


def _counts(connection: Connection, since: int) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    came = event_counts.c.stored + event_counts.c.duplicates
    for service in sorted(connection.execute(sa.select(event_counts.c.service).distinct()).scalars()):
        theirs = event_counts.c.service == service
        last = sa.select(event_counts.c.minute).where(theirs, came > 0).order_by(event_counts.c.minute.desc()).limit(1)
        window = sa.select(sa.func.sum(came), sa.func.sum(event_counts.c.forged))
        good, forged = connection.execute(window.where(theirs, event_counts.c.minute > since)).one()
        found[service] = Counts(connection.execute(last).scalar(), int(good or 0), int(forged or 0))
    return found


def _oldest(connection: Connection, now: float) -> float | None:
    """When the oldest of the events' jobs was due that wait: in any queue, behind another one, or to be relayed."""
    due = [jobs.c.run_at <= now, jobs.c.event_id.is_not(None)]
    first = sa.select(jobs.c.run_at).order_by(jobs.c.run_at).limit(1)
    found = [
        connection.execute(first.where(_READY, jobs.c.queue == queue, jobs.c.priority == priority, *due)).scalar()
        for queue, priority in _lanes(connection)
    ]
    found += [connection.execute(sa.select(sa.func.min(jobs.c.run_at)).where(*also, *due)).scalar() for also in _OTHERS]
    found.append(oldest_since(connection))
    return min((at for at in found if at is not None), default=None)


def _lanes(connection: Connection) -> Iterator[tuple[str, int]]:
    """The queues and priorities in which something is ready: from each to the next one along the index."""
    lane = sa.tuple_(jobs.c.queue, jobs.c.priority)
    query = sa.select(jobs.c.queue, jobs.c.priority).where(_READY).order_by(jobs.c.queue, jobs.c.priority).limit(1)
    found = connection.execute(query).first()
    while found is not None:
        yield found.queue, found.priority
        found = connection.execute(query.where(lane > sa.tuple_(sa.literal(found[0]), sa.literal(found[1])))).first()


# As the indexes of these jobs have it.
_READY: Final = sa.text("state = 'ready' AND crashes = 0")
_OTHERS: Final = (
    (sa.text("state = 'ready' AND crashes > 0"),),
    (
        sa.text("order_key IS NOT NULL"),
        sa.text(UNFINISHED),
        jobs.c.state == sa.literal("blocked", literal_execute=True),
    ),
)
