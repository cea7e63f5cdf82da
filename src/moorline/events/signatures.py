"""How senders sign: each scheme is a record that verifies raw bytes, and signs them for tests and the sandbox.

Schemes know no vendor; a service's file says which scheme it uses and where id and type are found::

    webhooks = HMACBody(header="X-Hub-Signature-256", prefix="sha256=", env="GITHUB_WEBHOOK_SECRET", …)

Rules that all keep: the exact bytes are checked, never a parsed form; signatures are decoded and compared in constant
time; what cannot be decoded is a signature that does not match; each candidate is tried against each accepted secret;
time is taken from the signed bytes only, and may be off by ``tolerance`` seconds either way.
"""

# ruff: noqa: ARG002 -- each scheme is given all that any scheme may need
from __future__ import annotations

import binascii
import hashlib
import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.places import Located, Verified

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["STANDARD_WEBHOOKS", "HMACBody", "Scheme", "StandardWebhooks", "TimestampedHMAC", "Verified", "accepted"]


class Revealable(Protocol):
    """What holds a secret and shows it on demand only (``moorline.Secret``)."""

    def reveal(self) -> str:
        """The secret itself."""
        ...


Key = str | bytes | Revealable
"""One secret."""


class Scheme(Protocol):
    """How one kind of sender signs. ``env`` names the environment variable that customarily holds the secret."""

    @property
    def env(self) -> str:
        """Such as ``"STRIPE_WEBHOOK_SECRET"``."""
        ...

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        secrets: Key | Sequence[Key],
        *,
        url: str | None = None,
        method: str = "POST",
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, str] | None = None,
    ) -> Verified:
        """Check one delivery; ``headers`` with lower-case names, ``now`` in seconds since the epoch.

        Raises InvalidSignature, and UnusableEvent for a well-signed body that is no event.
        """
        ...

    def sign(self, body: bytes, secret: Key, *, now: float | None = None, id: str = "") -> dict[str, str]:
        """The headers that a sender would add: for tests and the sandbox."""
        ...


def accepted(secrets: Key | Sequence[Key]) -> tuple[bytes, ...]:
    """The secrets as bytes. Raises ConfigurationError when there is none, or an empty one, with which anybody signs."""
    several = _several(secrets)
    if not several:
        raise ConfigurationError("secrets: at least one is needed to check a signature")
    return tuple([_key(secret) for secret in several])


def _several(secrets: Key | Sequence[Key]) -> Sequence[Key]:
    if isinstance(secrets, (str, bytes)) or hasattr(secrets, "reveal"):
        return (secrets,)
    if isinstance(secrets, Iterable):
        return tuple(secrets)
    raise ConfigurationError(f"secrets: expected one or several, got {type(secrets).__name__}")


def _key(secret: Key) -> bytes:
    value: object = secret.reveal() if hasattr(secret, "reveal") else secret
    if isinstance(value, str):
        # What the environment holds need not be UTF-8; its bytes are what both sides signed with.
        value = value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        raise ConfigurationError(f"secrets: expected str, bytes or Secret, got {type(value).__name__}")
    if not value.strip():
        raise ConfigurationError("secrets: an empty secret accepts what anybody signs")
    return value


def _decode(text: str, encoding: str) -> bytes:
    """The signature's bytes; what cannot be decoded is a signature that matches nothing."""
    try:
        if encoding == "hex":
            return binascii.unhexlify(text)
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        return b""


def _match(signed: bytes, algorithm: str, keys: Sequence[bytes], candidates: Sequence[bytes]) -> int:
    """The index of the key that made one of the candidates. Raises InvalidSignature when none did."""
    for index, key in enumerate(keys):
        expected = hmac.digest(key, signed, algorithm)
        for candidate in candidates:
            if hmac.compare_digest(expected, candidate):
                return index
    raise InvalidSignature("the signature does not match", reason="mismatch")


def _present(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name.lower())
    if not value:
        raise InvalidSignature(f"there is no {name} header", reason="missing")
    return value


_DIGITS = 15  # of a time stamp; more is no date


def _seconds(text: str) -> int:
    """Whole seconds since the epoch, in plain digits as senders write them; `int` alone would take much more."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise InvalidSignature("the time stamp is not a whole number of seconds", reason="malformed")
    return int(text)


def _timely(timestamp: float, now: float | None, tolerance: float) -> None:
    late = (SYSTEM.wall() if now is None else now) - timestamp
    if late > tolerance:
        raise InvalidSignature(f"signed {late:.0f} s ago; {tolerance:g} s are allowed", reason="stale")
    if -late > tolerance:
        raise InvalidSignature(f"signed {-late:.0f} s in the future; {tolerance:g} s are allowed", reason="future")


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or math.isnan(value) or value < 0:
        raise ConfigurationError(f"{name}: expected seconds, 0 or more, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HMACBody(Located):
    """A keyed hash of the body alone, in one header (GitHub and many others).

    Nothing in it says when it was signed: what keeps a replay out is the deduplication by id.
    ``prefix`` stands before the signature (``"sha256="``); ``algorithm`` is sha1, sha256, sha384 or sha512.
    """

    header: str
    prefix: str = ""
    algorithm: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"

    def __post_init__(self) -> None:
        if self.algorithm not in ("sha1", "sha256", "sha384", "sha512"):
            raise ConfigurationError(f"algorithm: {self.algorithm!r} is not one of sha1, sha256, sha384, sha512")
        if self.encoding not in ("hex", "base64"):
            raise ConfigurationError(f"encoding: {self.encoding!r} is neither hex nor base64")

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        secrets: Key | Sequence[Key],
        *,
        url: str | None = None,
        method: str = "POST",
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, str] | None = None,
    ) -> Verified:
        """Check one delivery; see Scheme. There is no signed time, so ``now`` and ``tolerance`` change nothing."""
        keys = accepted(secrets)
        text = _present(headers, self.header)
        if not text.startswith(self.prefix):
            raise InvalidSignature(f"the {self.header} header does not start with {self.prefix!r}", reason="malformed")
        candidate = _decode(text[len(self.prefix) :], self.encoding)
        return self.read(headers, body, _match(body, self.algorithm, keys, (candidate,)), None)

    def sign(self, body: bytes, secret: Key, *, now: float | None = None, id: str = "") -> dict[str, str]:
        """The signature header that a sender would add."""
        digest = hmac.digest(_key(secret), body, self.algorithm)
        text = digest.hex() if self.encoding == "hex" else binascii.b2a_base64(digest, newline=False).decode()
        return {self.header: self.prefix + text}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampedHMAC(Located):
    """``t=<seconds>,v1=<hex>[,v1=…]`` in one header, over ``<seconds>.<body>`` with SHA-256 (Stripe).

    The key is the secret's text as it stands. Several ``v1`` come while the sender rolls a secret; other versions, such
    as ``v0``, are ignored, so that nobody can talk us down to a weaker one.
    """

    header: str
    version: str = "v1"
    tolerance: float = 300.0

    def __post_init__(self) -> None:
        _check_seconds("tolerance", self.tolerance)

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        secrets: Key | Sequence[Key],
        *,
        url: str | None = None,
        method: str = "POST",
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, str] | None = None,
    ) -> Verified:
        """Check one delivery; see Scheme."""
        keys = accepted(secrets)
        times: set[str] = set()
        candidates: list[bytes] = []
        for part in _present(headers, self.header).split(","):
            name, _, value = part.strip().partition("=")
            if name == "t":
                times.add(value)
            elif name == self.version:
                candidates.append(_decode(value, "hex"))
        if len(times) != 1:
            raise InvalidSignature(f"the {self.header} header has not one time stamp", reason="malformed")
        stamp = times.pop()
        timestamp = _seconds(stamp)
        index = _match(stamp.encode() + b"." + body, "sha256", keys, candidates)
        _timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
        return self.read(headers, body, index, float(timestamp))

    def sign(self, body: bytes, secret: Key, *, now: float | None = None, id: str = "") -> dict[str, str]:
        """The signature header that a sender would add, signed ``now``."""
        stamp = str(int(SYSTEM.wall() if now is None else now))
        digest = hmac.digest(_key(secret), stamp.encode() + b"." + body, "sha256")
        return {self.header: f"t={stamp},{self.version}={digest.hex()}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardWebhooks(Located):
    """Standard Webhooks 1.0.0, symmetric: ``v1,<base64>`` over ``<id>.<seconds>.<body>`` with SHA-256.

    The header holds a list, separated by spaces. A secret given as text is ``whsec_`` and base64, the prefix may be
    left out; given as bytes it is the key itself. ``prefix`` is how the three headers begin (Svix says ``svix-``).
    """

    env: str = "WEBHOOK_SECRET"
    id: str | tuple[str, ...] = "header:webhook-id"
    type: str = "type"
    prefix: str = "webhook-"
    tolerance: float = 300.0

    def __post_init__(self) -> None:
        _check_seconds("tolerance", self.tolerance)

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        secrets: Key | Sequence[Key],
        *,
        url: str | None = None,
        method: str = "POST",
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, str] | None = None,
    ) -> Verified:
        """Check one delivery; see Scheme."""
        keys = self._keys(secrets)
        delivery = _present(headers, self.prefix + "id")
        stamp = _present(headers, self.prefix + "timestamp")
        timestamp = _seconds(stamp)
        candidates = []
        for part in _present(headers, self.prefix + "signature").split(" "):
            version, _, value = part.partition(",")
            if version == "v1":
                candidates.append(_decode(value, "base64"))
        index = _match(_standard(delivery, stamp, body), "sha256", keys, candidates)
        _timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
        return self.read(headers, body, index, float(timestamp))

    def sign(self, body: bytes, secret: Key, *, now: float | None = None, id: str = "") -> dict[str, str]:
        """The three headers that a sender would add; ``id`` is the message's, by default a digest of the body."""
        delivery = id or "msg_" + hashlib.sha256(body).hexdigest()[:27]
        stamp = str(int(SYSTEM.wall() if now is None else now))
        digest = hmac.digest(self._keys(secret)[0], _standard(delivery, stamp, body), "sha256")
        signature = "v1," + binascii.b2a_base64(digest, newline=False).decode()
        return {self.prefix + "id": delivery, self.prefix + "timestamp": stamp, self.prefix + "signature": signature}

    def _keys(self, secrets: Key | Sequence[Key]) -> tuple[bytes, ...]:
        return accepted([key if isinstance(key, bytes) else _whsec(key) for key in _several(secrets)])

    def without_type(self) -> str:
        """Nothing: the specification recommends a type and does not ask for it."""
        return ""


def _whsec(secret: Key) -> bytes:
    text = _key(secret).removeprefix(b"whsec_")
    text += b"=" * (-len(text) % 4)  # some senders show it without
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ConfigurationError("secrets: for Standard Webhooks they are base64, with or without whsec_") from None


def _standard(delivery: str, stamp: str, body: bytes) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange id must end in a mismatch, not in a UnicodeError.
    return delivery.encode("utf-8", "surrogatepass") + b"." + stamp.encode() + b"." + body


STANDARD_WEBHOOKS = StandardWebhooks()
"""The scheme as the specification names it, for any sender that follows it."""
