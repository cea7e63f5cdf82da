"""Keys and tokens for tests: what an issuer has, publishes and signs. The signatures are cryptography's own."""

from __future__ import annotations

import base64
import hmac
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from moorline.secrets.secret import Secret

NOW = 1_800_000_000
ISSUER, AUDIENCE = "https://issuer.example/", "api.example"
SECRET = Secret("a secret of more than thirty-two bytes", name="the shared secret")


def private(kind: str, name: str = "first") -> Any:
    """A private key, made once for each *kind* and *name*."""
    return _private(kind, name)


@cache
def _private(kind: str, _name: str) -> Any:
    if kind.startswith("RSA"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:] or "2048"))
    curves: dict[str, Any] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
    return ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else ec.generate_private_key(curves[kind]())


KIND = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
}


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int, length: int | None = None) -> str:
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def jwk(kind: str, name: str = "first", **more: Any) -> dict[str, Any]:
    """The public key as RFC 7517 writes it; its id is *name*."""
    public = private(kind, name).public_key()
    found: dict[str, Any]
    if kind.startswith("RSA"):
        numbers = public.public_numbers()
        found = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    elif kind == "Ed25519":
        found = {"kty": "OKP", "crv": kind, "x": b64(public.public_bytes_raw())}
    else:
        numbers, length = public.public_numbers(), (public.key_size + 7) // 8
        found = {"kty": "EC", "crv": kind, "x": number(numbers.x, length), "y": number(numbers.y, length)}
    return {"kid": name, "use": "sig", **found, **more}


def jwks(*keys: dict[str, Any]) -> dict[str, Any]:
    """What an issuer publishes."""
    return {"keys": list(keys or (jwk("RSA"),))}


def claims(**changed: Any) -> dict[str, Any]:
    """Good claims at ``NOW``; what is None is left out."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u_1", "iat": NOW - 10, "exp": NOW + 600}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def signature(algorithm: str, signed: bytes, key: Any) -> bytes:
    """As RFC 7518 has it."""
    if algorithm.startswith("HS"):
        return hmac.digest(key, signed, f"sha{algorithm[2:]}")
    digests: dict[str, Any] = {"384": hashes.SHA384, "512": hashes.SHA512}
    digest = digests.get(algorithm[2:], hashes.SHA256)()
    if algorithm.startswith("RS"):
        return bytes(key.sign(signed, padding.PKCS1v15(), digest))
    if algorithm.startswith("PS"):
        return bytes(key.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest))
    if algorithm.startswith("ES"):
        length = (key.key_size + 7) // 8
        return b"".join(one.to_bytes(length, "big") for one in decode_dss_signature(key.sign(signed, ec.ECDSA(digest))))
    return bytes(key.sign(signed))


def token(
    body: dict[str, Any] | bytes | None = None,
    *,
    alg: str = "RS256",
    key: Any = None,
    name: str = "first",
    header: dict[str, Any] | bytes | None = None,
) -> str:
    """A signed token; *header* is added to the usual one, or, as bytes, stands in its place."""
    usual = {"alg": alg, "typ": "JWT", "kid": name}
    head = header if isinstance(header, bytes) else _json({**usual, **(header or {})})
    said = claims() if body is None else body
    signed = f"{b64(head)}.{b64(said if isinstance(said, bytes) else _json(said))}"
    if alg == "none":
        return f"{signed}."
    made_with = key if key is not None else private(KIND[alg], name)
    return f"{signed}.{b64(signature(alg, signed.encode(), made_with))}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps({name: one for name, one in value.items() if one is not None}).encode()
