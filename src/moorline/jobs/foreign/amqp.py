"""Messages of RabbitMQ: queues to consume, exchanges and queues to publish to, by pika on a link of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from moorline.errors import ConfigurationError, MessageRefused, StoreError, StoreUnavailable
from moorline.jobs.brokers.rabbit_link import Channel, Link, RabbitWhere
from moorline.jobs.foreign.address import AmqpAddress
from moorline.jobs.foreign.carriers import Delivery
from moorline.jobs.foreign.message import Message, plain

__all__ = ["AmqpSink", "AmqpSource"]

_WAIT: Final = 5.0  # seconds of a look for messages
_NOT_FOUND: Final = 404
_DURABLE: Final = 2
_LONGEST_TEXT: Final = 255  # bytes of AMQP's short strings
_LATEST: Final = 2.0**63  # seconds, of AMQP's timestamps


class AmqpSource:
    """See ``Source``. The prefetch bounds what is here and not acknowledged."""

    def __init__(self, address: AmqpAddress) -> None:
        if not address.queue:
            raise ConfigurationError("url: name the queue to consume: amqp://HOST/QUEUE?exchange=…")
        self._address = address
        self._where = RabbitWhere(address.server)
        self._came = threading.Condition()
        self._buffer: deque[Delivery] = deque()
        self._interrupted = False
        self._cancelled = False
        self._left = 0  # that hold a place of the present consumer's, for good
        self._link: Link | None = None
        self._channel: Channel | None = None

    def open(self) -> None:
        """See ``Source``."""
        self._link = Link(self._where, self._rouse)
        self._link.ask(self._consume())

    async def _consume(self) -> None:
        assert self._link is not None
        await _declared(self._link, self._address, self._where.shown)
        self._channel = channel = await self._link.channel(self._rouse)
        channel.raw.add_on_cancel_callback(self._on_cancel)
        await channel.answer(channel.raw.basic_qos, prefetch_count=self._address.prefetch)
        self._left = 0
        await channel.answer(channel.raw.basic_consume, self._address.queue, self._on_message)

    async def _consume_anew(self, channel: Channel) -> None:
        """What a consumer had before counts for its prefetch alone, and stays with the channel."""
        await channel.end_consumers()
        await channel.answer(channel.raw.basic_consume, self._address.queue, self._on_message)

    def _on_message(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        with self._came:
            self._buffer.append(Delivery(_received(method, properties, body), method.delivery_tag))
            self._came.notify_all()

    def _on_cancel(self, _: Any) -> None:
        """The server has ended our consumer: somebody deleted the queue."""
        self._cancelled = True
        self._rouse()

    def _rouse(self) -> None:
        with self._came:
            self._came.notify_all()

    @property
    def _lost(self) -> bool:
        link, channel = self._link, self._channel
        return self._cancelled or link is None or link.lost or channel is None or channel.lost

    def _check(self) -> None:
        if self._lost:
            raise StoreUnavailable(f"RabbitMQ at {self._where.shown} was lost, or its queue {self._address.queue!r}")

    def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Source``."""
        with self._came:
            self._came.wait_for(lambda: self._buffer or self._interrupted or self._lost, _WAIT)
            self._check()
            return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``. What was taken back meanwhile comes again."""
        self._check()
        channel, link = self._channel, self._link
        assert channel is not None
        assert link is not None
        link.ask(_settled(channel, [one.handle for one in deliveries], back=False))

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``."""
        channel, link = self._channel, self._link
        if not self._lost and channel is not None and link is not None:
            link.ask(_settled(channel, [one.handle for one in deliveries], back=True))

    def leave(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``. They hold places of the prefetch: before those are all, another consumer has as many."""
        self._check()
        self._left += len(deliveries)
        if self._left * 2 >= self._address.prefetch and self._channel is not None and self._link is not None:
            self._left = 0
            self._link.ask(self._consume_anew(self._channel))

    def keep(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``: they are ours as long as the channel lives."""
        del deliveries
        self._check()

    def interrupt(self) -> None:
        """See ``Source``."""
        self._interrupted = True
        self._rouse()

    def close(self) -> None:
        """See ``Source``."""
        link, self._link = self._link, None
        if link is not None:
            if self._channel is not None and not link.lost:
                with contextlib.suppress(StoreError):  # what is unsettled goes back, as it does when the link is lost
                    link.ask(self._channel.close(), _WAIT)
            link.close()


async def _settled(channel: Channel, tags: Sequence[int], *, back: bool) -> None:
    for tag in tags:
        if channel.lost:
            raise StoreUnavailable("RabbitMQ has closed the channel")
        if back:
            channel.raw.basic_nack(tag, requeue=True)
        else:
            channel.raw.basic_ack(tag)


def _received(method: Any, properties: Any, body: bytes) -> Message:
    at = properties.timestamp
    return Message(  # of a text that is not UTF-8, pika gives the bytes
        body,
        id=plain(properties.message_id) or None,
        type=plain(properties.type) or None,
        source=plain(properties.app_id) or None,
        time=float(at) if isinstance(at, int) and at > 0 else None,
        content_type=plain(properties.content_type) or None,
        key=plain(method.routing_key) or None,
        headers=plain(properties.headers or {}),
    )


async def _declared(link: Link, address: AmqpAddress, shown: str) -> None:
    """Whose the queue is: we look whether it is there, or make it and bind it."""
    if not address.declare:
        await _there(link, "queue", address.queue, shown, "its owner declares it, or add declare=true to the URL")
        return
    channel = await link.channel()
    raw, exchange = channel.raw, address.exchange
    if exchange and address.exchange_type:
        await channel.answer(raw.exchange_declare, exchange, address.exchange_type, durable=True)
    elif exchange:
        advice = "its owner declares it, or add exchange_type=topic (or another) to the URL"
        await _there(link, "exchange", exchange, shown, advice)
    await channel.answer(raw.queue_declare, address.queue, durable=True, arguments={"x-queue-type": address.queue_type})
    arguments: dict[str, str] = {**dict(address.headers), "x-match": address.match} if address.headers else {}
    for key in (address.bindings or ("",)) if exchange else ():
        await channel.answer(raw.queue_bind, address.queue, exchange, routing_key=key, arguments=arguments)
    await channel.close()


async def _there(link: Link, kind: str, name: str, shown: str, advice: str) -> None:
    """Raises ConfigurationError unless it is. The server closes the channel that asked in vain."""
    channel = await link.channel()
    try:
        if kind == "queue":
            await channel.answer(channel.raw.queue_declare, name, passive=True)
        else:
            await channel.answer(channel.raw.exchange_declare, name, passive=True)
    except Exception as error:
        if getattr(error, "reply_code", None) != _NOT_FOUND:
            raise
        raise ConfigurationError(f"RabbitMQ at {shown} has no {kind} {name!r}: {advice}") from None
    await channel.close()


class AmqpSink:
    """See ``Sink``: each message is confirmed, and one that no queue takes is an error."""

    def __init__(self, server: str) -> None:
        self._where = RabbitWhere(server)
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._turn: asyncio.Lock | None = None
        self._confirmed: asyncio.Future[Any] | None = None
        self._returned = ""

    def _opened(self) -> Link:
        with self._lock:
            if self._link is None or self._link.lost:
                if self._link is not None:
                    self._link.close()
                self._link = self._channel = None
                self._turn = asyncio.Lock()
                self._link = Link(self._where, lambda: None)
            return self._link

    def send(self, address: AmqpAddress, message: Message) -> str | None:
        """See ``Sink``."""
        link = self._opened()
        link.ask(self._send(link, address, message))
        return None

    async def _send(self, link: Link, address: AmqpAddress, message: Message) -> None:
        assert self._turn is not None
        about = _properties(message)
        async with self._turn:  # a message that is returned is so right before it is confirmed, and does not say which
            channel = await self._confirming(link)
            # Of the exchange without a name the routing key is a queue's name: the one of the URL.
            key = (message.key or address.routing_key) if address.exchange else address.queue
            self._returned = ""
            self._confirmed = confirmed = channel.future()
            try:
                channel.raw.basic_publish(address.exchange, key, message.body, about, mandatory=True)
                taken = await confirmed
            except Exception as error:
                if getattr(error, "reply_code", None) != _NOT_FOUND:
                    raise
                name = address.exchange
                raise ConfigurationError(f"RabbitMQ at {self._where.shown} has no exchange {name!r}") from None
            finally:
                if not confirmed.done() and not channel.lost:  # nobody waits for it: it must not confirm another
                    self._channel = None
                    channel.raw.close()
        place = f"exchange {address.exchange!r}, routing key {key!r}" if address.exchange else f"queue {key!r}"
        if self._returned:
            raise MessageRefused(f"RabbitMQ at {self._where.shown} has no queue for the message ({place})")
        if not taken:
            raise StoreUnavailable(f"RabbitMQ at {self._where.shown} did not take the message ({place}): full?")

    async def _confirming(self, link: Link) -> Channel:
        if self._channel is None or self._channel.lost:
            channel = await link.channel()
            await channel.answer(channel.raw.confirm_delivery, self._on_confirm)
            channel.raw.add_on_return_callback(self._on_return)
            self._channel = channel
        return self._channel

    def _on_confirm(self, frame: Any) -> None:
        from pika.spec import Basic

        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(not isinstance(frame.method, Basic.Nack))

    def _on_return(self, _: Any, method: Any, __: Any, ___: bytes) -> None:
        self._returned = str(method.reply_text)

    def close(self) -> None:
        """See ``Sink``."""
        with self._lock:
            link, self._link, self._channel = self._link, None, None
        if link is not None:
            link.close()


def _properties(message: Message) -> Any:
    from pika import BasicProperties

    for name in ("id", "type", "source", "content_type", "key"):
        if len((getattr(message, name) or "").encode("utf-8", "replace")) > _LONGEST_TEXT:
            raise MessageRefused(f"{name}: RabbitMQ takes {_LONGEST_TEXT} bytes")
    for name, value in message.headers.items():
        if not _fits({name: value}):
            raise MessageRefused(f"headers: AMQP has no place for {str(name)[:50]!r}, a {type(value).__name__}")
    return BasicProperties(
        content_type=message.content_type,
        delivery_mode=_DURABLE,
        message_id=message.id,
        type=message.type,
        app_id=message.source,
        timestamp=int(message.time) if message.time is not None and 0 < message.time < _LATEST else None,
        headers=dict(message.headers) or None,
    )


def _fits(headers: dict[str, Any]) -> bool:
    """Whether pika can write them: no floats, no names over 255 bytes, no numbers over 64 bits."""
    from pika.data import encode_table

    try:
        encode_table([], headers)
    except Exception:  # noqa: BLE001 -- whatever it raises, of several kinds
        return False
    return True
