"""One statement for a group of new events on SQLite: the same outcome as a transaction of several, and one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.databases import migrated_sqlite
from tests.events.stored import fresh_store
from tests.events.test_inbox import event

from moorline.errors import StoreUnavailable
from moorline.events import Event, Inbox, Stored, inbox_sqlite
from moorline.events.inbox_sqlite import STORE_ARRIVALS
from moorline.services import GitHub
from moorline.store import engines
from moorline.store.store import Store


def handled(store: Store) -> Inbox:
    inbox = Inbox(store)

    @inbox.handlers.on(GitHub, "pull_request", retries=2)
    def first(event): ...

    @inbox.handlers.on(GitHub, "pull_request.closed")
    def second(event): ...

    @inbox.handlers.on(GitHub, "issues", key=lambda event: event.id[-1])
    def in_order(event): ...

    return inbox


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(migrated_sqlite(tmp_path / "a.db"), auto_migrate=False) as opened:
        yield opened


def statements(store: Store) -> list[str]:
    """What the writer's connection is asked from now on, by us."""
    asked: list[str] = []
    assert store._writer
    connection: Any = store._writer._connection
    driver = connection.connection.dbapi_connection

    def trace(statement: str) -> None:
        if asked[-1:] != [statement[:20]]:  # it is told of each trigger too
            asked.append(statement[:20])

    driver.set_trace_callback(trace)
    return asked


async def test_a_group_is_one_statement(store: Store):
    """Neither a transaction is begun nor ended; the rows are there with their jobs, and no state is left behind."""
    inbox = handled(store)
    await inbox.add(event(0))
    asked = statements(store)
    await asyncio.gather(*[inbox.add(event(n)) for n in range(1, 21)])
    assert asked == ["INSERT INTO arriving"]
    counts = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM jobs WHERE state = 'ready')"
    assert store.read_sync(lambda c: tuple(c.exec_driver_sql(counts).one())) == (21, 42)


async def test_what_needs_more_is_written_in_a_transaction(store: Store):
    """Order keys, tokens that are used once, and very many rows; and an event that came before is counted in one."""
    inbox = handled(store)
    old = await inbox.add(event(0))
    asked = statements(store)
    assert not (await inbox.add(event(1, type="issues"))).duplicate
    assert not (await inbox.add(event(2, dedup_key="once:1"))).duplicate
    await asyncio.gather(*[inbox.add(event(n)) for n in range(100, 300)])
    assert asked.count("BEGIN IMMEDIATE") == asked.count("COMMIT") == 3
    assert "INSERT INTO arriving" not in asked
    asked.clear()
    assert await inbox.add(event(0)) == Stored(old.event_id, duplicate=True)
    assert [asked[0], asked[1], asked[-1]] == ["INSERT INTO arriving", "BEGIN IMMEDIATE", "COMMIT"]
    assert (await inbox.get(old.event_id)).duplicates == 1


async def test_what_was_forgotten_meanwhile_is_stored_anew(store: Store, monkeypatch: pytest.MonkeyPatch):
    """It was there when the group was written, and pruned before it could be counted: it has its jobs again."""
    inbox = handled(store)
    await inbox.add(event(0))
    counting = inbox_sqlite._with_old

    def forgotten(connection: Any, *rest: Any) -> Any:
        for table in ("jobs", "events"):
            connection.connection.dbapi_connection.execute(f"DELETE FROM {table}")
        return counting(connection, *rest)

    monkeypatch.setattr(inbox_sqlite, "_with_old", forgotten)
    stored = await inbox.add(event(0))
    assert (await inbox.get(stored.event_id)).id == event(0).id
    made = "SELECT count(*) FROM jobs WHERE event_id = (SELECT id FROM events)"
    assert store.read_sync(lambda c: c.exec_driver_sql(made).scalar_one()) == 2


def locked_while_counting(store: Store, monkeypatch: pytest.MonkeyPatch, *, forgotten: bool = False) -> None:
    """From now on another process writes whenever events that came before are to be counted."""
    counting = inbox_sqlite._with_old
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.0)

    def locked(connection: Any, *rest: Any) -> Any:
        with contextlib.closing(sqlite3.connect(str(store.url.database), isolation_level=None)) as other:
            if forgotten:
                other.execute("DELETE FROM events")
            other.execute("BEGIN IMMEDIATE")
            return counting(connection, *rest)

    monkeypatch.setattr(inbox_sqlite, "_with_old", locked)


async def test_what_is_stored_is_answered_so_though_it_cannot_be_counted(store: Store, monkeypatch: pytest.MonkeyPatch):
    """Another process's lock keeps a duplicate from being counted, and nobody from being told that it is one."""
    inbox = handled(store)
    old = await inbox.add(event(0))
    with monkeypatch.context() as meanwhile:
        locked_while_counting(store, meanwhile)
        again, new, twice = await asyncio.gather(*[inbox.add(event(n)) for n in (0, 1, 1)])
    assert again == Stored(old.event_id, duplicate=True)
    assert (new.duplicate, twice) == (False, Stored(new.event_id, duplicate=True))
    made = "SELECT count(*) FROM jobs"
    assert store.read_sync(lambda c: c.exec_driver_sql(made).scalar_one()) == 4
    assert (await inbox.add(event(0))).duplicate
    assert (await inbox.get(old.event_id)).duplicates == 1


async def test_what_was_forgotten_and_cannot_be_stored_anew_is_no_success(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """It alone is refused, to be sent again."""
    inbox = handled(store)
    await inbox.add(event(0))
    with monkeypatch.context() as meanwhile:
        locked_while_counting(store, meanwhile, forgotten=True)
        with pytest.raises(StoreUnavailable):
            await inbox.add(event(0))
    assert not (await inbox.add(event(0))).duplicate


async def test_a_lock_is_waited_for(store: Store):
    """Another process that writes is waited for, as in any write."""
    inbox = handled(store)
    await inbox.add(event(0))
    with Store(str(store.url), auto_migrate=False) as other:
        engine: Any = other._engines
        with engine.write.begin() as connection:
            connection.exec_driver_sql("INSERT INTO meta (key, value) VALUES ('held', '')")
            adding = asyncio.ensure_future(inbox.add(event(1)))
            await asyncio.sleep(0.02)
            assert not adding.done()
        assert not (await adding).duplicate


@contextlib.contextmanager
def together(store: Store) -> Iterator[None]:
    """What is submitted in it waits, and is one group: what comes first in a group is decided by what is in it."""
    entered, ended = threading.Event(), threading.Event()

    def hold(_: Any, payloads: list[None]) -> list[None]:
        entered.set()
        assert ended.wait(10)
        return payloads

    store.submit(hold, None)
    assert entered.wait(10)
    yield
    ended.set()


EVENTS = st.builds(
    event,
    st.integers(0, 6),
    type=st.sampled_from(["pull_request", "push", "issues"]),
    action=st.sampled_from([None, "closed"]),
)


@settings(max_examples=60)
@given(groups=st.lists(st.lists(EVENTS, min_size=1, max_size=8), max_size=5))
def test_the_outcome_is_that_of_a_transaction(groups: list[list[Event]]):
    """Of any groups of old and new events, some of them twice in one group: answers, rows, counts and jobs."""
    found = []
    for apply in (STORE_ARRIVALS, STORE_ARRIVALS.apply):
        with fresh_store() as store:
            inbox = handled(store)
            inbox._apply = apply  # type: ignore[assignment]
            answers: list[tuple[str, bool]] = []
            for group in groups:
                with together(store):
                    futures = [
                        store.submit(*inbox._with_keys(apply, one, (one,))) for one in map(inbox._arrival, group)
                    ]
                keys = [(one.id, future.result().duplicate) for one, future in zip(group, futures, strict=True)]
                answers += sorted(keys)
            rows = store.read_sync(_rows)
            found.append((answers, rows))
    assert found[0] == found[1]


def _rows(connection: Any) -> list[list[tuple[Any, ...]]]:
    events = "SELECT delivery_key, type, duplicates, length(body), headers FROM events ORDER BY delivery_key"
    jobs = """SELECT e.delivery_key, j.name, j.state, j.max_attempts, j.queue, j.priority, j.order_key, j.run_at,
        j.created_at, typeof(j.payload), CAST(j.payload AS TEXT) = e.id, length(j.id), j.id <> e.id, j.unique_key
        FROM jobs AS j JOIN events AS e ON e.id = j.event_id ORDER BY 1, 2"""
    return [[tuple(row) for row in connection.exec_driver_sql(query)] for query in (events, jobs)]
