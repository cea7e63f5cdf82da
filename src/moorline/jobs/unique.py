"""The key of which there is one job at a time: its form as it is stored. Pure; the brokers keep it.

::

    <name>:<key>              the user's own key, among the jobs of that name
    <name>#<digest>           the same arguments
    :<name>:sha256:<digest>   a key that is too long for an index or no text for all databases, and any key of a job
                              whose name has a colon: else "a:b" with "c" would be "a" with "b:c"
"""

from __future__ import annotations

import hashlib
from typing import Final

from moorline.texts import is_utf8

__all__ = ["unique_key"]

_LONGEST: Final = 500  # characters; PostgreSQL's index has room for 2,700 bytes
_LONGEST_NAME: Final = 100
_BETWEEN: Final = ":"


def unique_key(name: str, payload: bytes, unique: str | bool) -> str | None:  # noqa: FBT001 -- the option's type
    """The stored form among the jobs of that *name*; bounded, whatever the key is. None if there is none."""
    if unique is False:
        return None
    if unique is True:
        return f"{name}#{hashlib.sha256(payload).hexdigest()[:32]}"
    key = f"{name}{_BETWEEN}{unique}"
    if _BETWEEN not in name and len(key) <= _LONGEST and "\x00" not in key and is_utf8(key):
        return key
    digest = hashlib.sha256(f"{len(name)}{_BETWEEN}{key}".encode("utf-8", "surrogatepass")).hexdigest()
    readable = "".join([one for one in name[:_LONGEST_NAME] if one.isprintable()])
    return f"{_BETWEEN}{readable}{_BETWEEN}sha256{_BETWEEN}{digest}"
