"""What the stand-ins of services that know users share: the keys that sign their tokens, and how a test gets one.

``POST /<service>/sandbox/token`` gives a token of a user: ``{"user_id": …}``, and if wanted ``claims`` (which replace
the usual ones; null takes one away), ``lifetime`` in seconds (negative: it is over) and ``kind``, where the service has
several. ``POST /<service>/sandbox/keys`` changes the key: the old one is still published once, and gone after a second
change. Neither asks for a credential.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from moorline.sandbox.standin import Answer, Ask, Surroundings

__all__ = ["Asked", "Signer", "answered", "hs256", "unb64"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a test wants of a token."""

    user_id: str
    claims: Mapping[str, Any]
    lifetime: float | None
    kind: str

    def applied(self, usual: Mapping[str, Any], now: int, lifetime: float) -> dict[str, Any]:
        """The claims, with their times."""
        lasts = lifetime if self.lifetime is None else self.lifetime
        whole = {**usual, "iat": now, "exp": int(now + lasts), **self.claims}
        return {name: value for name, value in whole.items() if value is not None}


def _asked(ask: Ask) -> Asked | Answer:
    """What is asked for, or the answer to what cannot be read."""
    try:
        given = json.loads(ask.body)
        claims, lifetime = given.get("claims", {}), given.get("lifetime")
        assert isinstance(given["user_id"], str)
        assert isinstance(claims, dict)
        assert lifetime is None or isinstance(lifetime, (int, float))
        return Asked(given["user_id"], claims, lifetime, str(given.get("kind", "")))
    except (ValueError, KeyError, AttributeError, AssertionError):
        return Answer(400, {"error": "a token is asked for with 'user_id', and if wanted 'claims', 'lifetime', 'kind'"})


class Signer:
    """The private keys of one issuer: the one in use, and the one before it; RSA, or P-256 where *curve* is true."""

    def __init__(self, name: str, *, curve: bool = False) -> None:
        self._name = name
        self._curve = curve
        self._turn = 0

    @property
    def key_id(self) -> str:
        """The id of the key in use."""
        return self._key_id(self._turn)

    def turn(self) -> str:
        """Change the key; the id of the new one."""
        self._turn += 1
        return self.key_id

    def jwks(self) -> dict[str, Any]:
        """What is published."""
        return {"keys": [self._jwk(turn) for turn in self._published()]}

    def certificates(self) -> dict[str, str]:
        """The same as Google publishes it: certificates in PEM by the ids of their keys."""
        return {self._key_id(turn): _certificate(self._name, turn) for turn in self._published()}

    def token(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """A token signed with the key in use."""
        algorithm = "ES256" if self._curve else "RS256"
        head = {"alg": algorithm, "typ": "JWT", "kid": self.key_id, **(header or {})}
        signed = f"{_text(head)}.{_text(claims)}"
        return f"{signed}.{_b64(_signature(_key(self._name, self._turn, self._curve), signed.encode()))}"

    def _published(self) -> range:
        return range(max(self._turn - 1, 0), self._turn + 1)

    def _key_id(self, turn: int) -> str:
        return f"{self._name}-{turn + 1}"

    def _jwk(self, turn: int) -> dict[str, Any]:
        numbers = _key(self._name, turn, self._curve).public_key().public_numbers()
        if self._curve:
            points = {"kty": "EC", "crv": "P-256", "x": _b64(_big(numbers.x, 32)), "y": _b64(_big(numbers.y, 32))}
            return {"kid": self._key_id(turn), "alg": "ES256", "use": "sig", **points}
        n = _big(numbers.n, (numbers.n.bit_length() + 7) // 8)
        return {"kid": self._key_id(turn), "alg": "RS256", "use": "sig", "kty": "RSA", "n": _b64(n), "e": "AQAB"}


def hs256(claims: Mapping[str, Any], secret: str) -> str:
    """A token signed with a shared secret."""
    import hmac

    signed = f"{_text({'alg': 'HS256', 'typ': 'JWT'})}.{_text(claims)}"
    return f"{signed}.{_b64(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def answered(ask: Ask, signer: Signer, around: Surroundings, make: Any) -> Answer | None:
    """The answer to the sandbox's own requests, or None for any other; *make* makes a token of what is Asked."""
    if (ask.method, ask.path) == ("POST", "/sandbox/keys"):
        return Answer(200, {"kid": signer.turn()})
    if (ask.method, ask.path) != ("POST", "/sandbox/token"):
        return None
    wanted = _asked(ask)
    if isinstance(wanted, Answer):
        return wanted
    made = make(wanted, around.now(), ask.base)
    return made if isinstance(made, Answer) else Answer(200, {"token": made})


@cache
def _key(name: str, turn: int, curve: bool) -> Any:  # noqa: FBT001 (part of what it is kept by)
    """A key, made once for each process."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    del name, turn
    if curve:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def _certificate(name: str, turn: int) -> str:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key = _key(name, turn, False)  # by position, as it is kept by what it is called with
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    serial = int.from_bytes(hashlib.sha256(f"{name}{turn}".encode()).digest()[:8]) + 1
    made = x509.CertificateBuilder(subject, subject, key.public_key(), serial, now, now + timedelta(days=17))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _signature(key: Any, signed: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return b"".join(_big(one, 32) for one in decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256()))))
    return bytes(key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))


def _big(value: int, length: int) -> bytes:
    return value.to_bytes(length, "big")


def _text(value: Mapping[str, Any]) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    """The bytes of base64url without padding. Raises ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
