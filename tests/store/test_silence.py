"""PostgreSQL, or what stands before it, takes what is sent and never answers; or takes too long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.servers import RunningPostgres, until
from tests.store.test_writer import Gate, insert, keys
from tests.tcp_proxy import TcpProxy

from moorline.errors import ConfigurationError, StoreUnavailable
from moorline.store import Store
from moorline.store.bounded import BoundedConnection, Silence
from moorline.store.signals import PostgresSignals
from moorline.store.store import _MIGRATION_LOCK

pytestmark = pytest.mark.postgres
SHORT = 0.4


@pytest.fixture(scope="module")
def database(postgres_server: RunningPostgres) -> Iterator[str]:
    """One with tables, for all of these."""
    url = postgres_server.create_database()
    with Store(url, auto_migrate=True):
        pass
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def proxy(postgres_server: RunningPostgres) -> Iterator[TcpProxy]:
    with TcpProxy(postgres_server.port) as line:
        yield line


@pytest.fixture
def other(database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Somebody else's connection."""
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        connection.execute("DELETE FROM meta")
        connection.commit()
        yield connection
        connection.rollback()


@pytest.fixture
def store(database: str, other: object, proxy: TcpProxy) -> Iterator[Store]:
    """Of whose statements none takes long, behind a proxy."""
    url = sa.make_url(database).set(port=proxy.port).render_as_string(hide_password=False)
    with Store(url, auto_migrate=False, statement_timeout=SHORT) as opened:
        yield opened
        proxy.flow()


def _once(deed: Callable[[], None]) -> Callable[..., None]:
    """For an event that comes often."""
    left = [deed]
    return lambda *_: left.pop()() if left else None


def test_a_statement_that_is_never_answered_ends_in_an_error(store: Store, proxy: TcpProxy) -> None:
    """StoreUnavailable, which may be repeated; nothing of it was kept, and with the line back all is as before."""
    store.write_sync(insert, "before")
    proxy.stall(refuse=True)
    with pytest.raises(StoreUnavailable):
        store.write_sync(insert, "stalled")
    proxy.flow()
    while True:
        try:
            store.write_sync(insert, "after")
            break
        except StoreUnavailable as error:  # it is left alone for a moment
            assert "a moment ago" in str(error)  # noqa: PT017
    assert keys(store) >= {"before", "after"}
    assert "stalled" not in keys(store)


def test_a_connection_that_fell_silent_is_replaced_unnoticed(store: Store, proxy: TcpProxy) -> None:
    """As when a firewall has forgotten it, and answers in its place: on a new connection it is done, once."""
    store.write_sync(insert, "before")
    proxy.stall()
    before = proxy.came
    future = store.submit(insert, "silent")
    until(lambda: proxy.came > before)
    proxy.flow()
    assert future.result(10) == 1
    assert keys(store) >= {"before", "silent"}


def test_a_commit_that_is_never_answered_is_not_repeated(store: Store, proxy: TcpProxy) -> None:
    """It may have been kept, and the error says so: here the server gets it when the line is back."""
    engines = store._engines
    assert engines is not None
    sa.event.listen(engines.write, "commit", _once(proxy.stall))
    with pytest.raises(StoreUnavailable, match="may or may not"):
        store.write_sync(insert, "doubtful")
    proxy.flow()
    store.write_sync(insert, "after")
    until(lambda: "doubtful" in keys(store))


def test_a_read_that_is_never_answered_ends_in_an_error(store: Store, proxy: TcpProxy) -> None:
    """It has three times as long."""
    keys(store)
    proxy.stall(refuse=True)
    with pytest.raises(StoreUnavailable):
        keys(store)
    proxy.flow()
    keys(store)


def _sleep(connection: Connection, payloads: list[float]) -> list[None]:
    for seconds in payloads:
        connection.execute(sa.text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    return [None] * len(payloads)


def test_a_statement_that_takes_too_long_is_cancelled_by_the_server(store: Store) -> None:
    """It says so itself, and nothing of the group is kept."""
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        store.write_sync(_sleep, 30.0)
    store.write_sync(insert, "after")


def test_a_lock_of_somebody_else_refuses_only_who_waits_for_it(
    store: Store, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Of a group that was committed together, the others are written."""
    other.execute("INSERT INTO meta (key, value) VALUES ('theirs', '')")
    gate = Gate(store)
    futures = [store.submit(insert, key) for key in ("one", "theirs", "two")]
    gate.open()
    assert [future.exception(10) for future in (futures[0], futures[2])] == [None, None]
    with pytest.raises(StoreUnavailable, match="lock timeout"):
        futures[1].result(10)
    other.rollback()
    store.write_sync(insert, "theirs")


def test_a_lock_that_all_wait_for_is_not_waited_for_by_each(
    store: Store, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Behind a locked table the whole group is told, after a few tries."""
    tries: list[int] = []

    def counted(connection: Connection, payloads: list[str]) -> list[int]:
        tries.append(len(payloads))
        return insert(connection, payloads)

    other.execute("LOCK TABLE meta IN SHARE MODE")
    gate = Gate(store)
    futures = [store.submit(counted, f"k{number}") for number in range(20)]
    gate.open()
    assert {type(future.exception(10)) for future in futures} == {StoreUnavailable}
    assert tries == [20, 1, 1]


def test_a_migration_takes_as_long_as_it_needs(
    database: str, other: psycopg.Connection[tuple[Any, ...]], postgres_server: RunningPostgres
) -> None:
    """It waits behind another one for longer than any statement may, or silence last."""
    migrating = Store(database, statement_timeout=0.2)
    other.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
    thread = threading.Thread(target=migrating.migrate)
    thread.start()
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as third:
        until(lambda: third.execute(waits).fetchone() == (1,))
        third.execute("SELECT pg_sleep(0.5)")
    assert thread.is_alive()
    other.rollback()
    thread.join(30)
    assert not thread.is_alive()


def test_much_to_read_may_take_long(database: str) -> None:
    """The time begins anew with what comes: here in pieces, all together later than silence may last."""
    slow = "SELECT repeat('x', 10000), pg_sleep(0.1) FROM generate_series(1, 6)"
    with BoundedConnection.to(database.replace("+psycopg", ""), SHORT) as connection:
        assert len(connection.execute(slow).fetchall()) == 6
        with pytest.raises(Silence):
            connection.execute("SELECT pg_sleep(30)")
        assert connection.closed


def test_who_listens_notices_a_line_that_has_fallen_silent(database: str, proxy: TcpProxy) -> None:
    """Nothing need be sent for it: it asks now and then, and listens again on a new connection."""
    heard = threading.Semaphore(0)
    signals = PostgresSignals(sa.make_url(database).set(port=proxy.port), SHORT, ask=0.1)
    here = PostgresSignals(sa.make_url(database))
    try:
        signals.listen("jobs", heard.release)
        assert heard.acquire(timeout=10)  # it listens from now
        before = proxy.came
        proxy.stall()
        until(lambda: proxy.came > before)  # it has given the old one up
        proxy.flow()
        assert heard.acquire(timeout=10)
        here.notify("jobs")
        assert heard.acquire(timeout=10)
    finally:
        proxy.flow()
        signals.close()
        here.close()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    """Before anything is connected."""
    with pytest.raises(ConfigurationError, match="statement_timeout"):
        Store("postgresql://nobody@127.0.0.1/none", statement_timeout=seconds)
