"""Awaiting what is usually there already, without the price of a wait.

A timeout costs several microseconds, and nearly every body has come before it is asked for. So the first step is made
by hand: what it gives at once needs no timeout, what has to wait is awaited from where it stands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Waiting", "first_step"]

T = TypeVar("T")


class Waiting(Generic[T]):
    """A coroutine that was started, and waits: to be awaited once, in the same step of the same task."""

    __slots__ = ("_coroutine", "_wanted")

    def __init__(self, coroutine: Any, wanted: Any) -> None:
        self._coroutine = coroutine
        self._wanted = wanted

    def __await__(self) -> Generator[Any, Any, T]:
        wanted = self._wanted
        while True:
            try:
                step, given = self._coroutine.send, (yield wanted)
            except BaseException as error:  # noqa: BLE001 -- cancellation included: it is the coroutine's to handle
                step, given = self._coroutine.throw, error
            try:
                wanted = step(given)
            except StopIteration as ended:
                found: T = ended.value
                return found


def first_step(awaitable: Awaitable[T]) -> tuple[T, None] | tuple[None, Awaitable[T]]:
    """What it gives at once; or, in the second place, what is left to await. Raises what its first step raises."""
    send = getattr(awaitable, "send", None)
    if send is None:  # no coroutine, but something else that can be awaited
        return None, awaitable
    try:
        wanted = send(None)
    except StopIteration as ended:
        return ended.value, None
    return None, Waiting(awaitable, wanted)
