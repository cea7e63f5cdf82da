"""What is decided about a delivery, in its order: without I/O, so that ASGI, WSGI and tests share every rule.

``admit`` looks at the address, ``check`` at the body's signature and facts; between and after them the drivers
(``receiver.py``, ``blocking.py``) read the body, fetch a certificate, store the events, and send the reply.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from moorline import redaction
from moorline.clock import SYSTEM
from moorline.errors import (
    CallError,
    ConfigurationError,
    InvalidSignature,
    Misuse,
    StoreError,
    StoreOverloaded,
    UnusableEvent,
)
from moorline.events.accepting import EnvironmentSecrets, named, retired, used
from moorline.events.certificates import Certificates
from moorline.events.delivery import Delivery, Reply
from moorline.events.handshakes import Confirm
from moorline.events.ledger import UNKNOWN
from moorline.events.origin import Origin
from moorline.events.places import digest
from moorline.events.refused import CLOSE, ERRORS, Held, Portion, Refused
from moorline.events.scheme import NeedsCertificate
from moorline.events.verification import event_from, scheme_of
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.clock import Clock
    from moorline.events.answers import Answers
    from moorline.events.event import Event
    from moorline.events.inbox import Inbox, Stored
    from moorline.events.scheme import Scheme
    from moorline.events.signatures import Key

__all__ = ["MAX_BODY", "Ask", "Entry", "Found", "Intake", "scheme_named"]

MAX_BODY: Final = 1024 * 1024
"""Bytes of a body, unless the receiver or the sender's scheme says otherwise."""
LONGEST_NAME: Final = 64

_STORE_DOWN_SECONDS: Final = 5
_MENDED_SECONDS: Final = 300
_STORED: Final = Reply(200, b'{"status":"stored"}')
_DUPLICATE: Final = Reply(200, b'{"status":"duplicate"}')
_NOTHING: Final = Reply(200, b'{"status":"nothing"}')
_EMPTY: Final = Reply(200, b"")
log = logger("events")


class Ask(NamedTuple):
    """A request before its body: ``name`` is what follows the prefix in the path, ``url`` rebuilds the address."""

    name: str
    method: str
    headers: dict[str, str]
    query: str
    url: Callable[[], str]


class Entry(NamedTuple):
    """A delivery that may come in: who it is for, how much of it, and how it is compressed."""

    service: str
    token: str
    ask: Ask
    scheme: Scheme
    secrets: Sequence[Key]
    max_body: int
    encoding: str


class Found(NamedTuple):
    """A delivery that is good: its events, or the reply to a question, or what must be called first."""

    events: list[Event]
    reply: Reply | None = None
    confirm: Confirm | None = None


class Intake:
    """The rules of one receiver; see ``Receiver`` for the arguments."""

    def __init__(
        self,
        inbox: Inbox,
        secrets: Callable[[str], Sequence[Key]] | None = None,
        schemes: Callable[[str], Scheme | None] | None = None,
        *,
        max_body: int | None = None,
        public_url: str | None = None,
        trusted_proxies: Sequence[str] = (),
        answers: Answers | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        if max_body is not None and max_body < 1:
            raise ConfigurationError(f"max_body: expected a positive number of bytes, got {max_body}")
        self.inbox = inbox
        self.origin = Origin(public_url, trusted_proxies)
        self._schemes = scheme_named if schemes is None else schemes
        self._environment = EnvironmentSecrets(self._schemes)
        self._secrets = self._environment if secrets is None else secrets
        self._max_body = max_body
        self._clock = clock
        self.certificates = Certificates(clock)
        self.answers = answers
        self.held = Held()

    @staticmethod
    def prepare() -> None:
        """Load what the first delivery would have to load, while nobody waits."""
        import msgspec  # noqa: F401
        import pydantic_core  # noqa: F401

    # --- before the body

    def admit(self, ask: Ask) -> Entry | Reply:
        """Who it is for; or the reply, for a question that the address alone asks. Raises Refused."""
        service, below, token = ask.name.partition("/")
        scheme, secrets = self._configured(service)
        if below and not scheme.in_path:
            raise Refused(404, "nothing lies below that service")
        if ask.method == "HEAD":
            return _EMPTY  # some senders look whether anybody is there
        if scheme.handshakes:
            reply = self._opening(scheme, secrets, ask)
            if reply is not None:
                return reply
        if ask.method not in scheme.methods:
            raise Refused(405, f"method {ask.method}", ("allow", ", ".join(scheme.methods)))
        encoding = ask.headers.get("content-encoding", "").strip().lower()
        if encoding and encoding not in _ENCODINGS:
            raise Refused(415, f"content-encoding {encoding[:40]!r}", ("accept-encoding", "gzip, deflate"))
        return Entry(service, token, ask, scheme, secrets, self._max_body or scheme.largest or MAX_BODY, encoding)

    def _configured(self, service: str) -> tuple[Scheme, Sequence[Key]]:
        if not service or len(service) > LONGEST_NAME:
            raise Refused(404, "no such service")
        scheme = self._schemes(service)
        if scheme is None:
            raise Refused(404, "no such service")
        try:
            secrets = self._secrets(service)
        except ConfigurationError as error:
            raise _unusable(error) from error
        if not secrets:
            raise Refused(404, f"{scheme.env} is not set")
        return scheme, secrets

    def _opening(self, scheme: Scheme, secrets: Sequence[Key], ask: Ask) -> Reply | None:
        for handshake in scheme.handshakes:
            try:
                own = self._environment.of(handshake.env) if handshake.env else secrets
                reply = handshake.opening(ask.query, ask.method, own) if own else None
            except ConfigurationError as error:
                raise _unusable(error) from error
            except (InvalidSignature, ValueError) as error:
                raise Refused(404, f"the handshake cannot be answered: {error}") from error
            if reply is not None and reply.status in ERRORS:
                raise Refused(reply.status, "the handshake's token is not ours", forged=True)
            if reply is not None:
                log.info("event_handshake", service=ask.name.partition("/")[0], status=reply.status)
                return reply
        return None

    # --- with the body

    def judged(self, entry: Entry, body: bytes, portion: Portion) -> Generator[str, bytes, Found]:
        """As ``check``, with all that must be asked for it: yields an address, and is resumed with what stands there.

        A driver throws the CallError in if that cannot be had. Raises Refused.
        """
        if entry.encoding in _COMPRESSED:
            portion.add(entry.max_body)
        try:
            try:
                found = self.check(entry, body)
            except NeedsCertificate as need:
                self.certificates.keep(need.url, (yield need.url))
                found = self.check(entry, body)
            if found.confirm is not None:
                yield found.confirm.url
        except CallError as error:
            raise self.unavailable(error) from error
        except InvalidSignature as error:  # what was fetched is no certificate that is valid now
            raise Refused(401, error.reason, forged=True) from error
        return found

    def check(self, entry: Entry, body: bytes) -> Found:
        """The events of a delivery that is signed well. Raises Refused, and NeedsCertificate for one to be fetched."""
        try:
            return self._checked(entry, body)
        except Refused as refused:
            refused.body = body
            raise

    def _checked(self, entry: Entry, body: bytes) -> Found:
        ask, scheme = entry.ask, entry.scheme
        now = self._clock.wall()
        delivery = Delivery(ask.headers, body, method=ask.method, url=ask.url, token=entry.token, received_at=now)
        try:
            if entry.encoding in _COMPRESSED:
                delivery = _inflated(delivery, entry.max_body, ask, entry.token)
            proof = scheme.check(delivery, entry.secrets, now=now, certificates=self.certificates)
            signing = entry.secrets[proof.secret_index : proof.secret_index + 1]
            used(signing, now)
            if scheme.handshakes:
                # What is answered with a signature of ours is signed as the question was.
                reply = self._asked(scheme, delivery, signing)
                if reply is not None:
                    return reply
            if scheme.signs_query:
                delivery = delivery.as_form()
            if scheme.each:
                parts = scheme.parts(delivery, proof.secret_index, proof.timestamp)
            else:
                parts = [(scheme.read(delivery, proof.secret_index, proof.timestamp), delivery.body)]
        except InvalidSignature as error:
            why = self._by_retired(scheme, delivery, now) or error.reason
            raise Refused(scheme.unsigned if error.reason == "missing" else 401, why, forged=True) from error
        except UnusableEvent as error:
            raise Refused(400, str(error)) from error
        except ConfigurationError as error:
            raise _unusable(error) from error
        events = []
        headers = _shown(scheme, delivery.headers)
        for verified, part in parts:
            if verified.problem:
                raise Refused(400, verified.problem)
            secret = named(entry.secrets, verified.secret_index)
            events.append(event_from(entry.service, headers, part, verified, received_at=now, secret=secret))
        return Found(events)

    def _by_retired(self, scheme: Scheme, delivery: Delivery, now: float) -> str:
        """That it was signed by a secret that is accepted no more, for the operator."""

        def signed_by(secrets: Sequence[Key]) -> int | None:
            try:
                return scheme.check(delivery, secrets, now=now, certificates=self.certificates).secret_index
            except (InvalidSignature, UnusableEvent, NeedsCertificate, ConfigurationError):
                return None

        version = retired(scheme.env, signed_by, now)
        return f"signed by {version} of {scheme.env}, which is retired" if version else ""

    def _asked(self, scheme: Scheme, delivery: Delivery, secrets: Sequence[Key]) -> Found | None:
        for handshake in scheme.handshakes:
            own = self._environment.of(handshake.env) if handshake.env else secrets
            answer = handshake.asked(delivery, own)
            if isinstance(answer, Confirm):
                return Found([], answer.reply, answer)
            if answer is not None:
                return Found([], answer)
        return None

    # --- after

    def stored(self, entry: Entry, stored: Sequence[Stored]) -> Reply:
        """The reply for what is durable now."""
        duplicates = 0
        for one in stored:
            duplicates += one.duplicate
        if self.inbox.ledger is not None:
            self.inbox.ledger.stored(entry.service, self._clock.wall(), len(stored) - duplicates, duplicates)
        if entry.scheme.answer is not None:
            return entry.scheme.answer
        if not stored:
            return _NOTHING
        return _DUPLICATE if duplicates == len(stored) else _STORED

    def to_answer(self, events: Sequence[Event], stored: Sequence[Stored]) -> Event | None:
        """The event that a function of the application may answer: the only one of a delivery, and new."""
        if not self.answers or len(events) != 1 or stored[0].duplicate:
            return None
        return replace(events[0], inbox_id=stored[0].event_id)

    def refused(self, ask: Ask, error: Refused) -> Reply:
        """The reply, after it was noted for the operator."""
        if not error.reason:
            return error.reply
        service = ask.name.partition("/")[0]
        log.warning("event_refused", service=service, status=error.status, reason=error.reason)
        if self.inbox.ledger is not None:
            scheme = self._schemes(service) if len(service) <= LONGEST_NAME else None
            self.inbox.ledger.refused(
                UNKNOWN if scheme is None else service,
                self._clock.wall(),
                status=error.status,
                reason=error.reason,
                forged=error.forged,
                method=ask.method,
                headers=ask.headers if scheme is None else _shown(scheme, ask.headers),
                size=None if error.body is None else len(error.body),
                digest=None if error.body is None else digest(error.body),
            )
        return error.reply

    @staticmethod
    def unavailable(error: Exception, *, told: bool = False) -> Refused:
        """What a failure of the store, or of what must be asked first, is to the sender: come again.

        ``told`` if the operator knows already: then it is not noted for each request.
        """
        wait: float = _STORE_DOWN_SECONDS
        if isinstance(error, StoreOverloaded):
            wait = error.retry_after
        reason = "" if told else str(error)
        return Refused(503, reason, ("retry-after", str(max(1, math.ceil(wait)))))


UNAVAILABLE: Final = (StoreError, Misuse)
"""What the store raises when nothing can be stored now."""
_COMPRESSED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ENCODINGS: Final = frozenset({"identity"}) | _COMPRESSED


def _shown(scheme: Scheme, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers with the secrets masked that this sender shows in them, whatever they are called."""
    hidden = [name for name in scheme.secret_headers if name in headers]
    return {**headers, **dict.fromkeys(hidden, redaction.MASK)} if hidden else headers


def _unusable(error: ConfigurationError) -> Refused:
    """The answer when what is set cannot be used: the sender comes again, when somebody has mended it."""
    return Refused(503, f"the secret cannot be used: {error}", ("retry-after", str(_MENDED_SECONDS)))


def _inflated(delivery: Delivery, most: int, ask: Ask, token: str) -> Delivery:
    """The delivery with the body that was compressed on its way, within the same limit."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # both kinds of header
    try:
        body = inflater.decompress(delivery.body, most + 1)
        if len(body) <= most and not inflater.eof:
            body += inflater.flush()
    except zlib.error as error:
        raise Refused(400, f"the body is not compressed as it says: {error}") from error
    if len(body) > most:
        raise Refused(413, f"more than {most} bytes inflated", CLOSE)
    if not inflater.eof or inflater.unused_data:
        raise Refused(400, "the compressed body is cut off, or followed by something else")
    return Delivery(
        delivery.headers, body, method=ask.method, url=ask.url, token=token, received_at=delivery.received_at
    )


@lru_cache(maxsize=256)
def scheme_named(service: str) -> Scheme | None:
    """The scheme of the service of that name, or None when there is none."""
    try:
        return scheme_of(service)[1]
    except ConfigurationError:
        return None


def announced(headers: Mapping[str, str]) -> int:
    """The body's length in bytes as its sender says it, 0 where it does not."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def folded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Pairs of byte strings with lower-case names (ASGI's); one that comes twice is joined, and so matches nothing."""
    pairs = list(headers)
    # All at once: no header holds a line's end, and what is odd in any way is gone through one by one.
    texts = b"\n".join(chain.from_iterable(pairs)).decode("latin-1").split("\n")
    found = dict(zip(texts[::2], texts[1::2], strict=False))
    if len(found) == len(pairs) and len(texts) == 2 * len(pairs):
        return found
    found = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
