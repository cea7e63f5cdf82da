"""Queues of other programs, by other clients than moorline's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import pika
import redis
from tests.sqs_servers import MotoServer

__all__ = ["AmqpPlace", "Got", "Place", "SqsPlace", "StreamPlace"]


class Got(NamedTuple):
    """A message as another program sees it."""

    body: bytes
    headers: dict[str, Any]
    content_type: str | None
    id: str | None


class Place(Protocol):
    """A queue that is there; ``url`` is what moorline is told, ``server`` and ``rest`` its parts for a connection."""

    url: str
    server: str
    rest: str

    def put(self, body: str, *, id: str | None = None, headers: dict[str, str] | None = None, media: str = "") -> None:
        """Send one."""

    def get(self) -> Got | None:
        """Take one that waits, and settle it."""

    def left(self) -> int:
        """How many are there, taken ones that are not settled included."""


class AmqpPlace:
    """A queue of RabbitMQ. What is taken and not settled is counted only once its connection has ended."""

    def __init__(self, server: str) -> None:
        self.name = f"t{uuid4().hex[:12]}"
        self.server = server.rstrip("/")
        self.rest = self.name
        self.url = f"{self.server}/{self.rest}"
        self._parameters = pika.URLParameters(f"{self.server}/%2F")
        self._connection = pika.BlockingConnection(self._parameters)
        self.channel = self._connection.channel()
        self.channel.queue_declare(self.name, durable=True)

    def close(self) -> None:
        self.channel.queue_delete(self.name)
        self._connection.close()

    def put(self, body: str, *, id: str | None = None, headers: dict[str, str] | None = None, media: str = "") -> None:
        about = pika.BasicProperties(message_id=id, headers=headers, content_type=media or None)
        self.channel.basic_publish("", self.name, body.encode(), about)

    def get(self, queue: str = "") -> Got | None:
        method, about, body = self.channel.basic_get(queue or self.name, auto_ack=True)
        return None if method is None else Got(body, about.headers or {}, about.content_type, about.message_id)

    def left(self) -> int:
        return int(self.channel.queue_declare(self.name, passive=True).method.message_count)


class StreamPlace:
    """A stream of Redis with two groups: ours, and one that looks at what we publish."""

    def __init__(self, server: str) -> None:
        self.name = f"t{uuid4().hex[:12]}"
        self.server = server
        self.rest = f"{self.name}?group=ours"
        self.url = f"{server}/{self.rest}"
        self.client: Any = redis.Redis.from_url(server)
        for group in ("ours", "theirs"):
            self.client.xgroup_create(self.name, group, id="0", mkstream=True)

    def close(self) -> None:
        self.client.close()

    def put(self, body: str, *, id: str | None = None, headers: dict[str, str] | None = None, media: str = "") -> None:
        own = {"id": id, "content_type": media or None}
        said = {name: value for name, value in own.items() if value is not None}
        self.client.xadd(self.name, {"body": body, **said, **(headers or {})})

    def get(self) -> Got | None:
        answer = self.client.xreadgroup("theirs", "me", {self.name: ">"}, count=1, noack=True)
        if not answer:
            return None
        entries = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
        entries = entries[0] if entries and isinstance(entries[0], list) else entries
        fields = {name.decode(): value for name, value in entries[0][1].items()}
        told = {name: value.decode() for name, value in fields.items() if name != "body"}
        return Got(fields["body"], told, told.get("content_type"), told.get("id"))

    def left(self) -> int:
        group = next(one for one in self.client.xinfo_groups(self.name) if one["name"] == b"ours")
        return int(group["pending"] + (group["lag"] or 0))


class SqsPlace:
    """A queue of SQS."""

    def __init__(self, server: MotoServer, *, fifo: bool = False) -> None:
        self.name = f"t{uuid4().hex[:12]}" + (".fifo" if fifo else "")
        region, _, options = server.url.partition("?")
        self.server = f"{region}?{options}"
        self.rest = f"{self.name}?wait=1"
        self.url = f"{region}/{self.rest}&{options}"
        self.client = server.client()
        attributes = {"FifoQueue": "true"} if fifo else {}
        self.queue: str = self.client.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]

    def close(self) -> None:
        self.client.close()

    def put(self, body: str, *, id: str | None = None, headers: dict[str, str] | None = None, media: str = "") -> None:
        said = {**({"message-id": id} if id else {}), **({"content-type": media} if media else {}), **(headers or {})}
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in said.items()}
        self.client.send_message(QueueUrl=self.queue, MessageBody=body, MessageAttributes=attributes)

    def get(self) -> Got | None:
        answer = self.client.receive_message(QueueUrl=self.queue, MessageAttributeNames=["All"])
        if not answer.get("Messages"):
            return None
        (one,) = answer["Messages"]
        self.client.delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])
        told = {name: said["StringValue"] for name, said in one.get("MessageAttributes", {}).items()}
        return Got(one["Body"].encode(), told, told.get("content-type"), told.get("message-id"))

    def left(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self.client.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(int(said[name]) for name in names)


@contextlib.contextmanager
def closing(place: AmqpPlace | StreamPlace | SqsPlace) -> Iterator[Any]:
    try:
        yield place
    finally:
        place.close()
