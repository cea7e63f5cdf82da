"""Signed addresses of Google's, by "V4 signing process with your own program" (GOOG4-RSA-SHA256): the private key of a
service account signs what may be done, until when, and with which headers. Facts: services/storage/gcs.md.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from moorline.errors import ConfigurationError

__all__ = ["canonical_request", "signed_url", "to_sign"]

_ALGORITHM = "GOOG4-RSA-SHA256"


def signed_url(
    account: Mapping[str, str],
    method: str,
    address: str,
    now: int,
    expires: int,
    headers: Mapping[str, str],
    query: Mapping[str, str],
) -> str:
    """*address*, which has no query yet, signed by *account* (the fields of its key file) at *now*, seconds since the
    epoch. Raises ConfigurationError, without its content, for a key that is none, or without the extra ``jwt``.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{stamp[:8]}/auto/storage/goog4_request"
    parts = urlsplit(address)
    told = {"host": parts.netloc, **{name.lower(): " ".join(value.split()) for name, value in headers.items()}}
    asked = {
        **query,
        "X-Goog-Algorithm": _ALGORITHM,
        "X-Goog-Credential": f"{account['client_email']}/{scope}",
        "X-Goog-Date": stamp,
        "X-Goog-Expires": str(expires),
        "X-Goog-SignedHeaders": ";".join(sorted(told)),
    }
    canonical = canonical_request(method, parts.path, asked, told)
    signature = _signature(account["private_key"], to_sign(stamp, scope, canonical).encode())
    return f"{address}?{_query(asked)}&X-Goog-Signature={signature.hex()}"


def canonical_request(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """The text whose hash is signed; *path* is escaped already, names of *headers* are in lower case."""
    lines = [f"{name}:{headers[name]}\n" for name in sorted(headers)]
    return "\n".join((method, path, _query(query), "".join(lines), ";".join(sorted(headers)), "UNSIGNED-PAYLOAD"))


def to_sign(stamp: str, scope: str, canonical: str) -> str:
    """The text that is signed."""
    return "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))


def _query(query: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="~"), quote(str(value), safe="~")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def _signature(private_key: str, text: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
    except ImportError as error:
        raise ConfigurationError("gcs signs addresses with cryptography; pip install 'moorline[jwt]'") from error
    try:
        key = serialization.load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"gcs: the private key cannot be used ({type(error).__name__})") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError("gcs: the private key cannot be used (it is none of RSA)")
    return key.sign(text, padding.PKCS1v15(), hashes.SHA256())
