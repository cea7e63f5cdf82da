"""A line to PostgreSQL that takes all that is sent, and never answers, falls silent under a worker at each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from tests.jobs.test_chaos import Counted, Noted, all_done, all_jobs, working
from tests.processes import so
from tests.servers import RunningPostgres
from tests.tcp_proxy import TcpProxy

from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store

pytestmark = pytest.mark.postgres
SHORT = 0.4
JOBS = 40


@pytest.fixture(scope="module")
def server(postgres_server: RunningPostgres) -> Iterator[tuple[RunningPostgres, str]]:
    """A database with tables, for all of these."""
    url = postgres_server.create_database()
    with Store(url, auto_migrate=True):
        pass
    yield postgres_server, url
    postgres_server.drop_database(url)


class Step:
    """Stalls the line when the worker comes to it the first time: at its beginning, or at its commit."""

    def __init__(self, broker: SqlBroker, name: str, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> None:
        self._proxy = proxy
        self._name, _, self._when = name.partition(" ")
        self._there = False
        self.reached = False
        self.calls = Noted(broker, self._name, monkeypatch)
        method = getattr(broker, self._name)

        async def stalled(*arguments: Any, **named: Any) -> Any:
            if named.get("alone"):
                return await method(*arguments, **named)
            self._there = True
            self._reach("begins")
            return await method(*arguments, **named)

        monkeypatch.setattr(broker, self._name, stalled)
        engines = broker.store._engines
        assert engines is not None
        sa.event.listen(engines.write, "commit", lambda _: self._reach("commits"))

    def _reach(self, when: str) -> None:
        if self._there and when == self._when and not self.reached:
            self.reached = True
            self._proxy.stall(refuse=True)


@pytest.mark.parametrize("step", ["claim begins", "claim commits", "finish begins", "finish commits"])
async def test_a_worker_goes_on_when_the_line_is_back(
    server: tuple[RunningPostgres, str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in the time that it has set, tries again, and each job has run once: none is lost, and no result."""
    running, url = server
    with TcpProxy(running.port) as proxy, Store(url, auto_migrate=False) as near:
        through = sa.make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
        here = Jobs(SqlBroker(near))
        with Store(through, auto_migrate=False, statement_timeout=SHORT) as far:
            broker = SqlBroker(far)
            counted, there = Counted(Jobs(broker)), Counted(here)
            stalled = Step(broker, step, proxy, monkeypatch)
            await there.function.enqueue_many([(number,) for number in range(JOBS)])
            before = len(await all_jobs(here.broker)) - JOBS
            async with working(Worker(counted.jobs, concurrency=10, lease=3.0, poll=0.1)):
                await so(lambda: stalled.calls.errors)
                proxy.flow()
                await so(lambda: counted.all_ran(JOBS))
                await all_done(here.broker)
        assert stalled.reached
        assert counted.runs == Counter(range(JOBS))
        jobs = await all_jobs(here.broker)
    assert len(jobs) == before + JOBS
    assert {(job.state, job.attempts, job.crashes) for job in jobs} == {("done", 1, 0)}
