"""``Marks``: the fingerprint by which all processes of an application know a value, and nobody else does.

It is an HMAC with a key of the application's own. That key lies in the database, random, and sealed with the
application's key ring where there is one: so it stays the same when the ring's keys are rotated. Without a ring it lies
there in the clear; who reads the database can then bear out a guess of a secret, which matters for one that is weak.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from moorline.errors import ConfigurationError, DecryptionFailed
from moorline.store.leases import compare_and_set
from moorline.store.schema import key_names, meta

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.secrets.keyring import KeyRing
    from moorline.secrets.secret import Secret
    from moorline.store.store import Store

__all__ = ["Marks", "reseal_marks"]

_KEY: Final = "key fingerprints"
_SEALED, _CLEAR = "sealed:", "clear:"
_DIGITS: Final = 12


class Marks:
    """Names values; the same one by the same name in every process that uses this database."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, name: str, secret: Secret) -> str:
        """The name of a value of the credential *name*: twelve hexadecimal digits."""
        told = f"{len(name)}:{name}:{secret.reveal()}".encode()
        return hmac.digest(self._key, told, hashlib.sha256).hex()[:_DIGITS]

    @classmethod
    def of_store(cls, store: Store, ring: KeyRing | None) -> Marks | None:
        """Those of the application that keeps its state there; None where the ring does not open them, and nothing was
        decided by them yet. Raises ConfigurationError where something was: it would be forgotten.
        """
        while True:
            kept = store.read_sync(_kept)
            try:
                key, anew = _opened(kept, ring)
            except DecryptionFailed:
                if not store.read_sync(_decided):
                    return None
                raise ConfigurationError(
                    "the rotation of keys cannot be read: what is in MOORLINE_ENCRYPTION_KEY does not decrypt it"
                ) from None
            if not anew or store.write_sync(_keep, (kept, _closed(key, ring))):
                return cls(key)


def reseal_marks(store: Store, ring: KeyRing) -> bool:
    """Seal that key, if there is one, with the newest of *ring*; False where no key of it opens it."""
    if store.read_sync(_kept) is None:
        return True
    try:
        return Marks.of_store(store, ring) is not None
    except ConfigurationError:
        return False


def _opened(kept: str | None, ring: KeyRing | None) -> tuple[bytes, bool]:
    """The key, and whether it is to be kept in another form. Raises DecryptionFailed."""
    if kept is None:
        return os.urandom(32), True
    if kept.startswith(_CLEAR):
        return base64.b64decode(kept.removeprefix(_CLEAR)), ring is not None
    if ring is None:
        raise DecryptionFailed("there is no key")
    sealed = base64.b64decode(kept.removeprefix(_SEALED))
    return ring.decrypt(sealed, purpose=_KEY, place="meta"), not ring.is_current(sealed)


def _closed(key: bytes, ring: KeyRing | None) -> str:
    if ring is None:
        return _CLEAR + base64.b64encode(key).decode()
    return _SEALED + base64.b64encode(ring.encrypt(key, purpose=_KEY, place="meta")).decode()


def _kept(connection: Connection) -> str | None:
    found: str | None = connection.execute(sa.select(meta.c.value).where(meta.c.key == _KEY)).scalar()
    return found


def _decided(connection: Connection) -> bool:
    return connection.execute(sa.select(key_names.c.name).limit(1)).first() is not None


def _keep(connection: Connection, payloads: list[tuple[str | None, str]]) -> list[bool]:
    return [compare_and_set(connection, _KEY, old, new) for old, new in payloads]
