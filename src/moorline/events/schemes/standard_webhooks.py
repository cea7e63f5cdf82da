"""Standard Webhooks 1.0.0: what Svix, Clerk, Resend, Supabase and others sign by.

Facts: the specification at standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.places import Located
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Key,
    accepted,
    check_seconds,
    decoded,
    encoded,
    key_bytes,
    match,
    mismatch,
    present,
    stamped,
    timely,
    whsec,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["STANDARD_WEBHOOKS", "StandardWebhooks"]

_PUBLIC: Final = b"whpk_"
_PRIVATE: Final = b"whsk_"
_ED25519: Final = 32  # bytes of a key


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardWebhooks(Scheme):
    """``v1,<base64>`` with HMAC-SHA256, or ``v1a,<base64>`` with Ed25519, over ``<id>.<seconds>.<body>``.

    The header holds a list, separated by spaces, before which ``commas`` are taken too. A secret given as text is
    ``whsec_`` and base64, the prefix may be left out; given as bytes it is the key itself. ``whpk_`` and base64 is a
    public key, which checks ``v1a`` and nothing else. ``prefix`` is how the three headers begin (Svix says ``svix-``),
    ``aliases`` are others that are taken too.
    """

    env: str = "WEBHOOK_SECRET"
    id: str | tuple[str, ...] = "header:webhook-id"
    type: str | tuple[str, ...] = "type"
    typed: bool = False  # the specification recommends a type and does not ask for it
    prefix: str = "webhook-"
    aliases: tuple[str, ...] = ()
    commas: bool = False
    tolerance: float = 300.0

    def __post_init__(self) -> None:
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"Standard Webhooks (`v1`, `v1a`), in `{self.prefix}signature`"

    def vouches_for(self, place: str) -> bool:
        """The id is signed, though it stands in a header: under the prefix that the delivery uses, and no other."""
        if not place.startswith("header:"):
            return True
        signed = f"header:{self.prefix}id"
        return place.lower() == signed.lower() and (not self.aliases or self.id == signed)  # see id_places

    def id_places(self, delivery: Delivery) -> tuple[str, ...]:
        """The id stands under the prefix that this delivery uses."""
        if self.aliases and self.id == f"header:{self.prefix}id":
            return (f"header:{self._spoken(delivery.headers)}id",)
        return Located.id_places(self, delivery)

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
        keys = accepted(secrets, now, read=_either)
        prefix = self._spoken(delivery.headers)
        stamp = present(delivery.headers, prefix + "timestamp")
        timestamp = stamped(stamp)
        signed = _signed(present(delivery.headers, prefix + "id"), stamp, delivery.body)
        candidates: dict[str, list[bytes]] = {"v1": [], "v1a": []}
        for part in self._listed(present(delivery.headers, prefix + "signature")):
            version, _, value = part.partition(",")
            if version in candidates:
                candidates[version].append(decoded(value, "base64"))
        index = _matching(signed, keys, candidates["v1"], candidates["v1a"])
        timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
        return Proof(index, timestamp)

    def _listed(self, text: str) -> list[str]:
        return (text.replace(", ", " ") if self.commas else text).split(" ")

    def _spoken(self, headers: Mapping[str, str]) -> str:
        for prefix in (self.prefix, *self.aliases):
            if f"{prefix}signature".lower() in headers:
                return prefix
        raise InvalidSignature(f"there is no {self.prefix}signature header", reason="missing")

    def sign(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        id: str = "",
        url: str = "",  # noqa: ARG002
        method: str = "POST",  # noqa: ARG002
        key: Key | None = None,
    ) -> dict[str, str]:
        """The three headers that a sender would add; ``id`` is the message's, by default a digest of the body.

        With ``key``, a private key (``whsk_`` and base64), the signature is ``v1a``.
        """
        delivery = id or "msg_" + hashlib.sha256(body).hexdigest()[:27]
        stamp = written(now)
        text = _signed(delivery, stamp, body)
        if key is not None:
            signature = "v1a," + base64.b64encode(_private(key).sign(text)).decode()
        else:
            signature = "v1," + encoded(hmac.digest(whsec(secret), text, "sha256"), "base64")
        return {self.prefix + "id": delivery, self.prefix + "timestamp": stamp, self.prefix + "signature": signature}


def _either(secret: Key) -> bytes:
    """A symmetric key as it is; a public key with its prefix before it, so that the two are told apart."""
    text = key_bytes(secret)
    return _PUBLIC + _raw(text, _PUBLIC) if text.startswith(_PUBLIC) else whsec(secret)


def _raw(text: bytes, prefix: bytes) -> bytes:
    try:
        raw = binascii.a2b_base64(text.removeprefix(prefix), strict_mode=True)
    except ValueError:
        raw = b""
    if len(raw) < _ED25519:
        raise ConfigurationError(f"secrets: {prefix.decode()} is followed by an Ed25519 key in base64")
    return raw


def _private(key: Key) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    # The specification's private keys hold the public one behind the seed.
    return Ed25519PrivateKey.from_private_bytes(_raw(key_bytes(key), _PRIVATE)[:_ED25519])


def _matching(signed: bytes, keys: list[tuple[int, bytes]], v1: list[bytes], v1a: list[bytes]) -> int:
    """The place of the key that fits. A public key checks v1a alone: as an HMAC's key it is known to everybody."""
    public = [(index, key) for index, key in keys if key.startswith(_PUBLIC)]
    secret = [(index, key) for index, key in keys if not key.startswith(_PUBLIC)]
    if v1 and secret:
        try:
            return match(signed, "sha256", secret, v1)
        except InvalidSignature:
            if not (v1a and public):
                raise
    for index, key in public:
        if any(_is_by(key, signature, signed) for signature in v1a):
            return index
    raise mismatch()


def _is_by(key: bytes, signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature as Wrong
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.removeprefix(_PUBLIC)[:_ED25519]).verify(signature, signed)
    except (Wrong, ValueError):
        return False
    return True


def _signed(delivery: str, stamp: str, body: bytes) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange id must end in a mismatch, not in a UnicodeError.
    return delivery.encode("utf-8", "surrogatepass") + b"." + stamp.encode() + b"." + body


STANDARD_WEBHOOKS = StandardWebhooks()
"""The scheme as the specification names it, for any sender that follows it."""
