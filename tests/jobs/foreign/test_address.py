"""URLs of what others own: each part is found, what is wrong is named, and no password is ever shown."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moorline import Moorline
from moorline.errors import ConfigurationError
from moorline.jobs.brokers.rabbit_link import RabbitWhere
from moorline.jobs.foreign.address import AmqpAddress, Connections, SqsAddress, StreamAddress, address_of
from moorline.settings import load


def test_a_queue_of_rabbitmq() -> None:
    """One name is a queue of the default virtual host, two are a virtual host and a queue; / is escaped in names."""
    found = address_of("amqp://u:p@h:1/orders")
    assert isinstance(found, AmqpAddress)
    assert (found.queue, found.exchange, found.declare, found.secret) == ("orders", "", False, True)
    assert found.shown == "amqp://h:1/orders"
    assert RabbitWhere(found.server)._vhost == "/"
    other = address_of("amqps://u@h/shop%2Feu/a%2Fb?heartbeat=5&prefetch=7")
    assert isinstance(other, AmqpAddress)
    assert (other.queue, other.prefetch, other.secret) == ("a/b", 7, False)
    where = RabbitWhere(other.server)
    assert (where._vhost, where.heartbeat) == ("shop/eu", 5)


def test_an_exchange_of_rabbitmq() -> None:
    """With its bindings, or what a headers exchange compares."""
    topic = address_of(
        "amqp://h/v/q?exchange=e&exchange_type=topic&binding=a.*&binding=b.%23&declare=true&queues=classic"
    )
    assert isinstance(topic, AmqpAddress)
    assert (topic.exchange, topic.exchange_type, topic.bindings) == ("e", "topic", ("a.*", "b.#"))
    assert (topic.declare, topic.queue_type) == (True, "classic")
    headers = address_of("amqp://h/v/?exchange=e&header.b=2&header.a=1&match=any")
    assert isinstance(headers, AmqpAddress)
    assert (headers.queue, headers.headers, headers.match) == ("", (("a", "1"), ("b", "2")), "any")
    keyed = address_of("amqp://h/?exchange=e&routing_key=a.b")
    assert isinstance(keyed, AmqpAddress)
    assert (keyed.routing_key, keyed.bindings) == ("a.b", ("a.b",))


def test_a_stream_of_redis() -> None:
    """The last name is the stream; what is none of ours is the server's own."""
    found = address_of("redis://:p@h/3/orders?group=g&start=%24&field=data&idle=5&ssl_cert_reqs=none")
    assert isinstance(found, StreamAddress)
    assert (found.stream, found.group, found.start, found.body_field, found.idle) == ("orders", "g", "$", "data", 5.0)
    assert (found.server, found.shown, found.secret) == (
        "redis://:p@h/3?ssl_cert_reqs=none", "redis://h/3/orders", True,
    )  # fmt: skip
    sentinel = address_of("redis+sentinel://a,b/name/0/orders?group=g")
    assert isinstance(sentinel, StreamAddress)
    assert (sentinel.server, sentinel.stream, sentinel.secret) == ("redis+sentinel://a,b/name/0", "orders", False)


def test_a_queue_of_sqs() -> None:
    """Region and name; FIFO queues too."""
    found = address_of("sqs://eu-central-1/orders.fifo?wait=3&endpoint=http://127.0.0.1:1")
    assert isinstance(found, SqsAddress)
    assert (found.queue, found.shown) == ("orders.fifo", "sqs://eu-central-1/orders.fifo")
    assert found.server == "sqs://eu-central-1/?wait=3&endpoint=http%3A%2F%2F127.0.0.1%3A1"


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("kafka://h/q", "must begin with one of amqp"),
        ("orders", "must begin with one of amqp"),
        ("unix:///s.sock", "must begin with one of amqp"),
        ("amqp://h/", "name a queue"),
        ("amqp://h", "name a queue"),
        ("amqp:///q", "cannot be read"),
        ("amqp://h/a/b/c", "no more"),
        ("amqp://h/q?binding=a", "go with an exchange"),
        ("amqp://h/q?routing_key=a", "go with an exchange"),
        ("amqp://h/q?declare=yes", "declare is one of false, true"),
        ("amqp://h/q?prefetch=0", "prefetch is a whole number from 1 to 1,000"),
        ("amqp://h/q?exchange=a&exchange=b", "exchange is given 2 times"),
        ("amqp://h/q?exchange=a&exchange_type=x", "exchange_type is one of direct"),
        ("amqp://h/q?group=a", "an option that amqp does not know"),
        ("amqp://h/q?binding=#", "cannot be read"),
        ("redis://h/0", "name the stream"),
        ("redis://h/", "name the stream"),
        ("redis://h/0/s?start=5", "start is one of 0"),
        ("sqs://eu-central-1", "name the queue"),
        ("sqs://eu-central-1/a/b", "name the queue"),
        ("sqs://eu-central-1/a?group=b", "an option that sqs does not know"),
    ],
)
def test_what_is_wrong_is_named(url: str, match: str) -> None:
    """And what is accepted."""
    with pytest.raises(ConfigurationError, match=match):
        address_of(url)


@given(st.text(min_size=1, max_size=12), st.booleans(), st.sampled_from(["amqp", "redis", "amqps", "rediss"]))
@example("a/b?c#d@e", False, "amqp")
@example("x?y=pw", False, "redis")
def test_no_password_is_shown(password: str, escaped: bool, scheme: str) -> None:
    """In no error, no repr, no shown address, escaped or not: the server's own URL alone holds it."""
    marked = f"Qx{password}xQ"
    url = f"{scheme}://user:{quote(marked, safe='') if escaped else marked}@host/0/orders?group=g&exchange=e"
    url = url.replace("group=g&", "") if scheme.startswith("amqp") else url.replace("&exchange=e", "")
    try:
        found = address_of(url)
        shown = f"{found!r} {found.shown}"
    except ConfigurationError as error:
        shown = str(error)
    assert not any(part in shown for part in ("Qx", "xQ", "user:"))


def test_connections_stand_for_servers() -> None:
    """Their own options and those of the URL are joined; a virtual host or database of the server's is kept."""
    known = Connections({
        "shop": "amqp://u:p@h/v?heartbeat=5", "bare": "amqp://u:p@h/", "cache": "redis://:p@h/2",
        "cloud": "sqs://eu-central-1?endpoint=http://127.0.0.1:1",
    })  # fmt: skip
    for url, full in (
        ("shop://orders", "amqp://u:p@h/v/orders?heartbeat=5"),
        ("shop://?exchange=e", "amqp://u:p@h/v/?heartbeat=5&exchange=e"),
        ("bare://orders?declare=true", "amqp://u:p@h/orders?declare=true"),
        ("cache://s?group=g", "redis://:p@h/2/s?group=g"),
        ("cloud://orders", "sqs://eu-central-1/orders?endpoint=http://127.0.0.1:1"),
    ):
        assert known.find(url) == address_of(full)
        assert known.storable(url)
    assert not known.storable("amqp://u:p@h/orders")
    assert known.storable("amqp://h/orders")
    assert "p@" not in repr(known)


@pytest.mark.parametrize(
    ("name", "url", "match"),
    [
        ("Shop", "amqp://h", "no name of a connection"),
        ("amqp", "amqp://h", "no name of a connection"),
        ("shop", "http://u:secret@h", "must begin with one of amqp"),
        ("shop", "amqp://u:secret@h/a/b/c", "no more"),
        ("taken", "amqp://u:secret@h", "already"),
    ],
)
def test_a_connection_that_is_none_is_named(name: str, url: str, match: str) -> None:
    """The name is checked, and the server; no password is shown."""
    known = Connections({"taken": "amqp://other"})
    known.add("taken", "amqp://other")
    with pytest.raises(ConfigurationError, match=match) as told:
        known.add(name, url)
    assert "secret" not in str(told.value)
    with pytest.raises(ConfigurationError, match=r"no connection 'shop' \(known: taken\)"):
        known.find("shop://orders")


def test_connections_are_settings(app: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, and never in a repr."""
    monkeypatch.setenv("MOORLINE_CONNECTIONS__SHOP", "amqp://u:hidden@h/v")
    settings = load(database_url=app.settings.database_url)
    assert settings.connections == {"shop": "amqp://u:hidden@h/v"}
    assert "hidden" not in repr(settings)
    found = Moorline(settings=settings)._messages.connections.find("shop://orders")
    assert found.shown == "amqp://h/v/orders"


async def _one(message: Any) -> None: ...


async def _three(a: Any, b: Any, c: Any) -> None: ...


async def _bare(order, message) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "match"),
    [
        (_three, {}, "takes 3 arguments"),
        (_bare, {}, "model: annotate 'order'"),
        (lambda message: None, {"timeout": 5.0, "name": "a"}, "timeout: message:a is a plain function"),
        (_one, {"retries": -1}, "retries"),
        (_one, {"max_body": 0}, "max_body"),
        (_one, {"priority": 12}, "priority"),
        (_one, {"name": "taken"}, "two consumers are called 'taken'"),
        (_one, {"url": "amqp://h/?exchange=e"}, "name the queue to consume"),
        (_one, {"url": "redis://h/0/s"}, "name the consumer group"),
        (_one, {"url": 5}, "expected a text, got int"),
    ],
)
def test_a_consumer_that_cannot_be_is_refused(
    app: Moorline, function: Any, options: dict[str, Any], match: str
) -> None:
    """When it is registered, not by a worker."""
    app.consume("amqp://h/q", name="taken")(_one)
    with pytest.raises(ConfigurationError, match=match):
        app.consume(options.pop("url", "amqp://h/q"), **options)(function)


def test_what_cannot_be_published_is_refused(app: Moorline) -> None:
    """When it is made."""
    with pytest.raises(ConfigurationError, match="cloudevent: expected 'structured' or 'binary'"):
        app.publish("sqs://eu-central-1/q", {}, cloudevent="batch")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="attributes: only a CloudEvent"):
        app.publish("sqs://eu-central-1/q", {}, attributes={"subject": "x"})
    assert "secret" not in repr(app.publish("amqp://u:secret@h/q", {"secret": 1}))
