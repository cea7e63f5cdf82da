"""Replays: stored events handled again, as many as a Selection means, page by page, from where it stopped.

``start`` counts what is meant and keeps the replay; ``run`` enqueues it. Every method has a blocking twin that ends in
``_sync``; both run the same steps. All raise StoreUnavailable when the database is down: nothing is lost, and ``run``
goes on from the stored position.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from moorline.errors import ConfigurationError, EventNotFound, EventPruned
from moorline.events import replay_sql
from moorline.events.inbox_sql import events_by_ids
from moorline.events.replay_sql import Change, Done, Replay
from moorline.events.selection import MOST_IDS, Selection
from moorline.events.selection_sql import Head, Page, newest_id, read_page, resolve_ids
from moorline.jobs.brokers.sql import CHANNEL
from moorline.jobs.brokers.sql_order import apart
from moorline.jobs.brokers.sql_outbox import OUTBOX
from moorline.store.actors import check_actor
from moorline.store.steps import Read, Sleep, Steps, Write, perform, perform_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorline.events.event import Event
    from moorline.events.handlers import Handlers
    from moorline.events.inbox_sql import Planned
    from moorline.store.store import Store

__all__ = ["Found", "Replay", "Replays"]

PAGE: Final = 100
"""Events enqueued in one transaction."""

_FIRST: Final = 5
_LISTEN: Final = 1.0  # seconds that a slow replay sleeps before it looks whether it was cancelled
_MOST_RATE: Final = 1_000_000.0


class Found(NamedTuple):
    """What a selection means now: how many events, how many jobs they would become, and the first few events."""

    events: int
    jobs: int
    first: list[Head]


class Replays:
    """The replays of one application. A handler that no longer exists gets no job; new ones do.

    With ``relayed`` the jobs are for another broker (see ``Relay``).
    """

    def __init__(self, store: Store, handlers: Handlers, *, page: int = PAGE, relayed: bool = False) -> None:
        if page < 1:
            raise ConfigurationError(f"page: expected a positive number of events, got {page}")
        self._store = store
        self._handlers = handlers
        self._page = page
        self._relayed = relayed
        self._channel = OUTBOX if relayed else CHANNEL

    async def count(self, selection: Selection, *, handler: str | None = None) -> Found:
        """What would be enqueued: an exact count; nothing is changed. Raises as ``start`` does."""
        return await perform(self._store, self._count(selection, handler))

    def count_sync(self, selection: Selection, *, handler: str | None = None) -> Found:
        """As ``count``, blocking."""
        return perform_sync(self._store, self._count(selection, handler))

    async def start(
        self, selection: Selection, *, actor: str, handler: str | None = None, rate: float | None = None
    ) -> Replay:
        """Keep a replay of the events that are selected now, those that come later left out; ``run`` enqueues them.

        ``actor`` is who wants it, for the audit; ``handler`` is one handler's name, instead of all that match; ``rate``
        is in events a second. Raises EventNotFound or EventPruned for an id that is named and cannot be had,
        ConfigurationError naming the argument.
        """
        return await perform(self._store, self._start(selection, actor, handler, rate))

    def start_sync(
        self, selection: Selection, *, actor: str, handler: str | None = None, rate: float | None = None
    ) -> Replay:
        """As ``start``, blocking."""
        return perform_sync(self._store, self._start(selection, actor, handler, rate))

    async def run(self, id: str, *, progress: Callable[[Replay], None] | None = None) -> Replay:
        """Enqueue page by page until it is done, cancelled or paused; ``progress`` is called after each page."""
        return await perform(self._store, self._run(id, progress))

    def run_sync(self, id: str, *, progress: Callable[[Replay], None] | None = None) -> Replay:
        """As ``run``, blocking."""
        return perform_sync(self._store, self._run(id, progress))

    async def run_once(self, id: str) -> Replay:
        """Enqueue one page, heeding no rate."""
        return await perform(self._store, self._run_once(id))

    def run_once_sync(self, id: str) -> Replay:
        """As ``run_once``, blocking."""
        return perform_sync(self._store, self._run_once(id))

    async def resume(self, id: str, *, actor: str) -> Replay:
        """Let one that was paused, or whose process died, ``run`` on. Raises ReplayStateError if it has ended."""
        return await perform(self._store, self._change(id, "running", actor))

    def resume_sync(self, id: str, *, actor: str) -> Replay:
        """As ``resume``, blocking."""
        return perform_sync(self._store, self._change(id, "running", actor))

    async def pause(self, id: str, *, actor: str) -> Replay:
        """Stop it after the page that is being written, wherever it runs. Raises ReplayStateError if it has ended."""
        return await perform(self._store, self._change(id, "paused", actor))

    def pause_sync(self, id: str, *, actor: str) -> Replay:
        """As ``pause``, blocking."""
        return perform_sync(self._store, self._change(id, "paused", actor))

    async def cancel(self, id: str, *, actor: str, reason: str | None = None) -> Replay:
        """As ``pause``, for good. Jobs that were enqueued stay."""
        return await perform(self._store, self._change(id, "cancelled", actor, reason))

    def cancel_sync(self, id: str, *, actor: str, reason: str | None = None) -> Replay:
        """As ``cancel``, blocking."""
        return perform_sync(self._store, self._change(id, "cancelled", actor, reason))

    async def get(self, id: str) -> Replay:
        """Raises ReplayNotFound."""
        return await perform(self._store, self._load(id))

    def get_sync(self, id: str) -> Replay:
        """As ``get``, blocking."""
        return perform_sync(self._store, self._load(id))

    def list_sync(self, *, limit: int = 50) -> Sequence[Replay]:
        """As ``list``, blocking."""
        return self._store.read_sync(replay_sql.newest, limit)

    async def list(self, *, limit: int = 50) -> Sequence[Replay]:
        """The newest first."""
        return await self._store.read(replay_sql.newest, limit)

    # --- the steps, for both colours

    def _start(self, selection: Selection, actor: str, handler: str | None, rate: float | None) -> Steps[Replay]:
        check_actor(actor)
        _check_rate(rate)
        self._check_handler(handler)
        selection = yield from self._settled(selection)
        found = yield from self._counted(selection, handler)
        now = self._store.clock.wall()
        replay: Replay = yield Write(
            replay_sql.insert,
            Replay(self._store.new_id(), now, actor, selection, handler, "running", found.events, rate=rate),
        )
        return replay

    def _count(self, selection: Selection, handler: str | None) -> Steps[Found]:
        self._check_handler(handler)
        selection = yield from self._settled(selection)
        return (yield from self._counted(selection, handler))

    def _settled(self, selection: Selection) -> Steps[Selection]:
        """The same with the inbox's ids, in their order, and with an end: what comes in meanwhile is not meant."""
        if selection.ids:
            known: dict[str, list[str]] = yield Read(resolve_ids, selection.ids)
            missing = [given for given, found in known.items() if not found]
            if missing:
                raise EventNotFound(f"no event {', '.join(map(repr, missing[:5]))} is stored{_more(len(missing) - 5)}")
            ids = sorted({one for found in known.values() for one in found})
            if len(ids) > MOST_IDS:
                raise ConfigurationError(f"ids: they name {len(ids):,} events; at most {MOST_IDS:,} at once")
            selection = replace(selection, ids=tuple(ids))
        newest: str = (yield Read(newest_id)) or "0"
        return replace(selection, last=newest if selection.last is None else min(selection.last, newest))

    def _counted(self, selection: Selection, handler: str | None) -> Steps[Found]:
        events, jobs, position, final = 0, 0, None, False
        first: list[Head] = []
        while not final:
            page: Page = yield self._reading(selection, handler, position, self._page)
            events += len(page.chosen)
            jobs += sum(len(one.handlers) for one in page.chosen)
            first += [one.head for one in page.chosen[: _FIRST - len(first)]]
            position, final = page.position, page.final
        if len(selection.ids) == 1 and selection == Selection(ids=selection.ids, last=selection.last) and not events:
            yield from self._why_not(selection.ids[0])
        return Found(events, jobs, first)

    def _why_not(self, id: str) -> Steps[None]:
        """One event that was named, and is none to be handled: say so if it is because it was pruned."""
        from moorline.events.inbox_sql import event_by_id

        event = yield Read(event_by_id, id)
        if event is not None and event.pruned:
            raise EventPruned(f"event {id}: its body and headers are no longer kept (webhooks.keep_days)")

    def _run(self, id: str, progress: Callable[[Replay], None] | None) -> Steps[Replay]:
        clock = self._store.clock
        replay = yield from self._load(id)
        due = clock.monotonic()
        while replay.state == "running":
            before = replay.events
            replay = yield from self._one_page(replay)
            if progress is not None:
                progress(replay)
            if replay.rate is not None:
                due = max(due, clock.monotonic() - _LISTEN) + (replay.events - before) / replay.rate
                replay = yield from self._wait(replay, due)
        return replay

    def _wait(self, replay: Replay, until: float) -> Steps[Replay]:
        while replay.state == "running" and (left := until - self._store.clock.monotonic()) > 0:
            yield Sleep(min(left, _LISTEN))
            if left > _LISTEN:
                replay = yield from self._load(replay.id)
        return replay

    def _run_once(self, id: str) -> Steps[Replay]:
        replay = yield from self._load(id)
        return (yield from self._one_page(replay)) if replay.state == "running" else replay

    def _one_page(self, replay: Replay) -> Steps[Replay]:
        """Until something was enqueued or nothing is left; where nothing fits, nothing is written either."""
        limit = self._page if replay.rate is None else max(1, min(self._page, int(replay.rate)))
        position = replay.position
        while True:
            page: Page = yield self._reading(replay.selection, replay.handler, position, limit)
            position = page.position
            if page.chosen or page.final:
                break
        chosen = yield from self._planned(page)
        now = self._store.clock.wall()
        done = Done(replay.id, replay.position, position, page.final, now, chosen, self._relayed)
        keys = [] if self._relayed else [key for _, planned in chosen for _, key in planned]
        after: Replay = yield Write(*apart(replay_sql.page_done, done, keys))
        if after.jobs > replay.jobs:
            self._store.notify(self._channel)
        return after

    def _planned(self, page: Page) -> Steps[Sequence[tuple[str, Sequence[Planned]]]]:
        """The handlers of each event with the keys of their jobs, for which an event must be read."""
        keyed = [one.head.id for one in page.chosen if any(handler.ordering for handler in one.handlers)]
        events: dict[str, Event] = (yield Read(events_by_ids, keyed)) if keyed else {}
        return [
            (one.head.id, [(handler, handler.key_of(events.get(one.head.id))) for handler in one.handlers])
            for one in page.chosen
        ]

    def _reading(self, selection: Selection, handler: str | None, after: str | None, limit: int) -> Read:
        return Read(read_page, selection, self._handlers, handler, after, limit)

    def _load(self, id: str) -> Steps[Replay]:
        replay: Replay | None = yield Read(replay_sql.load, id)
        if replay is None:
            raise replay_sql.not_found(id)
        return replay

    def _change(self, id: str, to: replay_sql.State, actor: str, reason: str | None = None) -> Steps[Replay]:
        check_actor(actor)
        replay: Replay = yield Write(replay_sql.change, Change(id, to, self._store.clock.wall(), actor, reason))
        return replay

    def _check_handler(self, handler: str | None) -> None:
        if handler is not None and self._handlers.named(handler) is None:
            known = ", ".join(sorted(one.name for one in self._handlers)) or "none"
            raise ConfigurationError(f"handler: no handler is named {handler!r}; known: {known}")


def _more(number: int) -> str:
    return f", nor {number:,} more" if number > 0 else ""


def _check_rate(rate: object) -> None:
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= _MOST_RATE:
        raise ConfigurationError(f"rate: expected events a second, more than 0, got {rate!r}")
