"""The part of an application that is about jobs: making them, joining them, scheduling them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

from moorline.errors import ConfigurationError
from moorline.jobs.broadcast import Broadcast
from moorline.jobs.brokers.redis_link import SCHEMES
from moorline.jobs.cursor import Cursor
from moorline.jobs.schedule import Schedule, seconds_of

if TYPE_CHECKING:
    from datetime import timedelta

    from moorline.codec import Upgrade
    from moorline.jobs.decision import Backoff
    from moorline.jobs.enqueue import Enqueued
    from moorline.jobs.following import GroupHandle, JobCall
    from moorline.jobs.job import JobHandle
    from moorline.jobs.limits import Limit
    from moorline.jobs.registry import JobFunction, Jobs
    from moorline.jobs.schedule import CatchUp
    from moorline.jobs.schedules import Schedules
    from moorline.jobs.sync import Sync
    from moorline.store.store import Store

__all__ = ["Working"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class SyncSettings(TypedDict, total=False):
    """What ``Moorline.sync`` takes beside its named arguments; explained there."""

    place: Callable[[Any], str]
    key: Callable[[Any], Any]
    remove: Callable[[Any], Any]
    batch: int
    width: int
    patience: int
    many: bool
    total: Callable[[], Any]
    retries: int
    queue: str


class Working:
    """The part of ``Moorline`` that makes jobs."""

    jobs: Jobs
    schedules: Schedules
    store: Store
    _queue_url: str | None
    _broadcast: Broadcast | None = None
    _syncs: dict[str, Sync[Any]]

    @overload
    def job(self, function: Callable[P, R], /) -> JobFunction[P, R]: ...

    @overload
    def job(
        self,
        *,
        name: str | None = None,
        retries: int = 5,
        queue: str = "default",
        priority: int = 5,
        timeout: float | None = None,
        backoff: Backoff | None = None,
        keep_result: bool = False,
        process: bool = False,
        version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        limit: Limit | None = None,
    ) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...

    def job(  # type: ignore[misc]  # the overloads say more than the implementation
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function a job: ``await send_welcome.enqueue("u_1")`` then runs it in a worker, whatever happens.

        ``retries`` is how often a failed run is tried again; ``timeout`` (seconds) bounds one run; ``backoff`` says how
        long to wait between runs (1, 2, 4, 8, 16 s, full jitter); ``keep_result`` stores what it returns, for
        ``await handle.result()``. All options: see ``Jobs.function``.
        """
        if function is not None:
            return self.jobs.function(function)
        return lambda decorated: self.jobs.function(decorated, **options)

    def chain(self, *calls: JobCall, within: Any = None) -> Enqueued[list[JobHandle]]:
        """Enqueue jobs of which each begins when the one before it is done: see ``Jobs.chain``."""
        return self.jobs.chain(*calls, within=within)

    def group(
        self, calls: Iterable[JobCall], *, then: JobCall | Sequence[JobCall] = (), within: Any = None
    ) -> Enqueued[GroupHandle]:
        """Enqueue jobs side by side, and what follows when all are done: see ``Jobs.group``."""
        return self.jobs.group(calls, then=then, within=within)

    def cursor(self, name: str) -> Cursor:
        """How far something has been read; moves in the same transaction as the jobs it leads to: see ``Cursor``."""
        return Cursor(name, self.store, self.jobs.broker)

    def schedule(
        self,
        when: str | float | timedelta,
        job: JobFunction[..., Any],
        *,
        args: Sequence[Any] = (),
        name: str | None = None,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        overlap: bool = False,
    ) -> None:
        """Enqueue a job again and again: ``app.schedule("0 9 * * 1-5", report, tz="Europe/Berlin")``.

        *when* is a cron expression of five fields, or the seconds (a number, a timedelta) between two times. However
        many workers there are, each time makes one job. *catch_up* says what becomes of times at which no worker ran,
        nor within a minute: the ``"latest"`` is made up for, ``"all"`` are, or ``"none"``. Without *overlap* a time is
        left out while the job of the one before has not ended; one of ``job.using(unique=…)`` also while any other job
        of that key has not. *name* is the job's unless another is given.

        Raises ConfigurationError naming the argument, InvalidArguments for *args* that do not fit.
        """
        row = job.row(*args)
        wanted = Schedule(
            name=name or row.name, when=seconds_of(when), row=row, tz=tz, catch_up=catch_up, overlap=overlap
        )
        self.schedules.add(wanted)

    def sync(
        self,
        source: Callable[[str | None], Any] | Iterable[T] | AsyncIterable[T],
        *,
        into: Callable[..., Any],
        name: str | None = None,
        every: str | float | timedelta | None = None,
        full_every: str | float | timedelta | None = None,
        tz: str = "UTC",
        **options: Unpack[SyncSettings],
    ) -> Sync[T]:
        """Keep another system in step with a source: ``app.sync(changed, into=hubspot.upsert_contact, every=300)``.

        *source* is asked ``source(place)`` for what has changed at that place or after it (None: for everything), in
        that order; it gives items, async or plain, and may give ``Gone(key)``. One that is no function is read whole
        each time. *into* gets one item and applies it, in a way that may be repeated (an upsert): it is a function of
        either kind, or makes a Call. *place* says of an item where a later run would begin to find what comes after it,
        as a text; without it there are full runs alone. With *key*, which says whose state an item is, up to *width*
        are applied at once, and of several of a batch the last; without it one after the other. *remove* gets the key
        of what is gone. With *many*, *into* gets the list of a whole *batch* (100), and may return a list of as many
        results, of which exceptions are failures.

        An item that is refused, or that *into* cannot translate, becomes a job of its own and, where that does not
        help, a dead letter; after *patience* (100) failures and nothing else the run stops. Anything else stops it at
        once: it goes on from the last checkpoint. *total* says how many items there are, for the progress shown.

        *every* and *full_every* schedule runs as ``schedule`` does; also ``await sync.run(full=True)`` or
        ``sync.enqueue()``. *name* (else the source's own) is under what its place is stored.

        Raises ConfigurationError naming the argument.
        """
        from moorline.jobs.sync import CURSOR, Sync
        from moorline.jobs.sync_items import SyncOptions

        known = name or getattr(source, "__name__", "")
        if not known:
            raise ConfigurationError("sync: name is needed for a source that has none of its own")
        made: Sync[T] = Sync(known, source, SyncOptions(into=into, **options), jobs=self.jobs, store=self.store)
        for when, full in ((every, False), (full_every, True)):
            if when is not None:
                label = f"{CURSOR}{known}:full" if full else CURSOR + known
                self.schedule(when, made.job, args=(full,), name=label, tz=tz)
        self._syncs[known] = made
        return made

    @property
    def syncs(self) -> Mapping[str, Sync[Any]]:
        """The syncs of this application, by name."""
        return MappingProxyType(self._syncs)

    @property
    def broadcast(self) -> Broadcast:
        """Publish to all who listen at this moment, and listen; nothing is stored, so it may lose messages.

        Through the queue's Redis, else the database's PostgreSQL; with SQLite within this process only.
        """
        if self._broadcast is None:
            self._broadcast = Broadcast(self._broadcast_url())
        return self._broadcast

    def _broadcast_url(self) -> str | None:
        if self._queue_url is not None and self._queue_url.partition("://")[0] in SCHEMES:
            return self._queue_url
        if self.store.dialect == "postgresql":
            return self.store.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return None
