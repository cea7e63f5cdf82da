"""``POST /webhooks/{service}``: a plain ASGI application that answers 2xx only to what is stored.

The order of work: route, method, size, signature over the raw bytes, handshake or events, then deduplication, storing
and enqueueing in one transaction, then the answer. Handlers run later, elsewhere.

====  =====================================================================================================
200   stored, or stored before; a handshake
400   signed well, but no event (no id, no type, not JSON)
401   not signed by an accepted secret, or not in time; the answer never says which
404   no such service, or no secret for it here: both look the same
405   a method that this sender does not use
408   the body came too slowly
413   the body is larger than the limit, announced or not, before or after inflation
415   a content encoding that is none of gzip, deflate, identity
503   the store is down or overloaded, or no secret that is set can be used: with ``Retry-After``, so that the sender
      comes again
====  =====================================================================================================
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from moorline.clock import SYSTEM
from moorline.errors import CallError, ConfigurationError, StoreOverloaded
from moorline.events.admission import Admission
from moorline.events.fetching import fetch
from moorline.events.intake import (
    MAX_BODY,
    UNAVAILABLE,
    Ask,
    Entry,
    Found,
    Intake,
    announced,
    folded,
    log,
    scheme_named,
)
from moorline.events.refused import CLOSE, Portion, Refused
from moorline.events.stepping import first_step

if TYPE_CHECKING:
    from moorline.clock import Clock
    from moorline.events.answers import Answers
    from moorline.events.delivery import Reply
    from moorline.events.inbox import Inbox
    from moorline.events.scheme import Scheme
    from moorline.events.signatures import Key

__all__ = ["MAX_BODY", "Receiver", "below_mount", "scheme_named", "send_reply"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ELSEWHERE: Final = Refused(404, "").reply
_DRAINED: Final = 8 * 1024 * 1024  # of a body that is refused; a sender that is cut off while it sends sees no answer


class _Disconnected(Exception):
    """The sender left before its body was complete: nobody to answer."""


class Receiver:
    """Receives the webhooks of every service that has a scheme and a secret.

    ``secrets`` gives the accepted secrets of a service by its name, none if it is not configured; it is asked at each
    request, so that a rotation needs no restart; by default they are read from the scheme's environment variable.
    ``schemes`` gives the scheme, None if there is no such service. ``max_body`` is in bytes (by default what the sender
    may send, else 1 MiB), ``body_timeout`` in seconds for the whole body. ``public_url`` and ``trusted_proxies``: see
    ``Origin``. ``answers``: functions that may answer. Mount it anywhere: what follows ``prefix`` in the path, below
    the mount, is the service's name, and after another slash the secret of a sender that shows it there.
    """

    def __init__(
        self,
        inbox: Inbox,
        secrets: Callable[[str], Sequence[Key]] | None = None,
        schemes: Callable[[str], Scheme | None] | None = None,
        *,
        prefix: str = "/webhooks/",
        max_body: int | None = None,
        body_timeout: float = 10.0,
        public_url: str | None = None,
        trusted_proxies: Sequence[str] = (),
        answers: Answers | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        if not 0 < body_timeout < math.inf:
            raise ConfigurationError(f"body_timeout: expected a positive number of seconds, got {body_timeout}")
        self.intake = Intake(
            inbox,
            secrets,
            schemes,
            max_body=max_body,
            public_url=public_url,
            trusted_proxies=trusted_proxies,
            answers=answers,
            clock=clock,
        )
        self.inbox = inbox
        self.fetch: Callable[[str], Awaitable[bytes]] = fetch
        self._prefix = prefix
        self.body_timeout = body_timeout
        self._admission = Admission(inbox, clock)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await _not_http(scope, receive, send)
            return
        below = below_mount(scope)
        if not below.startswith(self._prefix):  # a path of the application that this one is mounted in, or nobody's
            await send_reply(send, _ELSEWHERE, head=scope["method"] == "HEAD")
            return
        ask = self._ask(scope, below[len(self._prefix) :])
        portion = Portion(self.intake.held)
        try:
            reply = await self._received(ask, receive, portion)
        except Refused as refused:
            reply = self.intake.refused(ask, refused)
        except _Disconnected:
            log.info("event_sender_left", service=ask.name.partition("/")[0])
            return
        finally:
            portion.release()
        await send_reply(send, reply, head=ask.method == "HEAD")

    def _ask(self, scope: MutableMapping[str, Any], name: str) -> Ask:
        headers = folded(scope["headers"])
        query = scope.get("query_string", b"").decode("latin-1")
        return Ask(name, scope["method"], headers, query, partial(self._url, scope, headers, query))

    def _url(self, scope: MutableMapping[str, Any], headers: dict[str, str], query: str) -> str:
        raw: bytes | None = scope.get("raw_path")
        path = quote(scope["path"]) if raw is None else raw.decode("latin-1")
        client = scope.get("client")
        server = scope.get("server") or ("", None)
        host = headers.get("host") or str(server[0])
        peer = client[0] if client else None
        return self.intake.origin.url(scope.get("scheme", "http"), host, path, query, headers=headers, client=peer)

    async def _received(self, ask: Ask, receive: Receive, portion: Portion) -> Reply:
        """The answer to a good delivery. Raises Refused for every other."""
        intake = self.intake
        entry = intake.admit(ask)
        if not isinstance(entry, Entry):
            return entry
        try:
            self._admission.check()
        except UNAVAILABLE as error:
            raise intake.unavailable(error, told=isinstance(error, StoreOverloaded)) from error
        body = await self._body(entry, receive, portion)
        steps = intake.judged(entry, body, portion)
        try:
            url = next(steps)
        except StopIteration as ended:
            found: Found = ended.value
        else:
            found = await self._fetched(steps, url)
        if found.reply is not None:
            return found.reply
        events = found.events
        try:
            if len(events) == 1:
                stored: Sequence[Any] = (await self.inbox.add(events[0]),)
            else:
                stored = await self.inbox.add_all(events) if events else ()
        except UNAVAILABLE as error:
            raise intake.unavailable(error) from error
        reply = intake.stored(entry, stored)
        if intake.answers:
            event = intake.to_answer(events, stored)
            if event is not None:
                return await intake.answers.answered(event) or reply
        return reply

    async def _fetched(self, steps: Generator[str, bytes, Found], url: str) -> Found:
        """What the steps come to, with what they ask for."""
        try:
            while True:
                try:
                    got = await self.fetch(url)
                except CallError as error:
                    url = steps.throw(error)
                else:
                    url = steps.send(got)
        except StopIteration as ended:
            found: Found = ended.value
            return found

    async def _body(self, entry: Entry, receive: Receive, portion: Portion) -> bytes:
        """All of it, within size and time. What is too large is read a while longer, so that its sender sees why."""
        headers = entry.ask.headers
        length = announced(headers)
        if length > entry.max_body and ("expect" in headers or length > entry.max_body + _DRAINED):
            raise Refused(413, f"{length} bytes announced", CLOSE)
        message, waiting = first_step(receive())
        if message is not None and message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > entry.max_body:
                raise Refused(413, f"{len(body)} bytes", CLOSE)
            return body
        try:
            async with asyncio.timeout(self.body_timeout):
                if waiting is not None:
                    message = await waiting
                assert message is not None
                return await _rest(message, receive, entry.max_body, portion)
        except TimeoutError as error:
            raise Refused(408, f"the body was not there after {self.body_timeout:g} s", CLOSE) from error


def below_mount(scope: MutableMapping[str, Any]) -> str:
    """The path below the mount, as it was sent."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    # Since ASGI 2.3 the path holds the mount's; older servers and some frameworks give it without.
    if root and (path + "/").startswith(root + "/"):
        path = path[len(root) :]
    if path[:1] != "/" or path[-1:] == "/":  # Litestar takes the slash before a mounted path away, and adds one behind
        raw: bytes = scope.get("raw_path") or b""
        path = "/" + path.lstrip("/") if path else path
        if path != "/" and path.endswith("/") and raw and not raw.endswith(b"/"):
            path = path[:-1]
    return path


async def _rest(message: Message, receive: Receive, most: int, portion: Portion) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise _Disconnected
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= most:
            portion.add(len(part))
            parts.append(part)
        else:
            parts.clear()
        ended = not message.get("more_body", False)
        if size > most and (ended or size > most + _DRAINED):
            raise Refused(413, f"more than {most} bytes", CLOSE)
        if ended:
            return b"".join(parts)
        message = await receive()


async def send_reply(send: Send, reply: Reply, *, head: bool) -> None:
    """Send it over ASGI; ``head`` leaves the body out."""
    # Fresh objects each time: middleware changes what passes through it.
    body = reply.body
    plain = [(b"content-length", str(len(body)).encode())]
    for name, value in reply.headers:
        plain.append((name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace")))
    if body:
        plain.append((b"content-type", reply.media.encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": plain})
    await send({"type": "http.response.body", "body": b"" if head else body})


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
