"""``queue_url``: events in the database, their jobs and all others in Redis."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.app.conftest import SECRET
from tests.servers import RedisServer
from tests.warm import run

from moorline import Moorline
from moorline.events import Event
from moorline.jobs.broker import JobFilter
from moorline.services import GitHub

pytestmark = pytest.mark.redis

Push = Callable[..., dict[str, Any]]


@pytest.fixture
def app(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moorline:
    monkeypatch.setenv("MOORLINE_QUEUE_URL", redis_server.url)
    return Moorline(f"sqlite:///{tmp_path}/app.db")


def jobs_command(queue_url: str, folder: Path) -> Callable[..., Any]:
    """What ``moorline jobs`` prints, of an application whose database is in *folder*."""
    environment = {
        "MOORLINE_QUEUE_URL": queue_url,
        "MOORLINE_DATABASE_URL": f"sqlite:///{folder}/app.db",
        "GITHUB_WEBHOOK_SECRET": SECRET,
    }

    def jobs(*words: str) -> Any:
        command = [sys.executable, "-m", "moorline.cli", "jobs", *words, "--json"]
        done = run(command, env=environment, timeout=60, check=True)
        return json.loads(done.stdout)

    return jobs


async def deliver(app: Moorline, push: Push, *identities: str) -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://app") as http:
        for identity in identities:
            assert (await http.post("/webhooks/github", **push(identity))).status_code == 200


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- another process is looked at
            await asyncio.sleep(0.01)


async def test_events_are_stored_here_and_handled_from_there(app: Moorline, push: Push) -> None:
    """Each event's job goes through the outbox; the worker reads the event from the database."""
    handled: list[str] = []

    @app.on(GitHub, "push")
    async def seen(event: Event) -> None:
        handled.append(event.payload["after"])

    async with app.running(worker=True):
        await deliver(app, push, "d-1", "d-2", "d-1")
        await until(lambda: len(handled) == 2)
    async with app:
        assert sorted(handled) == ["d-1", "d-2"]
        counts = await app.jobs.broker.counts()
        assert counts == {("default", "done"): 2}
        (event, _) = await app.events()
        (job,) = await app.jobs.broker.list(JobFilter(event_id=event.inbox_id))
        assert (job.state, job.attempts) == ("done", 1)


async def test_senders_get_their_answer_while_the_queue_is_away(
    app: Moorline, redis_server: RedisServer, push: Push
) -> None:
    """Nothing is lost: the jobs wait in the outbox, and go there when it is back."""
    handled: list[str] = []

    @app.on(GitHub, "push")
    def seen(event: Event) -> None:
        handled.append(event.payload["after"])

    redis_server.kill()
    async with app:
        await deliver(app, push, "d-1", "d-2")
        assert [job.state for job in await app.jobs.broker.list(JobFilter(state="outbox"))] == ["outbox"] * 2
        redis_server.start()
        async with app.running(worker=True):
            await until(lambda: len(handled) == 2)


async def test_a_job_in_a_callers_transaction_runs_when_that_was_committed(app: Moorline) -> None:
    """``within=`` works as it does with one database for both."""
    ran: list[str] = []

    @app.job
    async def greet(name: str) -> None:
        ran.append(name)

    async with app.running(worker=True):
        with Session(sa.create_engine(app.store.url)) as session:
            await greet.using(within=session).enqueue("Ada")
            session.rollback()
            await greet.using(within=session).enqueue("Grace")
            session.commit()
        await until(lambda: bool(ran))
        await greet.enqueue("Edsger")
        await until(lambda: len(ran) == 2)
    assert ran == ["Grace", "Edsger"]


async def test_the_commands_look_there(app: Moorline, redis_server: RedisServer, tmp_path: Path) -> None:
    """``moorline jobs`` lists, shows, retries and cancels what waits in Redis."""

    @app.job(retries=0)
    async def hopeless() -> None:
        raise ValueError("never works")

    async with app:
        handle = await hopeless.enqueue()
        await app.worker().drain()
    jobs = jobs_command(redis_server.url, tmp_path)
    (dead,) = await asyncio.to_thread(jobs, "list", "--state", "dead")
    assert (dead["id"], dead["state"]) == (handle.id, "dead")
    assert (await asyncio.to_thread(jobs, "retry", handle.id))[0]["result"] == "retried"
    assert [one["state"] for one in await asyncio.to_thread(jobs, "list")] == ["ready"]
