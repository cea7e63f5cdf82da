"""Messages of Amazon SQS: queues that others own, standard or FIFO, through the link that jobs use too."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Sequence
from typing import Any, Final

from moorline.errors import ConfigurationError, MessageRefused, StoreError
from moorline.jobs.brokers.sqs_link import MISSING, Link, Refused, SqsWhere, in_batches
from moorline.jobs.foreign.address import SqsAddress
from moorline.jobs.foreign.carriers import Delivery
from moorline.jobs.foreign.cloudevents import PREFIX
from moorline.jobs.foreign.message import Message, plain
from moorline.telemetry import logger

__all__ = ["SqsSink", "SqsSource"]

_KEEP: Final = 60  # seconds that what we hold stays hidden from others, each time
_OWN: Final = {"id": "message-id", "type": "type", "source": "source", "content_type": "content-type"}
_MOST_ATTRIBUTES: Final = 10
_NAME: Final = re.compile(r"(?!aws\.|amazon\.|AWS\.|Amazon\.)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_UNSENDABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by SendMessage's page

log = logger("jobs")


class _Queues:
    """Their URLs, by name."""

    def __init__(self, server: str) -> None:
        self.link = Link(SqsWhere(server))
        self._urls: dict[str, str] = {}

    def url(self, name: str) -> str:
        """Raises ConfigurationError when there is none."""
        if name not in self._urls:
            try:
                self._urls[name] = self.link.ask("get_queue_url", QueueName=name)["QueueUrl"]
            except Refused as refused:
                raise self.missing(name, refused) from None
        return self._urls[name]

    def missing(self, name: str, refused: Refused) -> Exception:
        """The error for what SQS said."""
        self._urls.pop(name, None)
        if refused.code != MISSING:
            return refused
        return ConfigurationError(f"SQS at {self.link.where.shown} has no queue {name!r}: its owner makes it")


class SqsSource:
    """See ``Source``. A long poll cannot be interrupted: what it brings after that is given back at once."""

    def __init__(self, address: SqsAddress) -> None:
        self._queue = address.queue
        self._queues = _Queues(address.server)
        self._wait = self._queues.link.where.wait
        self._interrupted = threading.Event()

    def open(self) -> None:
        """See ``Source``."""
        self._queues.url(self._queue)

    def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Source``."""
        if self._interrupted.is_set():
            return []
        answer = self._ask(
            "receive_message",
            by="hear",
            MaxNumberOfMessages=min(limit, 10),
            WaitTimeSeconds=self._wait,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
        )
        received = [(_received(one), one) for one in answer.get("Messages", ())]
        return [
            Delivery(message, one["ReceiptHandle"], stamped=message.id == one["MessageId"]) for message, one in received
        ]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``."""
        self._each("delete_message_batch", deliveries)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``."""
        self._each("change_message_visibility_batch", deliveries, VisibilityTimeout=0)

    def leave(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``: nothing stands behind them."""

    def keep(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``."""
        self._each("change_message_visibility_batch", deliveries, VisibilityTimeout=_KEEP)

    def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            return self._queues.link.ask(operation, QueueUrl=self._queues.url(self._queue), **parameters)
        except Refused as refused:
            raise self._queues.missing(self._queue, refused) from None

    def _each(self, operation: str, deliveries: Sequence[Delivery], **named: Any) -> None:
        for batch in in_batches(deliveries):
            entries = [{"Id": str(n), "ReceiptHandle": one.handle, **named} for n, one in enumerate(batch)]
            failed = self._ask(operation, Entries=entries).get("Failed", ())
            if failed:  # they come again
                log.warning("messages_unsettled", queue=self._queue, count=len(failed), code=failed[0]["Code"])

    def interrupt(self) -> None:
        """See ``Source``."""
        self._interrupted.set()

    def close(self) -> None:
        """See ``Source``."""
        self._queues.link.close()


def _received(one: dict[str, Any]) -> Message:
    headers = {name: _value(said) for name, said in one.get("MessageAttributes", {}).items()}
    own: dict[str, Any] = {field: _taken(headers, name) for field, name in _OWN.items()}
    system = one.get("Attributes", {})
    sent = system.get("SentTimestamp")
    return Message(
        one["Body"].encode("utf-8", "surrogatepass"),
        **{**own, "id": own["id"] or one["MessageId"]},
        time=int(sent) / 1000 if sent else None,
        key=system.get("MessageGroupId"),
        headers=headers,
    )


def _value(said: dict[str, Any]) -> Any:
    return plain(said["BinaryValue"] if said["DataType"].startswith("Binary") else said.get("StringValue"))


def _taken(headers: dict[str, Any], name: str) -> str | None:
    value = headers.pop(name, None)
    return value if isinstance(value, str) and value else None


class SqsSink:
    """See ``Sink``. To a FIFO queue a message goes with its ``key`` as group, and its id against repetitions."""

    def __init__(self, server: str) -> None:
        self._queues = _Queues(server)

    def send(self, address: SqsAddress, message: Message) -> str | None:
        """See ``Sink``; gives SQS's own id."""
        url = self._queues.url(address.queue)
        ordered: dict[str, str] = {}
        if address.queue.endswith(".fifo"):
            digest = hashlib.sha256((message.id or "").encode("utf-8", "replace")).hexdigest()
            ordered = {"MessageGroupId": message.key or "default", "MessageDeduplicationId": digest}
        try:
            answer = self._queues.link.ask(
                "send_message", QueueUrl=url, MessageBody=_text(message.body), MessageAttributes=_attributes(message),
                **ordered,
            )  # fmt: skip
        except Refused as refused:
            error = self._queues.missing(address.queue, refused)
            raise MessageRefused(str(error)) if error is refused else error from None
        return str(answer["MessageId"])

    def close(self) -> None:
        """See ``Sink``."""
        with contextlib.suppress(StoreError):
            self._queues.link.close()


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text or _UNSENDABLE.search(text):
        raise MessageRefused("message: SQS takes text only, and some; cloudevent='structured' wraps other bytes")
    return text


def _attributes(message: Message) -> dict[str, Any]:
    said = {name: getattr(message, field) for field, name in _OWN.items() if getattr(message, field)}
    if any(name.startswith(PREFIX) for name in message.headers):
        said = {name: value for name, value in said.items() if name == "content-type"}  # the event says the others
    twice = sorted(said.keys() & message.headers.keys())
    if twice:
        field = next(field for field, name in _OWN.items() if name == twice[0])
        raise MessageRefused(f"headers: {twice[0]!r} is the attribute that says the message's {field}; give {field}=")
    found: dict[str, Any] = {}
    for name, value in {**said, **message.headers}.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not _NAME.fullmatch(name) or not (number or (isinstance(value, str) and value)):
            raise MessageRefused(f"headers: {name!r} can be no attribute of SQS: a name, and a text or a number")
        found[name] = {"DataType": "Number" if number else "String", "StringValue": str(value)}
    if len(found) > _MOST_ATTRIBUTES:
        advice = "cloudevent='structured' needs none"
        raise MessageRefused(f"headers: SQS takes {_MOST_ATTRIBUTES} attributes, these are {len(found)}; {advice}")
    return found
