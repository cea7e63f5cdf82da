"""The items of a sync: read from its source in batches, and applied. See ``moorline.jobs.sync``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from moorline.errors import CallerFault, ConfigurationError, IdempotencyConflict, NotFound

__all__ = ["Batch", "Gone", "Items", "SyncOptions", "awaited"]

T = TypeVar("T")

# Of one item, or of the function that translates it.
_OWN_FAULT: Final = (CallerFault, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Gone:
    """Among the items of a source: the one of that *key* is there no more. *place* as of other items."""

    key: Any
    place: str | None = None


@dataclass(frozen=True, slots=True)
class SyncOptions(Generic[T]):
    """What ``Moorline.sync`` is given beside the source; see there."""

    into: Callable[[T], Any]
    place: Callable[[T], str] | None = None
    key: Callable[[T], Any] | None = None
    remove: Callable[[Any], Any] | None = None
    batch: int = 100
    width: int = 10
    patience: int = 100
    many: bool = False
    total: Callable[[], Any] | None = None
    retries: int = 5
    queue: str = "default"

    def __post_init__(self) -> None:
        for name in ("batch", "width", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"sync: {name} must be a whole number from 1 on, not {value!r}")
        for name in ("into", "place", "key", "remove", "total"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "into"):
                raise ConfigurationError(f"sync: {name} must be a function, not {type(value).__name__}")


@dataclass(slots=True)
class Batch(Generic[T]):
    """What is applied together, the place after it, how many were tried, and which failed by their own fault."""

    items: list[T | Gone] = field(default_factory=list)
    place: str | None = None
    tried: int = 0
    failed: list[tuple[T | Gone, Exception]] = field(default_factory=list)


class Items(Generic[T]):
    """Reads the *source* of the sync *name*, and applies what it gives as the *options* say."""

    def __init__(self, name: str, source: Any, options: SyncOptions[T]) -> None:
        self._name = name
        self._source = source
        self._options = options

    async def batches(self, since: str | None) -> AsyncIterator[Batch[T]]:
        """What the source gives from the place *since* on, in batches of their full number but for the last."""
        batch: Batch[T] = Batch()
        async for item in self._items(since):
            batch.items.append(item)
            batch.place = self._place(item) or batch.place
            if len(batch.items) >= self._options.batch:
                yield batch
                batch = Batch()
        if batch.items:
            yield batch

    async def _items(self, since: str | None) -> AsyncIterator[T | Gone]:
        found: Any = self._source
        if callable(found):
            # A plain function may ask a database before it gives its first item.
            asks_here = inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found)
            found = found(since) if asks_here else await asyncio.to_thread(found, since)
            if inspect.isawaitable(found):
                found = await found
        if hasattr(found, "__aiter__"):
            async for item in found:
                yield item
            return
        items = iter(found)
        while chunk := await asyncio.to_thread(_some, items, self._options.batch):
            for item in chunk:
                yield item

    def _place(self, item: T | Gone) -> str | None:
        if isinstance(item, Gone):
            return item.place
        place = None if self._options.place is None else self._options.place(item)
        if place is not None and not isinstance(place, str):
            raise ConfigurationError(f"sync {self._name}: place gave {type(place).__name__}, and must give a text")
        return place

    async def apply(self, batch: Batch[T]) -> None:
        """Of items with the same key the last one is applied; without keys one follows the other, to keep the order."""
        chosen = self._newest(batch.items)
        batch.tried = len(chosen)
        if self._options.many:
            for gone, same in [(gone, list(same)) for gone, same in itertools.groupby(chosen, _is_gone)]:
                await (self._apply_each(iter(same), batch) if gone else self._apply_together(same, batch))
            return
        await self._apply_each(iter(chosen), batch)

    async def _apply_each(self, waiting: Iterator[T | Gone], batch: Batch[T]) -> None:
        async def work() -> None:
            for item in waiting:
                await self._apply_one(item, batch)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(1 if self._options.key is None else self._options.width):
                    tasks.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # what stops one of them stops them all

    async def _apply_together(self, items: list[T | Gone], batch: Batch[T]) -> None:
        """All with one call; where that fails by their own fault, each by itself."""
        try:
            found = await awaited(self._options.into, items)
        except _OWN_FAULT as error:
            if _everybodys(error):
                raise
            await self._apply_each(iter(items), batch)
            return
        if isinstance(found, list) and len(found) == len(items):
            for item, result in zip(items, found, strict=True):
                if isinstance(result, Exception):
                    if not isinstance(result, _OWN_FAULT) or _everybodys(result):
                        raise result
                    batch.failed.append((item, result))

    def _newest(self, items: list[T | Gone]) -> list[T | Gone]:
        if self._options.key is None:
            return items
        newest: dict[Any, T | Gone] = {}
        for item in items:
            key = item.key if isinstance(item, Gone) else self._options.key(item)
            newest.pop(key, None)
            newest[key] = item
        return list(newest.values())

    async def _apply_one(self, item: T | Gone, batch: Batch[T]) -> None:
        try:
            await self.applied(item)
        except _OWN_FAULT as error:
            if _everybodys(error):
                raise
            batch.failed.append((item, error))

    async def applied(self, item: T | Gone) -> None:
        """Apply one. Raises what that raises."""
        if not isinstance(item, Gone):
            found = await awaited(self._options.into, [item] if self._options.many else item)
            if self._options.many and isinstance(found, list) and len(found) == 1 and isinstance(found[0], Exception):
                raise found[0]
            return
        if self._options.remove is None:
            raise ConfigurationError(f"sync {self._name}: the source says that something is gone; give remove=")
        with contextlib.suppress(NotFound):  # it is gone there as well
            await awaited(self._options.remove, item.key)


async def awaited(function: Callable[..., Any], *args: Any) -> Any:
    """What it gives in the end: it may be async, make a Call, or just do its work, for which it has a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    found = await asyncio.to_thread(function, *args)
    return await found if inspect.isawaitable(found) else found


def _some(items: Iterator[Any], number: int) -> list[Any]:
    found: list[Any] = []
    for item in items:
        found.append(item)
        if len(found) >= number:
            break
    return found


def _is_gone(item: object) -> bool:
    return isinstance(item, Gone)


def _everybodys(error: Exception) -> bool:
    """Whether it would be the same for any other item."""
    return isinstance(error, ConfigurationError | IdempotencyConflict)
