"""The application's broadcast goes the way that its machines share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.servers import RedisServer

from moorline import Moorline
from moorline.settings import Settings


@pytest.mark.parametrize(
    "way",
    [
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("redis", marks=pytest.mark.redis),
    ],
)
async def test_two_of_one_application_hear_each_other(way: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Through the queue's Redis or the database's PostgreSQL; with SQLite only within one of them."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/m.db")
    if way == "postgres":
        settings = Settings(database_url=request.getfixturevalue("postgres_url"))
    elif way == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        settings = Settings(database_url=f"sqlite:///{tmp_path}/m.db", queue_url=server.url)
    async with Moorline(settings=settings) as one, Moorline(settings=settings) as two:
        assert one.broadcast is one.broadcast
        listener = one if way == "sqlite" else two
        async with listener.broadcast.subscribe("prices") as messages:
            await one.broadcast.publish("prices", {"cents": 5})
            message = await anext(messages)
    assert (message.channel, message.data) == ("prices", {"cents": 5})
