"""What is next in the rotation of encryption keys. Decisions only.

A new key goes through four steps, so that at no moment a process meets what it cannot read: every process *learns* it
(it stands behind the others, and only decrypts); it is put *first* and encrypts; what the older ones have encrypted is
encrypted anew (*reseal*); the older ones are *removed*. Between the steps the variable is changed and processes are
started anew, which is the operator's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Next", "Step", "next_step"]

Step = Literal["make", "first", "reseal", "remove", "done", "missing"]


@dataclass(frozen=True, slots=True)
class Next:
    """What to do: *make* a key for all to learn; put a key *first*; *reseal*; *remove* keys; nothing, as all is *done*;
    or find the keys that are *missing*, without which nothing may be changed. *ring* is the order that the variable is
    to have after it, by the keys' ids; a key that is made stands behind them, or in front.
    """

    step: Step
    ring: tuple[str, ...]
    missing: tuple[str, ...] = ()


def next_step(ids: Sequence[str], rows: Mapping[str, int], made: str | None) -> Next:
    """The next step for a ring of keys with these *ids*, the first of which encrypts. *rows* is how many each key has
    encrypted; *made* the id of the one that a rotation under way has made.
    """
    ring = tuple(ids)
    holding = {one for one, count in rows.items() if count}
    if made is not None and made not in ring and made in holding:
        return Next("missing", ring, (made,))
    if made in ring[1:]:
        return Next("first", (str(made), *(one for one in ring if one != made)))
    if holding & set(ring[1:]):
        return Next("reseal", ring)
    if len(ring) > 1:
        return Next("remove", ring[:1])
    return Next("done" if made == ring[0] else "make", ring)
