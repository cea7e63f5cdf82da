"""``POST /webhooks/{service}``: a plain ASGI application that answers 2xx only to what is stored.

The order of work: route, method, size, media type, signature over the raw bytes, usable or not, then deduplication,
storing and enqueueing in one transaction, then the answer. Handlers run later, elsewhere.

====  =====================================================================================================
200   stored, or stored before
400   signed well, but no event (no id, no type, not JSON)
401   not signed by an accepted secret, or not in time; the answer never says which
404   no such service, or no secret for it here: both look the same
405   not POST
408   the body came too slowly
413   the body is larger than the limit, whether announced or not
415   neither JSON nor a form, or compressed
503   the store is down or overloaded: with ``Retry-After``, so that the sender comes again
====  =====================================================================================================
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from moorline.clock import SYSTEM
from moorline.errors import (
    ConfigurationError,
    InvalidSignature,
    Misuse,
    StoreError,
    StoreOverloaded,
    UnusableEvent,
)
from moorline.events.verification import event_from, scheme_of
from moorline.secrets.sources import environment
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.clock import Clock
    from moorline.events.inbox import Inbox
    from moorline.events.signatures import Key, Scheme

__all__ = ["MAX_BODY", "Receiver", "scheme_named"]

MAX_BODY: Final = 1024 * 1024
"""Bytes of a body, unless told otherwise."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

_DRAINED: Final = 8 * 1024 * 1024  # of a body that is refused; a sender that is cut off while it sends sees no answer
_LONGEST_NAME: Final = 64
_CLOSE: Final = (b"connection", b"close")
_STORE_DOWN_SECONDS: Final = 5

_STORED: Final = b'{"status":"stored"}'
_DUPLICATE: Final = b'{"status":"duplicate"}'
_ERRORS: Final = {
    400: b'{"error":"unusable event"}',
    401: b'{"error":"unauthorized"}',
    404: b'{"error":"not found"}',
    405: b'{"error":"method not allowed"}',
    408: b'{"error":"request timeout"}',
    413: b'{"error":"body too large"}',
    415: b'{"error":"unsupported media type"}',
    503: b'{"error":"try again later"}',
}

log = logger("events")


class _Refused(Exception):
    """The answer is this status; ``reason`` is for the operator."""

    def __init__(self, status: int, reason: str, *headers: Header) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class _Disconnected(Exception):
    """The sender left before its body was complete: nobody to answer."""


class Receiver:
    """Receives the webhooks of every service that has a scheme and a secret.

    ``secrets`` gives the accepted secrets of a service by its name, none if it is not configured; it is asked at each
    request, so that a rotation needs no restart; by default they are read from the scheme's environment variable.
    ``schemes`` gives the scheme, None if there is no such service.
    ``max_body`` is in bytes, ``body_timeout`` in seconds for the whole body. Mount it anywhere: what follows ``prefix``
    in the path, below the mount, is the service's name.
    """

    def __init__(
        self,
        inbox: Inbox,
        secrets: Callable[[str], Sequence[Key]] | None = None,
        schemes: Callable[[str], Scheme | None] | None = None,
        *,
        prefix: str = "/webhooks/",
        max_body: int = MAX_BODY,
        body_timeout: float = 10.0,
        clock: Clock = SYSTEM,
    ) -> None:
        if max_body < 1:
            raise ConfigurationError(f"max_body: expected a positive number of bytes, got {max_body}")
        if not 0 < body_timeout < math.inf:
            raise ConfigurationError(f"body_timeout: expected a positive number of seconds, got {body_timeout}")
        self.inbox = inbox
        self._schemes = scheme_named if schemes is None else schemes
        self._secrets = self._from_environment if secrets is None else secrets
        self._seen: dict[str, tuple[tuple[str | None, str | None], Sequence[Key]]] = {}
        self._prefix = prefix
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._clock = clock

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await _not_http(scope, receive, send)
            return
        service = self._service(scope)
        try:
            body = await self._received(service, scope, receive)
        except _Refused as refused:
            log.warning("event_refused", service=service, status=refused.status, reason=refused.reason)
            await _send(send, refused.status, _ERRORS[refused.status], refused.headers)
        except _Disconnected:
            log.info("event_sender_left", service=service)
        else:
            await _send(send, 200, body)

    async def _received(self, service: str, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        """The body of a 200. Raises _Refused for every other answer."""
        scheme, secrets = self._configured(service)
        if scope["method"] != "POST":
            raise _Refused(405, f"method {scope['method']}", (b"allow", b"POST"))
        headers = _folded(scope["headers"])
        length = headers.get("content-length", "")
        announced = int(length) if length.isascii() and length.isdigit() else 0
        if announced > self._max_body and ("expect" in headers or announced > _DRAINED):
            raise _Refused(413, f"{announced} bytes announced", _CLOSE)
        _check_media(headers)
        body = await self._body(receive)
        now = self._clock.wall()
        try:
            verified = scheme.verify(headers, body, secrets, now=now)
        except InvalidSignature as error:
            raise _Refused(401, error.reason) from error
        except UnusableEvent as error:
            raise _Refused(400, str(error)) from error
        except ConfigurationError as error:
            raise _Refused(404, f"the secret cannot be used: {error}") from error
        if verified.problem:
            raise _Refused(400, verified.problem)
        try:
            stored = await self.inbox.add(event_from(service, headers, body, verified, received_at=now))
        except StoreOverloaded as error:
            raise _Refused(503, str(error), _retry_after(error.retry_after)) from error
        except (StoreError, Misuse) as error:
            raise _Refused(503, str(error), _retry_after(_STORE_DOWN_SECONDS)) from error
        return _DUPLICATE if stored.duplicate else _STORED

    def _service(self, scope: MutableMapping[str, Any]) -> str:
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        # Since ASGI 2.3 the path holds the mount's; older servers and some frameworks give it without.
        if root and path.startswith(root):
            path = path[len(root) :]
        return path[len(self._prefix) :] if path.startswith(self._prefix) else ""

    def _configured(self, service: str) -> tuple[Scheme, Sequence[Key]]:
        if not service or len(service) > _LONGEST_NAME:
            raise _Refused(404, "no such service")
        scheme = self._schemes(service)
        if scheme is None:
            raise _Refused(404, "no such service")
        try:
            secrets = self._secrets(service)
        except ConfigurationError as error:
            raise _Refused(404, str(error)) from error
        if not secrets:
            raise _Refused(404, f"no secret: {scheme.env} is not set")
        return scheme, secrets

    def _from_environment(self, service: str) -> Sequence[Key]:
        scheme = self._schemes(service)
        if scheme is None:
            return ()
        # Making Secrets costs more than the rest of the request; what the variables hold is looked at each time.
        held = (os.environ.get(scheme.env), os.environ.get(f"{scheme.env}_PREVIOUS"))
        known = self._seen.get(service)
        if known is None or known[0] != held:
            known = self._seen[service] = (held, environment.load_all(scheme.env))
        return known[1]

    async def _body(self, receive: Receive) -> bytes:
        """All of it, within size and time. What is too large is read a while longer, so that its sender sees why."""
        try:
            async with asyncio.timeout(self._body_timeout):
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body", False):
                    body: bytes = message.get("body", b"")
                    if len(body) > self._max_body:
                        raise _Refused(413, f"{len(body)} bytes", _CLOSE)
                    return body
                return await self._rest(message, receive)
        except TimeoutError as error:
            raise _Refused(408, f"the body was not there after {self._body_timeout:g} s", _CLOSE) from error

    async def _rest(self, message: Message, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise _Disconnected
            part: bytes = message.get("body", b"")
            size += len(part)
            if size <= self._max_body:
                parts.append(part)
            else:
                parts.clear()
            ended = not message.get("more_body", False)
            if size > self._max_body and (ended or size > _DRAINED):
                raise _Refused(413, f"more than {self._max_body} bytes", _CLOSE)
            if ended:
                return b"".join(parts)
            message = await receive()


@lru_cache(maxsize=256)
def scheme_named(service: str) -> Scheme | None:
    """The scheme of the service of that name, or None when there is none."""
    try:
        return scheme_of(service)[1]
    except ConfigurationError:
        return None


def _folded(headers: Iterable[Header]) -> dict[str, str]:
    """Names are lower-case by ASGI's rule. One that comes twice is joined, and so matches no signature by half."""
    folded: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        folded[name] = f"{folded[name]}, {value}" if name in folded else value
    return folded


def _check_media(headers: dict[str, str]) -> None:
    encoding = headers.get("content-encoding", "")
    if encoding and encoding != "identity":
        raise _Refused(415, f"content-encoding {encoding[:40]!r}", (b"accept-encoding", b"identity"))
    kind = headers.get("content-type", "")
    if kind and not _readable(kind):
        raise _Refused(415, f"content-type {kind[:40]!r}", (b"accept", b"application/json"))


@lru_cache(maxsize=256)
def _readable(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media in ("application/json", "application/x-www-form-urlencoded") or media.endswith("+json")


def _retry_after(seconds: float) -> Header:
    return (b"retry-after", str(max(1, math.ceil(seconds))).encode())


async def _send(send: Send, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
    # Fresh objects each time: middleware changes what passes through it.
    length = str(len(body)).encode()
    plain = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": plain})
    await send({"type": "http.response.body", "body": body})


async def _not_http(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Served alone it has nothing to start; a WebSocket is no webhook."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
