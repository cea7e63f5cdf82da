"""Wakes those who wait for new rows, in this process and in others. A hint, never a promise: who listens also polls.

A NOTIFY inside each transaction makes PostgreSQL's commits queue behind one lock (measured: three times slower), so it
is sent outside them, at most once in ``DEBOUNCE`` seconds for a channel.
"""

from __future__ import annotations

import contextlib
import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.engine import URL

from moorline.store.engines import STATEMENT_TIMEOUT

__all__ = ["PostgresSignals", "Signals", "SqliteSignals"]

Callback = Callable[[], None]
DEBOUNCE: Final = 0.05
POLL: Final = 0.03  # seconds between two looks at SQLite's change counter: some 5 microseconds each
_RECONNECT: Final = 1.0
_ASK: Final = 60.0  # seconds without a word, after which the server is asked whether it is there


class Signals:
    """Callbacks by channel, called on any thread; they must be quick. The base of the two kinds."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def notify(self, channel: str, *, delay: float = 0.0) -> None:
        """Tell this process at once, and the others soon; ``delay`` for what is committed in a moment."""
        if delay:
            timer = threading.Timer(delay, self.notify, (channel,))
            timer.daemon = True
            timer.start()
            return
        self.here(channel)
        self.elsewhere(channel)

    def here(self, channel: str) -> int:
        """Tell this process alone; how many listen in it."""
        callbacks = self._callbacks.get(channel, ())
        for callback in callbacks:
            callback()
        return len(callbacks)

    def elsewhere(self, channel: str) -> None:
        """Tell the other processes alone. They may notice by themselves."""

    def listen(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call *callback* at each notification; returns the function that ends it."""
        with self._lock:
            self._callbacks[channel] = [*self._callbacks.get(channel, ()), callback]
        self._ensure_thread()

        def stop() -> None:
            with self._lock:
                self._callbacks[channel] = [one for one in self._callbacks.get(channel, ()) if one is not callback]

        return stop

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        with self._lock:  # who makes the thread just now has started it after that
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5.0)

    def _call_all(self) -> None:
        for channel in list(self._callbacks):
            self.here(channel)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="moorline-signals", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        raise NotImplementedError


class SqliteSignals(Signals):
    """Other processes are noticed through SQLite's change counter, which tells that, not where."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            seen = None
            while not self._closed.wait(POLL):
                try:
                    (version,) = connection.execute("PRAGMA data_version").fetchone()
                except sqlite3.OperationalError:
                    continue  # busy with a recovery; the next look is soon
                if version != seen:
                    seen = version
                    self._call_all()
        finally:
            connection.close()


class PostgresSignals(Signals):
    """One connection that listens and notifies, apart from the transactions."""

    def __init__(self, url: URL, silence: float = STATEMENT_TIMEOUT, *, ask: float = _ASK) -> None:
        """*silence*: seconds that the server may take to answer; it is asked when nothing came for *ask* seconds."""
        super().__init__()
        self._url = url
        self._silence = silence
        self._ask = ask
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._dirty: set[str] = set()

    def elsewhere(self, channel: str) -> None:
        """Tell the other processes alone, soon."""
        if channel in self._dirty:
            return
        self._dirty.add(channel)
        self._ensure_thread()
        self._wake()

    def listen(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call *callback* at each notification; returns the function that ends it."""
        stop = super().listen(channel, callback)
        self._wake()
        return stop

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wake()
        super().close()
        if self._wake_read >= 0:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_read = self._wake_write = -1

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: nobody to wake
            os.write(self._wake_write, b"1")

    def _run(self) -> None:
        import psycopg  # only PostgreSQL users have it

        from moorline.store.bounded import BoundedConnection

        while not self._closed.is_set():
            try:
                with BoundedConnection.to(_conninfo(self._url), self._silence) as connection:
                    self._serve(connection)
            except psycopg.Error:
                self._closed.wait(_RECONNECT)

    def _serve(self, connection: Any) -> None:
        listening: set[str] = set()
        next_send = 0.0
        first = True
        while not self._closed.is_set():
            for channel in [name for name in list(self._callbacks) if name not in listening]:
                connection.execute(f'LISTEN "{_plain(channel)}"')
                listening.add(channel)
            if first:
                self._call_all()  # what was notified while nobody listened
                first = False
            now = time.monotonic()
            if self._dirty and now >= next_send:
                channels = [self._dirty.pop() for _ in range(len(self._dirty))]
                connection.execute("SELECT pg_notify(c, '') FROM unnest(%s::text[]) AS c", [channels])
                next_send = now + DEBOUNCE
            timeout = max(next_send - now, 0.0) if self._dirty else self._ask
            readable, _, _ = select.select([connection.fileno(), self._wake_read], [], [], timeout)
            if not readable and not self._dirty:
                connection.execute("SELECT 1")  # raises if nobody is there
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
            for channel in {note.channel for note in connection.notifies(timeout=0)}:
                self.here(channel)


def _plain(channel: str) -> str:
    return channel.replace('"', "")


def _conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
