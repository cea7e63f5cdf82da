"""Copying SQLite's log back into its file beside the writer, not between two of its commits.

SQLite does it in the commit that makes the log too long, which then takes some ten times as long as others. Here a
thread with a connection of its own does most of it in time. What is left, SQLite still does by itself (see
``wal_autocheckpoint``): only a writer can begin the log anew, and only when all of it was copied.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Final

__all__ = ["Checkpoints"]

FRAMES: Final = 500
"""Pages in the log for which it is worth while."""
_MOST: Final = 256  # commits between two looks, however small they were
_QUICKER: Final = 8  # at most so many times as many commits as before


class Checkpoints:
    """For one file and one writer, which tells of each commit. The thread begins when there is something to do."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._commits = 0
        self._every = 4
        self._due = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def committed(self) -> None:
        """The writer has committed a group."""
        self._commits += 1
        if self._commits < self._every:
            return
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="moorline-checkpoints", daemon=True)
            self._thread.start()
        self._due.set()

    def close(self) -> None:
        """End the thread. What is in the log then is as safe as before."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=0)
        try:
            for pragma in ("synchronous = FULL", "checkpoint_fullfsync = ON", "wal_autocheckpoint = 0"):
                connection.execute(f"PRAGMA {pragma}")
            copied = 0
            while True:
                self._due.wait()
                if self._closing:
                    return
                copied = self._copy(connection, copied)
        finally:
            connection.close()

    def _copy(self, connection: sqlite3.Connection, before: int) -> int:
        """Copy what is in the log; how many pages of it are copied now, of which *before* were before."""
        commits, self._commits = self._commits, 0
        self._due.clear()
        try:
            _busy, logged, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError:  # somebody else does it, or the disk is full: the writer will be told of that
            return before
        if copied < 0:
            return before
        more = logged - before if logged >= before else logged  # it was begun anew
        wanted = FRAMES * max(commits, 1) // max(more, 1)
        self._every = min(max(1, wanted), self._every * _QUICKER, _MOST)
        return int(copied)
