"""Storing events once, with their jobs, on both databases."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from moorline.errors import ConfigurationError, EventNotFound, EventPruned, StoreError
from moorline.events import Event, Handlers, Inbox, Stored
from moorline.jobs.brokers.sql import CHANNEL
from moorline.services import GitHub, Stripe
from moorline.store.store import Store

Rows = Callable[[str], list[Any]]


def event(number: int | str = 1, **changes: Any) -> Event:
    return dataclasses.replace(
        Event(
            service="github",
            id=f"7:{number}",
            type="pull_request",
            action="closed",
            body=b'{"action":"closed"}\x00\xff',
            headers={
                "x-github-event": "pull_request",
                "authorization": "Bearer abc",
                "x-hub-signature-256": "sha256=1",
            },
            received_at=1_790_000_000.25,
            timestamp=None,
            secret_index=1,
        ),
        **changes,
    )


@pytest.fixture
def handled(inbox: Inbox) -> Inbox:
    """An inbox with two handlers for one kind of event."""

    @inbox.handlers.on(GitHub, "pull_request", retries=2)
    def first(event): ...

    @inbox.handlers.on(GitHub, "pull_request.closed")
    async def second(event): ...

    return inbox


async def test_what_was_stored_comes_back_as_it_was(inbox: Inbox):
    """Bytes, headers, times and the secret's number survive; credentials in the headers do not."""
    stored = await inbox.add(event(timestamp=1_789_999_999.0))
    found = await inbox.get(stored.event_id)
    assert found == event(
        timestamp=1_789_999_999.0,
        inbox_id=stored.event_id,
        headers={"x-github-event": "pull_request", "authorization": "***", "x-hub-signature-256": "sha256=1"},
    )
    assert not stored.duplicate


async def test_a_large_body_is_stored_small_and_comes_back_as_it_came(store: Store, rows: Rows):
    """In any company; what does not shrink, and all where it is switched off, is stored as it came."""
    large, noise = b'{"text":"' + b"moorline " * 2000 + b'"}', random.Random(1).randbytes(20_000)
    bodies = {1: large, 2: noise, 3: b"{}", 4: large[:2_048], 5: large[:2_049]}
    inbox = Inbox(store)
    stored = await asyncio.gather(*[inbox.add(event(n, body=body)) for n, body in bodies.items()])
    stored.append(await Inbox(store, compress_over=0).add(event(6, body=large)))
    found = [(await inbox.get(one.event_id)).body for one in stored]
    assert found == [*bodies.values(), large]
    assert rows("SELECT delivery_key FROM events WHERE encoding = 'zstd' ORDER BY 1") == [("7:1",), ("7:5",)]
    assert rows("SELECT count(*) FROM events WHERE length(body) < 2000") == [(3,)]
    assert (await inbox.add(event(1, body=large))).duplicate


async def test_an_event_is_found_by_its_senders_id_too(inbox: Inbox):
    """``events show evt_1`` works with what the sender's page shows; among many, and of any service."""
    await asyncio.gather(*[inbox.add(event(n)) for n in range(5)], inbox.add(event(id="evt_1", service="own")))
    assert (await inbox.get("7:3")).id == "7:3"
    assert inbox.get_sync("evt_1").service == "own"
    for unknown in ("7:99", "", "0" * 32, "'", "\x7f", "\x00", "\ud800"):
        with pytest.raises(EventNotFound):
            await inbox.get(unknown)


async def test_the_same_event_three_times_at_once_is_stored_once(handled: Inbox, rows: Rows):
    """Concurrent duplicates: one row, one job for each handler, the others counted and told the first one's id."""
    stored = await asyncio.gather(*[handled.add(event()) for _ in range(3)])
    assert sorted(one.duplicate for one in stored) == [False, True, True]
    assert len({one.event_id for one in stored}) == 1
    assert rows("SELECT count(*), max(duplicates) FROM events") == [(1, 2)]
    assert rows("SELECT name, max_attempts, event_id FROM jobs ORDER BY name") == [
        ("event:github.first", 3, stored[0].event_id),
        ("event:github.second", 6, stored[0].event_id),
    ]
    assert await handled.add(event()) == Stored(stored[0].event_id, duplicate=True)
    assert (await handled.get(stored[0].event_id)).duplicates == 3


async def test_the_same_id_of_two_services_is_two_events(inbox: Inbox, rows: Rows):
    """Ids belong to their senders."""
    for service in ("stripe", "github"):
        assert not (await inbox.add(event(service=service))).duplicate
    assert rows("SELECT count(*) FROM events") == [(2,)]


async def test_a_group_of_old_and_new_is_told_apart(handled: Inbox, rows: Rows):
    """Whatever is committed together, each gets its own answer, and only new ones get jobs."""
    known = {n: (await handled.add(event(n))).event_id for n in range(0, 200, 3)}
    stored = await asyncio.gather(
        *[handled.add(event(n)) for n in range(200)], *[handled.add(event(n)) for n in (1, 3)]
    )
    for n, one in enumerate(stored[:200]):
        assert one.duplicate == (n in known)
        assert known.get(n, one.event_id) == one.event_id
    assert [one.duplicate for one in stored[200:]] == [True, True]
    assert rows("SELECT count(*) FROM events") == [(200,)]
    assert rows("SELECT count(*), count(DISTINCT event_id) FROM jobs") == [(400, 200)]


async def test_two_receivers_on_one_database_store_once(database_url: str, store: Store, rows: Rows):
    """The same events sent to two processes' inboxes at once are stored once, and neither fails."""
    with Store(database_url, auto_migrate=False) as other:
        handlers = Handlers()
        handlers.on(GitHub, "*", name="h")(len)
        inboxes = [Inbox(store, handlers), Inbox(other, handlers)]
        stored = await asyncio.gather(*[inbox.add(event(n % 50)) for n in range(200) for inbox in inboxes])
    assert sum(not one.duplicate for one in stored) == 50
    assert rows("SELECT count(*), sum(duplicates) FROM events") == [(50, 350)]
    assert rows("SELECT count(*) FROM jobs") == [(50,)]


async def test_one_bad_event_does_not_fail_its_neighbours(inbox: Inbox, rows: Rows):
    """What the database refuses is refused alone, and leaves nothing behind."""
    bad: Any = event(2, secret_index="x" * 10 if inbox.store.dialect == "postgresql" else 2**70)
    results = await asyncio.gather(*[inbox.add(one) for one in (event(1), bad, event(3))], return_exceptions=True)
    assert [isinstance(result, Stored) for result in results] == [True, False, True]
    assert rows("SELECT delivery_key FROM events ORDER BY delivery_key") == [("7:1",), ("7:3",)]


async def test_event_and_jobs_are_one_transaction(handled: Inbox, rows: Rows):
    """If the jobs cannot be written the event is not kept either, so the sender's next try is no duplicate."""
    with handled.store._engines.write.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO jobs_away")
    with pytest.raises(StoreError):
        await handled.add(event())
    with handled.store._engines.write.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("ALTER TABLE jobs_away RENAME TO jobs")
    assert rows("SELECT count(*) FROM events") == [(0,)]
    assert not (await handled.add(event())).duplicate


async def test_workers_are_woken_for_new_jobs_and_only_then(handled: Inbox):
    """New jobs wake who waits; a duplicate, and an event that nobody handles, do not."""
    calls: list[int] = []
    woken = threading.Event()

    def callback() -> None:
        calls.append(1)
        woken.set()

    stop = handled.store.listen(CHANNEL, callback)
    await asyncio.gather(*[handled.add(event(n)) for n in range(10)])
    assert await asyncio.to_thread(woken.wait, 10)
    stop()
    calls.clear()
    original, handled.store.notify = handled.store.notify, lambda *a, **k: calls.append(2)  # type: ignore[method-assign]
    await handled.add(event(1))
    await handled.add(event(50, type="push", action=None))
    await asyncio.sleep(0)
    handled.store.notify = original  # type: ignore[method-assign]
    assert calls == []


async def test_replay_makes_the_jobs_again(handled: Inbox, rows: Rows):
    """A replay enqueues every handler that matches now, or the one that is named; the event stays one."""
    stored = await handled.add(event())
    jobs = await handled.replay(stored.event_id)
    assert len(jobs) == 2
    (one,) = handled.replay_sync("7:1", handler="github.second")
    assert rows(f"SELECT name, payload, event_id FROM jobs WHERE id = '{one}'") == [
        ("event:github.second", stored.event_id.encode(), stored.event_id)
    ]
    assert rows("SELECT count(*) FROM jobs") == [(5,)]
    assert rows("SELECT count(*), max(duplicates) FROM events") == [(1, 0)]


async def test_a_replay_that_cannot_be_says_why(handled: Inbox, rows: Rows):
    """No such event, no such handler: named errors, and nothing is enqueued."""
    await handled.add(event(type="push", action=None))
    with pytest.raises(EventNotFound):
        await handled.replay("evt_9")
    with pytest.raises(ConfigurationError, match=r"github\.first.*none"):
        await handled.replay("7:1", handler="github.first")
    assert await handled.replay("7:1") == []
    assert rows("SELECT count(*) FROM jobs") == [(0,)]


async def test_the_newest_are_listed_first_by_page(inbox: Inbox):
    """Listing goes back in time, filtered by service and type, page by page."""
    for n in range(6):
        await inbox.add(event(n, type="push" if n % 2 else "pull_request", action=None if n % 2 else "closed"))
    inbox.add_sync(event(id="evt_1", service="stripe", type="charge.refunded", action=None))
    assert [one.id for one in await inbox.recent(limit=3)] == ["evt_1", "7:5", "7:4"]
    page = inbox.recent_sync(service="github", limit=4)
    rest = inbox.recent_sync(service="github", before=page[-1].inbox_id)
    assert [one.id for one in page + rest] == [f"7:{n}" for n in reversed(range(6))]
    for kind, ids in [
        ("push", ["7:5", "7:3", "7:1"]),
        ("pull_request.closed", ["7:4", "7:2", "7:0"]),
        ("pull_request", ["7:4", "7:2", "7:0"]),
        ("charge.refunded", ["evt_1"]),
        ("charge", []),
    ]:
        assert [one.id for one in await inbox.recent(type=kind)] == ids, kind


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_a_page_has_bounds(inbox: Inbox, limit: int):
    """A limit that makes no sense is named."""
    with pytest.raises(ConfigurationError, match="limit"):
        await inbox.recent(limit=limit)


async def test_stripe_and_github_handlers_do_not_mix(inbox: Inbox, rows: Rows):
    """An event makes jobs for its own service's handlers."""
    inbox.handlers.on(Stripe, "*", name="money")(len)
    inbox.handlers.on(GitHub, "*", name="code")(len)
    await inbox.add(event())
    assert rows("SELECT name FROM jobs") == [("event:code",)]


def once(token: str, *, at: float = 1_790_000_000.0) -> Event:
    """An event of a sender whose token counts once."""
    return Event(
        service="mailgun", id="m1", type="sent", body=b"{}", headers={}, received_at=at, dedup_key=f"once:{token}",
        once_for=43_200.0,
    )  # fmt: skip


async def test_one_id_under_two_tokens_at_once_is_one_event(inbox: Inbox, rows: Any):
    """Whether they come in one group, in one delivery, or one after the other."""
    first, second = await asyncio.gather(inbox.add(once("a")), inbox.add(once("b")))
    third, fourth = await inbox.add_all([once("c"), once("d")])
    assert [first.duplicate, second.duplicate, third.duplicate, fourth.duplicate] == [False, True, True, True]
    assert rows("SELECT sender_id, duplicates FROM events") == [("m1", 3)]


async def test_two_receivers_with_one_id_under_two_tokens_store_one_event(database_url: str):
    """Each in a transaction of its own: the second one waits for the first."""
    with Store(database_url, auto_migrate=True) as one, Store(database_url) as other:
        inboxes = Inbox(one), Inbox(other)
        for number in range(20):
            events = [dataclasses.replace(once(f"{number}{of}"), id=f"m{number}") for of in "ab"]
            stored = await asyncio.gather(*[box.add(event) for box, event in zip(inboxes, events, strict=True)])
            assert sorted(answer.duplicate for answer in stored) == [False, True]


async def test_an_event_that_is_pruned_meanwhile_is_not_enqueued(inbox: Inbox, rows: Any, monkeypatch: Any):
    """Between reading it and making its jobs: EventPruned, and no job that could not be done."""
    inbox.handlers.on("github", "*", name="h")(len)
    stored = await inbox.add(event())
    again = inbox._again

    def pruned_meanwhile(event: Event, handler: str | None) -> Any:
        def prune(connection: Any, payloads: list[Any]) -> list[None]:
            connection.exec_driver_sql("UPDATE events SET encoding = 'pruned'")
            return [None]

        inbox.store.write_sync(prune, None)
        return again(event, handler)

    monkeypatch.setattr(inbox, "_again", pruned_meanwhile)
    with pytest.raises(EventPruned):
        await inbox.replay(stored.event_id)
    assert rows("SELECT count(*) FROM jobs") == [(1,)]
