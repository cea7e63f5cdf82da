"""Work on the store in steps: written once as a generator, run blocking or on an event loop.

A generator yields Read, Write and Sleep, and is resumed with their results; each driver below performs them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from moorline.store.store import Store

__all__ = ["Read", "Sleep", "Steps", "Write", "perform", "perform_sync"]

T = TypeVar("T")


class Read:
    """``function(connection, *arguments)`` on a reading connection."""

    __slots__ = ("arguments", "function")

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def now(self, store: Store) -> Any:
        """In this thread."""
        return store.read_sync(self.function, *self.arguments)

    async def later(self, store: Store) -> Any:
        """In a thread of the store's."""
        return await store.read(self.function, *self.arguments)


@dataclass(frozen=True, slots=True)
class Write:
    """``apply(connection, [payload])`` in a transaction; resumed after the commit."""

    apply: Callable[[Any, list[Any]], Any]
    payload: Any

    def now(self, store: Store) -> Any:
        """Blocks until the commit."""
        return store.write_sync(self.apply, self.payload)

    async def later(self, store: Store) -> Any:
        """Suspends until the commit."""
        return await store.write(self.apply, self.payload)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Seconds, by the store's clock."""

    seconds: float

    def now(self, store: Store) -> None:
        """Blocks."""
        store.clock.sleep(self.seconds)

    async def later(self, store: Store) -> None:
        """Suspends."""
        await store.clock.asleep(self.seconds)


Step: TypeAlias = Read | Write | Sleep
Steps: TypeAlias = Generator[Step, Any, T]


def perform_sync(store: Store, steps: Steps[T]) -> T:
    """Run *steps* in this thread; what they return. What a step raises is raised inside of them."""
    action: Callable[[], Step] = steps.__next__
    while True:
        try:
            step = action()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            action = _answered(steps, step.now(store))
        except BaseException as error:  # noqa: BLE001 -- it is theirs, whatever it is
            action = _failed(steps, error)


async def perform(store: Store, steps: Steps[T]) -> T:
    """As ``perform_sync``, on the running event loop."""
    action: Callable[[], Step] = steps.__next__
    while True:
        try:
            step = action()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            action = _answered(steps, await step.later(store))
        except BaseException as error:  # noqa: BLE001 -- it is theirs, a cancellation included
            action = _failed(steps, error)


def _answered(steps: Steps[Any], answer: Any) -> Callable[[], Step]:
    return lambda: steps.send(answer)


def _failed(steps: Steps[Any], error: BaseException) -> Callable[[], Step]:
    return lambda: steps.throw(error)
