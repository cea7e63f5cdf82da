"""Signed assertions (RFC 7523), as token endpoints take them: each names the public key that it can be checked by."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

__all__ = ["NotSigned", "read_assertion"]


class NotSigned(ValueError):
    """The signature does not fit."""


def read_assertion(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT that the RSA key signed whose public half is its ``kid``: base64 of its DER.

    Raises NotSigned, and ValueError for what is no such JWT.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        head, body, mark = assertion.split(".")
        header, claims = json.loads(_decoded(head)), json.loads(_decoded(body))
        key = serialization.load_der_public_key(_decoded(header["kid"]))
        if not isinstance(key, rsa.RSAPublicKey) or not isinstance(claims, dict):
            raise TypeError("no RSA key, or no claims")  # noqa: TRY301 (one place says what it is)
        key.verify(_decoded(mark), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise NotSigned("the signature does not fit") from error
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError("no JWT") from error
    return header, claims


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
