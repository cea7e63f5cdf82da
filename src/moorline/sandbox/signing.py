"""Signs the sandbox's webhooks as their services do: by the scheme that each service's record names.

The schemes agree with the vendors' own verifiers (tests/events). Those that sign with a private key use the sandbox's
own, whose certificate the receiver fetches from here (``/_sandbox/certificate``) in place of the vendor's.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from moorline import registry
from moorline.sandbox.standin import Emission, Signed

__all__ = ["certificate", "private_key", "public_p256", "signed"]

_YEARS: Final = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class _Pair:
    private: str = field(repr=False)
    public: str  # a certificate in PEM, or a key as the vendor shows it


@cache
def _rsa(name: str) -> _Pair:
    """A key and its certificate, made once for each process."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _YEARS)
        .sign(key, hashes.SHA256())
    )
    form, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    private = key.private_bytes(encoding, form, serialization.NoEncryption())
    return _Pair(private.decode(), made.public_bytes(encoding).decode())


@cache
def _p256(name: str) -> _Pair:  # noqa: ARG001 (one for each name)
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    private = key.private_bytes(encoding, form, serialization.NoEncryption())
    shown = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _Pair(private.decode(), base64.b64encode(shown).decode())


def certificate() -> bytes:
    """The certificate of the sandbox's RSA key, in PEM."""
    return _rsa("sandbox").public.encode()


def private_key(kind: str = "rsa", *, broken: bool = False) -> str:
    """The sandbox's private key in PEM, ``rsa`` or ``p256``; another one if *broken*."""
    make = _rsa if kind == "rsa" else _p256
    return make("another" if broken else "sandbox").private


def public_p256() -> str:
    """The public P-256 key, as base64 of DER: what a receiver of ECDSA signatures is configured with."""
    return _p256("sandbox").public


def signed(
    service: str,
    emission: Emission,
    *,
    url: str,
    secrets: tuple[str, ...],
    broken: bool,
    now: float,
    headers: Mapping[str, str],
    key: str | None = None,
) -> Signed:
    """The request that delivers *emission* to *url*, *headers* among its own.

    With ``broken`` it is signed by another secret, or by another *key* where it is made with one.
    """
    scheme: Any = registry.service(service).webhooks
    secret = secrets[0] if secrets else ""
    if not secret and key is None:
        return Signed(dict(headers), emission.body, url)
    if broken and key is None:
        secret = _wrong(secret)
    address = scheme.address(url, emission.body)
    body = scheme.seal(emission.body, secret, now=now, url=address, key=key)
    added = scheme.sign(body, secret, now=now, id=emission.id, url=address, key=key)
    return Signed({**headers, **added}, body, address)


def _wrong(secret: str) -> str:
    """Another secret of the same kind."""
    digest = hashlib.sha256(secret.encode())
    before, named, _ = secret.partition("whsec_")  # "v1,whsec_…" of Supabase
    if named and before in ("", "v1,"):
        return before + named + base64.b64encode(digest.digest()).decode()
    return digest.hexdigest() if re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", secret) else f"{secret}?"
