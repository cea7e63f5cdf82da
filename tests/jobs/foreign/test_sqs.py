"""SQS of others: FIFO queues, and what it does not take."""

from __future__ import annotations

from typing import Any

import pytest
from tests.jobs.foreign.places import SqsPlace, closing
from tests.jobs.foreign.test_messages import until
from tests.sqs_servers import MotoServer

from moorline import Moorline
from moorline.errors import MessageRefused
from moorline.jobs.foreign import Message


async def test_a_fifo_queue_gets_groups_and_no_message_twice(app: Moorline, moto: MotoServer, sqs: SqsPlace) -> None:
    """The key is the group; the same id within its five minutes is one message."""
    got: list[tuple[str | None, bytes]] = []
    with closing(SqsPlace(moto, fifo=True)) as fifo:

        @app.consume(fifo.url)
        async def on_order(message: Message) -> None:
            got.append((message.key, message.body))

        async with app.running(worker=True):
            for number, id_ in ((1, "a"), (1, "a"), (2, "b")):
                await app.publish(fifo.url, {"number": number}, id=id_, key="tenant-1")
            await until(lambda: len(got) == 2 and fifo.left() == 0)
    assert sorted(got) == [("tenant-1", b'{"number":1}'), ("tenant-1", b'{"number":2}')]


async def test_what_a_sender_sends_twice_is_one_job(app: Moorline, sqs: SqsPlace) -> None:
    """By the id that it gives; SQS's own is another each time."""
    got: list[str | None] = []

    @app.consume(sqs.url)
    async def on_order(message: Message) -> None:
        got.append(message.id)

    for id_ in ("same", "same", "other"):
        sqs.put("{}", id=id_)
    async with app.running(worker=True):
        await until(lambda: len(got) >= 2 and sqs.left() == 0)
    async with app:
        assert await app.jobs.broker.counts() == {("default", "done"): 2}


@pytest.mark.parametrize(
    ("message", "headers", "match"),
    [
        (b"\xff", {}, "SQS takes text only"),
        (b"", {}, "SQS takes text only"),
        (b"\0", {}, "SQS takes text only"),
        ({}, {"a b": "x"}, "'a b' can be no attribute"),
        ({}, {"aws.x": "x"}, "'aws.x' can be no attribute"),
        ({}, {"a": ""}, "'a' can be no attribute"),
        ({}, {"message-id": "another"}, "'message-id' is the attribute that says the message's id; give id="),
        ({}, {"content-type": "text/plain"}, "'content-type' is the attribute .* give content_type="),
        ({}, {f"h{n}": n for n in range(10)}, "SQS takes 10 attributes, these are 12"),
    ],
)
async def test_what_sqs_does_not_take_is_named(
    app: Moorline, sqs: SqsPlace, message: Any, headers: dict[str, Any], match: str
) -> None:
    """Before it is sent, with what to do."""
    async with app:
        with pytest.raises(MessageRefused, match=match):
            await app.publish(sqs.url, message, headers=headers)
    assert sqs.left() == 0


async def test_bytes_go_in_an_envelope(app: Moorline, sqs: SqsPlace) -> None:
    """As base64, which a CloudEvent has a place for."""
    got: list[Message] = []

    @app.consume(sqs.url)
    async def on_bytes(message: Message) -> None:
        got.append(message)

    async with app.running(worker=True):
        await app.publish(sqs.url, b"\xff\0", type="t", source="/s", cloudevent="structured")
        await until(lambda: bool(got))
    assert (got[0].body, got[0].content_type) == (b"\xff\0", "application/octet-stream")
