"""``queue_url`` with RabbitMQ: events in the database, their jobs carried."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.app.test_queue_elsewhere import Push, deliver, jobs_command, until
from tests.jobs.rabbit import own_url, rabbit_broker

from moorline import Moorline
from moorline.events import Event
from moorline.services import GitHub

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def queue_url(rabbit_url: str) -> Iterator[str]:
    url = own_url(rabbit_url)
    yield url
    with rabbit_broker(url) as broker:  # which deletes what it knows
        asyncio.run(broker.counts())


@pytest.fixture
def app(queue_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moorline:
    monkeypatch.setenv("MOORLINE_QUEUE_URL", queue_url)
    return Moorline(f"sqlite:///{tmp_path}/app.db")


async def test_events_are_stored_here_and_handled_from_there(app: Moorline, push: Push) -> None:
    """Plain handlers' jobs go through the outbox and RabbitMQ; keyed ones are handled in their order from here."""
    handled: list[str] = []
    ordered: list[str] = []

    @app.on(GitHub, "push")
    async def seen(event: Event) -> None:
        handled.append(event.payload["after"])

    @app.on(GitHub, "push", key=lambda event: "all")
    async def in_order(event: Event) -> None:
        ordered.append(event.payload["after"])

    async with app.running(worker=True):
        await deliver(app, push, "d-1", "d-2", "d-1", "d-3")
        await until(lambda: len(handled) == 3 and len(ordered) == 3)
    assert sorted(handled) == ["d-1", "d-2", "d-3"]
    assert ordered == ["d-1", "d-2", "d-3"]


async def test_the_commands_look_there(app: Moorline, queue_url: str, tmp_path: Path) -> None:
    """``moorline jobs`` lists, shows and retries what is dead in RabbitMQ."""

    @app.job(retries=0)
    async def hopeless() -> None:
        raise ValueError("never works")

    async with app:
        handle = await hopeless.enqueue()
        await app.worker().drain()
    jobs = jobs_command(queue_url, tmp_path)
    (dead,) = await asyncio.to_thread(jobs, "list", "--state", "dead")
    assert (dead["id"], dead["state"]) == (handle.id, "dead")
    assert (await asyncio.to_thread(jobs, "show", handle.id))["reason"] == "failed"
    assert (await asyncio.to_thread(jobs, "retry", handle.id))[0]["result"] == "retried"
    assert await asyncio.to_thread(jobs, "list") == []
    async with app:
        assert await app.worker().drain() == 1
