"""A time and a token of the sender's, signed within a body (JSON or a form) whose content is not."""

from __future__ import annotations

import hmac
import json
import secrets as randomness
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events.body import FORM_FIELD, unambiguous
from moorline.events.delivery import FORM, MULTIPART, Delivery
from moorline.events.forms import sealed
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

__all__ = ["SignedToken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedToken(Scheme):
    """HMAC-SHA256, in hex, over ``<seconds><token>``; ``timestamp``, ``token``, ``signature``: fields of ``within``,
    which is an object of the JSON body; empty for its top, and where ``forms`` are read too.

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
        place = f"{self.within}.{self.token}" if self.within else self.token
        if self.once != place:
            raise ConfigurationError(f"once: expected {place}, got {self.once!r}")
        if self.forms and self.within:
            raise ConfigurationError(f"within: a form's fields lie at its top, not in {self.within!r}")
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        where = f"the body's `{self.within}`" if self.within else f"its field `{self.signature}`"
        return f"HMAC-SHA256 of time and token, hex, in {where}; the content is not signed"

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
        found = self._found(delivery)
        stamp, token = found.get(self.timestamp), found.get(self.token)
        if isinstance(stamp, int) and not isinstance(stamp, bool):
            stamp = str(stamp)
        if not isinstance(stamp, str) or not isinstance(token, str) or not token:
            raise InvalidSignature(
                f"{self.within or 'the body'} has no {self.timestamp} or no {self.token}", reason="malformed"
            )
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
        """The JSON object, or the form, with its signature; a token that it has is kept."""
        is_form = self.forms and not body.startswith(b"{")
        found: dict[str, Any] = dict(reversed(_form(body))) if is_form else json.loads(body)
        inner: dict[str, Any] = (found.get(self.within) or {}) if self.within else found
        token: str = inner.get(self.token) or randomness.token_hex(25)
        stamp = written(now)
        signature = hmac.digest(key_bytes(secret), _signed(stamp, token), "sha256").hex()
        signed = {self.timestamp: stamp, self.token: token, self.signature: signature}
        if is_form:
            return sealed(body, signed)
        if not self.within:
            return json.dumps(found | signed).encode()
        return json.dumps({self.within: inner | signed} | {k: v for k, v in found.items() if k != self.within}).encode()

    def _found(self, delivery: Delivery) -> dict[str, Any]:
        try:
            if self.forms and delivery.is_form:
                return self._of_form(delivery)
            whole = unambiguous(delivery.body)
        except UnusableEvent as error:
            raise InvalidSignature(str(error), reason="malformed") from error
        found = whole.get(self.within) if isinstance(whole, dict) and self.within else whole
        if not isinstance(found, dict):
            raise InvalidSignature(f"the body has no {self.within or 'fields'}", reason="missing")
        return found

    def _of_form(self, delivery: Delivery) -> dict[str, Any]:
        """The fields that are signed. One reader takes the first of a name, another the last, or what ``payload=``
        holds; only one of them was signed.
        """
        own = delivery.texts((self.timestamp, self.token, self.signature, *self.also))
        if len(own) != len(dict(own)) or delivery.body.startswith(FORM_FIELD):
            raise UnusableEvent("the form can be read in two ways")
        return dict(own)


def _form(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form that has no header beside it."""
    boundary = body[2:].partition(b"\r\n")[0].decode("latin-1")
    kind = f'{MULTIPART}; boundary="{boundary}"' if body.startswith(b"--") else FORM
    return Delivery({"content-type": kind}, body).form


def _signed(stamp: str, token: str) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange token must end in a mismatch, not in a UnicodeError.
    return (stamp + token).encode("utf-8", "surrogatepass")
