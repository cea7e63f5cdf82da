"""``Backlog``: what waits to be sent together, and when it is due. ``Trip``: what is under way. Decisions only: no
thread, no I/O, no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["Backlog", "Trip", "Waiting"]

T = TypeVar("T")

_SPLITS: Final = 16  # requests beyond the first that are spent on finding what is wrong with a batch


class Waiting(NamedTuple, Generic[T]):
    """An item, its size in bytes, and the moment since which it waits."""

    item: T
    size: int
    since: float


class Backlog(Generic[T]):
    """Items in the order of their coming. A batch is *most* of them, or as many as have *most_bytes* together; one is
    due when it is full, or when its first item has waited for *age* seconds. Some may be set apart until a moment of
    their own. At most *capacity* wait in all.
    """

    def __init__(self, *, most: int, most_bytes: int, age: float, capacity: int) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.age = age
        self.capacity = capacity
        self._items: deque[Waiting[T]] = deque()
        self._apart: list[tuple[float, Waiting[T]]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items) + len(self._apart)

    @property
    def full(self) -> bool:
        """Whether another item would be one too many."""
        return len(self) >= self.capacity

    @property
    def ready(self) -> int:
        """How many may be taken: all but those that are set apart."""
        return len(self._items)

    def add(self, item: T, size: int, now: float) -> None:
        """Let it wait from *now* on."""
        self._items.append(Waiting(item, size, now))
        self._bytes += size

    def due_at(self) -> float:
        """The moment from which on a batch is to be sent: past for a full one, infinite where nothing waits."""
        if len(self._items) >= self.most or self._bytes >= self.most_bytes:
            return -math.inf
        due = [self._items[0].since + self.age] if self._items else []
        return min((*due, *(until for until, _ in self._apart)), default=math.inf)

    def take(self) -> list[Waiting[T]]:
        """The next batch, of one item at least where any waits."""
        taken: list[Waiting[T]] = []
        total = 0
        while self._items and len(taken) < self.most:
            size = self._items[0].size
            if taken and total + size > self.most_bytes:
                break
            taken.append(self._items.popleft())
            total += size
        self._bytes -= total
        return taken

    def put_back(self, batch: Sequence[Waiting[T]]) -> None:
        """Those were not sent after all: they come first again, and count as before."""
        self._items.extendleft(reversed(batch))
        self._bytes += sum(one.size for one in batch)

    def set_apart(self, batch: Sequence[Waiting[T]], until: float) -> None:
        """Those were not sent after all, and do not come again before *until*; the others need not wait for them."""
        self._apart += [(until, one) for one in batch]

    def rejoin(self, now: float) -> None:
        """Whose moment has come is no more apart: those come first again."""
        self.put_back([one for until, one in self._apart if until <= now])
        self._apart = [(until, one) for until, one in self._apart if until > now]

    def clear(self) -> list[Waiting[T]]:
        """Take all out."""
        self.rejoin(math.inf)
        gone = list(self._items)
        self._items.clear()
        self._bytes = 0
        return gone


@dataclass(slots=True, eq=False)
class Trip(Generic[T]):
    """A batch under way: the *parts* of it that have no answer yet, the first of which *call* sends, and how many
    *splits* are left. Who takes parts out settles them: the thread when the answer is there, or who cannot wait for it.
    """

    parts: list[Sequence[Waiting[T]]]
    call: Call[Any] | None = None
    splits: int = _SPLITS
