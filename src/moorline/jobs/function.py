"""``JobFunction``: a function that can be enqueued."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

import msgspec

from moorline.errors import ConfigurationError
from moorline.jobs.enqueue import Enqueued, EnqueueOptions
from moorline.jobs.flows import RESULT, Flow, Link, wrapped
from moorline.jobs.following import JobCall
from moorline.jobs.job import JobHandle, JobRow

if TYPE_CHECKING:
    from moorline.jobs.registry import Handler, Jobs
    from moorline.jobs.watch import Watch

__all__ = ["JobFunction", "handle_of"]

P = ParamSpec("P")
R = TypeVar("R")
_OPTIONS: Final = tuple(one.name for one in fields(EnqueueOptions))


class JobFunction(Generic[P, R]):
    """A function that can be enqueued. Called, it is the plain function; ``enqueue`` makes a job of the call."""

    def __init__(
        self, jobs: Jobs, function: Callable[P, R], handler: Handler, max_attempts: int, options: EnqueueOptions
    ) -> None:
        functools.update_wrapper(self, function)
        self.jobs = jobs
        self._function = function
        self._handler = handler
        self._max_attempts = max_attempts
        self._options = options
        self._life = options.life()
        self._watch = jobs.watch(handler)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self._handler.name}>"

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Enqueued[JobHandle]:
        """A job with these arguments: ``await`` it, or ``.result()``.

        Raises InvalidArguments at once, naming the argument.
        """
        row = self._row(args, kwargs)
        shape = functools.partial(handle_of, self._watch, row.id)
        return Enqueued(self.jobs.broker, [row], self._options.within, shape)

    def enqueue_many(self, calls: Iterable[tuple[Any, ...]]) -> Enqueued[list[JobHandle]]:
        """One job for each tuple of positional arguments, stored in one transaction (in Redis: each 5,000 of them)."""
        rows = [self._row(args, {}) for args in calls]
        ids = [row.id for row in rows]
        shape = functools.partial(_handles, self._watch, ids)
        return Enqueued(self.jobs.broker, rows, self._options.within, shape)

    def handle(self, job_id: str) -> JobHandle:
        """The handle of a job of this function that was enqueued before, perhaps in another process."""
        return JobHandle(job_id, watch=self._watch)

    def using(
        self,
        *,
        delay: float | timedelta | None = None,
        at: datetime | float | None = None,
        queue: str | None = None,
        priority: int | None = None,
        unique: str | bool | None = None,
        within: Any = None,
        key: str | int | None = None,
        unique_for: float | timedelta | None = None,
        expires: float | timedelta | None = None,
    ) -> JobFunction[P, R]:
        """The same function, enqueued otherwise: see ``EnqueueOptions``.

        Raises ConfigurationError naming the option.
        """
        asked = (delay, at, queue, priority, unique, within, key, unique_for, expires)
        changes = {name: value for name, value in zip(_OPTIONS, asked, strict=True) if value is not None}
        if "at" in changes:
            changes.setdefault("delay", None)
        elif "delay" in changes:
            changes["at"] = None
        if unique is False:
            changes.setdefault("unique_for", None)
        options = replace(self._options, **changes)
        return JobFunction(self.jobs, self._function, self._handler, self._max_attempts, options)

    def row(self, *args: P.args, **kwargs: P.kwargs) -> JobRow:
        """What ``enqueue`` would store. Raises InvalidArguments."""
        return self._row(args, kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> JobCall:
        """The job with these arguments, for a ``chain`` or a ``group``."""
        return JobCall(self, args, kwargs)

    def flowing(self, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Flow) -> JobRow:
        """As ``row``, with what follows it."""
        if self._options.unique or self._options.within is not None:
            raise ConfigurationError(f"{self!r}: in a chain or a group there is no place for unique or within")
        return self._row(args, kwargs, flow)

    def link(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Link:
        """What makes a job of this call when another one is done. Raises InvalidArguments, ConfigurationError."""
        options = self._options
        others = (options.key, options.at, options.within, options.expires)
        if options.unique or any(one is not None for one in others):
            raise ConfigurationError(f"{self!r}: what follows may have a queue, a priority and a delay, nothing else")
        assert self._handler.codec is not None
        payload, slots = self._handler.codec.encode_partly(args, kwargs, RESULT)
        given = self.jobs.row(self._handler.name, payload, max_attempts=self._max_attempts, options=options)
        return Link(
            given.name, payload.decode(), given.queue, given.priority, given.max_attempts, options.run_at(0.0),
            tuple(slots),
        )  # fmt: skip

    def _row(self, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Flow | None = None) -> JobRow:
        handler, life = self._handler, self._life
        assert handler.codec is not None
        payload = handler.codec.encode(args, kwargs)
        row = self.jobs.row(handler.name, payload, max_attempts=self._max_attempts, options=self._options)
        if flow is None and life is None:
            return row
        carried = Flow() if flow is None else flow
        if life is not None:
            carried = msgspec.structs.replace(carried, expires=row.run_at - row.created_at + life)
        # After the unique key was made of the arguments alone.
        return row._replace(payload=self.jobs.bounded(row.name, wrapped(payload, carried)))


def handle_of(watch: Watch, wanted: str, ids: list[str]) -> JobHandle:
    """Of a row that was *wanted*, by the id under which it is kept."""
    return JobHandle(ids[0], duplicate=ids[0] != wanted, watch=watch)


def _handles(watch: Watch, wanted: list[str], ids: list[str]) -> list[JobHandle]:
    return [handle_of(watch, row, [found]) for row, found in zip(wanted, ids, strict=True)]
