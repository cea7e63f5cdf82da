"""Signed assertions (RFC 7523), as token endpoints take them: each names the public key that it can be checked by."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["NotSigned", "read_assertion", "rsa_key"]


class NotSigned(ValueError):
    """The signature does not fit."""


def read_assertion(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT that the RSA key signed whose public half is its ``kid``: base64 of its DER.

    Raises NotSigned, and ValueError for what is no such JWT.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    try:
        head, body, mark = assertion.split(".")
        header, claims = json.loads(_decoded(head)), json.loads(_decoded(body))
        if not isinstance(claims, dict):
            raise TypeError("no claims")  # noqa: TRY301 (one place says what it is)
        rsa_key(header["kid"]).verify(_decoded(mark), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise NotSigned("the signature does not fit") from error
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError("no JWT") from error
    return header, claims


def rsa_key(kid: str) -> RSAPublicKey:
    """The public key that an id is. Raises ValueError or TypeError for what is none."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = serialization.load_der_public_key(_decoded(kid))
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("no RSA key")
    return key


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
