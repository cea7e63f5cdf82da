"""What all schemes are made of: keys, candidates, comparison, time.

Rules that all keep: the exact bytes are checked, never a parsed form; signatures are decoded and compared in constant
time; what cannot be decoded is a signature that does not match; each candidate is tried against each accepted secret;
time is taken from the signed bytes only, and may be off by ``tolerance`` seconds either way.
"""

from __future__ import annotations

import binascii
import hmac
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, Protocol

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.hashing import hmac_of
from moorline.telemetry import logger

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Encoding",
    "Key",
    "Revealable",
    "TimeFormat",
    "accepted",
    "check_seconds",
    "decoded",
    "encoded",
    "key_bytes",
    "match",
    "present",
    "several",
    "stamped",
    "timely",
    "whsec",
    "written",
]

_SHORTEST: Final = 16  # bytes of a Standard Webhooks key; the specification asks for 24 to 64

log = logger("events")

Encoding = Literal["hex", "base64"]
TimeFormat = Literal["seconds", "milliseconds", "iso8601"]


class Revealable(Protocol):
    """What holds a secret and shows it on demand only (``moorline.Secret``).

    One that has an attribute ``not_after`` (seconds since the epoch, or None) counts no longer after that moment.
    """

    def reveal(self) -> str:
        """The secret itself."""
        ...


Key = str | bytes | Revealable
"""One secret."""


def accepted(
    secrets: Key | Sequence[Key], now: float | None = None, *, read: Callable[[Key], bytes] | None = None
) -> list[tuple[int, bytes]]:
    """The secrets that count now, as bytes, each with its place in what was given; ``read`` makes a key's bytes of one.

    One of several that is no key of this kind is left out, and logged once: the others go on.
    Raises ConfigurationError when none was given, none is a key, or one is empty, with which anybody signs;
    InvalidSignature when all have expired.
    """
    given = several(secrets)
    if not given:
        raise ConfigurationError("secrets: at least one is needed to check a signature")
    reading = key_bytes if read is None else read
    found: list[tuple[int, bytes]] = []
    unusable: list[tuple[int, ConfigurationError]] = []
    for index, secret in enumerate(given):
        if _expired(secret, now):
            continue
        key_bytes(secret)  # what is no secret at all is an error, also among others
        try:
            found.append((index, reading(secret)))
        except ConfigurationError as error:
            unusable.append((index, error))
    if not found and unusable:
        raise unusable[0][1]
    if not found:
        raise InvalidSignature("every accepted secret has expired", reason="expired")
    for index, problem in unusable:
        _told(str(getattr(given[index], "name", "")), index, str(problem))
    return found


@lru_cache(maxsize=256)
def _told(variable: str, index: int, reason: str) -> None:
    """Log it, once for the same words."""
    log.warning("secret_unusable", variable=variable, place=index, reason=reason)


def _expired(secret: Key, now: float | None) -> bool:
    until = getattr(secret, "not_after", None)
    return until is not None and (SYSTEM.wall() if now is None else now) >= until


def several(secrets: Key | Sequence[Key]) -> Sequence[Key]:
    """The secrets, of which one may be given alone."""
    if isinstance(secrets, (str, bytes)) or hasattr(secrets, "reveal"):
        return (secrets,)
    if isinstance(secrets, (tuple, list)):
        return secrets
    if isinstance(secrets, Iterable):
        return tuple(secrets)
    raise ConfigurationError(f"secrets: expected one or several, got {type(secrets).__name__}")


def key_bytes(secret: Key) -> bytes:
    """The secret's text as bytes. Raises ConfigurationError when it is empty, or no secret at all."""
    value: object = secret.reveal() if hasattr(secret, "reveal") else secret
    if isinstance(value, str):
        # What the environment holds need not be UTF-8; its bytes are what both sides signed with.
        value = value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        raise ConfigurationError(f"secrets: expected str, bytes or Secret, got {type(value).__name__}")
    if not value.strip():
        raise ConfigurationError("secrets: an empty secret accepts what anybody signs")
    return value


def hex_key(secret: Key) -> bytes:
    """A key that is shown in hex. Raises ConfigurationError when it is not."""
    try:
        return binascii.unhexlify(key_bytes(secret))
    except ValueError:
        raise ConfigurationError("secrets: this service's are written in hex") from None


def whsec(secret: Key) -> bytes:
    """The key of a Standard Webhooks secret: base64 with or without ``whsec_`` before it; bytes are the key itself."""
    if isinstance(secret, bytes):
        return key_bytes(secret)
    text = key_bytes(secret).removeprefix(b"v1,").removeprefix(b"whsec_")
    text += b"=" * (-len(text) % 4)  # some senders show it without
    try:
        key = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ConfigurationError("secrets: for Standard Webhooks they are base64, with or without whsec_") from None
    if len(key) < _SHORTEST:  # such as what is left of one that was cut at its comma
        raise ConfigurationError(f"secrets: for Standard Webhooks they hold {_SHORTEST} bytes or more (the rule is 24)")
    return key


def decoded(text: str, encoding: Encoding) -> bytes:
    """The signature's bytes; what cannot be decoded is a signature that matches nothing."""
    try:
        if encoding == "hex":
            return binascii.unhexlify(text)
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        return b""


def encoded(signature: bytes, encoding: Encoding) -> str:
    """The signature as it is written."""
    return signature.hex() if encoding == "hex" else binascii.b2a_base64(signature, newline=False).decode()


def match(
    signed: bytes,
    algorithm: str,
    keys: Iterable[tuple[int, bytes]],
    candidates: Sequence[bytes],
    make: Callable[[bytes, bytes, str], bytes] = hmac_of,
) -> int:
    """The place of the key that made one of the candidates. Raises InvalidSignature when none did."""
    for index, key in keys:
        expected = make(key, signed, algorithm)
        for candidate in candidates:
            if hmac.compare_digest(expected, candidate):
                return index
    raise mismatch()


def same(keys: Iterable[tuple[int, bytes]], candidates: Sequence[bytes]) -> int:
    """The place of the key that is itself one of the candidates, compared in constant time. Raises InvalidSignature."""
    for index, key in keys:
        for candidate in candidates:
            if hmac.compare_digest(key, candidate):
                return index
    raise mismatch()


def mismatch() -> InvalidSignature:
    """The error for a signature that is well formed and was made by no accepted secret."""
    return InvalidSignature("the signature does not match", reason="mismatch")


def present(headers: Mapping[str, str], name: str) -> str:
    """The header's value. Raises InvalidSignature when there is none."""
    value = headers.get(name.lower())
    if not value:
        raise InvalidSignature(f"there is no {name} header", reason="missing")
    return value


_DIGITS: Final = 15  # of a time stamp; more is no date
_LONGEST: Final = 40  # characters of an ISO date


def stamped(text: str, written: TimeFormat = "seconds") -> float:
    """Seconds since the epoch, of a time stamp as senders write it. Raises InvalidSignature.

    Numbers are plain digits: ``int`` alone would take much more.
    """
    if written == "iso8601":
        return _moment(text)
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise InvalidSignature(f"the time stamp is not a whole number of {written}", reason="malformed")
    return int(text) / 1000 if written == "milliseconds" else float(text)


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text) if len(text) <= _LONGEST else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidSignature("the time stamp is no date with a time zone", reason="malformed")
    return moment.timestamp()


def written(now: float | None, form: TimeFormat = "seconds") -> str:
    """The moment as a sender writes it; None is this machine's time."""
    moment = SYSTEM.wall() if now is None else now
    if form == "iso8601":
        from datetime import UTC

        return datetime.fromtimestamp(int(moment), UTC).isoformat().replace("+00:00", "Z")
    return str(int(moment * 1000) if form == "milliseconds" else int(moment))


def timely(timestamp: float, now: float | None, tolerance: float, *, resent: float = 0.0) -> None:
    """Raises InvalidSignature unless the signed time is within *tolerance* seconds of now, either way.

    It may be *resent* seconds older, for senders that try again with the time that they first signed.
    """
    late = (SYSTEM.wall() if now is None else now) - timestamp
    if late > tolerance + resent:
        raise InvalidSignature(f"signed {late:.0f} s ago; {tolerance + resent:g} s are allowed", reason="stale")
    if -late > tolerance:
        raise InvalidSignature(f"signed {-late:.0f} s in the future; {tolerance:g} s are allowed", reason="future")


def check_seconds(name: str, value: object) -> None:
    """Raises ConfigurationError unless it is a number of seconds, 0 or more: a NaN would accept any age."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value < 0:
        raise ConfigurationError(f"{name}: expected seconds, 0 or more, got {value!r}")
