"""Connections to SQLite and PostgreSQL, and what their failures mean."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError, StoreError, StoreNotMigrated, StoreUnavailable

__all__ = [
    "STATEMENT_TIMEOUT", "Engines", "is_conflict", "is_disconnect", "is_locked", "is_silence", "make_engines",
    "parse_url", "translated",
]  # fmt: skip

BUSY_SECONDS = 5.0
"""How long a writer waits for another process's transaction on the same SQLite file."""

STATEMENT_TIMEOUT: Final = 10.0
"""Seconds that PostgreSQL has for one statement that writes."""

READERS = 4
_READING: Final = 3.0  # times that: counting a large table may take long, and holds nobody up
_LATER: Final = 2.0  # seconds after which a server is silent that should have ended the statement by itself
_SQLITE_BUSY = 5
_SQLITE_FULL = 13
_DISK_FULL = "53100"  # PostgreSQL's
_STATEMENTS = 512  # that stay prepared; an insertion has one for each number of its rows
_LOCKED = "55P03"  # lock not available
_CONFLICTS = frozenset({"40001", "40P01"})  # serialization failure, deadlock: the same again may succeed
_UNDEFINED = frozenset({"42P01", "42703"})  # no such table, no such column


@dataclass(frozen=True, slots=True)
class Engines:
    """``write`` starts transactions that may write; ``read`` commits nothing and refuses to write."""

    write: Engine
    read: Engine

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.write.dialect.name

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.write.dispose()
        self.read.dispose()


def parse_url(url: str) -> URL:
    """The database's address. Raises ConfigurationError naming ``database_url`` when it cannot be used."""
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # the second of a port that is no number
        raise ConfigurationError("database_url: not a database URL; write sqlite:///path or postgresql://…") from None
    backend = parsed.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"database_url: {backend!r} is not supported; use sqlite:///path or postgresql://…")
    if parsed.database in {None, "", ":memory:"} or str(parsed.database).startswith("file:"):
        raise ConfigurationError("database_url: SQLite needs a file (sqlite:///path): memory does not survive a crash")
    return parsed.set(drivername="sqlite+pysqlite")


def make_engines(url: URL, statement_timeout: float = STATEMENT_TIMEOUT) -> Engines:
    """Two engines over one database. Nothing is connected yet. PostgreSQL has that many seconds for a statement."""
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgres(url, statement_timeout)


def _sqlite(url: URL) -> Engines:
    if sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 is needed (RETURNING)")
    folder = Path(str(url.database)).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    options: dict[str, Any] = {
        "hide_parameters": True,
        # isolation_level None: transactions begin where we say so, not before the first INSERT.
        "connect_args": {
            "isolation_level": None,
            "check_same_thread": False,
            "timeout": BUSY_SECONDS,
            "cached_statements": _STATEMENTS,
        },
    }
    write = sa.create_engine(url, pool_size=1, **options)
    read = sa.create_engine(url, pool_size=READERS, max_overflow=2, **options)
    event.listen(write, "connect", _sqlite_writer)
    event.listen(read, "connect", _sqlite_reader)
    event.listen(write, "begin", _begin_immediate)
    return Engines(write, read)


def _sqlite_writer(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in (
        "page_size = 8192",  # a webhook's body of 7 kB in one page; only a new file takes it
        "journal_mode = WAL",
        "synchronous = FULL",  # what was acknowledged survives a power cut
        "fullfsync = ON",  # macOS: fsync alone does not reach the disk there
        "wal_autocheckpoint = 4000",  # 32 MB, most of which was copied back before: see checkpoints.py
        "journal_size_limit = 67108864",
        "temp_store = MEMORY",
        "cache_size = -8192",
        # SQLite's own wait sleeps up to 100 ms between tries, and starves one of two busy processes: we wait ourselves.
        "busy_timeout = 0",
    ):
        # Where another process makes the same file just now, SQLite refuses at once, whatever its timeout.
        _patiently(partial(connection.execute, f"PRAGMA {pragma}"))


def _sqlite_reader(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -4096")


def _begin_immediate(connection: Connection) -> None:
    _patiently(partial(connection.exec_driver_sql, "BEGIN IMMEDIATE"))


def _patiently(deed: Callable[[], object]) -> None:
    """Do it, again and again as long as another process's lock is in the way, for ``BUSY_SECONDS`` at most."""
    until = SYSTEM.monotonic() + BUSY_SECONDS
    while True:
        try:
            deed()
            return
        except (sqlite3.OperationalError, exc.OperationalError) as error:
            if _sqlite_code(error) != _SQLITE_BUSY or SYSTEM.monotonic() > until:
                raise
        SYSTEM.sleep(random.uniform(0.0005, 0.003))


def _sqlite_code(error: exc.DBAPIError | sqlite3.Error) -> int:
    """SQLite's own word for it; 0 from another database."""
    code: int = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)
    return code & 0xFF


def _postgres(url: URL, seconds: float) -> Engines:
    try:
        from moorline.store.bounded import LINE
    except ModuleNotFoundError as error:
        raise ConfigurationError("PostgreSQL needs a driver: pip install 'moorline[postgres]'") from error
    options: dict[str, Any] = {"hide_parameters": True, "pool_use_lifo": True}
    arguments = {key: value for key, value in LINE.items() if key not in url.query}
    if "application_name" not in url.query:
        arguments["application_name"] = "moorline"
    # The server notices it too, as it must not keep the locks of a transaction whose end will never come; and who
    # waits for somebody else's lock is told so before it is taken for a statement that is slow.
    gone = "-c idle_in_transaction_session_timeout=10000 -c tcp_user_timeout=8000 -c tcp_keepalives_idle=10"
    ends = f"-c statement_timeout={_milliseconds(seconds)} -c lock_timeout={_milliseconds(seconds / 2)}"
    # Every statement of the writer has an index that serves it, and its tables change faster than statistics do: a
    # planner that believes the table to be empty, or unchanged since yesterday, must not choose to read all of it. So
    # there is one plan for each, and none is made anew for each commit, which took half of a claim's time.
    plans = "-c plan_cache_mode=force_generic_plan -c jit=off"
    plans += " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    write = sa.create_engine(
        url, pool_size=1, connect_args=arguments | {"options": f"{gone} {ends} {plans}"}, **options
    )
    # Each read is one statement of its own: no BEGIN and COMMIT around it.
    reads = f"-c default_transaction_read_only=on -c statement_timeout={_milliseconds(seconds * _READING)}"
    read = sa.create_engine(
        url,
        pool_size=READERS,
        max_overflow=2,
        isolation_level="AUTOCOMMIT",
        connect_args=arguments | {"options": reads},
        **options,
    )
    event.listen(write, "do_connect", _bounded(seconds))
    event.listen(read, "do_connect", _bounded(seconds * _READING))
    return Engines(write, read)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))  # 0 would be for ever


def _bounded(seconds: float) -> Callable[..., Any]:
    """Connects; who is silent for a while longer than the server has for a statement is given up."""
    from moorline.store.bounded import BoundedConnection

    def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> BoundedConnection:
        connection = BoundedConnection.connect(*arguments, **named)
        connection.limit = seconds + min(seconds / 2, _LATER)
        return connection

    return connect


def is_disconnect(error: Exception) -> bool:
    """Whether the connection is gone, so that the same on a new one may work."""
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


def is_conflict(error: Exception) -> bool:
    """Whether the transaction lost against another one."""
    return isinstance(error, exc.DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def is_locked(error: Exception) -> bool:
    """Whether somebody else's lock kept it from being done; the connection is as good as before."""
    return isinstance(error, exc.DBAPIError) and getattr(error.orig, "sqlstate", None) == _LOCKED


def is_silence(error: Exception) -> bool:
    """Whether the connection was closed because the server had said nothing for too long."""
    return isinstance(error, exc.DBAPIError) and type(error.orig).__name__ == "Silence"


def translated(error: Exception) -> Exception:
    """The moorline error for a database's failure; any other exception as it is. Holds no statement's parameter."""
    if isinstance(error, exc.TimeoutError):
        return StoreUnavailable("no free database connection")
    if not isinstance(error, exc.DBAPIError):
        return error
    lines = str(error.orig).strip().splitlines()
    message = lines[0] if lines else type(error.orig).__name__
    if getattr(error.orig, "sqlstate", None) in _UNDEFINED or message.startswith(("no such table", "no such column")):
        return StoreNotMigrated(f"the database lacks what this program needs ({message}); run the migrations")
    if _sqlite_code(error) == _SQLITE_FULL or getattr(error.orig, "sqlstate", None) == _DISK_FULL:
        return StoreUnavailable("the disk of the database is full")
    if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return StoreUnavailable(f"the database did not answer: {message}")
    return StoreError(f"the database refused: {message}")
