"""Messages to all who listen, through each server; and what is lost is counted or said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import psycopg
import pytest
import redis
from tests.servers import RedisServer

from moorline.errors import ConfigurationError, Misuse, StoreUnavailable
from moorline.jobs.broadcast import Broadcast, Message


@pytest.fixture(
    params=["here", pytest.param("redis", marks=pytest.mark.redis), pytest.param("pg", marks=pytest.mark.postgres)]
)
def broadcast(request: pytest.FixtureRequest) -> Iterator[Broadcast]:
    url = None
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    elif request.param == "pg":
        url = request.getfixturevalue("migrated_postgres_url")
    with contextlib.closing(Broadcast(url)) as opened:
        yield opened


async def test_all_who_listen_get_all_in_order(broadcast: Broadcast) -> None:
    """Of their channels only; who came later gets what comes later."""
    await broadcast.publish("a", "nobody listens")
    async with broadcast.subscribe("a", "b") as both, broadcast.subscribe("a") as one:
        for number in range(50):
            await broadcast.publish("ab"[number % 2], {"number": number})
        async with asyncio.timeout(10):
            assert [await anext(both) for _ in range(50)] == [
                Message("ab"[number % 2], {"number": number}) for number in range(50)
            ]
            assert [(await anext(one)).data["number"] for _ in range(25)] == list(range(0, 50, 2))
        assert (both.dropped, one.dropped) == (0, 0)
    with pytest.raises(StopAsyncIteration):
        await anext(one)


async def test_who_does_not_keep_up_loses_the_oldest(redis_server: RedisServer) -> None:
    """And can see how many."""
    with contextlib.closing(Broadcast(redis_server.url, backlog=10)) as broadcast:
        async with broadcast.subscribe("a") as messages:
            for number in range(25):
                await broadcast.publish("a", number)
            async with asyncio.timeout(10):
                while messages.dropped < 15:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert [(await anext(messages)).data for _ in range(10)] == list(range(15, 25))


async def test_it_is_subscribed_again_when_the_server_is_back(redis_server: RedisServer) -> None:
    """What was published meanwhile raised StoreUnavailable, or is lost."""
    with contextlib.closing(Broadcast(redis_server.url)) as broadcast:
        async with broadcast.subscribe("a") as messages:
            redis_server.kill()
            with pytest.raises(StoreUnavailable):
                await broadcast.publish("a", "lost")
            redis_server.start()
            with redis.Redis.from_url(redis_server.url) as client:
                async with asyncio.timeout(20):
                    while not client.pubsub_numsub("moorline:a")[0][1]:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            await broadcast.publish("a", "found")
            async with asyncio.timeout(10):
                assert (await anext(messages)).data == "found"


async def test_a_server_that_is_away_is_said(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """To who subscribes, after a while."""
    monkeypatch.setattr("moorline.jobs.broadcast._READY", 0.3)
    redis_server.kill()
    with contextlib.closing(Broadcast(redis_server.url)) as broadcast:
        with pytest.raises(StoreUnavailable, match="did not answer: ConnectionError"):
            async with broadcast.subscribe("a"):
                pass
        redis_server.start()
        redis_server.ask("CONFIG", "SET", "requirepass", "secret")
        with pytest.raises(StoreUnavailable, match="did not answer: AuthenticationError"):
            async with broadcast.subscribe("a"):
                pass


async def test_what_others_publish_harms_nobody(migrated_postgres_url: str) -> None:
    """What is no JSON is left out, and told of in the log."""
    with contextlib.closing(Broadcast(migrated_postgres_url)) as broadcast:
        async with broadcast.subscribe("a") as messages:
            with psycopg.connect(migrated_postgres_url.replace("+psycopg", ""), autocommit=True) as theirs:
                theirs.execute("SELECT pg_notify('moorline:a', 'no json')")
                theirs.execute("SELECT pg_notify('moorline:a', repeat('[', 7000))")
                theirs.execute("SELECT pg_notify('moorline:a', '[1]')")
            async with asyncio.timeout(10):
                assert (await anext(messages)).data == [1]


async def test_what_cannot_be_sent_is_refused(broadcast: Broadcast) -> None:
    """Before it is sent, with its limit."""
    with pytest.raises(Misuse, match="at most"):
        await broadcast.publish("a", "x" * (broadcast._way.largest + 1))
    endless: list[object] = []
    endless.append(endless)
    for value in (object(), endless):
        with pytest.raises(Misuse, match="JSON"):
            await broadcast.publish("a", value)
    for channel in ("", "a b", 'a"; DROP', "x" * 41, "ä"):
        with pytest.raises(ConfigurationError, match="channel"):
            await broadcast.publish(channel, 1)
        with pytest.raises(ConfigurationError, match="channel"):
            async with broadcast.subscribe(channel):
                pass
    with pytest.raises(Misuse, match="channel"):
        async with broadcast.subscribe():
            pass


@pytest.mark.parametrize("url", ["sqlite:///x.db", "http://u:secret@h", "amqp://u:secret@h", "nothing"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    """Without showing a password."""
    with pytest.raises(ConfigurationError, match="begins with") as refused:
        Broadcast(url)
    assert "secret" not in str(refused.value)
