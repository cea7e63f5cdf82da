"""``Sync``: keep what another system holds in step with a source, by full and incremental runs that survive crashes.

The source is asked for what has changed since a *place* (a time, an id, a token: any text), in order. Items are
applied in batches; after each one the place is stored together with the counts, and with a job for every item that the
other side refused. So a crash repeats one batch at most, a refused item holds up nobody and is not lost, and a service
that is down stops the run where it is: the job is tried again, and goes on from there.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from moorline import redaction
from moorline.clock import Clock
from moorline.errors import (
    InvalidArguments,
    StoreError,
)
from moorline.jobs.context import current
from moorline.jobs.cursor import Cursor, places
from moorline.jobs.sync_items import Batch, Gone, Items, SyncOptions, awaited
from moorline.jobs.sync_state import SyncRun, SyncState
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.jobs.enqueue import Enqueued
    from moorline.jobs.following import JobCall
    from moorline.jobs.function import JobFunction
    from moorline.jobs.job import JobHandle
    from moorline.jobs.registry import Jobs
    from moorline.store.store import Store

__all__ = ["CURSOR", "Sync", "states"]

T = TypeVar("T")

CURSOR: Final = "sync:"
"""Before the names of syncs among those of cursors."""

log = logger("sync")


class Sync(Generic[T]):
    """One sync of an application: ``run`` it here, or ``enqueue`` it. ``state`` says how far it is."""

    def __init__(self, name: str, source: Any, options: SyncOptions[T], *, jobs: Jobs, store: Store) -> None:
        self.name = name
        self._items = Items(name, source, options)
        self._options = options
        self._clock: Clock = jobs.clock
        self._cursor = Cursor(CURSOR + name, store, jobs.broker)
        self._item = jobs.function(self._item_job(), name=f"{CURSOR}{name}:item", retries=options.retries)
        self._removal = jobs.function(self._removal_job(), name=f"{CURSOR}{name}:gone", retries=options.retries)
        self.job: JobFunction[..., Any] = jobs.function(
            self._run_job(), name=CURSOR + name, retries=options.retries, queue=options.queue
        )

    def __repr__(self) -> str:
        return f"<sync {self.name}>"

    async def state(self) -> SyncState:
        """How far it is. Raises StoreUnavailable."""
        return SyncState.from_text(await self._cursor.read())

    async def reset(self) -> None:
        """Forget how far it is: the next run is a full one."""
        before = await self._cursor.read()
        if before is not None:
            await self._cursor.move(before, SyncState().to_text())

    def enqueue(self, *, full: bool = False) -> Enqueued[JobHandle]:
        """Run it as a job, of which there is one at a time: ``await`` it, or ``.result()``."""
        return self.job.using(unique=f"{CURSOR}{self.name}:{'full' if full else 'changes'}").enqueue(full=full)

    async def run(self, *, full: bool = False, tell: Callable[[SyncRun], object] | None = None) -> SyncRun:
        """Run it here, to its end: what has changed since the last one, or with *full* (and the first time) everything.
        *tell* is given the run after each batch.

        Raises what stopped it: a CallError that is not the fault of one item, or what the source raised.
        """
        before = await self._cursor.read()
        state = SyncState.from_text(before).begun(self._clock.wall(), full=full)
        before = await self._kept(before, state)
        failing = 0  # in a row
        try:
            async for batch in self._items.batches(state.since):
                if before is None:
                    break
                await self._items.apply(batch)
                failing = failing + len(batch.failed) if len(batch.failed) == batch.tried else 0
                self._check(batch, failing)
                state = self._after(state, batch)
                before = await self._kept(before, state, [self._call(item) for item, _ in batch.failed])
                if tell is not None and state.run is not None:
                    tell(state.run)
        except Exception as error:
            with contextlib.suppress(StoreError):
                await self._kept(before, state.broken(redaction.text(f"{type(error).__name__}: {error}")))
            raise
        ended = state.ended(self._clock.wall())
        if before is None or await self._kept(before, ended) is None:
            return self._overtaken(state)
        return self._done(ended)

    # --- after a batch

    def _after(self, state: SyncState, batch: Batch[T]) -> SyncState:
        bad = {id(item) for item, _ in batch.failed}
        removed = sum(isinstance(one, Gone) and id(one) not in bad for one in batch.items)
        applied = len(batch.items) - removed - len(bad)
        return state.advanced(batch.place, applied=applied, removed=removed, failed=len(bad))

    def _check(self, batch: Batch[T], failing: int) -> None:
        """Raises the last error where nothing but failures comes: then it is not the items' fault."""
        if failing >= self._options.patience:
            raise batch.failed[-1][1]
        for _, error in batch.failed[:3]:
            log.warning("sync_item_failed", sync=self.name, error=redaction.text(f"{type(error).__name__}: {error}"))

    def _call(self, item: T | Gone) -> JobCall:
        return self._removal.call(item.key) if isinstance(item, Gone) else self._item.call(item)

    # --- the checkpoint

    async def _kept(self, before: str | None, state: SyncState, calls: Iterable[JobCall] = ()) -> str | None:
        """What is stored now; None if another run has moved on meanwhile."""
        after = state.to_text()
        if after == before:  # a run goes on where it was
            return after
        try:
            return after if await self._cursor.move(before, after, calls) else None
        except InvalidArguments as error:
            raise InvalidArguments(
                f"sync {self.name}: an item failed, and no job can keep it: annotate the argument of into ({error})"
            ) from error

    def _overtaken(self, state: SyncState) -> SyncRun:
        log.info("sync_overtaken", sync=self.name)
        assert state.run is not None
        return replace(state.run, overtaken=True)

    def _done(self, state: SyncState) -> SyncRun:
        run = state.last
        assert run is not None
        log.info("sync_ended", sync=self.name, full=run.full, items=run.items, failed=run.failed)
        return run

    # --- as jobs

    def _run_job(self) -> Callable[..., Awaitable[dict[str, int]]]:
        async def sync(full: bool = False) -> dict[str, int]:  # noqa: FBT001, FBT002 (schedules give arguments by place)
            context, total = current(), await self._total()

            def tell(run: SyncRun) -> None:
                part = 0.0 if not total else min(run.items / total, 1.0)
                context.tell(part, f"{run.items:,} items{'' if run.place is None else f', up to {run.place[:100]}'}")

            run = await self.run(full=full, tell=tell)
            return {"applied": run.applied, "removed": run.removed, "failed": run.failed}

        return sync

    async def _total(self) -> int | None:
        found = None if self._options.total is None else await awaited(self._options.total)
        return found if isinstance(found, int) else None

    def _item_job(self) -> Callable[..., Awaitable[None]]:
        async def item_again(item: Any) -> None:
            await self._items.applied(item)

        item_again.__annotations__["item"] = _item_type(self._options)
        return item_again

    def _removal_job(self) -> Callable[..., Awaitable[None]]:
        async def gone_again(key: Any) -> None:
            await self._items.applied(Gone(key))

        return gone_again


def _item_type(options: SyncOptions[Any]) -> Any:
    """By what an item is stored and read back: the annotation of what it is given to; plain JSON without one."""
    function = options.into
    try:
        hints: Mapping[str, Any] = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
        first = next(iter(inspect.signature(function).parameters), "")
    except (NameError, TypeError, ValueError):
        return Any
    found = hints.get(first, Any)
    return (typing.get_args(found) or (Any,))[0] if options.many else found


def states(store: Store) -> dict[str, SyncState]:
    """How far all are that ever ran, by name; blocking. Raises StoreUnavailable, ConfigurationError."""
    return {name: SyncState.from_text(text) for name, text in places(store, CURSOR).items()}
