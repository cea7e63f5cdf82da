"""Group commit: who waits together is written together, and answered after the commit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.errors import Misuse, StoreOverloaded, StoreUnavailable
from moorline.store import Store
from moorline.store.writer import AtOnce, Writer

_INSERT = sa.text("INSERT INTO meta (key, value) VALUES (:key, '')")


def insert(connection: Connection, payloads: list[str]) -> list[int]:
    """Each payload is a key; the answer is how many were written with it."""
    connection.execute(_INSERT, [{"key": key} for key in payloads])
    return [len(payloads)] * len(payloads)


class Gate:
    """A write that holds the writer until it is opened, so that others come to wait behind it."""

    def __init__(self, store: Store) -> None:
        self._entered, self._open = threading.Event(), threading.Event()
        self._future = store.submit(self._hold, None)
        assert self._entered.wait(10)

    def _hold(self, connection: Connection, payloads: list[None]) -> list[None]:
        self._entered.set()
        assert self._open.wait(10)
        return payloads

    def open(self) -> None:
        self._open.set()
        self._future.result(10)


def keys(store: Store) -> set[str]:
    return store.read_sync(
        lambda connection: {str(row[0]) for row in connection.exec_driver_sql("SELECT key FROM meta")}
    )


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with Store(url, auto_migrate=True) as opened:
        yield opened


async def test_who_waits_together_shares_a_commit(store: Store) -> None:
    """Threads' and the loop's writes go in one transaction, and each is answered when it can be read."""
    gate = Gate(store)
    futures = [store.submit(insert, f"t{number}") for number in range(20)]
    tasks = [asyncio.ensure_future(store.write(insert, f"a{number}")) for number in range(20)]
    for _ in range(3):  # they are begun, and queued when the turn of the loop after that has ended
        await asyncio.sleep(0)
    assert keys(store) == set()
    gate.open()
    assert await asyncio.gather(*tasks) == [40] * 20
    assert len(keys(store)) == 40
    assert [future.result(10) for future in futures] == [40] * 20


async def test_what_a_turn_of_the_loop_submits_is_one_group(store: Store) -> None:
    """The writer is not woken by the first of many, so that they share a commit."""
    assert await asyncio.gather(*(store.write(insert, f"a{number}") for number in range(30))) == [30] * 30


async def test_what_a_turn_submitted_is_written_when_the_store_closes_within_it(store: Store) -> None:
    """Nothing that was accepted is lost because its turn had not ended; what comes later is refused."""
    tasks = [asyncio.ensure_future(store.write(insert, key)) for key in ("a", "b")]
    await asyncio.sleep(0)
    assert store.waiting == 2
    store.close()
    assert await asyncio.gather(*tasks) == [2, 2]
    with pytest.raises(Misuse):
        await store.write(insert, "c")
    store.open()
    assert keys(store) == {"a", "b"}


def test_one_bad_payload_fails_alone(store: Store) -> None:
    """The others of its group are written and answered."""
    store.write_sync(insert, "taken")
    gate = Gate(store)
    futures = {key: store.submit(insert, key) for key in ("a", "taken", "b")}
    gate.open()
    assert futures["a"].result(10) == futures["b"].result(10) == 1
    assert futures["taken"].exception(10) is not None
    assert keys(store) == {"a", "b", "taken"}


def test_too_many_waiting_writes_are_refused(tmp_path: Path) -> None:
    """StoreOverloaded past ``max_waiting``; what was accepted is written."""
    with Store(f"sqlite:///{tmp_path}/x.db", max_waiting=2) as store:
        gate = Gate(store)
        accepted = [store.submit(insert, key) for key in ("a", "b")]
        with pytest.raises(StoreOverloaded, match="2"):
            store.submit(insert, "c")
        gate.open()
        assert [future.result(10) for future in accepted] == [2, 2]
        assert keys(store) == {"a", "b"}


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    """``close`` returns after the last commit; later writes are misuse."""
    store = Store(f"sqlite:///{tmp_path}/x.db").open()
    gate = Gate(store)
    future = store.submit(insert, "a")
    gate._open.set()
    store.close()
    assert future.result(0) == 1
    with pytest.raises(Misuse):
        store.submit(insert, "b")


@pytest.mark.postgres
def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    """Nobody at the address: StoreUnavailable, from opening as from the rest."""
    with pytest.raises(StoreUnavailable):
        Store("postgresql://moorline@127.0.0.1:1/none", auto_migrate=False).open()


async def test_of_a_writer_that_rested_half_goes_first() -> None:
    """Where a group costs little, so that those who are answered make more while the other half is written."""
    groups: list[int] = []

    def note(_: object, payloads: list[int]) -> list[int]:
        groups.append(len(payloads))
        return payloads

    writer = Writer(Nothing, max_waiting=100, halves=True)
    writer.start()
    assert await asyncio.gather(*[writer.submit_async(note, number) for number in range(40)]) == list(range(40))
    assert await asyncio.gather(*[writer.submit_async(note, number) for number in range(8)]) == list(range(8))
    writer.close()
    assert groups == [20, 20, 8]


async def test_of_deeds_that_are_apart_one_that_fails_takes_no_other_along() -> None:
    """Where no transaction holds them all: what was done before it stands, so it is not done again or said to fail."""
    done: list[int] = []

    def note(_: object, payloads: list[int]) -> list[int]:
        done.extend(payloads)
        return payloads

    def refuse(_: object, payloads: list[int]) -> list[int]:
        raise StoreUnavailable(f"{payloads}")

    def fail(_: object, payloads: list[int]) -> list[int]:
        raise TypeError(f"{payloads}")

    writer = Writer(Nothing, max_waiting=100, apart=True)
    writer.start()
    deeds = [(note, 1), (refuse, 2), (note, 3), (fail, 4)]
    outcomes = await asyncio.gather(
        *[writer.submit_async(apply, number) for apply, number in deeds], return_exceptions=True
    )
    writer.close()
    assert (outcomes[::2], done) == ([1, 3], [1, 3])
    assert [type(one) for one in outcomes[1::2]] == [StoreUnavailable, TypeError]


async def test_what_is_one_statement_is_written_so_and_in_two_where_commits_are_quick() -> None:
    """A few at a time, as those who submit again would else all wait together; with anything else it is a transaction."""
    alone: list[int] = []
    together: list[int] = []

    def note(_: object, payloads: list[int]) -> list[int]:
        together.append(len(payloads))
        return payloads

    def at_once(_: object, payloads: list[int]) -> list[int] | None:
        alone.append(len(payloads))
        return payloads if payloads[0] >= 0 else None

    one = AtOnce(note, at_once)
    writer = Writer(Nothing, max_waiting=1_000)
    writer.start()
    for count in (20, 50, 100):
        assert await asyncio.gather(*[writer.submit_async(one, number) for number in range(count)]) == [*range(count)]
    assert (alone, together) == ([20, 25, 25, 100], [])
    assert await writer.submit_async(one, -1) == -1
    assert [*await asyncio.gather(writer.submit_async(one, 1), writer.submit_async(note, 2))] == [1, 2]
    writer.close()
    assert (alone[4:], together) == ([1], [1, 1, 1])


class Nothing:
    """What a writer needs of a connection."""

    def begin(self) -> contextlib.nullcontext[Nothing]:
        return contextlib.nullcontext(self)

    def commit(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
