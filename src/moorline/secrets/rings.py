"""The one place that makes the application's ``KeyRing``: for its cookies, for the tokens of connected accounts, and
for whatever else is kept encrypted.

``MOORLINE_ENCRYPTION_KEY`` holds the keys, newest first and separated by commas: 32 bytes in base64, or such a key
wrapped by a key service (see ``moorline.secrets.wrapped``). Both kinds may stand side by side.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Final

from moorline.errors import ConfigurationError
from moorline.secrets import wrapped
from moorline.secrets.keyring import KeyRing, key_id, new_key
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.secrets.wrapped import Wrapped

__all__ = ["ENCRYPTION_KEY", "RingKey", "configured_ring", "encryption_ring", "opened", "ring_keys"]

ENCRYPTION_KEY: Final = "MOORLINE_ENCRYPTION_KEY"
"""The variable with the keys of an application, newest first."""
_BETWEEN: Final = re.compile(r"[,\s]+")

_looking: Final = ContextVar("moorline_ring", default=False)


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key of the ring: as it stands in the variable (*kept*), itself (*secret*), its *id*, what wraps it (None for
    a plain one).
    """

    kept: Secret
    secret: Secret
    id: str
    wrapped_by: str | None = None


def encryption_ring() -> KeyRing:
    """The application's ring; beside the sandbox, where none is set, one that lasts as long as this process.

    Raises ConfigurationError where there is none, KeyUnavailable while a key cannot be unwrapped.
    """
    return KeyRing([one.secret for one in ring_keys()])


def configured_ring() -> KeyRing | None:
    """The application's ring; None where none is configured. Raises as ``encryption_ring`` for what is no key."""
    return encryption_ring() if secrets().load_all(ENCRYPTION_KEY) else None


def ring_keys() -> tuple[RingKey, ...]:
    """The keys of the ring, the one that encrypts first, each once. Raises as ``encryption_ring``."""
    # What holds secrets encrypted with the ring, or needs such a one to get there, asks for the ring in its turn.
    if _looking.get():
        raise ConfigurationError(
            f"{ENCRYPTION_KEY}, and what is needed to get it, cannot be kept encrypted with that key itself"
        )
    token = _looking.set(True)
    try:
        keys: dict[str, RingKey] = {}
        for one in map(opened, _kept()):
            keys.setdefault(one.id, one)
    finally:
        _looking.reset(token)
    return tuple(keys.values())


def _kept() -> list[Secret]:
    # Whatever the source makes of its value: keys and their wrappings have neither a comma nor white space.
    kept = [
        Secret(part, name=one.name)
        for one in secrets().load_all(ENCRYPTION_KEY)
        for part in _BETWEEN.split(one.reveal())
        if part
    ]
    if not kept and os.environ.get("MOORLINE_SANDBOX_URL"):
        kept = [_sandbox_key()]
    if not kept:
        raise ConfigurationError(
            f"nothing can be encrypted: set {ENCRYPTION_KEY} in {secrets().where(ENCRYPTION_KEY)} to 32 random bytes "
            "in base64 (`moorline keys master new` makes them)"
        )
    return kept


def opened(kept: Secret) -> RingKey:
    """What stands in the variable as *kept*. Raises as ``encryption_ring``."""
    found = Wrapped.read(kept.reveal())
    if found is None:
        return RingKey(kept, kept, key_id(kept))
    secret = wrapped.unwrap(found)
    return RingKey(kept, secret, key_id(secret), found.by)


@cache
def _sandbox_key() -> Secret:
    return Secret(new_key(), name="the sandbox's encryption key")
