"""Enqueueing, as a value: made first, stored when it is awaited or asked for its result."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Protocol, TypeVar

from moorline.errors import ConfigurationError, Misuse
from moorline.jobs.job import END_OF_DATES, LONGEST_WAIT, LOWEST_PRIORITY, JobRow
from moorline.texts import is_utf8

__all__ = ["EnqueueOptions", "Enqueued", "Sink", "check_retries", "in_loop"]

T = TypeVar("T")

_LONGEST_WINDOW: Final = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class EnqueueOptions:
    """When, where and how a job is enqueued. ``None`` leaves it to the function's own setting.

    ``delay`` (seconds or a timedelta) or ``at`` (an aware datetime, or seconds since the epoch, from 1970 to 9999), not
    both; ``priority`` 0 (first) to 9; ``unique``: at most one job of that key, or of the same arguments (True), waits
    or runs; ``unique_for`` (seconds or a timedelta, up to a year): nor is another one made for that long after this one
    was enqueued, whatever becomes of it; ``within``: a connection or session (SQLAlchemy's, of both kinds; of
    ``sqlite3``, ``psycopg`` and ``asyncpg``; Django's ``connection``) in whose transaction the job is inserted, so that
    it exists if and only if that commits; ``key``: the jobs of this function with the same key run one after the other,
    in the order of their coming; ``expires`` (seconds or a timedelta): a run that would begin that long after the job
    was first due, or later, is left out, and the job is cancelled (reason ``expired``), unless a person retries it.
    Raises ConfigurationError naming the option.
    """

    delay: float | timedelta | None = None
    at: datetime | float | None = None
    queue: str | None = None
    priority: int | None = None
    unique: str | bool | None = None
    within: Any = None
    key: str | int | None = None
    unique_for: float | timedelta | None = None
    expires: float | timedelta | None = None

    def __post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise ConfigurationError("delay, at: give one of them, not both")
        if self.delay is not None:
            _check_delay(self.delay)
        if self.at is not None:
            _check_moment(self.at)
        if self.priority is not None and self.priority not in range(LOWEST_PRIORITY + 1):
            raise ConfigurationError(f"priority: {self.priority!r} is not a whole number from 0 to {LOWEST_PRIORITY}")
        if self.queue is not None and not (_is(self.queue, str) and self.queue and is_utf8(self.queue)):
            raise ConfigurationError(f"queue: {self.queue!r} is not a name")
        if self.unique is not None and not (isinstance(self.unique, bool) or (_is(self.unique, str) and self.unique)):
            raise ConfigurationError(f"unique: {self.unique!r} is neither a key nor True")
        if self.key is not None and (not _is(self.key, str, int) or self.key == ""):
            raise ConfigurationError(f"key: {self.key!r} is neither a text nor a whole number")
        if self.key is not None and self.unique:
            raise ConfigurationError("unique, key: give one of them, not both")
        self._check_spans()

    def _check_spans(self) -> None:
        if self.unique_for is not None:
            self._check_window(self.unique_for)
        if self.expires is not None:
            _check_life(self.expires)

    def _check_window(self, unique_for: float | timedelta) -> None:
        if not (_is(unique_for, float, timedelta) and 0 < _seconds(unique_for) <= _LONGEST_WINDOW):
            raise ConfigurationError(f"unique_for: {unique_for!r} is not a number of seconds, up to a year")
        if not self.unique:
            raise ConfigurationError("unique_for: needs unique, which says what there is one of")

    def run_at(self, now: float) -> float:
        """Seconds since the epoch at which the job is due."""
        if isinstance(self.at, datetime):
            return self.at.timestamp()
        return now + _seconds(self.delay or 0.0) if self.at is None else float(self.at)

    def life(self) -> float | None:
        """Seconds after the job is first due in which a run may begin; None for any time."""
        return None if self.expires is None else _seconds(self.expires)

    def unique_until(self, now: float) -> float | None:
        """Seconds since the epoch until which the job is the only one that was made of its unique key."""
        return None if self.unique_for is None else now + _seconds(self.unique_for)


class Sink(Protocol):
    """Where rows go: a broker, as far as enqueueing knows it."""

    async def enqueue(self, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``."""
        ...

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``."""
        ...

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``."""
        ...


class Enqueued(Generic[T]):
    """``await`` it, or call ``.result()`` where no event loop runs: then the job is durable.

    It is done once, however often asked. With ``within=`` it is inserted in the caller's transaction, and durable when
    that commits.
    """

    __slots__ = ("_answer", "_rows", "_shape", "_sink", "_tried", "_within")

    def __init__(self, sink: Sink, rows: Sequence[JobRow], within: Any, shape: Callable[[list[str]], T]) -> None:
        self._sink = sink
        self._rows = rows
        self._within = within
        self._shape = shape
        self._answer: list[T] = []
        self._tried = False

    def __await__(self) -> Generator[Any, None, T]:
        return self._send().__await__()

    def result(self) -> T:
        """Store it and wait for the commit.

        Raises Misuse inside a running event loop, unless ``within`` is a synchronous session or connection.
        """
        if not self._answer:
            if self._within is None:
                if in_loop():
                    raise Misuse("result() would block the running event loop: await this instead")
                self._tried = True
                ids = self._sink.enqueue_sync(self._rows)
            else:
                ids = self._insert()
            self._answer.append(self._shape(ids))
        return self._answer[0]

    async def _send(self) -> T:
        self._tried = True
        if not self._answer:
            if self._within is None:
                ids = await self._sink.enqueue(self._rows)
            else:
                from moorline.store.borrowed import is_async, run_async

                if is_async(self._within):
                    ids = await run_async(self._within, self._insert_through)
                else:
                    ids = self._insert()
            self._answer.append(self._shape(ids))
        return self._answer[0]

    def _insert(self) -> list[str]:
        from moorline.store.borrowed import connected, is_async

        if is_async(self._within):
            raise Misuse("within is asynchronous: await this instead of calling result()")
        self._tried = True
        with connected(self._within) as connection:
            return self._insert_through(connection)

    def _insert_through(self, connection: Any) -> list[str]:
        return self._sink.enqueue_within(connection, self._rows)

    def __del__(self) -> None:
        if not self._tried and self._rows:
            name = self._rows[0].name
            warnings.warn(f"a job {name!r} was made and never enqueued: await it, or call .result()", stacklevel=2)


def _check_delay(delay: float | timedelta) -> None:
    if not (_is(delay, float, timedelta) and 0 <= _seconds(delay) <= LONGEST_WAIT):
        raise ConfigurationError(f"delay: {delay!r} is not a number of seconds from now, up to {LONGEST_WAIT:g}")


def _check_moment(at: datetime | float) -> None:
    if not _is(at, float, datetime):
        raise ConfigurationError(f"at: {at!r} is neither a datetime nor seconds since the epoch")
    if isinstance(at, datetime) and at.tzinfo is None:
        raise ConfigurationError("at: a datetime needs a time zone")
    if not 0 <= (at.timestamp() if isinstance(at, datetime) else at) < END_OF_DATES:
        raise ConfigurationError(
            f"at: {at!r} is not a moment from 1970 to 9999, as a datetime or in seconds since 1970"
        )


def _check_life(expires: float | timedelta) -> None:
    if not (_is(expires, float, timedelta) and 0 < _seconds(expires) < math.inf):
        raise ConfigurationError(f"expires: {expires!r} is not a positive number of seconds")


def _is(value: object, *kinds: type) -> bool:
    """Callers are not all type-checked; a number may be whole, and True is none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _seconds(length: float | timedelta) -> float:
    return length.total_seconds() if isinstance(length, timedelta) else float(length)


def in_loop() -> bool:
    """Whether an event loop runs here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def check_retries(retries: object) -> None:
    """Raises ConfigurationError unless it is a whole number, 0 or more."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ConfigurationError(f"retries: expected a whole number, 0 or more, got {retries!r}")
