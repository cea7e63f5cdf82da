"""The key under which jobs run one after the other: its form as it is stored. Pure; the brokers keep the order.

Of the jobs of one key that have not ended, one is the *head*: ready, running, or dead and in the way. All others are
blocked; when the head ends, the oldest of them is the next head. A stored key is a mark, the name of what is run, a
tab, and the user's key:

====  ====================================================================================
``=``  a dead head stays in the way until it is retried or skipped
``~``  a dead head is out of the way at once
``-``  before a ``~``: the job is dead and out of the way; it is in no one's order any more
====  ====================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

from moorline.errors import ConfigurationError
from moorline.jobs.job import State

__all__ = ["PARKED", "YIELDS", "OnDead", "freed_by", "is_head", "lock_number", "order_key", "original", "shown"]

OnDead = Literal["block", "skip"]

YIELDS: Final = "~"
PARKED: Final = "-"
_HOLDS: Final = "="
_BETWEEN: Final = "\t"
_LONGEST: Final = 200
_LONGEST_NAME: Final = 100


def order_key(name: str, key: object, on_dead: OnDead = "block") -> str:
    """The stored form of *key* among the jobs of that *name*; bounded, whatever the key is.

    Raises ConfigurationError for a key that is neither a non-empty text nor a whole number.
    """
    if isinstance(key, bool) or not isinstance(key, (str, int)) or key == "":
        raise ConfigurationError(f"key: expected a text or a whole number, got {type(key).__name__}")
    text = str(key)
    mark = YIELDS if on_dead == "skip" else _HOLDS
    if len(name) + len(text) <= _LONGEST and name.isprintable() and text.isprintable():
        return f"{mark}{name}{_BETWEEN}{text}"
    # Too long for an index, or with characters that a database may refuse.
    digest = hashlib.sha256(f"{name}{_BETWEEN}{text}".encode("utf-8", "surrogatepass")).hexdigest()
    readable = "".join([one for one in name[:_LONGEST_NAME] if one.isprintable()])
    return f"{mark}{readable}{_BETWEEN}sha256:{digest}"


def is_head(state: State, stored: str | None) -> bool:
    """Whether a job of that state and key is the one of its key that is not blocked."""
    return state in ("ready", "running") or (state == "dead" and not str(stored).startswith(PARKED))


def freed_by(rows: Iterable[tuple[str, State, str | None]]) -> set[str]:
    """The keys whose heads ended, by the id, state and key of jobs that were heads, as they are now."""
    return {original(key) for _, state, key in rows if key is not None and not is_head(state, key)}


def original(stored: str) -> str:
    """The key that a job has, or had before it was parked."""
    return stored.removeprefix(PARKED)


def shown(stored: str) -> str:
    """For people: the name and the key."""
    return original(stored)[1:].replace(_BETWEEN, " ")


def lock_number(stored: str) -> int:
    """A signed number of 64 bits for a stored key: what PostgreSQL's advisory locks are named by."""
    return int.from_bytes(hashlib.blake2b(stored.encode(), digest_size=8).digest(), "big", signed=True)
