"""A keyed hash over a text that the sender builds: most senders, each by a record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.hashing import hmac_of
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Encoding,
    Key,
    TimeFormat,
    accepted,
    check_seconds,
    decoded,
    encoded,
    hex_key,
    key_bytes,
    match,
    present,
    stamped,
    timely,
    whsec,
    written,
)
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["HMACSignature"]

_PART: Final = re.compile(r"\{([^{}]*)\}")
_PARTS: Final = frozenset({"body", "timestamp", "id", "url", "method"})
_READERS: Final = {"text": key_bytes, "hex": hex_key, "whsec": whsec}


class _Known:
    """The keys of the secrets that were read last. A copy of it is empty: a scheme is no secret, and may be pickled."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: tuple[tuple[Secret, ...], list[tuple[int, bytes]]] | None = None

    def __reduce__(self) -> tuple[type[_Known], tuple[()]]:
        return _Known, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HMACSignature(Scheme):
    """HMAC over ``signed``, in the header ``header``.

    - ``signed``: what is signed, such as ``"{timestamp}.{body}"``; its parts are ``{body}`` (the raw bytes),
      ``{timestamp}``, ``{id}``, ``{url}`` and ``{method}``. ``unescaped`` are characters whose escapes in the address
      are decoded before it is signed (``":/"``: ``%3A`` and ``%2F``, in either case).
    - ``prefix`` stands before the signature (``"sha256="``, ``"v1="``). ``separator`` is what lies between several
      signatures, and other things, in one header: every entry with the prefix is tried, all others are ignored, so that
      nobody can talk us down to a weaker version.
    - ``timestamp``: where the signed time stands: ``"header:X-Request-Timestamp"``, or ``"entry:t="`` for an entry of
      the signature's own header that begins so; ``clock`` is how it is written.
    - ``algorithm`` is sha1, sha256, sha384 or sha512; ``encoding`` of the signature hex or base64; ``key``: the secret
      as it stands (``"text"``), or decoded (``"hex"``; ``"whsec"``: base64). ``published`` are secrets that stand in
      the sender's documentation, and are therefore none.

    Without a signed time nothing in it says when it was signed: what keeps a replay out is the deduplication.
    """

    header: str
    signed: str = "{body}"
    unescaped: str = ""
    prefix: str = ""
    separator: str = ""
    algorithm: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256"
    encoding: Encoding = "hex"
    key: Literal["text", "hex", "whsec"] = "text"
    timestamp: str = ""
    clock: TimeFormat = "seconds"
    tolerance: float = 300.0
    published: tuple[str, ...] = ()
    _known: _Known = field(default_factory=_Known, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.algorithm not in ("sha1", "sha256", "sha384", "sha512"):
            raise ConfigurationError(f"algorithm: {self.algorithm!r} is not one of sha1, sha256, sha384, sha512")
        if self.encoding not in ("hex", "base64"):
            raise ConfigurationError(f"encoding: {self.encoding!r} is neither hex nor base64")
        if self.key not in _READERS:
            raise ConfigurationError(f"key: {self.key!r} is not one of {', '.join(_READERS)}")
        if self.clock not in ("seconds", "milliseconds", "iso8601"):
            raise ConfigurationError(f"clock: {self.clock!r} is not one of seconds, milliseconds, iso8601")
        parts = set(_PART.findall(self.signed))
        if parts - _PARTS or "body" not in parts:
            raise ConfigurationError(
                f"signed: {self.signed!r} must hold {{body}} and may hold {{timestamp}}, {{id}}, {{url}}, {{method}}"
            )
        if ("timestamp" in parts) != bool(self.timestamp):
            raise ConfigurationError("timestamp: say where it stands if, and only if, it is signed")
        if self.timestamp and not self.timestamp.startswith(("header:", "entry:")):
            raise ConfigurationError(f'timestamp: expected "header:NAME" or "entry:PREFIX", got {self.timestamp!r}')
        if self.timestamp.endswith(":"):
            raise ConfigurationError(f"timestamp: {self.timestamp!r} names nothing")
        if self.timestamp.startswith("entry:") and not self.separator:
            raise ConfigurationError("separator: say what lies between the entry with the time and the signature")
        if "id" in parts and not (isinstance(self.id, str) and self.id.startswith("header:") and "|" not in self.id):
            raise ConfigurationError('id: where it is signed it must be one place, "header:NAME"')
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"HMAC-{self.algorithm.upper()} of `{self.signed}`, {self.encoding}, in `{self.header}`"

    @property
    def signs_url(self) -> bool:
        """Whether the address is signed."""
        return "{url}" in self.signed

    def vouches_for(self, place: str) -> bool:
        """An id in a header is believed where it is signed."""
        return not place.startswith("header:") or "{id}" in self.signed

    @staticmethod
    def make(key: bytes, text: bytes, algorithm: str) -> bytes:
        """The signature's bytes."""
        return hmac_of(key, text, algorithm)

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,  # noqa: ARG002
    ) -> Proof:
        """See Scheme. Raises InvalidSignature."""
        known = self._known.last
        if known is not None and known[0] is secrets and _lasting(known[0]):
            keys = known[1]
        else:
            keys = self._keys(secrets, now)
        text = present(delivery.headers, self.header)
        entries = [part.strip() for part in text.split(self.separator)] if self.separator else [text]
        found = [entry[len(self.prefix) :] for entry in entries if entry.startswith(self.prefix)]
        if not found:
            raise InvalidSignature(f"the {self.header} header does not start with {self.prefix!r}", reason="malformed")
        candidates = [decoded(entry, self.encoding) for entry in found]
        if not self.timestamp:
            return Proof(match(self._text(delivery, ""), self.algorithm, keys, candidates, self.make))
        stamp = self._stamp(delivery, entries)
        timestamp = stamped(stamp, self.clock)
        index = match(self._text(delivery, stamp), self.algorithm, keys, candidates, self.make)
        timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
        return Proof(index, timestamp)

    def sign(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        id: str = "",
        url: str = "",
        method: str = "POST",
        key: Key | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The headers that a sender would add, signed ``now``."""
        from moorline.events.delivery import Delivery

        stamp = written(now, self.clock) if self.timestamp else ""
        headers: dict[str, str] = {}
        if "{id}" in self.signed:
            headers[str(self.id).removeprefix("header:")] = id or "1"
        folded = {name.lower(): value for name, value in headers.items()}
        text = self._text(Delivery(folded, body, url=url, method=method), stamp)
        digest = self.make(_READERS[self.key](secret), text, self.algorithm)
        entry = self.prefix + encoded(digest, self.encoding)
        if self.timestamp.startswith("header:"):
            headers[self.timestamp.removeprefix("header:")] = stamp
        elif self.timestamp:
            entry = self.timestamp.removeprefix("entry:") + stamp + self.separator + entry
        return headers | {self.header: entry}

    def _keys(self, secrets: Key | Sequence[Key], now: float | None) -> list[tuple[int, bytes]]:
        """See ``accepted``. Those of the same tuple, which the receiver gives for each delivery, are read once."""
        keys = accepted(secrets, now, read=self._key)
        if isinstance(secrets, tuple) and all(type(one) is Secret for one in secrets) and _lasting(secrets):
            self._known.last = secrets, keys
        return keys

    def _key(self, secret: Key) -> bytes:
        key = _READERS[self.key](secret)
        if key in [one.encode() for one in self.published]:
            raise ConfigurationError("secrets: this one is published by the sender for tests, and known to everybody")
        return key

    def _stamp(self, delivery: Delivery, entries: list[str]) -> str:
        where, _, name = self.timestamp.partition(":")
        if where == "header":
            return present(delivery.headers, name)
        stamps = {entry[len(name) :] for entry in entries if entry.startswith(name)}
        if len(stamps) != 1:
            raise InvalidSignature(f"the {self.header} header has not one time stamp", reason="malformed")
        return stamps.pop()

    def _text(self, delivery: Delivery, stamp: str) -> bytes:
        if self.signed == "{body}":
            return delivery.body
        return b"".join([self._part(part, delivery, stamp) for part in _template(self.signed)])

    def _part(self, part: str | bytes, delivery: Delivery, stamp: str) -> bytes:
        if isinstance(part, bytes):
            return part
        if part == "body":
            return delivery.body
        if part == "timestamp":
            return _raw(stamp)
        if part == "id":
            return _raw(present(delivery.headers, str(self.id).removeprefix("header:")))
        if part == "method":
            return _raw(delivery.method)
        if delivery.url is None:
            raise ConfigurationError("url: this sender signs the address that it calls; give it")
        return _raw(_decoding(self.unescaped)(delivery.url) if self.unescaped else delivery.url)


def _lasting(secrets: tuple[Secret, ...]) -> bool:
    """Whether none of them has an end, which may be set at any time."""
    return all(one.not_after is None for one in secrets)


def _raw(text: str) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange id must end in a mismatch, not in a UnicodeError.
    return text.encode("utf-8", "surrogatepass")


@cache
def _decoding(characters: str) -> Callable[[str], str]:
    escapes = re.compile("|".join(f"%{ord(one):02X}" for one in characters), re.IGNORECASE)
    return lambda url: escapes.sub(lambda found: chr(int(found[0][1:], 16)), url)


@cache
def _template(signed: str) -> tuple[str | bytes, ...]:
    """Bytes as they stand, and the names of the parts between them."""
    pieces = _PART.split(signed)
    return tuple(piece if number % 2 else piece.encode() for number, piece in enumerate(pieces) if piece or number % 2)
