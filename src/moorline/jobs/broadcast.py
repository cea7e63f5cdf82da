"""``Broadcast``: publish to all who listen at this moment. Light, and lossy: use a job for what must happen.

::

    broadcast = Broadcast("redis://127.0.0.1:6379/0")       # or postgresql://…, or nothing: within this process
    async with broadcast.subscribe("prices") as messages:
        async for message in messages:
            print(message.data, messages.dropped)

    await broadcast.publish("prices", {"sku": "a-1", "cents": 990})

Nothing is stored, confirmed or repeated. A message is lost for who does not listen, for all while the server is away,
and the oldest ones for who does not keep up. Through Redis or Valkey by Pub/Sub, through PostgreSQL by NOTIFY.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import msgspec

from moorline.errors import ConfigurationError, Misuse, StoreUnavailable
from moorline.telemetry import logger

__all__ = ["Broadcast", "Message", "Messages"]

Deliver = Callable[[str, bytes], None]

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LARGEST: Final = 1_048_576
_LARGEST_NOTIFY: Final = (
    7_900  # bytes; PostgreSQL takes less than 8,000 (https://www.postgresql.org/docs/current/sql-notify.html)
)
_READY: Final = 5.0  # seconds
_LOOK: Final = 0.2  # seconds between two looks whether to stop
_ASK: Final = 60.0  # seconds without a word, after which PostgreSQL is asked whether it is there
_RECONNECT: Final = 1.0

log = logger("jobs")


@dataclass(frozen=True, slots=True)
class Message:
    """What was published: ``data`` is what JSON made of it."""

    channel: str
    data: Any


class Messages:
    """What came since the subscription began: an asynchronous iterator that ends when it is closed.

    At most *backlog* wait; ``dropped`` counts those that made room for newer ones.
    """

    def __init__(self, backlog: int) -> None:
        self._waiting: deque[Message] = deque()
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._came.set()

    def deliver(self, channel: str, body: bytes) -> None:
        """From any thread: one more has come."""
        try:
            message = Message(channel, msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("broadcast_undecodable", channel=channel, bytes=len(body))
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: Message) -> None:
        if len(self._waiting) >= self._backlog:
            self._waiting.popleft()
            self.dropped += 1
            if self.dropped == 1:
                log.warning("broadcast_dropped", channel=message.channel, backlog=self._backlog)
        self._waiting.append(message)
        self._came.set()


class Broadcast:
    """See above. *url* as of ``queue_url`` for Redis, or of a PostgreSQL database; none: within this object only.

    *backlog*: how many messages may wait for a subscriber that is slower. ``close()`` it when done. Raises
    ConfigurationError for a URL that it cannot use.
    """

    def __init__(self, url: str | None = None, *, prefix: str = "moorline", backlog: int = 1_000) -> None:
        if not _NAME.fullmatch(prefix):
            raise ConfigurationError(f"prefix: {prefix!r} is not a name of letters, digits and _.-")
        if backlog < 1:
            raise ConfigurationError(f"backlog: {backlog!r} is not a positive number")
        self._way = _way(url)
        self._prefix = f"{prefix}:"
        self._backlog = backlog

    async def publish(self, channel: str, data: object) -> None:
        """Tell all who listen. Raises Misuse for what is no JSON or too large, StoreUnavailable if it is not sent."""
        name = self._named(channel)
        try:
            body = msgspec.json.encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise Misuse(f"broadcast: {type(data).__name__} cannot be written as JSON") from error
        if len(body) > self._way.largest:
            raise Misuse(f"broadcast: a message of {len(body):,} bytes; here at most {self._way.largest:,} are sent")
        await self._way.publish(name, body)

    @contextlib.asynccontextmanager
    async def subscribe(self, *channels: str) -> AsyncIterator[Messages]:
        """All messages of those channels from now on. Raises StoreUnavailable when the server does not answer.

        It is subscribed again after the server was away; what was published meanwhile is lost.
        """
        names = {self._named(channel): channel for channel in channels}
        if not names:
            raise Misuse("subscribe: name a channel")
        messages = Messages(self._backlog)
        async with self._way.listening(tuple(names), lambda name, body: messages.deliver(names[name], body)):
            try:
                yield messages
            finally:
                messages.close()

    def close(self) -> None:
        """Disconnect. It connects again when it is used again."""
        self._way.close()

    def _named(self, channel: str) -> str:
        if not _NAME.fullmatch(channel):
            raise ConfigurationError(f"channel: {channel!r} is not a name of letters, digits and _.-, 40 at most")
        return self._prefix + channel


class _Way(Protocol):
    largest: int

    async def publish(self, name: str, body: bytes) -> None: ...

    def listening(self, names: tuple[str, ...], deliver: Deliver) -> contextlib.AbstractAsyncContextManager[None]: ...

    def close(self) -> None: ...


def _way(url: str | None) -> _Way:
    if url is None:
        return _Here()
    scheme = url.partition("://")[0]
    if scheme.partition("+")[0] in ("postgresql", "postgres"):
        return _Postgres(url)
    from moorline.jobs.brokers.redis_link import SCHEMES

    if scheme in SCHEMES:
        return _Redis(url)
    raise ConfigurationError(f"the URL of a broadcast begins with postgresql:// or one of {', '.join(SCHEMES)}")


class _Here:
    """Within this object."""

    largest = _LARGEST

    def __init__(self) -> None:
        self._listeners: dict[object, tuple[tuple[str, ...], Deliver]] = {}

    async def publish(self, name: str, body: bytes) -> None:
        for names, deliver in list(self._listeners.values()):
            if name in names:
                deliver(name, body)

    @contextlib.asynccontextmanager
    async def listening(self, names: tuple[str, ...], deliver: Deliver) -> AsyncIterator[None]:
        key = object()
        self._listeners[key] = names, deliver
        try:
            yield
        finally:
            del self._listeners[key]

    def close(self) -> None:
        pass


class _Server(ABC):
    """Through a server: a thread with a connection of its own for each subscription, one more connection to publish."""

    largest = _LARGEST

    def __init__(self) -> None:
        self._sender: Any = None
        self._lock = threading.Lock()

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    def _send(self, connection: Any, name: str, body: bytes) -> None: ...

    @abstractmethod
    def _hear(self, connection: Any, names: tuple[str, ...], ready: Callable[[], None], stop: threading.Event,
              deliver: Deliver) -> None:  # fmt: skip
        """Until *stop*; raises when the connection is lost."""

    async def publish(self, name: str, body: bytes) -> None:
        await asyncio.to_thread(self._publish, name, body)

    def _publish(self, name: str, body: bytes) -> None:
        with self._lock:
            try:
                if self._sender is None:
                    self._sender = self._connect()
                self._send(self._sender, name, body)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 -- whatever the driver raises
                self._drop()
                raise StoreUnavailable(f"broadcast: the server did not answer: {type(error).__name__}") from None

    def _drop(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            with contextlib.suppress(Exception):  # it is broken, that is why it is dropped
                sender.close()

    def close(self) -> None:
        with self._lock:
            self._drop()

    @contextlib.asynccontextmanager
    async def listening(self, names: tuple[str, ...], deliver: Deliver) -> AsyncIterator[None]:
        loop, ready, stop = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        failures: deque[str] = deque(maxlen=1)

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(ready.set)

        thread = threading.Thread(
            target=self._listen, args=(names, tell, stop, deliver, failures), name="moorline-broadcast", daemon=True
        )
        thread.start()
        try:
            try:
                await asyncio.wait_for(ready.wait(), _READY)
            except TimeoutError:
                why = f": {failures[0]}" if failures else ""
                raise StoreUnavailable(f"broadcast: the server did not answer{why}") from None
            yield
        finally:
            stop.set()
            await asyncio.to_thread(thread.join, _READY)

    def _listen(self, names: tuple[str, ...], ready: Callable[[], None], stop: threading.Event, deliver: Deliver,
                failures: deque[str]) -> None:  # fmt: skip
        while not stop.is_set():
            try:
                connection = self._connect()
                try:
                    self._hear(connection, names, ready, stop, deliver)
                finally:
                    connection.close()
            except Exception as error:  # noqa: BLE001 -- whatever the driver raises; it is tried again
                failures.append(type(error).__name__)
                log.warning("broadcast_lost", channels=names, error=type(error).__name__, again_in=_RECONNECT)
                stop.wait(_RECONNECT)


class _Redis(_Server):
    def __init__(self, url: str) -> None:
        super().__init__()
        from moorline.jobs.brokers.redis_link import Where

        self._where = Where(url)
        with contextlib.suppress(StoreUnavailable):  # only a cluster is asked already
            self._where.connect().close()  # looks for the library, and reads the URL

    def _connect(self) -> Any:
        return self._where.connect()

    def _send(self, connection: Any, name: str, body: bytes) -> None:
        connection.publish(name, body)

    def _hear(self, connection: Any, names: tuple[str, ...], ready: Callable[[], None], stop: threading.Event,
              deliver: Deliver) -> None:  # fmt: skip
        with connection.pubsub() as heard:
            heard.subscribe(*names)
            while not stop.is_set():
                message = heard.get_message(timeout=_LOOK)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    ready()
                elif message["type"] == "message":
                    deliver(message["channel"].decode(), message["data"])


class _Postgres(_Server):
    largest = _LARGEST_NOTIFY

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            from moorline.store.bounded import BoundedConnection
            from moorline.store.engines import STATEMENT_TIMEOUT
        except ImportError as error:
            raise ConfigurationError("this broadcast needs psycopg; pip install 'moorline[postgres]'") from error
        self._driver, self._silence = BoundedConnection, STATEMENT_TIMEOUT
        scheme, _, rest = url.partition("://")
        self._url = f"{scheme.partition('+')[0]}://{rest}"

    def _connect(self) -> Any:
        return self._driver.to(self._url, self._silence)

    def _send(self, connection: Any, name: str, body: bytes) -> None:
        connection.execute("SELECT pg_notify(%s, %s)", (name, body.decode()))

    def _hear(self, connection: Any, names: tuple[str, ...], ready: Callable[[], None], stop: threading.Event,
              deliver: Deliver) -> None:  # fmt: skip
        for name in names:
            connection.execute(f'LISTEN "{name}"')  # a name has no quotes, and is short enough
        ready()
        heard = time.monotonic()
        while not stop.is_set():
            if time.monotonic() - heard > _ASK:
                connection.execute("SELECT 1")  # raises if nobody is there
                heard = time.monotonic()
            for notice in connection.notifies(timeout=_LOOK):
                heard = time.monotonic()
                deliver(notice.channel, notice.payload.encode())
                if stop.is_set():
                    return
