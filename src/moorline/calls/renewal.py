"""One refresh of a credential after a 401, however many calls got one."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any, Final

from moorline import telemetry
from moorline.clock import Clock
from moorline.secrets.secret import Secret

__all__ = ["Renewal"]

_AGAIN_AFTER: Final = 30.0
_log: Final = telemetry.logger("calls")


class Renewal:
    """Asks a credential's source for a newer one: a *source* with a method ``refresh`` (plain or async) is told to get
    one, any other is read again.

    Callers of one service come one after another; who finds that the key is another than the one that was refused
    asks for nothing. A source is told to refresh at most once in 30 s, so that a key that is really revoked does not
    become a storm at the place where keys are kept.
    """

    __slots__ = ("_asked", "_blocking", "_clock", "_key", "_name", "_waiting", "source")

    def __init__(self, name: str, source: Any, key: Callable[[], Secret], clock: Clock) -> None:
        self.source = source
        self._name = name
        self._key = key
        self._clock = clock
        self._asked = -_AGAIN_AFTER
        self._blocking = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def newer(self, refused: Secret) -> bool:
        """Whether the key is now another than *refused*. Raises what the source raises."""
        with self._blocking:
            refresh = self._refresh(refused)
            if refresh is None:
                return self._key() != refused
            made = refresh()
            if inspect.isawaitable(made):
                _closed(made)
                _log.warning("key_not_refreshed", service=self._name, reason="its source refreshes only with await")
                return False
            self._asked = self._clock.monotonic()
            return self._key() != refused

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, for sources whose ``refresh`` may be asynchronous."""
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            self._waiting = loop, asyncio.Lock()
        async with self._waiting[1]:
            refresh = self._refresh(refused)
            if refresh is not None:
                made = refresh()
                if inspect.isawaitable(made):
                    await made
                self._asked = self._clock.monotonic()
            return self._key() != refused

    def _refresh(self, refused: Secret) -> Callable[[], Any] | None:
        """The source's ``refresh``, if it has one and it is time to call it."""
        refresh = getattr(self.source, "refresh", None)
        if not callable(refresh) or self._key() != refused or self._clock.monotonic() < self._asked + _AGAIN_AFTER:
            return None
        return refresh  # type: ignore[no-any-return]


def _closed(made: Any) -> None:
    """An awaitable that nobody awaits must not warn of it later."""
    if inspect.iscoroutine(made):
        made.close()
