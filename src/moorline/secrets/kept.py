"""``Kept``: what was fetched of one unit of a source, kept fresh while the source is up, and good while it is down.

A call gets what is known, and waits for nothing: a thread for each kind of source (``Keeper``) looks for changes and
fetches anew before the time to live is over. Only who asks when nothing is known waits, and all others with it. While a
source is down the last good value is used for ``Terms.keep`` seconds; after that, asking is an error which names it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from moorline.clock import Clock
from moorline.errors import MoorlineError, SecretUnavailable
from moorline.secrets.sources.base import Content, Source
from moorline.secrets.versions import NOTHING, Found
from moorline.telemetry import logger

__all__ = ["Keeper", "Kept", "Shelf", "Terms"]

_FAILED_FOR: Final = 5.0  # seconds for which a failure is that of all who ask
_SLOWEST: Final = 60.0  # seconds between two attempts at a source that is down
_WARN_EVERY: Final = 60.0
_MISSING_TTL: Final = 30.0  # what is not there may be put there
_LONGEST_WAIT: Final = 60.0
_TENDED: Final = 15.0
_EARLY: Final = 0.75
_EMPTY: Final[tuple[Content, ...]] = ()

log = logger("secrets")


class _Asking(threading.local):
    """The kinds of sources that this thread is asking: one is not asked for what it needs itself."""

    def __init__(self) -> None:
        self.schemes: frozenset[str] = frozenset()


_asking = _Asking()


@contextmanager
def _asks(schemes: frozenset[str]) -> Iterator[None]:
    before, _asking.schemes = _asking.schemes, schemes
    try:
        yield
    finally:
        _asking.schemes = before


@dataclass(frozen=True, slots=True)
class Terms:
    """*keep*: seconds that a last good value is used while its source is down. *ttl* overrides that of all sources."""

    keep: float = 86_400.0
    ttl: float | None = None


class Kept:
    """What was fetched of a unit. Safe between threads."""

    def __init__(self, source: Source, unit: str, clock: Clock, terms: Terms) -> None:
        self.source = source
        self.unit = unit
        self._clock = clock
        self._terms = terms
        self._lock = threading.Lock()
        self._contents: Sequence[Content] | None = None
        self._stamp: object = None
        self._failure: MoorlineError | None = None
        self._failed_at = self._good_at = self._warned_at = -1e18
        self._failures = 0
        self._gone = False
        self._looks_at = self._due_at = 0.0
        self._fetches = 0
        self.woken: Callable[[], object] = lambda: None
        """Told when there is something new to tend."""

    def __repr__(self) -> str:
        return f"<Kept {self.source.where(self.unit)}>"

    def now(self) -> Sequence[Content]:
        """What is known; the same object as long as it does not change. Raises as ``Source.fetch``."""
        contents = self._contents
        return self._first() if contents is None else contents

    def tend(self, now: float) -> float:
        """Look and fetch what is due; when to come again. For one thread at a time."""
        if self._contents is None:
            if not self._failures:
                return now + _SLOWEST  # nobody has asked yet
            if now >= self._due_at:
                self.refresh()
            return self._due_at
        look = self.source.look
        if look is not None and now >= self._looks_at:
            self._looks_at = now + look
            if self._stamped() != self._stamp:
                self._due_at = now
        if now >= self._due_at:
            self.refresh()
        return min(self._due_at, self._looks_at) if look is not None else self._due_at

    def refresh(self) -> None:
        """Fetch it, unless somebody else does so just now: then wait for that. Failures are kept, and not raised."""
        before = self._fetches
        if not self._lock.acquire(timeout=_LONGEST_WAIT):
            return
        try:
            if self._fetches == before:
                self._elsewhere()
        finally:
            self._lock.release()

    def _first(self) -> Sequence[Content]:
        if self.source.scheme in _asking.schemes:
            return _EMPTY
        if not self._lock.acquire(timeout=_LONGEST_WAIT):
            raise SecretUnavailable(f"{self.source.where(self.unit)}: who asks for it waits for too long")
        try:
            if self._contents is None and self._clock.monotonic() >= self._failed_at + _FAILED_FOR:
                self._elsewhere()
            if self._contents is None:
                assert self._failure is not None
                raise type(self._failure)(*self._failure.args)
            return self._contents
        finally:
            self._lock.release()

    def _elsewhere(self) -> None:
        """Fetch it; in a thread of its own where this one runs an event loop, in which nothing may block by itself."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # The deadline of one who asks is not that of all who wait for it.
            Context().run(self._fetch)
            return
        schemes = _asking.schemes
        thread = threading.Thread(target=lambda: self._fetch(schemes), name="moorline-secrets-first", daemon=True)
        thread.start()
        thread.join()

    def _fetch(self, schemes: frozenset[str] | None = None) -> None:
        self._fetches += 1
        self._ask(schemes)
        self.woken()

    def _ask(self, schemes: frozenset[str] | None) -> None:
        now = self._clock.monotonic()
        asked = (_asking.schemes if schemes is None else schemes) | {self.source.scheme}
        try:
            with _asks(asked):
                stamp = self.source.stamp(self.unit)
                contents = self.source.fetch(self.unit)
        except MoorlineError as error:
            self._failed(error, now)
        except Exception as error:  # noqa: BLE001 (of whatever library a source uses: its text may hold what was read)
            where = self.source.where(self.unit)
            self._failed(SecretUnavailable(f"{where}: it cannot be read ({type(error).__name__})"), now)
        else:
            self._took(contents, stamp, now)

    def _took(self, contents: Sequence[Content], stamp: object, now: float) -> None:
        where = self.source.where(self.unit)
        if self._failures and self._contents is not None:
            log.info("secret_source_back", source=where)
        self._failures, self._failure, self._good_at, self._stamp = 0, None, now, stamp
        if not contents and self._contents:
            if not self._gone:
                # It is replaced by taking it away and putting it there again, or it is gone: one more look tells.
                self._gone, self._due_at = True, now + _FAILED_FOR
                log.warning("secret_gone", source=where)
                return
            log.error("secret_removed", source=where)
        self._gone = False
        if self._contents is None or list(contents) != list(self._contents):
            self._contents = tuple(contents)
        ttl = self.source.ttl if self._terms.ttl is None else self._terms.ttl
        if not contents:
            ttl = min(ttl, _MISSING_TTL)
        # Not all processes at the same moment.
        self._due_at = now + ttl * random.uniform(_EARLY * 0.9, _EARLY)
        if self.source.look is not None:
            self._looks_at = now + self.source.look

    def _failed(self, error: MoorlineError, now: float) -> None:
        where = self.source.where(self.unit)
        self._failure, self._failed_at = error, now
        self._failures += 1
        self._due_at = now + min(_FAILED_FOR * 2 ** min(self._failures - 1, 10), _SLOWEST)
        if self._contents is None:
            return
        left = self._good_at + self._terms.keep - now
        if left <= 0:
            self._contents = None
            why = f"it could not be read for {now - self._good_at:.0f} s, so that its last value is not used any more"
            self._failure = SecretUnavailable(f"{where}: {why}: {error}")
            log.error("secret_source_down_too_long", source=where, reason=str(error))
        elif now >= self._warned_at + _WARN_EVERY:
            self._warned_at = now
            log.warning("secret_source_down", source=where, reason=str(error), kept_for=round(left))

    def _stamped(self) -> object:
        try:
            with _asks(_asking.schemes | {self.source.scheme}):
                return self.source.stamp(self.unit)
        except Exception:  # noqa: BLE001 (fetching says what is wrong)
            return object()


class Shelf:
    """One name of what is kept: a ``Place``."""

    __slots__ = ("_called", "_kept", "_known", "_name")

    def __init__(self, kept: Kept, name: str, called: str) -> None:
        self._kept = kept
        self._name = name
        self._called = called
        self._known: tuple[Sequence[Content] | None, Found] = None, NOTHING

    @property
    def where(self) -> str:
        """The place, for people."""
        return self._kept.source.where(self._name)

    def now(self) -> Found:
        """What is known. Raises as ``Kept.now``."""
        contents = self._kept.now()
        known = self._known
        if known[0] is not contents:
            known = self._known = contents, self._kept.source.picked(contents, self._name, self._called)
        return known[1]

    def refresh(self) -> None:
        """Fetch it anew."""
        self._kept.refresh()


class Keeper:
    """The thread that tends what is kept of one kind of source: a slow one delays no other. It begins with the first,
    and begins again in a process that was forked.
    """

    def __init__(self, scheme: str, clock: Clock) -> None:
        self._scheme = scheme
        self._clock = clock
        self._kept: list[Kept] = []
        self._lock = threading.Lock()
        self._more = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def add(self, kept: Kept) -> None:
        """Tend this one too."""
        kept.woken = self._wake
        self._kept.append(kept)
        self._wake()

    def start(self) -> None:
        """Begin, if it has not."""
        with self._lock:
            if self._over or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name=f"moorline-secrets-{self._scheme}", daemon=True)
            self._thread.start()

    def run_once(self) -> float:
        """Tend all; how many seconds until something is due."""
        now = self._clock.monotonic()
        due = now + _TENDED
        for source in {kept.source for kept in self._kept}:
            source.tend()
        for kept in list(self._kept):
            due = min(due, kept.tend(self._clock.monotonic()))
        return max(due - self._clock.monotonic(), 0.05)

    def forked(self) -> None:
        """Threads do not come along, and what they held is held for ever."""
        self._lock, self._more = threading.Lock(), threading.Event()
        for kept in self._kept:
            kept._lock = threading.Lock()  # noqa: SLF001 (of this module)
        if self._thread is not None:
            self._thread = None
            self.start()

    def _wake(self) -> None:
        self._more.set()

    def close(self) -> None:
        """End the thread, if it waits; one that fetches ends when that is over."""
        self._over = True
        self._more.set()

    def _run(self) -> None:
        while not self._over:
            self._more.clear()
            try:
                wait = self.run_once()
            except Exception as error:  # noqa: BLE001 (nobody else would tend them)
                log.error("secrets_not_tended", source=self._scheme, reason=type(error).__name__)
                wait = _FAILED_FOR
            self._more.wait(wait)
