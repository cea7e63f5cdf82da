"""Messages of Redis streams: a consumer group to read with, XADD to publish.

An entry's fields are the message's headers, but for its body (``body``, or what the URL calls it) and the fields
``id``, ``type``, ``source``, ``time`` (seconds) and ``content_type``. An entry without that body is read as a JSON
object of its fields.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError, MessageRefused, StoreError
from moorline.jobs.brokers.redis_link import Where, failures, translated
from moorline.jobs.foreign.address import StreamAddress
from moorline.jobs.foreign.carriers import Delivery
from moorline.jobs.foreign.message import JSON, Message, body_of, plain

if TYPE_CHECKING:
    import redis

__all__ = ["StreamSink", "StreamSource"]

_BLOCK: Final = 1_000  # milliseconds of a look for messages, unless it is interrupted
_LOOK: Final = 5.0  # seconds between two looks for what dead consumers left
_PREFIX: Final = "moorline-"
_DEAD: Final = 3_600_000  # milliseconds without a question
_AT_ONCE: Final = 86_400_000  # milliseconds: as if it had been left for so long
_FIELDS: Final = ("id", "type", "source", "content_type", "time")


class StreamSource:
    """See ``Source``. Each worker is a consumer of the group; what a dead one left is taken after ``idle`` seconds."""

    def __init__(self, address: StreamAddress, worker: str) -> None:
        if not address.group:
            raise ConfigurationError("url: name the consumer group: redis://HOST/0/STREAM?group=NAME")
        self._address = address
        self._where = Where(address.server)
        self._name = _PREFIX + worker
        self._idle = int(address.idle * 1000)
        self._client: Any = None
        self._looked = 0.0
        self._cursor: Any = "0-0"
        self._interrupted = threading.Event()
        self._blocked: int | None = None  # what the server calls the connection that waits there

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        from redis.exceptions import ResponseError

        try:
            yield self._client
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                raise ConfigurationError(self._missing()) from None
            raise translated(error) from None
        except failures() as error:
            raise translated(error) from None

    def _missing(self) -> str:
        stream, group = self._address.stream, self._address.group
        return (
            f"Redis at {self._where.shown} has no stream {stream!r} with a group {group!r}: make it"
            f" (XGROUP CREATE {stream} {group} 0), or add declare=true to the URL"
        )

    def open(self) -> None:
        """See ``Source``."""
        from redis.exceptions import ResponseError

        self._client = self._where.connect()
        address = self._address
        with self._asking() as client:
            if self._where.kind != "cluster":
                with contextlib.suppress(ResponseError):  # this user may not ask
                    self._blocked = client.client_id()
            if not address.declare:
                client.xpending(address.stream, address.group)
            else:
                try:
                    client.xgroup_create(address.stream, address.group, id=address.start, mkstream=True)
                except ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):  # it is there: what we wanted
                        raise
            self._forget_the_dead(client)

    def _forget_the_dead(self, client: Any) -> None:
        """Consumers of workers that were killed, when others have taken what they held. A live one asks each second."""
        for one in client.xinfo_consumers(self._address.stream, self._address.group):
            ours = one["name"].startswith(_PREFIX.encode())
            if ours and not one["pending"] and one["idle"] > _DEAD:
                client.xgroup_delconsumer(self._address.stream, self._address.group, one["name"])

    def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Source``."""
        if self._interrupted.is_set():
            return []
        address = self._address
        with self._asking() as client:
            left = self._left(client, limit)
            if left:
                return left
            answer = client.xreadgroup(address.group, self._name, {address.stream: ">"}, count=limit, block=_BLOCK)
        entries = next(iter(answer.values())) if isinstance(answer, Mapping) else answer[0][1] if answer else []
        return self._deliveries(entries)

    def _left(self, client: Any, limit: int) -> list[Delivery]:
        """What others took long ago, and did not acknowledge."""
        now = time.monotonic()
        if self._cursor == "0-0" and self._looked and now - self._looked < _LOOK:
            return []
        self._looked = now
        answer = client.xautoclaim(
            self._address.stream, self._address.group, self._name, self._idle, self._cursor, count=limit
        )
        cursor = answer[0]
        self._cursor = cursor.decode() if isinstance(cursor, bytes) else cursor
        return self._deliveries(answer[1])

    def _deliveries(self, entries: Sequence[tuple[bytes, Any]]) -> list[Delivery]:
        gone = [entry for entry, fields in entries if fields is None]  # deleted from the stream before it was read
        if gone:
            with self._asking() as client:
                client.xack(self._address.stream, self._address.group, *gone)
        return [_received(entry, fields, self._address.body_field) for entry, fields in entries if fields is not None]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``."""
        with self._asking() as client:
            client.xack(self._address.stream, self._address.group, *[one.handle for one in deliveries])

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``. A stream takes nothing back: it is made to look as if left long ago."""
        self._claim(deliveries, _AT_ONCE)

    def leave(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``: nothing stands behind them."""

    def keep(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Source``."""
        self._claim(deliveries, 0)

    def _claim(self, deliveries: Sequence[Delivery], idle: int) -> None:
        address, entries = self._address, [one.handle for one in deliveries]
        with self._asking() as client:
            client.xclaim(address.stream, address.group, self._name, 0, entries, idle=idle, justid=True)

    def interrupt(self) -> None:
        """See ``Source``."""
        self._interrupted.set()
        if self._blocked is not None:
            threading.Thread(target=self._unblock, name="moorline-unblock", daemon=True).start()

    def _unblock(self) -> None:
        with contextlib.suppress(StoreError, ConfigurationError), self._asking() as client:  # else it ends by itself
            client.client_unblock(self._blocked)

    def close(self) -> None:
        """See ``Source``. A consumer that holds nothing is taken off the group."""
        client, address = self._client, self._address
        if client is None:
            return
        with contextlib.suppress(StoreError, ConfigurationError), self._asking():
            if not client.xpending_range(address.stream, address.group, "-", "+", 1, consumername=self._name):
                client.xgroup_delconsumer(address.stream, address.group, self._name)
        client.close()


def _received(entry: bytes, fields: Mapping[bytes, bytes], body_field: str) -> Delivery:
    said = {plain(name): value for name, value in fields.items()}
    body = said.pop(body_field, None)
    headers = {name: plain(value) for name, value in said.items()}
    own = {name: headers.pop(name, None) for name in _FIELDS} if body is not None else dict.fromkeys(_FIELDS)
    if body is None:
        body, own["content_type"] = body_of(headers)[0], JSON
    sent = _seconds(own.pop("time"))
    came = int(entry.partition(b"-")[0]) / 1000
    named = {**own, "id": own["id"] or entry.decode()}
    message = Message(body, time=came if sent is None else sent, headers=headers, **named)
    return Delivery(message, entry, stamped=sent is not None or own["id"] is None)


def _seconds(stamp: str | None) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        if stamp is not None and 0 < (at := float(stamp)) < 1e11:
            return at
    return None


class StreamSink:
    """See ``Sink``."""

    def __init__(self, server: str) -> None:
        self._where = Where(server)
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None

    def send(self, address: StreamAddress, message: Message) -> str | None:
        """See ``Sink``; gives the entry's id."""
        own = {name: getattr(message, name) for name in _FIELDS}
        headers = {name: _text(name, value) for name, value in message.headers.items()}
        taken = {address.body_field, *_FIELDS} & headers.keys()
        if taken:
            raise MessageRefused(f"headers: {min(taken)!r} is a field of its own in the stream's entry")
        fields: dict[Any, Any] = {**headers, **{name: str(value) for name, value in own.items() if value is not None}}
        fields[address.body_field] = message.body
        with self._lock:
            if self._client is None:
                self._client = self._where.connect()
        client: Any = self._client
        try:
            entry = client.xadd(address.stream, fields, maxlen=address.maxlen or None, approximate=True)
        except failures() as error:
            raise translated(error) from None
        return str(entry.decode())

    def close(self) -> None:
        """See ``Sink``."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MessageRefused(f"headers: {name} is neither a text nor a number, and a stream knows nothing else")
    return str(value)
