"""Messages of other programs, at every carrier: none is lost, and one that comes again is no second job."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from tests.jobs.foreign.places import Place

from moorline import Moorline
from moorline.errors import ConfigurationError, InvalidArguments, Misuse, StoreUnavailable
from moorline.jobs.broker import JobFilter
from moorline.jobs.foreign import Message
from moorline.jobs.foreign.amqp import AmqpSource
from moorline.jobs.foreign.carriers import source_at
from moorline.jobs.foreign.sqs import SqsSource
from moorline.jobs.foreign.streams import StreamSource
from moorline.jobs.job import Job

SOURCES = (AmqpSource, StreamSource, SqsSource)


class Order(BaseModel):
    number: int
    city: str = ""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- another process is looked at
            await asyncio.sleep(0.01)


async def dead_letters(app: Moorline) -> list[Job]:
    async with asyncio.timeout(20):
        while not (dead := await app.jobs.broker.list(JobFilter(state="dead"))):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    return dead


async def test_a_message_becomes_a_job_of_its_model(app: Moorline, place: Place) -> None:
    """The function gets the body as its model; the message is settled where it was, and the job is done here."""
    got: list[tuple[Any, Message]] = []

    @app.consume(place.url, model=Order)
    async def on_order(order: Order, message: Message) -> None:
        got.append((order, message))

    place.put('{"number": 1, "city": "Ürümqi"}', id="m-1", headers={"tenant": "a"})
    place.put('{"number": 2}')
    async with app.running(worker=True):
        await until(lambda: len(got) == 2)
    (order, message), (second, unnamed) = sorted(got, key=lambda one: one[0].number)
    assert order == Order(number=1, city="Ürümqi")
    assert second.number == 2
    assert (message.id, message.headers) == ("m-1", {"tenant": "a"})
    assert message.body == '{"number": 1, "city": "Ürümqi"}'.encode()
    assert unnamed.id != "m-1"
    await until(lambda: place.left() == 0)
    async with app:
        assert await app.jobs.broker.counts() == {("default", "done"): 2}


async def test_a_crash_before_the_acknowledgement_makes_no_second_job(
    app: Moorline, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message comes again, and has the id of the job that is there already, which has long ended."""
    got: list[str | None] = []
    crashes: list[int] = []
    settled: list[int] = []
    monkeypatch.setattr("moorline.jobs.foreign.streams._LOOK", 0.05)

    @app.consume(place.url + ("&idle=1" if "group" in place.url else ""))
    def on_order(message: Message) -> None:
        got.append(message.id)

    def crash(source: Any, deliveries: Any) -> None:
        if not crashes:
            crashes.append(len(deliveries))
            if isinstance(source, SqsSource):
                source.give_back(deliveries)  # the server would do so in half a minute
            raise StoreUnavailable("crashed")
        real[type(source)](source, deliveries)
        settled.append(len(deliveries))

    real = {kind: kind.acknowledge for kind in SOURCES}
    for kind in SOURCES:
        monkeypatch.setattr(kind, "acknowledge", crash)
    place.put("{}", id="m-1")
    async with app.running(worker=True):
        await until(lambda: bool(settled) and bool(got))
    assert place.left() == 0
    async with app:
        (job,) = await app.jobs.broker.list(JobFilter())
        assert (job.state, got) == ("done", ["m-1"])
        assert (crashes, settled) == ([1], [1])


async def test_what_does_not_fit_is_a_dead_letter_that_can_be_retried(app: Moorline, place: Place) -> None:
    """It is kept as it came, so a program that knows it can do it later."""
    got: list[int] = []

    @app.consume(place.url, name="orders")
    async def strict(order: Order) -> None:
        raise AssertionError("it does not fit")

    place.put('{"number": "seven"}', id="m-7")
    async with app.running(worker=True):
        dead = await dead_letters(app)
    assert place.left() == 0
    (job,) = dead
    assert (job.name, job.reason, job.attempts) == ("message:orders", "mismatch", 1)
    assert "number" in str(job.last_error)
    assert "seven" not in str(job.last_error)
    assert json.loads(job.payload)["text"] == '{"number": "seven"}'

    newer = Moorline(app.settings.database_url)

    @newer.consume(place.url, name="orders")
    async def lenient(order: dict[str, Any]) -> None:
        got.append(len(order["number"]))

    async with newer:
        await newer.jobs.broker.retry(job.id)
        await newer.worker().drain()
    assert got == [5]


async def test_what_is_not_stored_goes_back_when_the_worker_stops(
    app: Moorline, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While our broker is away nothing is acknowledged; at the stop others can have it at once."""
    asked: list[int] = []

    @app.consume(place.url)
    async def on_order(message: Message) -> None:
        raise AssertionError("never stored")

    async def away(rows: Any, *, again: bool = False) -> list[str]:
        asked.append(len(rows))
        raise StoreUnavailable("away")

    monkeypatch.setattr(app.jobs.broker, "enqueue", away)
    place.put('{"number": 1}', id="m-1")
    async with app.running(worker=True):
        await until(lambda: len(asked) > 1)
    assert place.left() == 1
    other = Moorline(app.settings.database_url)
    got: list[str | None] = []

    @other.consume(place.url)
    async def on_another(message: Message) -> None:
        got.append(message.id)

    async with other.running(worker=True):
        await until(lambda: got == ["m-1"])


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_an_event_goes_out_and_comes_back(app: Moorline, place: Place, mode: Any) -> None:
    """A CloudEvent in both modes: what we sent is what we get."""
    got: list[Message] = []

    async with app:
        await app.publish(
            place.url, {"number": 3}, type="order.created", id="e-1", source="/shop", time=1_522_900_584.5,
            cloudevent=mode, attributes={"subject": "3"}, headers={"tenant": "a"},
        )  # fmt: skip

    @app.consume(place.url)
    async def on_event(event: Message) -> None:
        got.append(event)

    async with app.running(worker=True):
        await until(lambda: bool(got))
    (event,) = got
    assert event.json() == {"number": 3}
    assert (event.id, event.type, event.source) == ("e-1", "order.created", "/shop")
    assert (event.time, event.content_type) == (1_522_900_584.5, "application/json")
    assert (event.attributes, event.headers) == ({"subject": "3"}, {"tenant": "a"})


class Struct(msgspec.Struct):
    number: int


@dataclasses.dataclass
class Plain:
    number: int


async def test_another_program_reads_what_is_published(app: Moorline, place: Place) -> None:
    """The body as JSON, the id and the headers, where it looks for them."""
    async with app:
        answered = await app.publish(place.url, Order(number=5), id="m-5", headers={"tenant": "a"})
    assert (answered is None) == place.url.startswith("amqp")
    got = place.get()
    assert got is not None
    assert json.loads(got.body) == {"number": 5, "city": ""}
    assert (got.id, got.headers["tenant"], got.content_type) == ("m-5", "a", "application/json")


@pytest.mark.parametrize("value", [{"number": 5}, Struct(5), Plain(5)], ids=lambda one: type(one).__name__)
def test_what_json_can_say_is_json(app: Moorline, value: Any) -> None:
    """Dicts, dataclasses, models and structs."""
    assert app.publish("sqs://eu-central-1/orders", value).message.body == b'{"number":5}'


def test_what_json_cannot_say_is_named(app: Moorline) -> None:
    """At once, not by the job that would send it."""
    with pytest.raises(InvalidArguments, match="message"):
        app.publish("sqs://eu-central-1/orders", {"number": {1, 2}})
    with pytest.raises(InvalidArguments, match="source: a CloudEvent needs one"):
        app.publish("sqs://eu-central-1/orders", {}, type="t", cloudevent="binary")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"id": 5}, "id: expected a text, got int"),
        ({"key": 5}, "key: expected a text, got int"),
        ({"type": b"order"}, "type: expected a text, got bytes"),
        ({"source": 1.5}, "source: expected a text, got float"),
        ({"content_type": ["a"]}, "content_type: expected a text, got list"),
        ({"id": "\ud800"}, "id: it has half of a character"),
        ({"time": "now"}, "time: expected seconds since the epoch, got str"),
        ({"time": float("nan")}, "time: expected seconds since the epoch"),
    ],
)
def test_what_a_message_cannot_say_is_named(app: Moorline, said: dict[str, Any], match: str) -> None:
    """Where it is made, whatever server it is for: none of them is asked, so none of them can seem to be down."""
    for url in ("amqp://localhost/orders", "redis://localhost/0/orders", "sqs://eu-central-1/orders"):
        with pytest.raises(InvalidArguments, match=match):
            app.publish(url, {}, **said)


async def test_a_stored_message_that_says_no_text_is_a_dead_letter(app: Moorline, place: Place) -> None:
    """As an earlier version may have stored it. It is not tried again: its server is well."""
    app.connection("shop", place.server)
    async with app:
        publication = app.publish("shop://" + place.rest, {})
        object.__setattr__(publication.message, "id", 5)
        await publication.enqueue(retries=2)
        await app.worker().drain()
        (dead,) = await dead_letters(app)
    assert "is no text" in str(dead.last_error)
    assert place.get() is None


async def test_headers_that_a_job_cannot_keep_are_named(app: Moorline) -> None:
    """When it is enqueued, as the body is."""
    async with app:
        for value in ({1, 2}, b"x", object()):
            publication = app.publish("sqs://eu-central-1/orders", {}, headers={"a": value})
            with pytest.raises(InvalidArguments, match="headers"):
                await publication.enqueue()
        assert await app.jobs.broker.counts() == {}


async def test_a_publication_may_be_a_job(app: Moorline, place: Place) -> None:
    """It is sent by a worker, under the id that it was made with; the job holds no password."""
    app.connection("shop", place.server)
    async with app:
        publication = app.publish("shop://" + place.rest, b"{}")
        await publication.enqueue(retries=2)
        (job,) = await app.jobs.broker.list(JobFilter())
        assert b"guest" not in job.payload
        assert job.max_attempts == 3
        assert place.get() is None
        await app.worker().drain()
        got = place.get()
        assert got is not None
        assert (got.body, got.id) == (b"{}", publication.message.id)


def test_blocking(app: Moorline, place: Place) -> None:
    """``result()`` sends where no event loop runs, and is a clear error where one does."""
    with app.opened():
        app.publish(place.url, {"number": 6}).result()
        got = place.get()
        assert got is not None
        assert got.body == b'{"number":6}'

        async def inside() -> None:
            with pytest.raises(Misuse, match="await this"):
                app.publish(place.url, {}).result()

        asyncio.run(inside())


async def test_a_large_body_is_a_dead_letter(app: Moorline, place: Place) -> None:
    """It is kept whole, and nothing reads it until the limit is raised."""

    @app.consume(place.url, max_body=10)
    async def small(order: Order) -> None:
        raise AssertionError("too large")

    place.put('{"number": 1234567}')
    async with app.running(worker=True):
        dead = await dead_letters(app)
    assert place.left() == 0
    assert dead[0].reason == "discarded"
    assert "max_body" in str(dead[0].last_error)


async def test_what_is_larger_than_a_payload_may_be_is_taken(app: Moorline, place: Place) -> None:
    """``max_payload`` is for what this program enqueues; ``max_body`` says what it takes of others."""
    got: list[int] = []
    app.jobs.max_payload = 100

    @app.consume(place.url, name="large", max_body=400)
    async def on_order(message: Message) -> None:
        got.append(len(message.body))

    place.put("x" * 300)
    place.put("x" * 500)
    async with app.running(worker=True):
        await until(lambda: bool(got))
        dead = await dead_letters(app)
    assert (got, [job.reason for job in dead], place.left()) == ([300], ["discarded"], 0)


def test_a_queue_that_is_not_there_is_named(app: Moorline, place: Place) -> None:
    """What to do is said, and no password."""
    name = place.url.partition("?")[0].rpartition("/")[2]
    source = source_at(app._messages.connections.find(place.url.replace(f"/{name}", "/nowhere")), "w")
    with pytest.raises(ConfigurationError, match="nowhere") as told:
        source.open()
    assert "guest" not in str(told.value)
    source.close()
