"""A token, a time, the secret and a checksum of the body, signed by the key of a certificate."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from moorline.errors import ConfigurationError
from moorline.events.certificates import Issuer, is_signed_by, signed_with
from moorline.events.places import digest
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

__all__ = ["CertifiedChecksum"]

_HEADER: Final = "header:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedChecksum(Scheme):
    """RSA with SHA-256 over ``<token>|<time>|<secret>|<CRC-32 of the body, as a decimal number>``.

    ``once`` is the header with the token, ``timestamp``, ``signature`` and ``certificate`` are those with the time (ISO
    8601), the signature (base64) and the address of the certificate, which ``issuer`` must have issued; ``algorithm``
    is one that names the algorithm, which nobody asks: it is always the same. ``named`` is the address that ``sign``
    names.

    A CRC is no cryptographic digest: whoever saw one delivery can write another body with the same. So the body vouches
    for nothing, its id neither, and the token counts once; see ``Located.once``. ``resent`` is for how many seconds a
    sender may try again with the time that it first signed.
    """

    signature: str
    timestamp: str
    certificate: str
    issuer: Issuer
    algorithm: str = ""
    named: str = ""
    tolerance: float = 300.0
    resent: float = 0.0

    keyed: ClassVar[str] = "the id of the subscription, which is signed and not sent"

    def __post_init__(self) -> None:
        if not self.once.startswith(_HEADER):
            raise ConfigurationError(f'once: expected "header:NAME", got {self.once!r}')
        check_seconds("tolerance", self.tolerance)
        check_seconds("resent", self.resent)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"RSA-SHA256 by a certificate's key, over token, time, secret and CRC-32, in `{self.signature}`"

    def vouches_for(self, place: str) -> bool:
        """Nothing but the token is signed well."""
        return place == self.once

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,
    ) -> Proof:
        """See Scheme. Raises InvalidSignature, NeedsCertificate."""
        keys = accepted(secrets, now)
        signature = decoded(present(delivery.headers, self.signature), "base64")
        token = present(delivery.headers, self.once.removeprefix(_HEADER))
        stamp = present(delivery.headers, self.timestamp)
        timestamp = stamped(stamp, "iso8601")
        # Before anybody is asked for a certificate: what is too old needs none.
        resent = self.resent if tolerance is None else 0.0
        timely(timestamp, now, self.tolerance if tolerance is None else tolerance, resent=resent)
        public = self.issuer.key(present(delivery.headers, self.certificate), certificates)
        for index, secret in keys:
            if is_signed_by(public, signature, _text(token, stamp, secret, delivery.body), "sha256"):
                return Proof(index, timestamp)
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
        key: Key | None = None,
    ) -> dict[str, str]:
        """The headers that a sender would add; ``key`` is the private key of the certificate at ``named``."""
        token = id or digest(body)
        stamp = written(now, "iso8601")
        signature = signed_with(key, _text(token, stamp, key_bytes(secret), body), "sha256")
        headers = {
            self.once.removeprefix(_HEADER): token,
            self.timestamp: stamp,
            self.signature: encoded(signature, "base64"),
            self.certificate: self.named,
        }
        return headers | {self.algorithm: "SHA256withRSA"} if self.algorithm else headers


def _text(token: str, stamp: str, secret: bytes, body: bytes) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange token must end in a mismatch, not in a UnicodeError.
    parts = (token.encode("utf-8", "surrogatepass"), stamp.encode("utf-8", "surrogatepass"), secret)
    return b"|".join((*parts, str(zlib.crc32(body)).encode()))
