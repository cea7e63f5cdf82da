"""The connection to RabbitMQ: its URL, its thread, and what its failures mean.

pika, not aio-pika: sending a message with a confirm costs it a fifth of the processor time, taking one and settling it
a quarter.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from moorline.errors import ConfigurationError, StoreError, StoreUnavailable
from moorline.telemetry import logger

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

__all__ = ["SCHEMES", "Channel", "Link", "RabbitWhere"]

R = TypeVar("R")

SCHEMES: Final = ("amqp", "amqps")
_LAST_PORT: Final = 65_535
_CONNECT: Final = 5.0  # seconds
_ANSWER: Final = 30.0  # seconds; a quorum queue that has just been made takes some
_BLOCKED: Final = 20.0  # seconds without room for more, after which we give up
_HEARTBEAT: Final = 15  # seconds; a machine that vanished is noticed after two
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_KINDS: Final = ("quorum", "classic")
_FLOATS: Final = {b"f": struct.Struct(">f"), b"d": struct.Struct(">d")}
_NESTED: Final = (b"A", b"F")  # by AMQP's letters: arrays and tables, whose length stands before them
_UNREADABLE: Final = "the URL of the queue cannot be read (are the odd characters of its password escaped?)"

log = logger("jobs")


class RabbitWhere:
    """``amqp://USER:PASSWORD@HOST[:5672][,HOST…]/VHOST``, ``amqps`` for TLS; several hosts are tried in turn.

    ``?queues=classic`` for queues on one node only (they are quorum queues otherwise), ``prefix=moorline`` of all names
    there, ``heartbeat=15`` (seconds), ``cafile=FILE``. ``repr`` and ``shown`` leave user and password out. Raises
    ConfigurationError, without the URL.
    """

    def __init__(self, url: str) -> None:
        scheme, separator, _ = url.partition("://")
        if not separator or scheme not in SCHEMES:
            raise ConfigurationError(f"the URL of the queue must begin with one of {', '.join(SCHEMES)}, then ://")
        try:
            parts = urlsplit(url)
            name, _, hosts = parts.netloc.rpartition("@")
            self._hosts = [_host(one, _PORTS[scheme]) for one in hosts.split(",")]
        except ValueError:
            raise ConfigurationError(_UNREADABLE) from None
        # What a password with one of /?#@ in it, not escaped, would leave behind: never to be shown.
        if parts.fragment or "@" in parts.path + parts.query or not all(host for host, _ in self._hosts):
            raise ConfigurationError(_UNREADABLE)
        if not all(0 < port <= _LAST_PORT for _, port in self._hosts):
            raise ConfigurationError(f"the URL of the queue: a port is from 1 to {_LAST_PORT}")
        user, _, password = name.partition(":")
        self.shown = f"{scheme}://{hosts}{parts.path}"
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.kind = options.pop("queues", _KINDS[0])
        if self.kind not in _KINDS:
            raise ConfigurationError(f"the URL of the queue: queues is one of {', '.join(_KINDS)}")
        self.prefix = options.pop("prefix", "moorline")
        if not self.prefix or not self.prefix.isprintable() or set(self.prefix) & set("*#: ") or len(self.prefix) > 50:
            raise ConfigurationError("the URL of the queue: prefix is not a name")
        heartbeat = options.pop("heartbeat", str(_HEARTBEAT))
        if not re.fullmatch("[0-9]{1,3}", heartbeat) or not int(heartbeat):
            raise ConfigurationError("the URL of the queue: heartbeat is from 1 to 999 seconds")
        self.heartbeat = int(heartbeat)
        self._cafile = options.pop("cafile", None)
        if options:
            raise ConfigurationError("the URL of the queue: it has queues, prefix, heartbeat and cafile, and no others")
        self._user, self._password = unquote(user) or "guest", unquote(password) or "guest"
        self._vhost = unquote(parts.path[1:]) or "/"
        self._tls = scheme == "amqps"
        self.reached = False  # whether it ever let us in

    def __repr__(self) -> str:
        return f"<RabbitWhere {self.shown}>"

    def parameters(self) -> list[Any]:
        """What pika wants, for each host."""
        try:
            import pika
        except ImportError as error:
            raise ConfigurationError("the queue needs pika; pip install 'moorline[rabbitmq]'") from error
        _read_all_headers()
        context = None
        if self._tls:
            try:
                context = ssl.create_default_context(cafile=self._cafile)
            except OSError as error:
                raise ConfigurationError(f"the URL of the queue: cafile cannot be read: {error.strerror}") from None
            context.minimum_version = ssl.TLSVersion.TLSv1_2
        return [
            pika.ConnectionParameters(
                host=host,
                port=port,
                virtual_host=self._vhost,
                credentials=pika.PlainCredentials(self._user, self._password, erase_on_connect=True),
                heartbeat=self.heartbeat,
                socket_timeout=_CONNECT,
                stack_timeout=_CONNECT * 2,
                blocked_connection_timeout=_BLOCKED,
                ssl_options=None if context is None else pika.SSLOptions(context, host),
                client_properties={"connection_name": "moorline"},
            )
            for host, port in self._hosts
        ]


@cache
def _read_all_headers() -> None:
    """Have pika read every header that AMQP allows: a time that Python has no date for as its number (there are
    programs that write milliseconds where AMQP wants seconds), what is nested deeper than it can follow as None, and
    floats as floats; pika cuts them to whole numbers.

    Where it raises while it reads, that ends the connection; the message comes again on the next one, and so for ever.
    """
    from pika import data

    read: Callable[[bytes, int], tuple[Any, int]] = data.decode_value

    def decode_value(encoded: bytes, offset: int) -> tuple[Any, int]:
        kind, at = encoded[offset : offset + 1], offset + 1
        if kind in _FLOATS:
            form = _FLOATS[kind]
            return form.unpack_from(encoded, at)[0], at + form.size
        try:
            return read(encoded, offset)
        except (ValueError, OverflowError, OSError):
            if kind != b"T":
                raise
            return int.from_bytes(encoded[at : at + 8], "big"), at + 8
        except RecursionError:
            if kind not in _NESTED:
                raise
            return None, at + 4 + int.from_bytes(encoded[at : at + 4], "big")

    data.decode_value = decode_value


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, own = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, own = text, str(port)
    return host.strip("[]"), int(own)


class Link:
    """One connection and the thread whose loop it lives on. Raises StoreUnavailable unless it can be opened.

    What it is asked runs there, one coroutine after the other's awaits; ``on_loss`` is called there once, when the
    connection is lost. A link that is lost stays so.
    """

    def __init__(self, where: RabbitWhere, on_loss: Callable[[], None]) -> None:
        self._where = where
        self._on_loss = on_loss
        self._connection: AsyncioConnection | None = None
        self._waiting: set[asyncio.Future[Any]] = set()
        self.lost = False
        self.loop = _quick_loop()
        self._thread = threading.Thread(target=self._run, name="moorline-rabbitmq", daemon=True)
        self._thread.start()
        try:
            self.ask(self._open())
        except BaseException:
            self.close()
            raise

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    async def _open(self) -> None:
        from pika.adapters.asyncio_connection import AsyncioConnection

        failure: Exception | None = None
        for parameters in self._where.parameters():
            opened = self.future()
            AsyncioConnection(
                parameters,
                on_open_callback=lambda connection, opened=opened: _done(opened, connection),
                on_open_error_callback=lambda _, error, opened=opened: _failed(opened, error),
                on_close_callback=self._on_close,
                custom_ioloop=self.loop,
            )
            try:
                self._connection = await opened
            except Exception as error:  # noqa: BLE001 -- the next host is tried, and what the last one said is told
                failure = error
            else:
                self._where.reached = True
                return
        assert failure is not None
        raise failure

    def _on_close(self, _: Any, reason: Exception) -> None:
        self.lost = True
        for future in list(self._waiting):
            _failed(future, reason)
        self._on_loss()

    def future(self) -> asyncio.Future[Any]:
        """For an answer from the server; it fails when the connection is lost."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    @property
    def server(self) -> str:
        """What the server calls itself, and its version."""
        said: dict[str, Any] = getattr(self._connection, "server_properties", None) or {}
        return f"{said.get('product', 'AMQP')} {said.get('version', 'of unknown version')}"

    async def channel(self, on_loss: Callable[[], None] = lambda: None) -> Channel:
        """A new channel; *on_loss* is called when it is closed."""
        assert self._connection is not None
        opened = self.future()
        self._connection.channel(on_open_callback=lambda channel: _done(opened, channel))
        return Channel(await opened, self, on_loss)

    def ask(self, what: Coroutine[Any, Any, R], patience: float = _ANSWER) -> R:
        """Run it there and wait for what it gives. Raises StoreUnavailable, or ConfigurationError for what the server
        refuses for good.
        """
        if self.lost or self.loop.is_closed():
            what.close()
            raise StoreUnavailable(f"RabbitMQ at {self._where.shown} was lost")
        answer: Future[R] = asyncio.run_coroutine_threadsafe(what, self.loop)
        try:
            return answer.result(patience)
        except TooLate:
            answer.cancel()
            raise StoreUnavailable(f"RabbitMQ at {self._where.shown} did not answer for {patience:g} s") from None
        except (StoreError, ConfigurationError):
            raise
        except Exception as error:  # noqa: BLE001 -- whatever pika raises
            raise _translated(error, self._where.shown, reached=self._where.reached) from None

    def tell(self, what: Callable[[], None]) -> None:
        """Run it there, soon."""
        if not self.lost:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing of it is ours any more
                self.loop.call_soon_threadsafe(what)

    def close(self) -> None:
        """Write what is to be written, disconnect, end the thread."""
        if self.loop.is_closed():
            return
        with contextlib.suppress(StoreError):
            if self._connection is not None and not self.lost:
                self.ask(self._close(), _CONNECT)
        self.lost = True
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CONNECT)

    async def _close(self) -> None:
        assert self._connection is not None
        closed = self.loop.create_future()
        self._connection.add_on_close_callback(lambda *_: _done(closed, None))
        self._connection.close()
        await closed


class Channel:
    """``raw`` is pika's. A channel that the server closed stays so."""

    def __init__(self, raw: Any, link: Link, on_loss: Callable[[], None]) -> None:
        from pika.spec import Basic

        self.raw = raw
        self.lost = False
        self._link = link
        self._on_loss = on_loss
        self._waiting: set[asyncio.Future[Any]] = set()
        self._got: asyncio.Future[Any] | None = None
        raw.add_on_close_callback(self._on_close)
        raw.add_callback(self._on_nothing, [Basic.GetEmpty], one_shot=False)

    def _on_close(self, _: Any, reason: Exception) -> None:
        self.lost = True
        for future in list(self._waiting):
            _failed(future, reason)
        self._on_loss()

    def _on_nothing(self, _: Any) -> None:
        if self._got is not None:
            _done(self._got, None)

    async def end_consumers(self) -> None:
        """Have nothing more pushed. What comes until the server has heard of it is received: pika alone would reject
        it, and then it comes again with the mark of a message whose worker died.
        """
        for tag in list(self.raw.consumer_tags):
            ended = self.future()
            self.raw.basic_cancel(tag, callback=lambda frame, ended=ended: _done(ended, frame))
            self.raw._cancelled.discard(tag)  # noqa: SLF001 -- see above
            await ended

    async def get(self, queue: str) -> tuple[Any, bytes] | None:
        """How one message was delivered, and its body; None if none waits. One call at a time."""
        self._got = got = self.future()
        self.raw.basic_get(queue, lambda _, method, __, body: _done(got, (method, body)))
        answer: tuple[Any, bytes] | None = await got
        return answer

    def future(self) -> asyncio.Future[Any]:
        """For an answer from the server; it fails when the channel is lost."""
        if self.lost:
            raise StoreUnavailable("RabbitMQ has closed the channel")
        future = self._link.future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    async def answer(self, ask: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What the server says to ``ask(..., callback=…)``; raises when it closes the channel instead."""
        answered = self.future()
        ask(*arguments, callback=lambda frame: _done(answered, frame), **named)
        return await answered

    async def close(self) -> None:
        """What was taken on it and not settled is given to others."""
        if not self.lost and self.raw.is_open:
            closed = self._link.loop.create_future()
            self.raw.add_on_close_callback(lambda *_: _done(closed, None))
            self.raw.close()
            await closed


def _quick_loop() -> asyncio.AbstractEventLoop:
    """Half as much again is worked off with uvloop, where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _done(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _failed(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _translated(error: Exception, shown: str, *, reached: bool) -> Exception:
    """The moorline error for what pika says. *reached* tells that we have been there before."""
    from pika import exceptions

    for cause in (error, *getattr(error, "args", ())):
        if isinstance(cause, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
            return ConfigurationError(f"RabbitMQ at {shown} refuses user or password")
        if isinstance(cause, exceptions.ProbableAccessDeniedError):
            words = f"RabbitMQ at {shown} has no such virtual host, or not for this user"
            # So says one that is starting, too, before its virtual hosts are there.
            return StoreUnavailable(words) if reached else ConfigurationError(words)
    if isinstance(error, exceptions.ChannelClosedByBroker):
        kind: type[Exception] = ConfigurationError
        if error.reply_code == 403:
            words = "this user may not"
        elif error.reply_code == 406 and "inequivalent" in error.reply_text:
            words = "it exists with other settings"
        else:  # 406 is also for what was settled too late, which is not for a person to mend
            words, kind = "it refused", StoreUnavailable
        return kind(f"RabbitMQ at {shown}: {words}: {error.reply_text}"[:300])
    words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return StoreUnavailable(f"RabbitMQ at {shown} did not answer: {words}")
