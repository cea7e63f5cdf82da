"""ECDSA over the time and the body, with a key pair of the sender's."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from moorline.errors import ConfigurationError
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Key,
    accepted,
    check_seconds,
    decoded,
    encoded,
    key_bytes,
    mismatch,
    present,
    stamped,
    timely,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["ECDSASignature"]

_PEM = b"-----BEGIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ECDSASignature(Scheme):
    """ECDSA (P-256, SHA-256) over ``<seconds><body>``: base64 of DER in ``signature``, the time in ``timestamp``.

    The secrets are the sender's public keys, in PEM or as base64 of their DER.
    """

    signature: str
    timestamp: str
    tolerance: float = 300.0

    keyed: ClassVar[str] = "the sender's public key, in PEM or base64"

    def __post_init__(self) -> None:
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"ECDSA (P-256, SHA-256) of `{{timestamp}}{{body}}`, base64, in `{self.signature}`"

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
        keys = [(index, _public(text)) for index, text in accepted(secrets, now, read=_checked)]
        signature = decoded(present(delivery.headers, self.signature), "base64")
        stamp = present(delivery.headers, self.timestamp)
        timestamp = stamped(stamp)
        signed = stamp.encode() + delivery.body
        for index, key in keys:
            if _is_by(key, signature, signed):
                timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
                return Proof(index, timestamp)
        raise mismatch()

    def sign(
        self,
        body: bytes,
        secret: Key,  # noqa: ARG002
        *,
        now: float | None = None,
        id: str = "",  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        method: str = "POST",  # noqa: ARG002
        key: Key | None = None,
    ) -> dict[str, str]:
        """The headers that a sender would add; ``key`` is the private key in PEM. Raises ConfigurationError without."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = None if key is None else load_pem_private_key(key_bytes(key), None)
        except ValueError:
            private = None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ConfigurationError("key: this sender signs with a private P-256 key in PEM")
        stamp = written(now)
        signature = private.sign(stamp.encode() + body, ec.ECDSA(SHA256()))
        return {self.signature: encoded(signature, "base64"), self.timestamp: stamp}


def _checked(secret: Key) -> bytes:
    """The text of a key that is one."""
    text = key_bytes(secret)
    _public(text)
    return text


@lru_cache(maxsize=64)
def _public(text: bytes) -> Any:
    """The public key, which is no secret. Raises ConfigurationError when it is none of that kind."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

    try:
        found: Any
        if text.lstrip().startswith(_PEM):
            found = load_pem_public_key(text.strip())
        else:
            found = load_der_public_key(binascii.a2b_base64(b"".join(text.split()), strict_mode=True))
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP256R1):
        raise ConfigurationError("secrets: this service's are public P-256 keys, in PEM or as base64 of their DER")
    return found


def _is_by(key: Any, signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature as Wrong
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    except Wrong:
        return False
    return True
