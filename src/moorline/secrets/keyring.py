"""``KeyRing``: encrypts what is kept (AES-256-GCM), with the newest key, and reads what older keys have encrypted.

What is encrypted is bound to its place: the same bytes under another purpose, or in another row, do not decrypt. Each
purpose has a key of its own, derived from the ring's by HKDF (RFC 5869), so that what one of them encrypts counts for
none of the others. Nonces are random (NIST SP 800-38D, section 8.2.2): good for 2³² encryptions of a purpose and key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorline.errors import ConfigurationError, DecryptionFailed
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["KeyRing", "key_id", "new_key"]

_VERSION: Final = b"\x01"
_KEY: Final = 32
_ID: Final = 8
_NONCE: Final = 12
_HEAD: Final = 1 + _ID
_SHORTEST: Final = _HEAD + _NONCE + 16
_MOST_KEYS: Final = 64


def new_key() -> str:
    """A new key, as a ring takes it: 32 random bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(os.urandom(_KEY)).decode("ascii")


def key_id(key: Secret) -> str:
    """The id of *key*, which is no secret. Raises ConfigurationError for what is no key."""
    return _id(_raw(key, 1)).hex()


class KeyRing:
    """The keys of an application, newest first: 32 bytes in base64 each, such as ``new_key`` gives.

    The first one encrypts. The others are for what was encrypted before; ``is_current`` says what is still to be
    encrypted anew before one can be taken out. Keys are told apart by an id that is a part of what they encrypted.

    Raises ConfigurationError, which shows no key, for none at all and for what is no key.
    """

    def __init__(self, keys: Iterable[Secret]) -> None:
        held: dict[bytes, bytes] = {}
        for number, key in enumerate(keys, 1):
            raw = _raw(key, number)
            held.setdefault(_id(raw), raw)
        if not held:
            raise ConfigurationError("encryption needs a key: `moorline keys master new` makes one")
        if len(held) > _MOST_KEYS:
            raise ConfigurationError(f"encryption: {len(held)} keys are too many; up to {_MOST_KEYS} may be in use")
        self._keys = held
        self._current = next(iter(held))

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._keys)}, current {self.current_id}>"

    @property
    def current_id(self) -> str:
        """The id of the key that encrypts."""
        return self._current.hex()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, newest first."""
        return tuple(one.hex() for one in self._keys)

    def encrypt(self, plain: bytes, *, purpose: str, place: str) -> bytes:
        """*plain*, encrypted for that *purpose* and *place* (a row, a user): only both of them decrypt it."""
        nonce = os.urandom(_NONCE)
        head = _VERSION + self._current
        cipher = _cipher(self._keys[self._current], purpose)
        return head + nonce + cipher.encrypt(nonce, plain, _bound(head, purpose, place))

    def decrypt(self, sealed: bytes, *, purpose: str, place: str) -> bytes:
        """What ``encrypt`` was given. Raises DecryptionFailed where it was changed, or is of another purpose, place or
        ring.
        """
        head, nonce = sealed[:_HEAD], sealed[_HEAD : _HEAD + _NONCE]
        if len(sealed) < _SHORTEST or not head.startswith(_VERSION):
            raise DecryptionFailed("this was not encrypted by moorline, or by a newer one")
        key = self._keys.get(head[1:])
        if key is None:
            raise DecryptionFailed(f"the key {head[1:].hex()}, which encrypted this, is not among those of this ring")
        from cryptography.exceptions import InvalidTag

        try:
            return _cipher(key, purpose).decrypt(nonce, sealed[_HEAD + _NONCE :], _bound(head, purpose, place))
        except InvalidTag:
            raise DecryptionFailed("what was encrypted was changed, or moved from another place") from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether the key that encrypts now has encrypted this."""
        return sealed[:_HEAD] == _VERSION + self._current


def _raw(key: Secret, number: int) -> bytes:
    where = key.name or f"key {number}"
    text = key.reveal().strip()
    try:
        # Both alphabets, with or without the padding: keys come from many tools.
        raw = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{where}: an encryption key is 32 bytes in base64") from None
    if len(raw) != _KEY:
        raise ConfigurationError(f"{where}: an encryption key is 32 bytes in base64; this one has {len(raw)}")
    return raw


def _id(raw: bytes) -> bytes:
    """Says which key it is, and nothing of what it is."""
    return hashlib.sha256(b"moorline key id\0" + raw).digest()[:_ID]


def _bound(head: bytes, purpose: str, place: str) -> bytes:
    """The associated data. Lengths keep ("a", "bc") and ("ab", "c") apart."""
    named = purpose.encode()
    return head + len(named).to_bytes(4, "big") + named + place.encode()


@lru_cache(maxsize=256)
def _cipher(key: bytes, purpose: str) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), _KEY, salt=None, info=b"moorline " + purpose.encode()).derive(key)
    return AESGCM(derived)
