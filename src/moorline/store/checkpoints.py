"""Copying SQLite's log back into its file beside the writer, not between two of its commits.

SQLite does it in the commit that makes the log too long, which then takes some ten times as long as others. Here a
thread with a connection of its own does most of it in time. What is left, SQLite still does by itself (see
``wal_autocheckpoint``): only a writer can begin the log anew, and only when all of it was copied.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Final

__all__ = ["Checkpoints"]

FRAMES: Final = 500
"""Pages in the log for which it is worth while."""
_MOST: Final = 256  # commits between two looks, however small they were
_QUICKER: Final = 8  # at most so many times as many commits as before


class Checkpoints:
    """For one file, by its absolute path, and one writer, which tells of each commit. The thread begins when there is
    something to do.
    """

    def __init__(self, path: str) -> None:
        self._file = f"{Path(path).as_uri()}?mode=rw"  # never made anew where it is gone
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
            thread = threading.Thread(target=self._run, name="moorline-checkpoints", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # too many threads, or the program is ending: the writer goes on without it
                return
            self._thread = thread
        self._due.set()

    def close(self) -> None:
        """End the thread. What is in the log then is as safe as before."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        copied = 0
        try:
            while True:
                self._due.wait()
                if self._closing:
                    return
                commits, self._commits = self._commits, 0
                self._due.clear()
                # Somebody else does it, no descriptor is left, the disk is full: the writer is told of what lasts.
                with contextlib.suppress(sqlite3.Error):
                    connection = connection or self._connected()
                    copied = self._copy(connection, commits, copied)
        finally:
            if connection is not None:
                connection.close()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, uri=True, isolation_level=None, timeout=0)
        try:
            for pragma in ("synchronous = FULL", "checkpoint_fullfsync = ON", "wal_autocheckpoint = 0"):
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _copy(self, connection: sqlite3.Connection, commits: int, before: int) -> int:
        """Copy what is in the log; how many pages of it are copied now, of which *before* were before."""
        _busy, logged, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if copied < 0:
            return before
        more = logged - before if logged >= before else logged  # it was begun anew
        wanted = FRAMES * max(commits, 1) // max(more, 1)
        self._every = min(max(1, wanted), self._every * _QUICKER, _MOST)
        return int(copied)
