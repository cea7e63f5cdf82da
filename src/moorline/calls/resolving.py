"""Names to addresses, within a deadline.

The system's resolver blocks for as long as it likes. A few threads, shared by all, ask it; who waits for the answer
waits no longer than the call may. Answers are kept for some seconds, so that most connections need no thread at all.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from moorline.calls.addresses import Resolve

__all__ = ["RESOLVER", "Resolver", "system"]

_KEPT: Final = 10.0  # seconds
_MOST_KEPT: Final = 1024
_MOST_THREADS: Final = 4
_LINGER: Final = 5.0  # seconds that an idle thread waits for more


def system(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says; raises OSError."""
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [str(address[0]) for _family, _kind, _protocol, _name, address in found]


class _Lookup:
    """One question under way, and all who wait for it."""

    def __init__(self, ask: Resolve, host: str, port: int) -> None:
        self._ask = ask
        self._host = host
        self._port = port
        self.done = threading.Event()
        self.found: Sequence[str] = ()
        self.error: OSError | None = None
        self.until = 0.0  # how long the answer is kept
        self._waiting: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        """Ask. Whatever a resolver raises, nobody must wait for ever."""
        try:
            self.found = tuple(self._ask(self._host, self._port))
        except OSError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 (an injected resolver, or a name that no codec takes)
            self.error = OSError(f"the name cannot be resolved ({type(error).__name__})")
        self.until = time.monotonic() + _KEPT
        with self._lock:
            self.done.set()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def when_done(self, wake: Callable[[], None]) -> None:
        """Have *wake* called from any thread, once."""
        with self._lock:
            if not self.done.is_set():
                self._waiting.append(wake)
                return
        wake()

    def result(self) -> Sequence[str]:
        """The addresses. Raises OSError: one of its own for each caller, as tracebacks grow."""
        if self.error is not None:
            raise OSError(*self.error.args)
        if not self.found:
            raise OSError("the name has no address")
        return self.found


class _Crew:
    """The threads, what they are asked, and what they found. Its threads know no other crew."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._more = threading.Condition(threading.Lock())
        self._known: dict[tuple[Resolve, str, int], _Lookup] = {}
        self._queue: deque[_Lookup] = deque()
        self.threads = self._idle = 0

    def lookup(self, host: str, port: int, ask: Resolve) -> _Lookup:
        """The question about that name, new or under way or answered."""
        key = (ask, host, port)
        with self._more:
            lookup = self._known.get(key)
            if lookup is not None and not _stale(lookup):
                return lookup
            if len(self._known) >= _MOST_KEPT:
                self._known = {name: each for name, each in self._known.items() if not _stale(each)}
                while len(self._known) >= _MOST_KEPT:
                    self._known.pop(next(iter(self._known)))
            lookup = self._known[key] = _Lookup(ask, host, port)
            self._queue.append(lookup)
            if self._idle >= len(self._queue):
                self._more.notify()
            elif self.threads < self._most:
                self.threads += 1
                threading.Thread(target=self._work, name="moorline-resolver", daemon=True).start()
        return lookup

    def _work(self) -> None:
        while True:
            with self._more:
                self._idle += 1
                self._more.wait_for(lambda: self._queue, _LINGER)
                self._idle -= 1
                if not self._queue:
                    self.threads -= 1
                    return
                lookup = self._queue.popleft()
            lookup.run()


class Resolver:
    """Asks on up to *threads* daemon threads, which end when idle. Equal questions under way are asked once."""

    def __init__(self, threads: int = _MOST_THREADS) -> None:
        self._most = threads
        self._crew = _Crew(threads)

    def forget(self) -> None:
        """Begin anew: nothing is known, no thread runs. In a forked child that is so.

        Threads that do run finish what they were asked, for who asked it.
        """
        self._crew = _Crew(self._most)

    def resolve(self, host: str, port: int, timeout: float | None, ask: Resolve = system) -> Sequence[str]:
        """The addresses of *host*, the same ones for some seconds. Raises OSError, TimeoutError after *timeout*
        seconds.
        """
        if _is_address(host):
            return (host,)
        lookup = self._crew.lookup(host, port, ask)
        if not lookup.done.is_set() and not lookup.done.wait(timeout):
            raise TimeoutError
        return lookup.result()

    async def resolve_async(self, host: str, port: int, ask: Resolve = system) -> Sequence[str]:
        """As ``resolve``, on the event loop; cancelling it leaves the question to the others."""
        if _is_address(host):
            return (host,)
        lookup = self._crew.lookup(host, port, ask)
        if not lookup.done.is_set():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def arrive() -> None:
                if not future.done():
                    future.set_result(None)

            def wake() -> None:
                try:
                    loop.call_soon_threadsafe(arrive)
                except RuntimeError:  # the loop is closed: nobody waits
                    return

            lookup.when_done(wake)
            await future
        return lookup.result()


def _stale(lookup: _Lookup) -> bool:
    """Whether it must be asked again: failures are not kept."""
    return lookup.done.is_set() and (lookup.error is not None or time.monotonic() >= lookup.until)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


RESOLVER: Final = Resolver()
os.register_at_fork(after_in_child=RESOLVER.forget)
