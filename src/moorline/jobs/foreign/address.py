"""Where messages are: URLs of queues, exchanges and streams that others own. Pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from moorline.errors import ConfigurationError
from moorline.jobs.brokers.rabbit_link import SCHEMES as RABBIT
from moorline.jobs.brokers.redis_link import SCHEMES as REDIS
from moorline.jobs.brokers.sqs_link import SCHEMES as SQS

__all__ = ["Address", "AmqpAddress", "Connections", "SqsAddress", "StreamAddress", "address_of"]

_STREAMS: Final = tuple(scheme for scheme in REDIS if scheme != "unix")  # whose path is a file's
_SCHEMES: Final = (*RABBIT, *_STREAMS, *SQS)
_EXCHANGES: Final = ("direct", "fanout", "headers", "topic")
_CONNECTION: Final = re.compile(r"[a-z][a-z0-9_-]{0,49}")
_IDLE: Final = 60.0
_MOST_PREFETCH: Final = 1_000
_OF_STREAMS: Final = frozenset({"group", "start", "field", "maxlen", "idle", "declare", "prefetch"})


@dataclass(frozen=True, slots=True)
class AmqpAddress:
    """``amqp://USER:PASSWORD@HOST/[VHOST/]QUEUE``, or without a queue ``?exchange=NAME`` to publish to.

    ``server`` is the URL of the broker alone; ``shown`` holds no user or password. ``bindings`` are routing keys or
    topic patterns, ``headers`` what a headers exchange compares.
    """

    server: str = field(repr=False)
    shown: str
    queue: str = ""
    exchange: str = ""
    exchange_type: str = ""
    routing_key: str = ""
    bindings: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    match: Literal["all", "any"] = "all"
    declare: bool = False
    queue_type: str = "quorum"
    prefetch: int = 100
    secret: bool = False


@dataclass(frozen=True, slots=True)
class StreamAddress:
    """``redis://HOST[:6379]/DATABASE/STREAM?group=NAME``; ``body_field`` is the part of an entry that is its
    body; ``idle`` the seconds after which what another consumer took and did not acknowledge may be ours.
    """

    server: str = field(repr=False)
    shown: str
    stream: str
    group: str = ""
    start: Literal["0", "$"] = "0"
    body_field: str = "body"
    maxlen: int = 0
    idle: float = _IDLE
    declare: bool = False
    prefetch: int = 100
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SqsAddress:
    """``sqs://REGION/QUEUE``; credentials come from where AWS's own tools look."""

    server: str = field(repr=False)
    shown: str
    queue: str
    prefetch: int = 10
    secret: bool = False


Address = AmqpAddress | StreamAddress | SqsAddress


def address_of(url: str) -> Address:
    """Raises ConfigurationError, without the URL, which may hold a password."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ConfigurationError(
            f"url: it must begin with one of {', '.join(_SCHEMES)}, or a connection's name; then ://"
        )
    try:
        parts = urlsplit(url)
        path, query = parts.path, parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise ConfigurationError(_UNREADABLE) from None
    # What a password with one of /?#@ in it, not escaped, would leave behind: never to be shown.
    if "#" in url or "@" in path or (not parts.netloc and scheme not in SQS):
        raise ConfigurationError(_UNREADABLE)
    options = _Options(query)
    names = path.lstrip("/").split("/")
    place = _Place(scheme, parts.netloc, tuple(names))
    read = _amqp if scheme in RABBIT else _sqs if scheme in SQS else _stream
    found = read(place, options)
    options.end(scheme)
    return found


_UNREADABLE: Final = "url: it cannot be read (are the odd characters of its password and names escaped? # is %23)"


@dataclass(frozen=True, slots=True)
class _Place:
    scheme: str
    netloc: str = field(repr=False)
    names: tuple[str, ...]  # of the path, as they are written

    @property
    def shown(self) -> str:
        """Without user and password."""
        return f"{self.scheme}://{self.netloc.rpartition('@')[2]}/{'/'.join(self.names)}"

    @property
    def secret(self) -> bool:
        """Whether there is a password in it."""
        return ":" in self.netloc.rpartition("@")[0]

    def server(self, path: str, options: Mapping[str, str]) -> str:
        """The server's own URL."""
        return f"{self.scheme}://{self.netloc}/{path}" + (f"?{urlencode(options)}" if options else "")


def _amqp(place: _Place, options: _Options) -> AmqpAddress:
    vhost, queue = ("", place.names[0]) if len(place.names) == 1 else (place.names[0], place.names[-1])
    if len(place.names) > 2:
        raise ConfigurationError("url: amqp has a virtual host and a queue in its path, and no more (escape / as %2F)")
    exchange, kind = options.text("exchange"), options.one_of("exchange_type", ("", *_EXCHANGES))
    bindings = tuple(options.all("binding"))
    key = options.text("routing_key")
    headers = options.headers()
    declare = options.flag("declare")
    if (kind or bindings or headers or key) and not exchange:
        raise ConfigurationError("url: exchange_type, routing_key, binding and header.NAME go with an exchange")
    if not queue and not exchange:
        raise ConfigurationError("url: name a queue in the path, or an exchange: amqp://HOST/QUEUE")
    return AmqpAddress(
        place.server(vhost, options.some("heartbeat", "cafile")),
        place.shown,
        queue=unquote(queue),
        exchange=exchange,
        exchange_type=kind,
        routing_key=key,
        bindings=bindings or ((key,) if key else ()),
        headers=headers,
        match="any" if options.one_of("match", ("all", "any")) == "any" else "all",
        declare=declare,
        queue_type=options.one_of("queues", ("quorum", "classic")),
        prefetch=options.number("prefetch", 100, _MOST_PREFETCH),
        secret=place.secret,
    )


def _stream(place: _Place, options: _Options) -> StreamAddress:
    *before, stream = place.names
    if not stream or (not before and stream.isdigit()):
        raise ConfigurationError("url: name the stream last in the path: redis://HOST/0/STREAM")
    others = {name: options.text(name) for name in options.names() - _OF_STREAMS}
    return StreamAddress(
        place.server("/".join(before), others),
        place.shown,
        unquote(stream),
        group=options.text("group"),
        start="$" if options.one_of("start", ("0", "$")) == "$" else "0",
        body_field=options.text("field") or "body",
        maxlen=options.number("maxlen", 0, 10**9),
        idle=float(options.number("idle", int(_IDLE), 86_400)),
        declare=options.flag("declare"),
        prefetch=options.number("prefetch", 100, _MOST_PREFETCH),
        secret=place.secret or any("password" in name for name in others),
    )


def _sqs(place: _Place, options: _Options) -> SqsAddress:
    if len(place.names) != 1 or not re.fullmatch(r"[A-Za-z0-9_-]{1,75}(\.fifo)?|[A-Za-z0-9_-]{1,80}", place.names[0]):
        raise ConfigurationError("url: name the queue: sqs://REGION/QUEUE")
    server = place.server("", options.some("wait", "endpoint"))
    return SqsAddress(server, place.shown, place.names[0], prefetch=options.number("prefetch", 10, 10))


class _Options:
    """What stands behind the question mark: each is asked for once, and what is left is wrong."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._left: dict[str, list[str]] = {}
        for name, value in pairs:
            self._left.setdefault(name, []).append(value)

    def names(self) -> set[str]:
        return set(self._left)

    def all(self, name: str) -> list[str]:
        return self._left.pop(name, [])

    def text(self, name: str) -> str:
        values = self.all(name)
        if len(values) > 1:
            raise ConfigurationError(f"url: {name} is given {len(values)} times")
        return values[0] if values else ""

    def one_of(self, name: str, accepted: tuple[str, ...]) -> str:
        value = self.text(name) or accepted[0]
        if value not in accepted:
            raise ConfigurationError(f"url: {name} is one of {', '.join(filter(None, accepted))}")
        return value

    def flag(self, name: str) -> bool:
        return self.one_of(name, ("false", "true")) == "true"

    def number(self, name: str, default: int, most: int) -> int:
        value = self.text(name) or str(default)
        if not re.fullmatch("[0-9]{1,10}", value) or not (1 <= int(value) <= most or int(value) == default):
            raise ConfigurationError(f"url: {name} is a whole number from 1 to {most:,}")
        return int(value)

    def some(self, *names: str) -> dict[str, str]:
        return {name: self.text(name) for name in names if name in self._left}

    def headers(self) -> tuple[tuple[str, str], ...]:
        found = sorted(name for name in self._left if name.startswith("header."))
        return tuple((name.removeprefix("header."), self.text(name)) for name in found)

    def end(self, scheme: str) -> None:
        if self._left:
            # Not the name itself: it may be the rest of a password that was not escaped.
            raise ConfigurationError(f"url: it has an option that {scheme} does not know")


class Connections:
    """Servers by a name, so that URLs need no passwords: ``shop://orders`` is ``orders`` at the one called shop."""

    def __init__(self, urls: Mapping[str, str] | None = None) -> None:
        self._urls: dict[str, str] = {}
        for name, url in (urls or {}).items():
            self.add(name, url)

    def __repr__(self) -> str:
        return f"<Connections {', '.join(self._urls)}>"

    def add(self, name: str, url: str) -> None:
        """Raises ConfigurationError for a name that is none or is taken, and for a URL that can be no server's."""
        if not _CONNECTION.fullmatch(name) or name in _SCHEMES:
            raise ConfigurationError(f"name: {name!r} is no name of a connection (lower-case letters, digits, - and _)")
        if self._urls.get(name, url) != url:
            raise ConfigurationError(f"name: there is a connection {name!r} already, to another server")
        if url.partition("://")[0] not in _SCHEMES:
            raise ConfigurationError(
                f"connection {name}: its URL must begin with one of {', '.join(_SCHEMES)}, then ://"
            )
        address_of(_joined(url, "any"))
        self._urls[name] = url

    def find(self, url: str) -> Address:
        """The address of *url*, by the name of a connection or in full. Raises ConfigurationError."""
        if not isinstance(url, str):
            raise ConfigurationError(f"url: expected a text, got {type(url).__name__}")
        name, separator, rest = url.partition("://")
        if not separator or name in _SCHEMES or not _CONNECTION.fullmatch(name):
            return address_of(url)
        if name not in self._urls:
            known = ", ".join(sorted(self._urls)) or "none"
            raise ConfigurationError(f"url: there is no connection {name!r} (known: {known}); see app.connection")
        return address_of(_joined(self._urls[name], rest))

    def storable(self, url: str) -> bool:
        """Whether it may be written down: it holds no password of its own."""
        return not self.find(url).secret or url.partition("://")[0] in self._urls


def _joined(server: str, rest: str) -> str:
    """The URL of something at that server: its path and its options behind the server's own."""
    base, _, options = server.partition("?")
    path, _, more = rest.partition("?")
    query = "&".join(filter(None, (options, more)))
    if base.partition("://")[2].endswith("/") and base.count("/") == 3:
        base = base[:-1]
    return f"{base}/{path}" + (f"?{query}" if query else "")
