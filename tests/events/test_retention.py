"""What is kept of events and for how long, on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.events.stored import START, add_all, pull

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, EventPruned
from moorline.events import Inbox
from moorline.events.retention import Retention, RetentionConfig, Swept
from moorline.events.selection_sql import id_at
from moorline.services import GitHub
from moorline.store.ids import new_id
from moorline.store.leases import Lease, take_leases
from moorline.store.store import Store

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _ids_by_the_events_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of one process never go back; here each test begins at START again."""
    from moorline.store import ids

    monkeypatch.setattr(ids, "_make", ids._maker())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START + 40 * DAY)


@pytest.fixture
def store(database_url: str, clock: ManualClock) -> Any:
    """An open store of each kind, on a clock that is moved by hand."""
    with Store(database_url, clock=clock, auto_migrate=True) as store:
        yield store


def config(**changes: Any) -> RetentionConfig:
    return RetentionConfig(
        **{"keep_days": 10, "dedup_days": 30, "compress_over": 100, "batch": 3, "pause": 0.5, **changes}
    )


def states(rows: Any) -> dict[str, str | None]:
    return dict(rows("SELECT delivery_key, encoding FROM events ORDER BY id"))


def fill(store: Store, days: list[float], **payload: Any) -> list[str]:
    """One event for each of the days since START."""
    return add_all(Inbox(store), [pull(n, at=START + day * DAY, **payload) for n, day in enumerate(days)])


async def test_keys_outlive_bodies_and_both_end(store: Store, rows: Any, clock: ManualClock):
    """Past keep_days only what deduplication needs is there; past dedup_days nothing; what is younger is untouched."""
    ids = fill(store, [0, 5, 9.9, 10.1, 20, 29.9, 30.1, 39, 40], note="x" * 50)
    assert Retention(store, config()).count_sync() == Swept(deleted=3, emptied=3, compressed=0)
    swept = await Retention(store, config()).run_once()
    assert swept == Swept(deleted=3, emptied=3)
    assert states(rows) == {"7:3": "pruned", "7:4": "pruned", "7:5": "pruned", "7:6": None, "7:7": None, "7:8": None}
    assert rows(f"SELECT headers, length(body) FROM events WHERE id = '{ids[3]}'") == [("{}", 0)]
    inbox = Inbox(store)
    with pytest.raises(EventPruned, match="keep_days"):
        await inbox.get(ids[3])
    assert (await inbox.get(ids[6])).payload["number"] == 6
    listed = await inbox.recent()
    assert [event.pruned for event in listed] == [False] * 3 + [True] * 3
    with pytest.raises(EventPruned):
        _ = listed[-1].payload
    again = await inbox.add(pull(3, at=clock.wall()))
    assert (again.duplicate, again.event_id) == (True, ids[3])
    assert not (await inbox.add(pull(0, at=clock.wall()))).duplicate
    assert (await Retention(store, config()).run_once()).nothing


async def test_what_is_still_needed_is_kept_whole(store: Store, rows: Any):
    """An event with a job that waits, runs or is dead keeps body and headers, however old; done and cancelled ones do not."""
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="h")(len)
    ids = add_all(inbox, [pull(n, at=START + n) for n in range(5)])

    def play(connection: Any, payloads: list[Any]) -> list[None]:
        for id_, state in zip(ids, ("ready", "running", "dead", "done", "cancelled"), strict=True):
            connection.exec_driver_sql(f"UPDATE jobs SET state = '{state}' WHERE event_id = '{id_}'")
        return [None]

    await store.write(play, None)
    assert Retention(store, config()).count_sync().deleted == 2
    assert (await Retention(store, config()).run_once()).deleted == 2
    assert list(states(rows)) == ["7:0", "7:1", "7:2"]
    assert await Retention(store, config(dedup_days=100)).run_once() == Swept()
    assert set(states(rows).values()) == {None}


async def test_large_bodies_are_compressed_and_read_as_they_came(store: Store, rows: Any, clock: ManualClock):
    """Older than an hour and larger than the threshold: smaller in the table, the same bytes to every reader."""
    text = "moorline " * 100
    ids = fill(store, [35, 36, 37, 38, 39.97], note=text)
    small = add_all(Inbox(store), [pull(90, at=START + 39.8 * DAY)])
    noise = add_all(Inbox(store), [pull(91, at=START + 39.9 * DAY, body=bytes(range(256)))])
    before = [(await Inbox(store).get(id_)).body for id_ in ids]
    assert Retention(store, config()).count_sync() == Swept(compressed=4)
    swept = await Retention(store, config()).run_once()
    assert swept == Swept(compressed=4)
    assert states(rows) == {
        "7:0": "zstd",
        "7:1": "zstd",
        "7:2": "zstd",
        "7:3": "zstd",
        "7:90": None,
        "7:91": None,
        "7:4": None,
    }
    assert rows("SELECT max(length(body)) FROM events WHERE encoding = 'zstd'")[0][0] < len(text) / 5
    assert [(await Inbox(store).get(id_)).body for id_ in ids] == before
    assert (await Inbox(store).get(small[0])).payload == {"number": 90}
    assert (await Inbox(store).get(noise[0])).body == bytes(range(256))
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="h")(len)
    from moorline.events.selection import Selection

    assert (await inbox.replays.count(Selection(where={"note": text}))).events == 5
    clock.advance(DAY)
    assert (await Retention(store, config(compress_over=0)).run_once()).nothing
    assert (await Retention(store, config()).run_once()).compressed == 1


async def test_batches_are_small_and_pause(store: Store, clock: ManualClock):
    """Never more than a batch in a transaction, and room for others after each."""
    fill(store, [day / 10 for day in range(10)])
    groups = store._writer.groups  # type: ignore[union-attr]
    seen: list[int] = []
    await Retention(store, config()).run_once(progress=lambda swept: seen.append(swept.deleted))
    assert seen == [3, 6, 9, 10]
    assert store._writer.groups - groups >= 4  # type: ignore[union-attr]
    assert clock.slept == [0.5] * 4


async def test_only_one_at_a_time_and_each_goes_on_from_there(store: Store, clock: ManualClock, rows: Any):
    """In the background a second holder does nothing until the lease is over; the place is kept, and once a day anew."""
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="h")(len)
    add_all(inbox, [pull(0, at=START)])
    retention = Retention(store, config())
    assert (await retention.run_once(holder="one")).nothing
    add_all(Inbox(store), [pull(1, at=START + DAY)])
    assert await retention.run_once(holder="two") == Swept()
    assert (await retention.run_once(holder="one")).deleted == 1

    def done(connection: Any, payloads: list[Any]) -> list[None]:
        connection.exec_driver_sql("UPDATE jobs SET state = 'done'")
        return [None]

    await store.write(done, None)
    clock.advance(100)
    assert (await retention.run_once(holder="two")).nothing  # it was passed by, and is looked at again tomorrow
    clock.advance(DAY)
    assert (await retention.run_once(holder="two")).deleted == 1
    assert rows("SELECT count(*) FROM events") == [(0,)]


def test_by_hand_it_is_noted_who_did_it(store: Store, rows: Any):
    """``events prune`` leaves an audit row with what went."""
    fill(store, [0, 15])
    Retention(store, config()).run_once_sync(actor="ada")
    ((actor, action, detail),) = rows("SELECT actor, action, detail FROM audit")
    assert (actor, action) == ("ada", "events.prune")
    assert json.loads(detail) == {"deleted": 1, "emptied": 1, "compressed": 0, "refusals": 0, "counts": 0}


async def test_refusals_and_counts_are_bounded(store: Store, rows: Any, clock: ManualClock):
    """The newest refusals of each service, counts of 14 days; the last count of one that is silent for longer stays."""
    now = clock.wall()

    def insert(connection: Any, payloads: list[Any]) -> list[None]:
        for service, count in (("github", 7), ("stripe", 2)):
            for n in range(count):
                connection.exec_driver_sql(
                    "INSERT INTO rejected (id, service, at, status, reason, method, headers)"
                    f" VALUES ('{new_id(now)}', '{service}', {now + n}, 401, 'mismatch', 'POST', '{{}}')"
                )
        old, young = int((now - 20 * DAY) // 60), int((now - 10 * DAY) // 60)
        for service, minute, stored in (
            ("github", old, 1), ("github", young, 1), ("stripe", old - 1, 1), ("stripe", old, 1), ("stripe", young, 0),
        ):  # fmt: skip
            connection.exec_driver_sql(
                f"INSERT INTO event_counts (service, minute, stored) VALUES ('{service}', {minute}, {stored})"
            )
        return [None]

    await store.write(insert, None)
    swept = await Retention(store, config(refusals=5)).run_once()
    assert (swept.refusals, swept.counts) == (2, 2)
    assert rows("SELECT service, count(*), min(at) FROM rejected GROUP BY service ORDER BY service") == [
        ("github", 5, now + 2),
        ("stripe", 2, now),
    ]
    assert rows("SELECT service, stored FROM event_counts ORDER BY service, minute") == [
        ("github", 1),
        ("stripe", 1),
        ("stripe", 0),
    ]


async def test_it_keeps_out_of_the_way_of_arrivals_and_replays(store: Store, rows: Any, database_url: str):
    """Pruning, arriving and replaying at once, over two connections: nobody fails, and no job is left without its event."""
    inbox = Inbox(store)
    add_all(inbox, [pull(n, at=START + n) for n in range(300)])
    inbox.handlers.on(GitHub, "*", name="h")(len)
    from moorline.events.selection import Selection

    with Store(database_url, auto_migrate=False, clock=ManualClock(START + 40 * DAY)) as other:
        away = Inbox(other, inbox.handlers)
        started = await away.replays.start(Selection(), actor="ada", rate=None)
        running = asyncio.create_task(away.replays.run(started.id))
        await asyncio.gather(
            Retention(store, config(batch=20, pause=0)).run_once(),
            *[inbox.add(pull(n, at=START + 39 * DAY)) for n in range(300)],
        )
        assert (await running).state == "done"
    orphans = rows("SELECT count(*) FROM jobs WHERE event_id NOT IN (SELECT id FROM events)")
    assert orphans == [(0,)]


async def test_a_lease_is_held_by_one_until_it_is_over(store: Store):
    """Taken, refused to another, extended by its holder, taken over when its time is out."""
    steps = [("a", 0, True), ("b", 1, False), ("a", 5, True), ("b", 12, False), ("b", 16, True), ("a", 17, False)]
    for holder, at, expected in steps:
        assert await store.write(take_leases, Lease("x", holder, START + at, 10)) is expected
    assert await store.write(take_leases, Lease("y", "a", START + 17, 10))


def test_a_wrong_setting_is_named():
    """Each field's error begins with its name."""
    for wrong in (
        {"keep_days": 0.5},
        {"dedup_days": float("nan")},
        {"compress_over": -1},
        {"batch": 0},
        {"dedup_days": 5},
    ):
        (name,) = wrong
        with pytest.raises(ConfigurationError, match=f"^{name}:"):
            config(**wrong)


def test_ids_bound_times():
    """Every id made at a time or later is at least ``id_at`` of it, and every earlier one less."""
    assert new_id(START) < id_at(START + 1) <= new_id(START + 1)
    assert id_at(-5) == "0" * 12
