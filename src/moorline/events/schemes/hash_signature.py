"""A plain hash over the secret and the text after it: what was used before HMAC, and still is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from moorline.events.schemes.hmac_signature import HMACSignature

__all__ = ["HashSignature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HashSignature(HMACSignature):
    """As HMACSignature, with ``hash(secret + signed)`` in place of an HMAC.

    Whoever saw one such signature can make that of the same text with more behind it (length extension). What lies
    between begins with the byte 0x80, so that the longer body is no JSON: use it for JSON alone, and with ``{body}`` at
    the end of ``signed``.
    """

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"{self.algorithm.upper()} of the secret and `{self.signed}`, {self.encoding}, in `{self.header}`"

    @staticmethod
    def make(key: bytes, text: bytes, algorithm: str) -> bytes:
        """The signature's bytes."""
        return hashlib.new(algorithm, key + text).digest()
