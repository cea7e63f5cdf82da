"""The relay: from a store of each kind to a broker in another PostgreSQL database, and what may go wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from tests.databases import migrated_postgres
from tests.events.relaying import Elsewhere, job, put, relayed
from tests.events.stored import fresh_store, pull
from tests.processes import so
from tests.servers import RunningPostgres

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, JobStateError, Misuse, StoreUnavailable
from moorline.events import Event, Inbox, Relay, Selection
from moorline.events.alert_watch import _oldest
from moorline.events.handling import worked
from moorline.events.relay import Relayed
from moorline.jobs.broker import JobFilter, WorkerInfo
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import JobRow
from moorline.jobs.order import order_key
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.services import GitHub
from moorline.store.store import Store

pytestmark = pytest.mark.postgres


@pytest.fixture
def target(postgres_server: RunningPostgres) -> Iterator[SqlBroker]:
    """A broker in a PostgreSQL database of its own."""
    url = migrated_postgres(postgres_server)
    with Store(url, auto_migrate=True) as store:
        yield SqlBroker(store)
    postgres_server.drop_database(url)


@pytest.fixture
def relay(store: Store, target: SqlBroker) -> Relay:
    """From the store to the target."""
    return Relay(store, target, seed=1)


def lane(number: int) -> Event:
    """The event of that number, in one of three orders."""
    return pull(number, lane=f"l{number % 3}")


def states(store: Store) -> list[tuple[str, int]]:
    """How many jobs are in each state."""
    query = "SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state"
    return [(row[0], row[1]) for row in store.read_sync(lambda c: c.exec_driver_sql(query).fetchall())]


def ids(store: Store) -> list[str]:
    """Of all jobs, in their order."""
    return list(store.read_sync(lambda c: c.exec_driver_sql("SELECT id FROM jobs ORDER BY id").scalars().all()))


async def test_jobs_of_arriving_events_wait_in_the_outbox(store: Store, relay: Relay):
    """Two jobs for each event that is new, by every way in; no worker claims one, and the backlog counts them."""
    inbox = relayed(store, relay)
    await inbox.add(lane(1))
    inbox.add_sync(lane(2))
    await inbox.add_all([lane(3), lane(4)])
    inbox.add_all_sync([lane(5)])
    assert (await inbox.add(lane(1))).duplicate
    assert states(store) == [("outbox", 10)]
    broker = SqlBroker(store)
    assert (await broker.claim(WorkerInfo("w", "host", 1, ("default",), 0.0, 10.0), 10)).jobs == []
    assert await broker.counts() == {("default", "outbox"): 10}
    assert len(await broker.list(JobFilter(state="outbox"))) == 10
    assert (await relay.backlog(), relay.backlog_sync().jobs) == ((10, lane(1).received_at), 10)


async def test_jobs_of_replayed_events_wait_in_the_outbox(store: Store, relay: Relay):
    """One event, blocking or not, and many at once."""
    inbox = relayed(store, relay)
    stored = await inbox.add(lane(1))
    await inbox.replay(stored.event_id, handler="ordered")
    inbox.replay_sync(stored.event_id)
    started = await inbox.replays.start(Selection(), actor="ada")
    assert (await inbox.replays.run(started.id)).jobs == 2
    assert states(store) == [("outbox", 7)]


async def test_what_waits_in_the_outbox_can_be_called_off(store: Store, relay: Relay, target: SqlBroker):
    """It is not relayed then. There is nothing to retry while it waits, and the error says so."""
    one, other = put(store, job(store), job(store))
    broker = SqlBroker(store)
    with pytest.raises(JobStateError, match="relayed"):
        await broker.retry(one)
    await broker.cancel(one)
    await broker.skip(other)
    assert await relay.run_once() == Relayed(0)
    assert (states(store), states(target.store)) == ([("cancelled", 2)], [])


async def test_what_is_called_off_while_it_is_published_is_called_off_there(
    store: Store, target: SqlBroker, caplog: pytest.LogCaptureFixture
):
    """Unless it has begun: then the log says so."""
    rows = [job(store), job(store), job(store)]
    put(store, *rows)

    class Slow(SqlBroker):
        async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
            ids = await super().enqueue(rows, again=again)
            for one in ids[:2]:
                await SqlBroker(store).cancel(one)
            await self.claim(WorkerInfo("w", "host", 1, ("default",), 0.0, 10.0), 1)
            return ids

    relay = Relay(store, Slow(target.store))
    assert await relay.run_once() == Relayed(3)
    assert states(target.store) == [("cancelled", 1), ("ready", 1), ("running", 1)]
    told = [one.getMessage() for one in caplog.records if "job_called_off_too_late" in one.getMessage()]
    assert len(told) == 1
    assert rows[0].id in told[0]
    assert await relay.run_once() == Relayed(0)


async def test_what_waits_in_the_outbox_counts_as_a_backlog(store: Store):
    """The alert of a backlog sees the oldest, as it sees what waits for a worker."""
    put(store, job(store, run_at=100.0), job(store, run_at=200.0))
    assert store.read_sync(_oldest, 1_000.0) == 100.0


async def test_a_batch_arrives_as_it_was_and_is_deleted(store: Store, relay: Relay, target: SqlBroker):
    """Every field, the order of each key and priorities included; what does not fit in the batch stays."""
    relay._batch = 4
    key = order_key("event:f", "k")
    rows = [
        job(store, priority=9, queue="default"),
        job(store, order_key=key, payload=b"\x00\xff", event_id="e1", max_attempts=3),
        job(store, order_key=key),
        job(store, priority=0, created_at=5.0),
        job(store),
    ]
    put(store, *rows)
    assert await relay.run_once() == Relayed(4)
    assert ids(store) == [rows[4].id]
    assert await relay.run_once() == Relayed(1)
    assert await relay.run_once() == Relayed(0)
    assert (ids(store), await relay.backlog()) == ([], (0, None))
    for row in rows:
        found = await target.get(row.id)
        assert [getattr(found, name) for name in row._fields] == list(row)
    worker = WorkerInfo("w", "host", 1, ("default",), 0.0, 10.0)
    claims = (await target.claim(worker, 10)).jobs
    assert [claim.id for claim in claims] == [rows[3].id, rows[1].id, rows[4].id, rows[0].id]


async def test_what_was_published_and_not_deleted_is_not_there_twice(store: Store, target: SqlBroker):
    """A relay died in between; the next one publishes the same ids, and what the target made of them stays."""
    rows = [job(store), job(store, order_key=order_key("event:f", "k")), job(store)]
    put(store, *rows)
    await target.enqueue(rows[:2], again=True)
    await target.cancel(rows[0].id)
    assert await Relay(store, target).run_once() == Relayed(3)
    assert ids(store) == []
    assert ids(target.store) == [row.id for row in rows]
    assert (await target.get(rows[0].id)).state == "cancelled"


async def test_receivers_feed_one_relay_while_it_runs(database_url: str, store: Store, relay: Relay, target: SqlBroker):
    """Two receivers' stores, each job once in the target, its first in each order ready; stopping leaves no lease."""
    with Store(database_url, auto_migrate=False) as away:
        running = asyncio.create_task(relay.run())
        inboxes = [relayed(one, Relay(one, target)) for one in (store, away)]
        await asyncio.gather(*(inboxes[n % 2].add(lane(n)) for n in range(60)))
        await so(lambda: not ids(store))
        relay.stop()
        assert await running == 120
    kept = ids(target.store)
    assert len(kept) == 120
    query = "SELECT state, count(*) FROM jobs WHERE order_key IS NOT NULL GROUP BY state ORDER BY state"
    found = target.store.read_sync(lambda c: c.exec_driver_sql(query).fetchall())
    assert [tuple(row) for row in found] == [("blocked", 57), ("ready", 3)]
    put(store, job(store))
    assert await Relay(store, target).run_once() == Relayed(1)


async def test_workers_of_the_other_broker_handle_the_events(store: Store, relay: Relay, target: SqlBroker):
    """A job carries its event's id; the worker reads the event where it was stored, those of an order one by one."""
    handled: list[str] = []
    inbox = Inbox(store, relay=relay)
    inbox.handlers.on(GitHub, "*", name="book", key="lane")(lambda event: handled.append(event.id))
    jobs = Jobs(target)
    for handler in inbox.handlers:
        jobs.handler(handler.job, worked(handler, inbox))
    for number in range(6):
        await inbox.add(pull(number, lane="l"))
    assert await relay.run_once() == Relayed(6)
    assert await Worker(jobs).drain() == 6
    assert handled == [f"7:{number}" for number in range(6)]
    assert states(target.store) == [("done", 6)]


async def test_while_the_broker_is_away_events_are_answered_and_kept(
    store: Store, target: SqlBroker, caplog: pytest.LogCaptureFixture
):
    """Its database lets nobody in: the receiver stores on, the log counts the backlog; later everything arrives."""
    relay = Relay(store, target, seed=1)
    inbox = relayed(store, relay)
    name, server = target.store.url.database, target.store.url.set(drivername="postgresql", database="postgres")
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        running = asyncio.create_task(relay.run())
        for number in range(10):
            assert not (await inbox.add(lane(number))).duplicate
        await so(lambda: any("relay_failed" in record.getMessage() for record in caplog.records))
        assert states(store) == [("outbox", 20)]
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await so(lambda: not ids(store))
    relay.stop()
    assert await running == 20
    assert len(ids(target.store)) == 20


async def test_of_two_relays_one_works_and_the_other_takes_over_after_the_lease():
    """The second publishes nothing while the first has the lease, and all that is left when the first was killed."""
    clock = ManualClock(auto=False)
    with fresh_store(clock) as store:
        broker: Any = Elsewhere()
        first, second = (Relay(store, broker, batch=1, lease=10.0) for _ in range(2))
        rows = put(store, *(job(store) for _ in range(4)))
        assert await first.run_once() == Relayed(1)
        assert await second.run_once() == Relayed(0, elsewhere=True)
        clock.advance(9.0)
        assert await first.run_once() == Relayed(1)  # and has the lease for ten seconds more
        clock.advance(9.0)
        assert await second.run_once() == Relayed(0, elsewhere=True)
        clock.advance(2.0)
        assert await second.run_once() == Relayed(1)
        assert await first.run_once() == Relayed(0, elsewhere=True)
        assert await second.run_once() == Relayed(1)
        assert [row.id for row in broker.kept] == rows


async def test_a_slow_broker_does_not_cost_the_lease():
    """While a batch is being published for longer than the lease, no other relay takes it over."""
    clock = ManualClock(auto=False)
    with fresh_store(clock) as store:
        put(store, job(store))
        begun, go_on = asyncio.Event(), asyncio.Event()

        class Slow(Elsewhere):
            async def enqueue(self, rows: Any, *, again: bool = False) -> list[str]:
                begun.set()
                await go_on.wait()
                return await super().enqueue(rows, again=again)

        slow: Any = Slow()
        other: Any = Elsewhere()
        working = asyncio.create_task(Relay(store, slow, lease=10.0).run_once())
        await begun.wait()
        for _ in range(8):
            await asyncio.sleep(0)
            clock.advance(4.0)
            await so(lambda: f"{clock.wall() + 10.0:.3f}" in lease_of(store))
        assert await Relay(store, other, lease=10.0).run_once() == Relayed(0, elsewhere=True)
        go_on.set()
        assert await working == Relayed(1)
        assert (len(slow.kept), other.kept) == (1, [])


def lease_of(store: Store) -> str:
    """The relay's lease, as it is stored."""
    query = "SELECT value FROM meta WHERE key = 'lease:relay'"
    return str(store.read_sync(lambda c: c.exec_driver_sql(query).scalar()))


async def test_stopping_finishes_the_batch():
    """A stop in the middle of publishing: the batch is confirmed and deleted, the rest stays, the lease is over."""
    with fresh_store(ManualClock()) as store:
        broker: Any = Elsewhere()
        relay = Relay(store, broker, batch=2)
        rows = put(store, *(job(store) for _ in range(5)))
        broker.at = lambda step: relay.stop() if step == "before" else None
        assert await relay.run() == 2
        assert [row.id for row in broker.kept] == rows[:2]
        assert ids(store) == rows[2:]
        assert await Relay(store, broker).run_once() == Relayed(3)


async def test_it_waits_longer_after_each_failure_and_tells_when_it_is_over(caplog: pytest.LogCaptureFixture):
    """Pauses grow from 0.2 s to 10 s, with jitter; the log says what failed, and how much waits."""
    caplog.set_level("INFO", logger="moorline")
    clock = ManualClock()
    with fresh_store(clock) as store:
        broker: Any = Elsewhere()
        relay = Relay(store, broker, seed=7, lease=1e6)
        put(store, job(store), job(store))
        tries: list[float] = []

        def away_for_eight(step: str) -> None:
            if step == "before" and len(tries) < 8:
                tries.append(clock.wall())
                raise StoreUnavailable("the broker is away")
            relay.stop()

        broker.at = away_for_eight
        assert await relay.run() == 2
        assert len(broker.kept) == 2
        lines = [record.getMessage() for record in caplog.records]
        assert sum("relay_failed" in line for line in lines) == 8
        assert sum("relay_recovered" in line for line in lines) == 1
        pauses = [seconds for seconds in clock.slept if seconds < 20.0]
        assert all(0.1 * 2**n <= pauses[n] <= 0.2 * 2**n for n in range(6))
        assert 5.0 <= pauses[7] <= 10.0


async def test_what_was_confirmed_and_could_not_be_deleted_is_deleted_later():
    """The relay remembers its batch: it is deleted without being published a second time."""
    with fresh_store(ManualClock()) as store:
        broker: Any = Elsewhere()
        relay = Relay(store, broker)
        put(store, job(store))
        write = store.write
        failed: list[Any] = []

        async def fail_once(apply: Any, payload: Any) -> Any:
            if apply.__name__ == "remove" and not failed:
                failed.append(payload)
                raise StoreUnavailable("the database is away")
            return await write(apply, payload)

        store.write = fail_once  # type: ignore[method-assign, assignment]
        with pytest.raises(StoreUnavailable):
            await relay.run_once()
        assert await relay.run_once() == Relayed(0)
        assert (len(broker.kept), ids(store)) == (1, [])


async def test_a_broker_in_the_same_database_is_refused(store: Store, database_url: str):
    """By its store, by its address, and whatever the address says by the rows that it has: nothing is lost."""
    with pytest.raises(ConfigurationError, match="broker"):
        Relay(store, SqlBroker(store))
    with Store(database_url, auto_migrate=False) as same:
        with pytest.raises(ConfigurationError, match="broker"):
            Relay(store, SqlBroker(same))
        rows = put(store, job(store))

        class Disguised:
            enqueue = SqlBroker(same).enqueue

        disguised: Any = Disguised()
        with pytest.raises(ConfigurationError, match="broker"):
            await Relay(store, disguised).run()
        assert (ids(store), states(store)) == (rows, [("outbox", 1)])


@pytest.mark.parametrize(
    ("argument", "value"),
    [("batch", 0), ("batch", True), ("batch", 10_001), ("lease", 0), ("lease", float("inf")), ("lease", True)],
)
async def test_a_wrong_argument_is_named(argument: str, value: Any):
    """ConfigurationError begins with its name; so for an inbox that gets the relay of another store."""
    broker: Any = Elsewhere()
    with fresh_store() as store, fresh_store() as other:
        with pytest.raises(ConfigurationError, match=f"^{argument}: "):
            Relay(store, broker, **{argument: value})
        with pytest.raises(ConfigurationError, match=r"^relay: "):
            Inbox(store, relay=Relay(other, broker))


async def test_one_relay_runs_once():
    """A second run of the same object is Misuse, and ends nothing."""
    broker: Any = Elsewhere()
    with fresh_store() as store:
        relay = Relay(store, broker)
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        with pytest.raises(Misuse):
            await relay.run()
        relay.stop()
        assert await running == 0
