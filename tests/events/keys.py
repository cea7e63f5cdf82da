"""Key pairs of made-up senders, and certificates for them."""

from __future__ import annotations

import base64
import datetime as dt
from functools import cache
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID


class Certified(NamedTuple):
    """A private RSA key and its certificate, both in PEM."""

    private: bytes
    certificate: bytes


@cache
def certified(name: str) -> Certified:
    """A pair for that name, the same each time, valid from 2020 to 2040."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2040, 1, 1, tzinfo=dt.UTC))
    )
    return Certified(_pem(key), builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


class Pair(NamedTuple):
    """A private P-256 key in PEM, its public key in PEM, and the latter as base64 of its DER."""

    private: bytes
    public: str
    short: str


@cache
def elliptic(name: str) -> Pair:
    """A pair for that name, the same each time."""
    key = ec.derive_private_key(int.from_bytes(name.encode()) + 2**200, ec.SECP256R1())
    public = key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Pair(_pem(key), pem.decode(), base64.b64encode(der).decode())


def _pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem
