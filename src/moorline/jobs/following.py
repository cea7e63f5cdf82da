"""Chains and groups: jobs that are enqueued together, of which some follow others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError
from moorline.jobs.enqueue import Enqueued
from moorline.jobs.flows import RESULT, Flow, Link, following_id
from moorline.jobs.groups import Group, Groups, NewGroup
from moorline.jobs.job import JobHandle, JobRow

if TYPE_CHECKING:
    from moorline.jobs.registry import JobFunction

__all__ = ["GroupHandle", "JobCall", "chain", "group"]


@dataclass(frozen=True, slots=True)
class JobCall:
    """A job's function with its arguments, to be enqueued with others; an argument may be ``RESULT``."""

    function: JobFunction[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def row(self, flow: Flow) -> JobRow:
        """The job, and what follows it. Raises InvalidArguments."""
        if any(value is RESULT for value in (*self.args, *self.kwargs.values())):
            raise ConfigurationError(f"{self.function!r} follows no other job here, so there is no RESULT for it")
        return self.function.flowing(self.args, self.kwargs, flow)


@dataclass(frozen=True, slots=True)
class GroupHandle:
    """A group of jobs: their handles in order, and that of the job that follows when all have ended, if one does."""

    id: str
    jobs: tuple[JobHandle, ...]
    then: JobHandle | None
    groups: Groups

    async def state(self) -> Group:
        """How far it is. Raises GroupNotFound after it was pruned."""
        return await self.groups.get(self.id)


def chain(calls: Sequence[JobCall], within: Any = None) -> Enqueued[list[JobHandle]]:
    """See ``Jobs.chain``."""
    _check("chain", calls)
    if not calls:
        raise ConfigurationError("chain: there is no job in it")
    first, *rest = calls
    row = first.row(Flow(tuple([_link(one) for one in rest])))
    shape = functools.partial(_chained, calls)
    return Enqueued(first.function.jobs.broker, [row], within, shape)


def _chained(calls: Sequence[JobCall], ids: list[str]) -> list[JobHandle]:
    (id_,) = ids
    handles = []
    for call in calls:
        handles.append(call.function.handle(id_))
        id_ = following_id(id_)
    return handles


def group(
    id_: str, now: float, groups: Groups, calls: Iterable[JobCall], then: JobCall | Sequence[JobCall], within: Any
) -> Enqueued[GroupHandle]:
    """See ``Jobs.group``."""
    members = list(calls)
    follows = [then] if isinstance(then, JobCall) else list(then)
    _check("group", [*members, *follows])
    flow = Flow(group=id_)
    new = NewGroup(id_, [one.row(flow) for one in members], tuple([_link(one) for one in follows]), now)
    last = follows[0].function.handle(following_id(id_)) if follows else None

    def shape(ids: list[str]) -> GroupHandle:
        handles = [one.function.handle(job_id) for one, job_id in zip(members, ids, strict=True)]
        return GroupHandle(id_, tuple(handles), last, groups)

    return Enqueued(_Adding(groups, new), new.rows, within, shape)


class _Adding:
    """Where the rows of a group go: with the group."""

    def __init__(self, groups: Groups, new: NewGroup) -> None:
        self._groups = groups
        self._new = new
        self._ids = [row.id for row in new.rows]

    async def enqueue(self, rows: Sequence[JobRow]) -> list[str]:
        del rows
        await self._groups.add(self._new)
        return self._ids

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        del rows
        self._groups.add_sync(self._new)
        return self._ids

    def enqueue_within(self, connection: Any, rows: Sequence[JobRow]) -> list[str]:
        del rows
        self._groups.add_within(connection, self._new)
        return self._ids


def _check(what: str, calls: Sequence[object]) -> None:
    if not all(isinstance(one, JobCall) for one in calls):
        raise ConfigurationError(f"{what}: give calls of jobs, such as resize.call(300)")


def _link(call: JobCall) -> Link:
    return call.function.link(call.args, call.kwargs)
