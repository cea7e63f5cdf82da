"""One refresh of a credential after a 401, however many calls got one."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, Protocol

from moorline import telemetry
from moorline.clock import Clock
from moorline.secrets.secret import Secret

__all__ = ["FetchedKey", "Renewal"]

_AGAIN_AFTER: Final = 30.0
_log: Final = telemetry.logger("calls")


class FetchedKey(Protocol):
    """A key that is fetched with the configured credential: an access token, temporary keys. One for each service."""

    def current(self) -> Secret:
        """The key that was fetched last. Raises ConfigurationError where none was."""
        ...

    def ready(self) -> None:
        """See to it that there is one that is good for this call. Raises CallError, ConfigurationError."""
        ...

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        ...

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:
        """Whether there is now another one than *refused*; fetches it if need be, at most *timeout* seconds long."""
        ...

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, on an event loop."""
        ...

    def close(self) -> None:
        """Close the connections of blocking calls."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Renewal:
    """Asks a credential's source for a newer one: a *source* with a method ``refresh`` (plain or async) is told to get
    one, any other is read again.

    Callers of one service come one after another; who finds that the key is another than the one that was refused
    asks for nothing. A source is told to refresh at most once in 30 s, so that a key that is really revoked does not
    become a storm at the place where keys are kept. *others* is told which key was refused, and says whether there is
    another accepted version of it; then nothing else is asked.
    """

    __slots__ = ("_asked", "_blocking", "_clock", "_key", "_name", "_others", "_waiting", "source")

    def __init__(
        self,
        name: str,
        source: Any,
        key: Callable[[], Secret],
        clock: Clock,
        others: Callable[[Secret], bool] | None = None,
    ) -> None:
        self.source = source
        self._others = others
        self._name = name
        self._key = key
        self._clock = clock
        self._asked = -_AGAIN_AFTER
        self._blocking = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:
        """Whether the key is now another than *refused*; after *timeout* seconds it is not. Raises what the source
        raises.
        """
        if self._others is not None and self._others(refused):
            return True
        until = None if timeout is None else time.monotonic() + timeout
        if not self._blocking.acquire(timeout=-1 if timeout is None else timeout):
            return False
        refresh = None
        try:
            refresh = self._refresh(refused)
        finally:
            if refresh is None:
                self._blocking.release()
        if refresh is not None and not self._within(refresh, until):
            return False
        return self._key() != refused

    def _within(self, refresh: Callable[[], Any], until: float | None) -> bool:
        """Whether *refresh* was over by then; whenever it is, others may come. Raises what it raises.

        Nobody can interrupt it, so that it has a thread of its own where there is a deadline: one that takes longer
        goes on, for the calls that come after.
        """
        failures: list[BaseException] = []
        late = threading.Event()

        def work() -> None:
            try:
                self._asked_of(refresh())
            except BaseException as error:  # noqa: BLE001 (who waits for it raises it)
                failures.append(error)
                if late.is_set():
                    _log.warning("key_not_refreshed", service=self._name, reason=type(error).__name__)
            finally:
                self._blocking.release()

        if until is None:
            work()
        else:
            thread = threading.Thread(target=copy_context().run, args=(work,), name="moorline-refresh", daemon=True)
            try:
                thread.start()
            except BaseException:
                self._blocking.release()
                raise
            thread.join(max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                late.set()
                _log.warning("key_not_refreshed", service=self._name, reason="its source took longer than the call may")
                return False
        if failures:
            raise failures[0]
        return True

    def _asked_of(self, made: Any) -> None:
        """A blocking refresh is over, and gave *made*."""
        if inspect.isawaitable(made):
            _closed(made)
            _log.warning("key_not_refreshed", service=self._name, reason="its source refreshes only with await")
        else:
            self._asked = self._clock.monotonic()

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, for sources whose ``refresh`` may be asynchronous."""
        if self._others is not None and self._others(refused):
            return True
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            self._waiting = loop, asyncio.Lock()
        async with self._waiting[1]:
            refresh = self._refresh(refused, "arefresh") or self._refresh(refused)
            if refresh is not None:
                made = refresh()
                if inspect.isawaitable(made):
                    await made
                self._asked = self._clock.monotonic()
            return self._key() != refused

    def _refresh(self, refused: Secret, name: str = "refresh") -> Callable[[], Any] | None:
        """The source's ``refresh``, if it has one and it is time to call it; on a loop ``arefresh`` goes before it."""
        refresh = getattr(self.source, name, None)
        if not callable(refresh) or self._key() != refused or self._clock.monotonic() < self._asked + _AGAIN_AFTER:
            return None
        return refresh  # type: ignore[no-any-return]


def _closed(made: Any) -> None:
    """An awaitable that nobody awaits must not warn of it later."""
    if inspect.iscoroutine(made):
        made.close()
