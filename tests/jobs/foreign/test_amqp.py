"""RabbitMQ of others: routing, refusals, and connections that are cut."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import struct
import sys
from pathlib import Path
from typing import Any

import pika
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.jobs.foreign.places import AmqpPlace
from tests.jobs.foreign.test_messages import until
from tests.tcp_proxy import TcpProxy
from tests.warm import run

from moorline import Moorline
from moorline.errors import ConfigurationError, MessageRefused, StoreError, StoreUnavailable
from moorline.jobs.broker import JobFilter
from moorline.jobs.foreign import Message

pytestmark = pytest.mark.rabbitmq

ROOT = Path(__file__).resolve().parents[3]


async def test_what_no_queue_takes_is_an_error(app: Moorline, amqp: AmqpPlace) -> None:
    """No queue, no binding, no exchange: each says so, and the next message goes all the same."""
    amqp.channel.exchange_declare(f"x-{amqp.name}", "direct", auto_delete=True)
    async with app:
        with pytest.raises(MessageRefused, match=r"no queue for the message \(queue 'nowhere'"):
            await app.publish(f"{amqp.server}/nowhere", {})
        with pytest.raises(MessageRefused, match="routing key 'k'"):
            await app.publish(f"{amqp.server}/?exchange=x-{amqp.name}", {}, key="k")
        with pytest.raises(ConfigurationError, match="has no exchange 'missing'") as told:
            await app.publish(f"{amqp.server}/?exchange=missing", {})
        assert "guest" not in str(told.value)
        with pytest.raises(MessageRefused, match="key: RabbitMQ takes 255 bytes"):
            await app.publish(amqp.url, {}, key="k" * 256)
        await asyncio.gather(*[app.publish(amqp.url, {"number": number}) for number in range(20)])
    bodies = [one.body async for one in _all(amqp)]
    assert sorted(bodies) == sorted(f'{{"number":{number}}}'.encode() for number in range(20))
    amqp.channel.exchange_delete(f"x-{amqp.name}")


async def _all(amqp: AmqpPlace) -> Any:
    while (got := amqp.get()) is not None:
        yield got


async def test_the_queue_of_a_url_is_where_a_message_goes(app: Moorline, amqp: AmqpPlace, rabbit_url: str) -> None:
    """Whatever its key says: that is an exchange's, and a group elsewhere; it may be the name of another queue."""
    with contextlib.closing(AmqpPlace(rabbit_url)) as other:
        async with app:
            await app.publish(amqp.url, {"number": 1}, key=other.name)
            await app.publish(amqp.url, {"number": 2}, key="customer-1")
        assert other.get() is None
    assert [one.body async for one in _all(amqp)] == [b'{"number":1}', b'{"number":2}']


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"a": {1}}, "'a', a set"),
        ({"b": 1.5}, "'b', a float"),
        ({"fine": 1, "c": 2**70}, "'c', a int"),
        ({"d" * 256: "secret"}, "'dddd"),
        ({1: "secret"}, "'1', a str"),
    ],
)
async def test_headers_that_amqp_has_no_place_for_are_named(
    app: Moorline, amqp: AmqpPlace, headers: dict[Any, Any], named: str
) -> None:
    """Without what they say: the server is well, and asking it again would not help."""
    async with app:
        with pytest.raises(MessageRefused, match=named) as refused:
            await app.publish(amqp.url, {}, headers=headers)
        assert "secret" not in str(refused.value)
        await app.publish(amqp.url, {})


async def test_topics_and_headers_choose_the_queue(app: Moorline, amqp: AmqpPlace) -> None:
    """Queues of our own, bound to exchanges by patterns and by headers; what is published says key and headers."""
    got: list[tuple[str, str | None]] = []
    names = {kind: f"{kind}-{amqp.name}" for kind in ("topic", "headers", "t", "h")}
    declared = "declare=true&queues=classic"

    @app.consume(
        f"{amqp.server}/{names['t']}?{declared}&exchange={names['topic']}&exchange_type=topic"
        "&binding=order.*&binding=refund.%23"
    )
    async def by_topic(message: Message) -> None:
        got.append(("topic", message.key))

    @app.consume(
        f"{amqp.server}/{names['h']}?{declared}&exchange={names['headers']}&exchange_type=headers"
        "&header.tenant=a&header.kind=order&match=any"
    )
    async def by_headers(message: Message) -> None:
        got.append(("headers", message.headers.get("tenant")))

    topic, headers = (f"{amqp.server}/?exchange={names[kind]}" for kind in ("topic", "headers"))
    try:
        async with app.running(worker=True):
            await until(lambda: all(_consumed(amqp, names[kind]) for kind in "th"))
            await app.publish(topic, {}, key="order.created")
            await app.publish(topic, {}, key="refund.a.b")
            await app.publish(headers, {}, headers={"tenant": "a", "kind": "other"})
            with pytest.raises(MessageRefused):
                await app.publish(topic, {}, key="order.created.late")
            with pytest.raises(MessageRefused):
                await app.publish(headers, {}, headers={"tenant": "b"})
            await until(lambda: len(got) == 3)
        assert sorted(got) == [("headers", "a"), ("topic", "order.created"), ("topic", "refund.a.b")]
    finally:
        for kind in "th":
            amqp.channel.queue_delete(names[kind])
        for kind in ("topic", "headers"):
            amqp.channel.exchange_delete(names[kind])


def _consumed(amqp: AmqpPlace, queue: str) -> bool:
    with pika.BlockingConnection(amqp._parameters) as connection:
        try:
            return bool(connection.channel().queue_declare(queue, passive=True).method.consumer_count)
        except pika.exceptions.ChannelClosedByBroker:
            return False


async def test_a_connection_that_is_cut_is_made_again(app: Moorline, amqp: AmqpPlace) -> None:
    """The consumer's and the publisher's; a missing queue of another consumer harms neither, nor the jobs."""
    got: list[str | None] = []
    ran: list[int] = []
    port = pika.URLParameters(amqp.url).port
    with TcpProxy(port) as proxy:
        url = amqp.url.replace(f":{port}", f":{proxy.port}")

        @app.consume(url)
        async def on_order(message: Message) -> None:
            got.append(message.id)

        @app.consume(f"{amqp.server}/nowhere")
        async def on_nothing(message: Message) -> None:
            raise AssertionError("there is no such queue")

        @app.job
        async def work() -> None:
            ran.append(1)

        async with app.running(worker=True):
            await app.publish(url, {}, id="m-1")
            await until(lambda: got == ["m-1"])
            proxy.cut()
            async with asyncio.timeout(20):
                while True:
                    try:
                        await app.publish(url, {}, id="m-2")
                    except StoreUnavailable:  # it was lost on the way; the next one connects anew
                        continue
                    break
            await until(lambda: "m-2" in got)
            await work.enqueue()
            await until(lambda: bool(ran))
    assert set(got) == {"m-1", "m-2"}


async def test_a_process_that_dies_before_the_acknowledgement(app: Moorline, amqp: AmqpPlace) -> None:
    """The job is there, the message comes again, and there is one job."""
    got: list[str | None] = []
    amqp.put("{}", id="m-1")
    command = [sys.executable, "-m", "tests.jobs.foreign.crash_consumer", app.settings.database_url, amqp.url]
    done = await asyncio.to_thread(run, command, cwd=ROOT)
    assert done.returncode == 9, done.stderr
    async with app:
        (before,) = await app.jobs.broker.list(JobFilter())
    await until(lambda: amqp.left() == 1)

    @app.consume(amqp.url, queue="later")
    async def on_order(message: Message) -> None:
        got.append(message.id)

    async with app.running(worker=True):
        await until(lambda: _consumed(amqp, amqp.name) and amqp.left() == 0)
    await app.open()
    await app.worker(queues=["later"]).drain()
    (after,) = await app.jobs.broker.list(JobFilter())
    await app.close()
    assert (after.id, after.state, got) == (before.id, "done", ["m-1"])
    assert amqp.left() == 0


async def test_a_queue_that_is_deleted_is_looked_for(app: Moorline, amqp: AmqpPlace) -> None:
    """The consumer goes on when somebody has made it again."""
    got: list[str | None] = []

    @app.consume(amqp.url)
    async def on_order(message: Message) -> None:
        got.append(message.id)

    async with app.running(worker=True):
        await until(lambda: _consumed(amqp, amqp.name))
        amqp.channel.queue_delete(amqp.name)
        amqp.channel.queue_declare(amqp.name, durable=True)
        amqp.put("{}", id="m-1")
        await until(lambda: got == ["m-1"])


async def test_messages_without_an_id_are_all_handled(app: Moorline, amqp: AmqpPlace) -> None:
    """Two that say the same are two; one that has another's id by mistake is not taken for it."""
    got: list[Message] = []

    @app.consume(amqp.url)
    async def on_order(message: Message) -> None:
        got.append(message)

    for body, id_ in (("{}", None), ("{}", None), ("1", "same"), ("2", "same"), ("2", "same")):
        amqp.put(body, id=id_)
    async with app.running(worker=True):
        await until(lambda: len(got) >= 4 and amqp.left() == 0)
    assert sorted((one.body, one.id or "") for one in got) == [(b"1", "same"), (b"2", "same"), (b"{}", ""), (b"{}", "")]


async def test_headers_come_as_what_json_has(app: Moorline, amqp: AmqpPlace) -> None:
    """Whatever AMQP allows: bytes, times, tables; and a body that is no text."""
    got: list[Message] = []

    @app.consume(amqp.url)
    async def on_order(message: Message) -> None:
        got.append(message)

    at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    headers: dict[str, Any] = {"a": b"\xff", "b": at, "c": {"d": [1, True, None]}, "e": b"text"}
    about = pika.BasicProperties(headers=headers, timestamp=1_700_000_000, app_id="shop", type="order")
    amqp.channel.basic_publish("", amqp.name, b"\xff\0", about)
    async with app.running(worker=True):
        await until(lambda: bool(got))
    (message,) = got
    assert message.headers == {"a": "/w==", "b": "2026-01-02T03:04:05Z", "c": {"d": [1, True, None]}, "e": "text"}
    assert (message.body, message.time, message.source, message.type) == (b"\xff\0", 1_700_000_000.0, "shop", "order")


async def test_texts_that_are_not_utf_8_come_as_base64(app: Moorline, amqp: AmqpPlace) -> None:
    """AMQP says what they should be, and servers do not look: a message of an old program is a job all the same."""
    got: list[Message] = []

    @app.consume(amqp.url)
    async def on_order(message: Message) -> None:
        got.append(message)

    latin: Any = b"\xe4"
    about = pika.BasicProperties(message_id=latin, type=latin, app_id=latin, content_type=latin, headers={latin: "a"})
    amqp.channel.basic_publish("", amqp.name, b"1", about)
    async with app.running(worker=True):
        await until(lambda: bool(got))
    (message,) = got
    assert (message.id, message.type, message.source, message.content_type) == ("5A==",) * 4
    assert message.headers == {"5A==": "a"}


async def test_a_publication_is_part_of_a_transaction(app: Moorline, amqp: AmqpPlace) -> None:
    """It is sent if that commits, and not if it does not; a URL with a password is refused."""
    app.connection("shop", amqp.server)
    async with app:
        with Session(sa.create_engine(app.store.url)) as session:
            await app.publish(f"shop://{amqp.name}", {"number": 1}).enqueue(within=session)
            session.rollback()
            await app.publish(f"shop://{amqp.name}", {"number": 2}).enqueue(within=session)
            session.commit()
        with pytest.raises(ConfigurationError, match=r"its password would be stored.*app\.connection") as told:
            app.publish(amqp.url, {}).enqueue()
        assert "guest" not in str(told.value)
        with pytest.raises(ConfigurationError, match="'dely' is no option of a job"):
            app.publish(f"shop://{amqp.name}", {}).enqueue(dely=3)
        await app.worker().drain()
        assert [one.body async for one in _all(amqp)] == [b'{"number":2}']


async def test_what_our_broker_never_takes_stays_there(
    app: Moorline, amqp: AmqpPlace, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """One of a batch is refused for good: the others are taken, and it is left to its queue, with a line."""
    got: list[bytes] = []
    enqueue = app.jobs.broker.enqueue

    async def picky(rows: Any, *, again: bool = False) -> list[str]:
        if any(b"poison" in row.payload for row in rows):
            raise StoreError("a job of such a size is not taken")
        return await enqueue(rows, again=again)

    monkeypatch.setattr(app.jobs.broker, "enqueue", picky)

    @app.consume(amqp.url)
    async def on_order(message: Message) -> None:
        got.append(message.body)

    for body in ("1", "poison", "2"):
        amqp.put(body)
    async with app.running(worker=True):
        await until(lambda: sorted(got) == [b"1", b"2"])
    assert amqp.left() == 1
    assert [one for one in caplog.records if "message_left" in one.getMessage()]
    async with app:
        assert len(await app.jobs.broker.list(JobFilter())) == 2


async def test_what_is_left_stops_nobody(
    app: Moorline, amqp: AmqpPlace, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It holds a place of the prefetch; when those are few, others come all the same. It stays in its queue."""
    monkeypatch.setattr("moorline.jobs.foreign.consuming.LARGEST", 100)
    got: list[bytes] = []

    @app.consume(f"{amqp.url}?prefetch=3")
    async def on_order(message: Message) -> None:
        got.append(message.body)

    for number in range(7):
        amqp.put("x" * 101)
        amqp.put(str(number))
    async with app.running(worker=True):
        await until(lambda: len(got) == 7)
    assert sorted(got) == [str(number).encode() for number in range(7)]
    assert amqp.left() == 7
    assert len([one for one in caplog.records if "message_left" in one.getMessage()]) == 7


async def test_a_header_that_is_nested_without_end_stops_nobody(
    app: Moorline, amqp: AmqpPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes as far as can be followed, and the next message too."""
    got: list[Message] = []

    @app.consume(amqp.url)
    async def on_order(message: Message) -> None:
        got.append(message)

    nested = b"t\1"
    for _ in range(5_000):
        nested = b"A" + len(nested).to_bytes(4, "big") + nested
    with monkeypatch.context() as patched:
        patched.setattr("pika.data.encode_value", lambda pieces, _: pieces.append(nested) or len(nested))
        amqp.channel.basic_publish("", amqp.name, b"1", pika.BasicProperties(headers={"deep": True}))
    with monkeypatch.context() as patched:
        double = b"d" + struct.pack(">d", 1.5)
        patched.setattr("pika.data.encode_value", lambda pieces, _: pieces.append(double) or len(double))
        amqp.channel.basic_publish("", amqp.name, b"2", pika.BasicProperties(headers={"price": True}))
    async with app.running(worker=True):
        await until(lambda: len(got) == 2)
    headers = {message.body: message.headers for message in got}
    assert headers[b"2"] == {"price": 1.5}
    depth, inner = 0, headers[b"1"]["deep"]
    while inner is not None:
        depth, (inner,) = depth + 1, inner
    assert 50 < depth < 200
    assert amqp.left() == 0


async def test_a_header_with_a_time_in_milliseconds_stops_nobody(
    app: Moorline, amqp: AmqpPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMQP wants seconds; as those it is no date. It is read as its number, and the next message comes."""
    milliseconds = 1_800_000_000_000
    got: list[Message] = []

    @app.consume(amqp.url, name="times")
    async def times(message: Message) -> None:
        got.append(message)

    with monkeypatch.context() as patched:
        patched.setattr("pika.data.calendar.timegm", lambda _: milliseconds)
        headers = {"at": dt.datetime(2027, 1, 15, tzinfo=dt.UTC)}
        amqp.channel.basic_publish("", amqp.name, b"1", pika.BasicProperties(headers=headers))
    amqp.put("2")
    async with app.running(worker=True):
        await until(lambda: len(got) == 2)
    assert {message.body for message in got} == {b"1", b"2"}
    assert amqp.left() == 0
