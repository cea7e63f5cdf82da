"""An idle worker of the same loop is woken in time for the commit that stores its job, and costs nothing while idle."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest
import sqlalchemy as sa
from tests.jobs.conformance import row, worker

from moorline.clock import SYSTEM, ManualClock
from moorline.jobs.broker import Claimed
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.kick import Kick
from moorline.store import Store


async def test_a_kick_ends_the_wait_and_one_before_it_spares_it() -> None:
    kick = Kick()
    waiting = asyncio.ensure_future(kick.wait(60.0))
    await asyncio.sleep(0)
    kick.set()
    await waiting
    await kick.wait(60.0)
    kick.clear()
    await kick.wait(0.001)


async def test_a_kick_comes_from_another_thread() -> None:
    kick = Kick()
    waiting = asyncio.ensure_future(kick.wait(60.0))
    await asyncio.sleep(0)
    thread = threading.Thread(target=kick.from_anywhere)
    thread.start()
    await waiting
    thread.join()


def test_a_kick_after_the_loop_is_closed_is_nothing() -> None:
    async def made() -> Kick:
        return Kick()

    asyncio.run(made()).from_anywhere()


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    kick = Kick()
    waiting = asyncio.ensure_future(kick.wait(60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    kick.set()
    await kick.wait(60.0)


async def test_a_job_is_stored_and_claimed_by_one_commit(store: Store) -> None:
    """By whoever is woken in the loop, and that one is not woken again; one in another loop is, after the commit."""
    broker = SqlBroker(store)
    claims: list[asyncio.Task[Claimed]] = []
    elsewhere: list[str] = []

    here = threading.current_thread()

    def claim() -> None:
        if threading.current_thread() is here:  # others see that the database has changed
            claims.append(asyncio.ensure_future(broker.claim(worker(SYSTEM), 10)))

    await broker.claim(worker(SYSTEM), 10)
    stop = broker.listen(claim)
    commits = counted(store)
    (id_,) = await broker.enqueue([row(SYSTEM)])
    assert [job.id for job in (await claims[0]).jobs] == [id_]
    assert len(commits) == 1
    assert len(claims) == 1
    stop()
    stop = broker.listen(lambda: elsewhere.append("woken"))  # and claims in its own loop
    await broker.enqueue([row(SYSTEM)])
    assert elsewhere.count("woken") >= 2
    stop()


def counted(store: Store) -> list[str]:
    """Grows by one with each commit of the store's writer."""
    commits: list[str] = []
    engines = store._engines
    assert engines is not None
    sa.event.listen(engines.write, "commit", lambda _: commits.append("commit"))
    return commits


async def test_a_claim_that_finds_nothing_writes_nothing_but_its_lease(database_url: str, clock: ManualClock) -> None:
    """Each write of a SQLite file wakes all workers of it: they would keep each other awake for ever."""
    with Store(database_url, clock=clock, auto_migrate=True) as store:
        broker = SqlBroker(store)
        info = worker(clock)
        await broker.claim(info, 10)
        if store.dialect == "sqlite":
            path = str(store.url.database)
            with sqlite3.connect(path) as other:
                seen = other.execute("PRAGMA data_version").fetchone()
                await broker.claim(info, 10)
                assert other.execute("PRAGMA data_version").fetchone() == seen
            other.close()
        first = leased(store)
        await broker.claim(info, 10)
        assert leased(store) == first
        clock.advance(info.lease / 2)
        await broker.claim(info, 10)
        assert leased(store) == first + info.lease / 2


def leased(store: Store) -> float:
    """When the lease of the only worker ends."""
    until: float = store.read_sync(lambda c: c.exec_driver_sql("SELECT lease_until FROM workers").scalar_one())
    return until
