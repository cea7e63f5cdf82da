"""Redis streams of others: groups, entries of any form, and what dead consumers leave."""

from __future__ import annotations

from typing import Any

import pytest
from tests.jobs.foreign.places import StreamPlace
from tests.jobs.foreign.test_messages import until

from moorline import Moorline
from moorline.errors import MessageRefused
from moorline.jobs.foreign import Message
from moorline.jobs.foreign.address import StreamAddress
from moorline.jobs.foreign.streams import StreamSource

pytestmark = pytest.mark.redis


def source(app: Moorline, stream: StreamPlace, worker: str, options: str = "") -> StreamSource:
    address = app._messages.connections.find(stream.url + options)
    assert isinstance(address, StreamAddress)
    made = StreamSource(address, worker)
    made.open()
    return made


async def test_an_entry_of_plain_fields_is_a_json_object(app: Moorline, stream: StreamPlace) -> None:
    """As programs write that know no bodies; its id is the entry's. Another name of the body may be told."""
    got: list[Message] = []

    @app.consume(stream.url + "&field=data")
    async def on_entry(entry: dict[str, str], message: Message) -> None:
        assert message.json() == entry
        got.append(message)

    plain = stream.client.xadd(stream.name, {"city": "Ürümqi", "number": "3"})
    stream.client.xadd(stream.name, {"data": "{}", "id": "own", "time": "1700000000.5", "x": "y"})
    async with app.running(worker=True):
        await until(lambda: len(got) == 2)
    first, second = sorted(got, key=lambda one: one.id == "own")
    assert (first.id, first.json()) == (plain.decode(), {"city": "Ürümqi", "number": "3"})
    assert first.time == int(plain.split(b"-")[0]) / 1000
    assert (second.id, second.time, second.headers) == ("own", 1_700_000_000.5, {"x": "y"})


def test_what_a_dead_consumer_left_is_taken(
    app: Moorline, stream: StreamPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the idle time, or at once where it was given back; an entry that is gone is forgotten."""
    monkeypatch.setattr("moorline.jobs.foreign.streams._BLOCK", 10)
    stream.put("1")
    stream.put("2")
    gone = stream.client.xadd(stream.name, {"body": "3"})
    dead = source(app, stream, "dead")
    taken = dead.receive(10)
    assert [one.message.body for one in taken] == [b"1", b"2", b"3"]
    stream.client.xdel(stream.name, gone)
    assert source(app, stream, "early", "&idle=60").receive(10) == []
    dead.give_back(taken[:1])
    heir = source(app, stream, "heir", "&idle=60")
    (first,) = heir.receive(10)
    assert first.message.body == b"1"
    heir.keep([first])
    heir.acknowledge([first])
    dead.give_back(taken[1:2])
    assert [one.message.body for one in source(app, stream, "second", "&idle=60").receive(10)] == [b"2"]


def test_a_consumer_that_holds_nothing_leaves_the_group(app: Moorline, stream: StreamPlace) -> None:
    """One that holds something must stay: what it holds would be nobody's."""
    stream.put("1")
    busy, idle = source(app, stream, "busy"), source(app, stream, "idle")
    assert len(busy.receive(10)) == 1
    idle.interrupt()
    assert idle.receive(10) == []
    for one in (busy, idle):
        one.close()
    assert [one["name"] for one in stream.client.xinfo_consumers(stream.name, "ours")] == [b"moorline-busy"]


def test_a_consumer_that_is_long_dead_is_forgotten(
    app: Moorline, stream: StreamPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it holds something, or is another program's."""
    stream.put("1")
    assert len(source(app, stream, "holds").receive(1)) == 1
    for name in ("moorline-dead", "somebody"):
        stream.client.xgroup_createconsumer(stream.name, "ours", name)
    monkeypatch.setattr("moorline.jobs.foreign.streams._DEAD", -1)
    source(app, stream, "new")
    left = [one["name"] for one in stream.client.xinfo_consumers(stream.name, "ours")]
    assert sorted(left) == [b"moorline-holds", b"somebody"]


async def test_jobs_in_redis_know_a_message_again(
    app: Moorline, stream: StreamPlace, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those in a database do: what its sender sent twice under one id is one job."""
    got: list[str | None] = []
    monkeypatch.setenv("MOORLINE_QUEUE_URL", redis_url)
    keeping = Moorline(app.settings.database_url)

    @keeping.consume(stream.url)
    async def on_entry(message: Message) -> None:
        got.append(message.id)

    for id_ in ("same", "same", "other"):
        stream.put("{}", id=id_)
    async with keeping.running(worker=True):
        await until(lambda: len(got) >= 2 and stream.left() == 0)
    async with keeping:
        assert await keeping.jobs.broker.counts() == {("default", "done"): 2}
    assert sorted(str(one) for one in got) == ["other", "same"]


def test_a_group_is_made_where_that_is_asked_for(
    app: Moorline, stream: StreamPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the beginning of the stream, or from now on; making it twice is harmless."""
    monkeypatch.setattr("moorline.jobs.foreign.streams._BLOCK", 10)
    stream.put("1")
    for group, start, found in (("a", "", 1), ("a", "", 0), ("b", "&start=%24", 0)):
        url = f"{stream.server}/{stream.name}?group={group}&declare=true{start}"
        address = app._messages.connections.find(url)
        assert isinstance(address, StreamAddress)
        made = StreamSource(address, "w")
        made.open()
        got = made.receive(10)
        assert len(got) == found
        if got:
            made.acknowledge(got)
        made.close()
    assert len(stream.client.xinfo_groups(stream.name)) == 4


@pytest.mark.parametrize(("headers", "match"), [({"body": "x"}, "'body' is a field"), ({"a": [1]}, "a is neither")])
async def test_what_an_entry_cannot_hold_is_named(
    app: Moorline, stream: StreamPlace, headers: dict[str, Any], match: str
) -> None:
    """A header that would be the body, or that has no text."""
    async with app:
        with pytest.raises(MessageRefused, match=match):
            await app.publish(stream.url, {}, headers=headers)


async def test_a_stream_is_kept_short_where_that_is_asked_for(app: Moorline, stream: StreamPlace) -> None:
    """``maxlen`` is approximate: whole nodes of the stream go."""
    async with app:
        for number in range(300):
            await app.publish(stream.url + "&maxlen=100", {"number": number})
    assert 100 <= stream.client.xlen(stream.name) < 300
