"""A time and a token of the sender's, signed within a JSON body whose content is not."""

from __future__ import annotations

import hmac
import json
import secrets as randomness
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events.body import unambiguous
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Key,
    accepted,
    check_seconds,
    decoded,
    key_bytes,
    match,
    stamped,
    timely,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["SignedToken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedToken(Scheme):
    """HMAC-SHA256, in hex, over ``<seconds><token>``; ``timestamp``, ``token``, ``signature``: fields of ``within``.

    ``also`` names further fields there that may hold the signature, made with another key. Nothing vouches for the
    content, so the token counts once (``once`` is its place; see ``Located.once``): what was stolen of a delivery that
    came here makes no second event. What was stolen of one that never came here does, while it is fresh: HTTPS alone
    protects that.
    """

    within: str
    timestamp: str = "timestamp"
    token: str = "token"  # noqa: S105 - the name of a field
    signature: str = "signature"
    also: tuple[str, ...] = ()
    tolerance: float = 300.0

    def __post_init__(self) -> None:
        if self.once != f"{self.within}.{self.token}":
            raise ConfigurationError(f"once: expected {self.within}.{self.token}, got {self.once!r}")
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"HMAC-SHA256 of time and token, hex, in the body's `{self.within}`; the content is not signed"

    def vouches_for(self, place: str) -> bool:
        """Nothing but the token and its time is signed."""
        return place == self.once

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
        found = self._found(delivery.body)
        stamp, token = found.get(self.timestamp), found.get(self.token)
        if isinstance(stamp, int) and not isinstance(stamp, bool):
            stamp = str(stamp)
        if not isinstance(stamp, str) or not isinstance(token, str) or not token:
            raise InvalidSignature(f"{self.within} has no {self.timestamp} or no {self.token}", reason="malformed")
        timestamp = stamped(stamp)
        shown = [found.get(name) for name in (self.signature, *self.also)]
        candidates = [decoded(text, "hex") for text in shown if isinstance(text, str)]
        index = match(_signed(stamp, token), "sha256", keys, candidates)
        timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
        return Proof(index, timestamp)

    def seal(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        url: str = "",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> bytes:
        """The JSON object with its signature; a token that it has is kept."""
        found: dict[str, Any] = json.loads(body)
        inner: dict[str, Any] = found.get(self.within) or {}
        token: str = inner.get(self.token) or randomness.token_hex(25)
        stamp = written(now)
        signature = hmac.digest(key_bytes(secret), _signed(stamp, token), "sha256").hex()
        signed = {self.timestamp: stamp, self.token: token, self.signature: signature}
        return json.dumps({self.within: inner | signed} | {k: v for k, v in found.items() if k != self.within}).encode()

    def _found(self, body: bytes) -> dict[str, Any]:
        try:
            whole = unambiguous(body)
        except UnusableEvent as error:
            raise InvalidSignature(str(error), reason="malformed") from error
        found = whole.get(self.within) if isinstance(whole, dict) else None
        if not isinstance(found, dict):
            raise InvalidSignature(f"the body has no {self.within}", reason="missing")
        return found


def _signed(stamp: str, token: str) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange token must end in a mismatch, not in a UnicodeError.
    return (stamp + token).encode("utf-8", "surrogatepass")
