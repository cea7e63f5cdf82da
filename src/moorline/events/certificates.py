"""Certificates of senders that sign with a key of their own and name the address of its certificate (PayPal, SNS).

An address is asked only if the scheme's own rule finds it fit (https, the sender's hosts): what a request says is no
reason to call anybody. What was fetched is kept for a day, and must be valid at the time.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.scheme import NeedsCertificate
from moorline.events.signatures import Key, key_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["MAX_PEM", "Certificates", "Issuer", "is_signed_by", "public_key", "signed_with", "suitable"]

MAX_PEM: Final = 64 * 1024
"""Bytes of a certificate, chain included."""

_KEPT: Final = 64
_DAY: Final = 86_400.0


Hash = Literal["sha1", "sha256"]
"""What RSA signs a digest by."""


def suitable(url: str, host: re.Pattern[str], *, path: str = "", query: bool = False) -> bool:
    """Whether the URL is https, without port, password or fragment, its host fits, and its path ends so.

    With a query only where *query* says so: an address with one may answer with what its caller wrote.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.username is None and parts.password is None and port in (None, 443) and not parts.fragment
    written = url.isascii() and url.isprintable() and not {" ", "\\"} & set(url)
    known = written and host.fullmatch(parts.hostname or "") is not None
    bare = query or not parts.query
    return parts.scheme == "https" and plain and known and bare and parts.path.endswith(path)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who issues the certificates of a sender: from which hosts they are believed, and from which paths there fetched.

    ``path`` and ``asked`` (else ``host``) are narrower than what is believed in a mapping that the caller gave: a host
    may serve other files too, and not all of a sender's hosts serve certificates.
    """

    host: re.Pattern[str]
    path: re.Pattern[str]
    asked: re.Pattern[str] | None = None

    def key(self, url: str, certificates: Mapping[str, bytes] | None) -> RSAPublicKey:
        """The key of the certificate at that address.

        Raises InvalidSignature for an address of strangers, or what is no certificate; NeedsCertificate for one that is
        not in *certificates*.
        """
        if not suitable(url, self.host):
            raise InvalidSignature("the certificate's address is not the sender's", reason="certificate")
        pem = (certificates or {}).get(url)
        if pem is not None:
            return public_key(pem)
        parts = urlsplit(url)
        if self.path.fullmatch(parts.path) is None or (self.asked or self.host).fullmatch(parts.hostname or "") is None:
            raise InvalidSignature("the certificate's address is none that is asked", reason="certificate")
        raise NeedsCertificate(url)


class Certificates(Mapping[str, bytes]):
    """Certificates that were fetched, PEM by URL; a mapping that schemes read, threads share, and that forgets."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, url: str, pem: bytes) -> None:
        """Keep what was fetched. Raises InvalidSignature unless it is a certificate that is valid now."""
        left = _valid_for(pem, self._clock.wall())
        with self._lock:
            self._held[url] = (self._clock.monotonic() + min(left, _DAY), pem)
            self._held.move_to_end(url)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)

    def __getitem__(self, url: str) -> bytes:
        with self._lock:
            until, pem = self._held[url]
            if self._clock.monotonic() >= until:
                del self._held[url]
                raise KeyError(url)
            return pem

    def __iter__(self) -> Any:
        return iter(list(self._held))

    def __len__(self) -> int:
        return len(self._held)


def is_signed_by(key: RSAPublicKey, signature: bytes, signed: bytes, algorithm: Hash) -> bool:
    """Whether the signature (RSA, PKCS #1 v1.5) was made by that key."""
    from cryptography.exceptions import InvalidSignature as Wrong
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    try:
        key.verify(signature, signed, PKCS1v15(), _hash(algorithm))
    except Wrong:
        return False
    return True


def signed_with(key: Key | None, signed: bytes, algorithm: Hash) -> bytes:
    """The signature by a private RSA key in PEM. Raises ConfigurationError when it is none."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = None if key is None else load_pem_private_key(key_bytes(key), None)
    except ValueError:
        private = None
    if not isinstance(private, RSAPrivateKey):
        raise ConfigurationError("key: this sender signs with a private RSA key in PEM")
    return private.sign(signed, PKCS1v15(), _hash(algorithm))


def _hash(algorithm: Hash) -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256() if algorithm == "sha256" else hashes.SHA1()  # noqa: S303 - what some senders still sign by


@lru_cache(maxsize=64)
def public_key(pem: bytes | str) -> RSAPublicKey:
    """The RSA key of the first certificate in *pem*. Raises InvalidSignature when there is none."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    found = _certificate(pem).public_key()
    if not isinstance(found, RSAPublicKey):
        raise InvalidSignature("the certificate has no RSA key", reason="certificate")
    return found


def _valid_for(pem: bytes, now: float) -> float:
    """How many seconds it is valid yet. Raises InvalidSignature unless it is now."""
    certificate = _certificate(pem)
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if not begins <= now <= ends:
        raise InvalidSignature("the certificate is not valid now", reason="certificate")
    return float(ends - now)


def _certificate(pem: bytes | str) -> Any:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except ValueError as error:
        raise InvalidSignature("what the sender calls its certificate is none", reason="certificate") from error
