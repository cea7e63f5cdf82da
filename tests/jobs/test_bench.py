"""A trial beside production: it measures, leaves what was there alone, and nothing of its own is left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
import redis
from tests.jobs.rabbit import own_url
from tests.servers import RedisServer
from tests.sqs_servers import MotoServer, aws_environment

from moorline.errors import ConfigurationError, StoreNotMigrated, StoreUnavailable
from moorline.jobs.bench import STEPS, Figures, measure
from moorline.jobs.broker import JobFilter, WorkerInfo
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.brokers.trial import Trial, trial
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store


async def noop() -> None: ...


def tried(one: Trial) -> Figures:
    """Two hundred jobs; every step is told of to its end."""
    told: dict[str, tuple[int, int]] = {}

    def progress(step: str, done: int, total: int) -> None:
        told[step] = (done, total)

    figures = asyncio.run(measure(one.broker, jobs=200, concurrency=20, queue=one.queue, progress=progress))
    assert list(told.values()) == [(200, 200), (200, 200), (400, 400), (20, 20)]
    assert tuple(told) == STEPS
    assert min(figures.one_by_one, figures.bulk, figures.drained) > 0
    assert 0 < figures.enqueue_p50_ms <= figures.enqueue_p99_ms
    assert 0 < figures.picked_up_p50_ms <= figures.picked_up_p99_ms
    return figures


def rows(store: Store) -> list[tuple[object, ...]]:
    def read(connection) -> list[tuple[object, ...]]:
        jobs = connection.exec_driver_sql("SELECT id, queue, state FROM jobs ORDER BY id").fetchall()
        workers = connection.exec_driver_sql("SELECT id, 'worker', host FROM workers ORDER BY id").fetchall()
        return [tuple(row) for row in (*jobs, *workers)]

    return store.read_sync(read)


async def in_production(store: Store) -> None:
    """A job that waits, one that was done long ago, and one whose worker is gone."""
    jobs = Jobs(SqlBroker(store))
    function = jobs.function(noop)
    for held_for in (0.001, 9_999.0):
        await function.enqueue()
        await jobs.broker.claim(WorkerInfo(store.new_id(), "host", 1, ("default",), time.time(), held_for), 1)
    await function.enqueue()


def test_a_trial_leaves_a_database_as_it_was(database_url: str) -> None:
    """Others' jobs are neither run nor rescued nor pruned, and no row of the trial is left."""
    with Store(database_url, auto_migrate=True) as store:
        asyncio.run(in_production(store))
        before = rows(store)
        with trial(database_url=database_url) as one:
            tried(one)
            assert len(rows(store)) > 200
            assert one.about["server"].startswith(("SQLite 3", "PostgreSQL 1"))
        assert rows(store) == before


@pytest.mark.parametrize("enqueued", [1, 700])
def test_a_trial_that_is_cut_short_leaves_nothing_either(database_url: str, enqueued: int) -> None:
    """Cancelled while it enqueues, or while it drains; the worker is gone with its jobs."""
    with Store(database_url, auto_migrate=True) as store:

        async def cut(one: Trial) -> None:
            def progress(step: str, done: int, total: int) -> None:
                del total
                if done >= enqueued and (enqueued == 1 or step == STEPS[2]):
                    task.cancel()

            task = asyncio.ensure_future(measure(one.broker, jobs=1_000, queue=one.queue, progress=progress))
            await task

        with pytest.raises(asyncio.CancelledError), trial(database_url=database_url) as one:
            asyncio.run(cut(one))
        assert rows(store) == []


def test_a_file_that_is_not_there_is_tried_beside_where_it_would_be(tmp_path: Path) -> None:
    """On that disk, and removed; without any URL in a temporary folder."""
    with trial(database_url=f"sqlite:///{tmp_path}/new.db") as one:
        assert f"{tmp_path}/moorline-bench-" in one.where
        assert (one.about["journal_mode"], one.about["synchronous"]) == ("wal", "FULL")
    assert list(tmp_path.iterdir()) == []
    with trial() as one:
        file = Path(one.where.removeprefix("sqlite:///"))
        assert file.exists()
    assert not file.parent.exists()
    with pytest.raises(ConfigurationError, match="no folder"), trial(database_url=f"sqlite:///{tmp_path}/a/b.db"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgres
def test_a_database_without_tables_is_refused_unless_they_may_be_made(postgres_url: str) -> None:
    """They stay, because somebody may have begun to use them."""
    with pytest.raises(StoreNotMigrated), trial(database_url=postgres_url):
        pass
    with trial(database_url=postgres_url, migrate=True) as one:
        assert one.about["synchronous_commit"]
        assert one.about["fsync"] in {"on", "off"}
    with Store(postgres_url, auto_migrate=False) as store:
        assert rows(store) == []
        store.write_sync(_of_another_version, None)
    with pytest.raises(StoreNotMigrated, match="schema 0000"), trial(database_url=postgres_url, migrate=True):
        pass  # somebody's program needs it as it is


def _of_another_version(connection, payloads: list[None]) -> list[None]:
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    return payloads


@pytest.mark.redis
def test_a_trial_on_redis_leaves_no_key(redis_server: RedisServer) -> None:
    """Every key is below a prefix of its own, which is cleared."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("{moorline:jobs}:counts", "untouched")
        with trial(queue_url=redis_server.url) as one:
            tried(one)
            assert int(client.dbsize()) > 200
            assert one.about["server"].startswith(("Redis ", "Valkey "))
            assert (one.about["appendonly"], one.about["appendfsync"]) == ("no", "everysec")
        assert client.keys("*") == [b"{moorline:jobs}:counts"]


@pytest.mark.rabbitmq
def test_a_trial_on_rabbitmq_leaves_no_queue(rabbit_url: str) -> None:
    """Its lanes are deleted, with what is still in them."""
    url = own_url(rabbit_url, "&queues=classic")
    prefix = url.partition("prefix=")[2].partition("&")[0]
    with trial(queue_url=url) as one:
        tried(one)
        Jobs(one.broker).function(noop, queue=one.queue).enqueue().result()
        assert one.about["server"].startswith("RabbitMQ ")
        assert one.about["queues"].startswith("classic")
    parameters = pika.URLParameters(rabbit_url.rstrip("/") + "/%2F")
    with contextlib.closing(pika.BlockingConnection(parameters)) as connection:
        for kind in ("", ".dead", ".suspects"):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
                connection.channel().queue_declare(f"{prefix}.{one.queue}{kind}", passive=True)


async def _three(one: Trial) -> None:
    jobs = Jobs(one.broker)
    await jobs.function(noop, queue=one.queue).enqueue_many([()] * 3)
    assert await Worker(jobs, queues=[one.queue]).drain() == 3


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with aws_environment(), MotoServer() as server:
        yield server


def test_a_trial_on_sqs_leaves_no_queue(moto: MotoServer) -> None:
    """Its lanes are deleted."""
    with trial(queue_url=f"{moto.url}&wait=1") as one:
        asyncio.run(_three(one))
        assert moto.client().list_queues()["QueueUrls"]
        assert (one.about["region"], one.about["service"]) == ("eu-central-1", "an emulator")
    assert "QueueUrls" not in moto.client().list_queues()


async def test_what_cannot_be_removed_is_named(redis_server: RedisServer) -> None:
    """The server is gone before the end: the error says what is left there."""
    with pytest.raises(StoreUnavailable) as failed, trial(queue_url=redis_server.url) as one:
        redis_server.kill()
    assert one.queue in str(failed.value)


async def test_a_number_that_is_none_is_named() -> None:
    """Before anything is enqueued."""
    with trial() as one:
        for name, numbers in {"jobs": (0, 50), "concurrency": (200, 0)}.items():
            with pytest.raises(ConfigurationError, match=name):
                await measure(one.broker, jobs=numbers[0], concurrency=numbers[1])
        assert await one.broker.list(JobFilter()) == []


def test_one_of_both_places_is_tried() -> None:
    """Jobs wait in one at a time."""
    both = trial(database_url="sqlite:///x.db", queue_url="redis://127.0.0.1:1/0")
    with pytest.raises(ConfigurationError, match="one of them"), both:
        pass
    with pytest.raises(ConfigurationError, match="URL of the queue"), trial(queue_url="kafka://me:canary@host"):
        pass
