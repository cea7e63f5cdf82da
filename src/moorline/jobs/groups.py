"""Groups of jobs, and what follows when all of them have ended.

A group and its jobs are stored in one transaction of the database; where jobs are kept elsewhere, they go through the
outbox. A job leaves its group when it is done or cancelled, once, whatever is repeated; the last one to leave makes
what follows, in the same transaction. A dead one stays, and holds the group, until it was retried or skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from moorline.errors import GroupNotFound
from moorline.jobs.flows import Link, flow_of, following_id, following_row
from moorline.jobs.job import Job, JobRow
from moorline.store.schema import job_group_members, job_groups

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.jobs.broker import Broker
    from moorline.store.store import Store

__all__ = ["Group", "Groups", "Left", "NewGroup"]

_ENCODE: Final = msgspec.json.Encoder().encode
_LINKS: Final = msgspec.json.Decoder(tuple[Link, ...]).decode

_LEAVE: Final = sa.text(
    "UPDATE job_group_members SET left_at = :now, result = :result"
    " WHERE group_id = :group_id AND job_id = :job_id AND left_at IS NULL"
).bindparams(sa.bindparam("result", type_=sa.LargeBinary))
_COUNT: Final = sa.text(
    "UPDATE job_groups SET pending = pending - :left, finished_at = CASE WHEN pending - :left = 0 THEN :now END"
    " WHERE id = :group_id RETURNING pending, follows"
)
_RESULTS: Final = sa.text("SELECT result FROM job_group_members WHERE group_id = :group_id ORDER BY place")
_ENDED: Final = sa.text("SELECT id FROM job_groups WHERE finished_at < :before ORDER BY finished_at LIMIT :limit")


@dataclass(frozen=True, slots=True)
class Group:
    """How far a group is: ``left`` of its ``total`` jobs are done or cancelled. Times are seconds since the epoch.

    ``follower`` is the id of the job that follows, if one does.
    """

    id: str
    total: int
    left: int
    created_at: float
    finished_at: float | None
    follower: str | None


class NewGroup(NamedTuple):
    """To be stored: its jobs, in order, and what follows them."""

    id: str
    rows: Sequence[JobRow]
    links: Sequence[Link]
    created_at: float


class Left(NamedTuple):
    """A job is done or cancelled; ``result`` is JSON."""

    group: str
    job: str
    result: bytes | None


class Groups:
    """The groups of one database, whose jobs *broker* keeps."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker

    async def add(self, group: NewGroup) -> None:
        """Store it. Raises StoreError."""
        await self._store.write(self._add, group)

    def add_sync(self, group: NewGroup) -> None:
        """As ``add``, blocking."""
        self._store.write_sync(self._add, group)

    def _add(self, connection: Connection, payloads: list[NewGroup]) -> list[None]:
        for group in payloads:
            self.add_within(connection, group)
        return [None] * len(payloads)

    def add_within(self, connection: Connection, group: NewGroup) -> None:
        """Insert it in that transaction."""
        total = len(group.rows)
        follows = _ENCODE(group.links) if group.links else None
        # One without jobs has ended when it begins.
        finished = None if total else group.created_at
        connection.execute(
            sa.insert(job_groups).values(
                id=group.id, total=total, pending=total, created_at=group.created_at, finished_at=finished,
                follows=follows,
            )
        )  # fmt: skip
        if not total:
            self._follow(connection, group.id, follows, group.created_at)
            return
        members = [{"group_id": group.id, "job_id": row.id, "place": place} for place, row in enumerate(group.rows)]
        connection.execute(sa.insert(job_group_members), members)
        self._broker.enqueue_within(connection, group.rows)

    async def leave(self, left: Sequence[Left]) -> None:
        """These have ended. May be said again, of some or all."""
        await self._store.write(self._leave, left)

    def _leave(self, connection: Connection, payloads: list[Sequence[Left]]) -> list[None]:
        now = self._store.clock.wall()
        by_group: dict[str, list[Left]] = {}
        for one in (one for part in payloads for one in part):
            by_group.setdefault(one.group, []).append(one)
        for group in sorted(by_group):  # in one order, lest two workers wait for each other
            count = sum(
                connection.execute(
                    _LEAVE, {"group_id": group, "job_id": one.job, "result": one.result, "now": now}
                ).rowcount
                for one in sorted(by_group[group], key=lambda one: one.job)
            )
            if count:
                counted = {"group_id": group, "left": count, "now": now}
                pending, follows = connection.execute(_COUNT, counted).one()
                if pending == 0:
                    self._follow(connection, group, follows, now)
        return [None] * len(payloads)

    def _follow(self, connection: Connection, group: str, follows: bytes | None, now: float) -> None:
        if follows is None:
            return
        links = _LINKS(bytes(follows))
        result = None
        if links[0].slots:
            found = connection.execute(_RESULTS, {"group_id": group}).scalars()
            result = b"[" + b",".join([b"null" if one is None else bytes(one) for one in found]) + b"]"
        self._broker.enqueue_within(connection, [following_row(group, links, result, now)])

    async def called_off(self, jobs: Sequence[object]) -> None:
        """Let those of *jobs* leave their groups that were cancelled by a person."""
        cancelled = [job for job in jobs if isinstance(job, Job) and job.state == "cancelled"]
        flows = [(job, flow_of(job.payload)) for job in cancelled]
        left = [Left(flow.group, job.id, None) for job, flow in flows if flow is not None and flow.group is not None]
        if left:
            await self.leave(left)

    async def get(self, group_id: str) -> Group:
        """Raises GroupNotFound."""
        return await self._store.read(_get, group_id)

    async def prune(self, ended_before: float, *, limit: int = 100) -> int:
        """Forget up to *limit* groups that ended before then; how many there were."""
        return await self._store.write(_prune, (ended_before, limit))


def _get(connection: Connection, group_id: str) -> Group:
    found = connection.execute(sa.select(job_groups).where(job_groups.c.id == group_id)).one_or_none()
    if found is None:
        raise GroupNotFound(f"no group has the id {group_id!r}")
    return Group(
        id=found.id,
        total=found.total,
        left=found.total - found.pending,
        created_at=found.created_at,
        finished_at=found.finished_at,
        follower=None if found.follows is None else following_id(found.id),
    )


def _prune(connection: Connection, payloads: list[tuple[float, int]]) -> list[int]:
    answers = []
    for before, limit in payloads:
        ids = list(connection.execute(_ENDED, {"before": before, "limit": limit}).scalars())
        if ids:
            connection.execute(sa.delete(job_group_members).where(job_group_members.c.group_id.in_(ids)))
            connection.execute(sa.delete(job_groups).where(job_groups.c.id.in_(ids)))
        answers.append(len(ids))
    return answers
