"""A JSON Web Token beside the body that holds the body's digest: who made the token vouches for the body.

Only HS256, only this use: a few lines of ``hmac``, on the same rules as every other scheme (keys, time, comparison).
A library would add its own clock, its own idea of keys and a choice of algorithms, of which there must be none here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorline.clock import SYSTEM
from moorline.errors import InvalidSignature
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Key,
    accepted,
    check_seconds,
    key_bytes,
    match,
    mismatch,
    present,
    timely,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["SignedJWT"]

_LONGEST: Final = 8192  # characters of a token
_PART: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedJWT(Scheme):
    """``Bearer`` and a JWT in the header ``header``, signed with HMAC-SHA256 by the secret's bytes.

    The token's ``alg`` is HS256, never another and never none, and it names no extension (``crit``). Its claim
    ``digest`` is the hex SHA-256 of the raw body and must be there: without it a token would fit any body. ``iat`` must
    be there and in time; ``exp`` and ``nbf`` count where they are.
    """

    header: str = "Authorization"
    digest: str = "payload_hash"
    tolerance: float = 300.0

    def __post_init__(self) -> None:
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"JWT (HS256) with the SHA-256 of the body as `{self.digest}`, in `{self.header}`"

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
        keys = accepted(secrets, now)
        kind, _, token = present(delivery.headers, self.header).partition(" ")
        parts = token.split(".")
        if kind.lower() != "bearer" or len(parts) != 3 or len(token) > _LONGEST:
            raise InvalidSignature(f"the {self.header} header holds no token", reason="malformed")
        head = _object(parts[0])
        if head.get("alg") != "HS256" or "crit" in head:
            raise InvalidSignature("the token is not signed by HS256", reason="malformed")
        index = match(f"{parts[0]}.{parts[1]}".encode(), "sha256", keys, [_bytes(parts[2])])
        claims = _object(parts[1])
        self._covers(claims, delivery.body)
        return Proof(index, _in_time(claims, now, self.tolerance if tolerance is None else tolerance))

    def _covers(self, claims: dict[str, Any], body: bytes) -> None:
        told = claims.get(self.digest)
        if not isinstance(told, str):
            raise InvalidSignature(f"the token has no {self.digest}", reason="malformed")
        shown = told.lower().encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), shown):
            raise mismatch()

    def sign(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        id: str = "",
        url: str = "",  # noqa: ARG002
        method: str = "POST",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The header that a sender would add; ``id`` is the token's."""
        digest = hashlib.sha256(body).hexdigest()
        claims = {"iat": int(written(now)), "jti": id or digest[:32], self.digest: digest}
        signed = f"{_text({'alg': 'HS256', 'typ': 'JWT'})}.{_text(claims)}"
        signature = hmac.digest(key_bytes(secret), signed.encode(), "sha256")
        return {self.header: f"Bearer {signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"}


def _in_time(claims: dict[str, Any], now: float | None, tolerance: float) -> float:
    """When it was signed. Raises InvalidSignature for one that is too old, too new, or over."""
    issued = _moment(claims, "iat")
    if issued is None:
        raise InvalidSignature("the token has no iat", reason="malformed")
    timely(issued, now, tolerance)
    ends, begins = _moment(claims, "exp"), _moment(claims, "nbf")
    moment = SYSTEM.wall() if now is None else now
    if ends is not None and moment >= ends + tolerance:
        raise InvalidSignature(f"the token ended {moment - ends:.0f} s ago", reason="stale")
    if begins is not None and moment < begins - tolerance:
        raise InvalidSignature(f"the token begins in {begins - moment:.0f} s", reason="future")
    return issued


def _moment(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise InvalidSignature(f"the token's {name} is no moment", reason="malformed")
    return float(value)


def _object(part: str) -> dict[str, Any]:
    try:
        found = json.loads(_bytes(part))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidSignature("the token cannot be read", reason="malformed")
    return found


def _bytes(part: str) -> bytes:
    """The bytes of base64url without padding; nothing of what is written otherwise."""
    if not _PART.fullmatch(part):
        return b""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        return b""


def _text(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")
