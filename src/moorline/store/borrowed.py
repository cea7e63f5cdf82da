"""A caller's own connection as a SQLAlchemy one, so that what is written through it is part of their transaction.

Taken as they are: SQLAlchemy's Connection, Session, AsyncConnection and AsyncSession, connections of ``sqlite3``,
``psycopg`` (both kinds) and ``asyncpg`` (its pool's as well), and Django's ``connection``. Nothing is begun, committed,
rolled back or closed here, whatever SQLAlchemy does at the end. They are told by shape, so that no driver is loaded
that the caller has not loaded.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import StaticPool

from moorline.errors import ConfigurationError

__all__ = ["connected", "is_async", "run_async"]

R = TypeVar("R")

_URLS = {
    "sqlite3": "sqlite+pysqlite://",
    "psycopg": "postgresql+psycopg://",
    "psycopg async": "postgresql+psycopg_async://",
    "asyncpg": "postgresql+asyncpg://",
}


def is_async(within: object) -> bool:
    """Whether its statements must be awaited."""
    return hasattr(within, "run_sync") or _kind(within) in ("psycopg async", "asyncpg")


@contextlib.contextmanager
def connected(within: Any) -> Iterator[Connection]:
    """The synchronous ones. Raises ConfigurationError naming ``within`` for what is none."""
    if isinstance(within, Connection):
        yield within
        return
    if callable(getattr(within, "ensure_connection", None)):  # Django's, which opens it when it is first used
        within.ensure_connection()
        within = within.connection
    kind = _kind(within)
    if kind is not None:
        with _engine(kind, _Plain(within)).connect() as connection:
            yield connection
        return
    if not callable(getattr(within, "connection", None)):
        raise ConfigurationError(f"within: {type(within).__name__} is no connection that jobs can be inserted through")
    yield within.connection()


async def run_async(within: Any, function: Callable[[Connection], R]) -> R:
    """``function(connection)``, for one that ``is_async``. Raises ConfigurationError without SQLAlchemy's asyncio."""
    if hasattr(within, "run_sync"):
        # A session's is its synchronous twin.
        answer: R = await within.run_sync(lambda inner: _run(inner, function))
        return answer
    try:
        from sqlalchemy.util import greenlet_spawn
    except ImportError as error:
        raise ConfigurationError("within: an async connection needs greenlet: pip install greenlet") from error
    spawned: R = await greenlet_spawn(_run_adapted, within, function)
    return spawned


def _run(within: Any, function: Callable[[Connection], R]) -> R:
    with connected(within) as connection:
        return function(connection)


def _run_adapted(within: Any, function: Callable[[Connection], R]) -> R:
    kind = _kind(within)
    assert kind is not None
    dialect = _dialect(kind)
    if kind == "asyncpg":
        from sqlalchemy.dialects.postgresql import asyncpg

        adapter: Any = asyncpg.AsyncAdapt_asyncpg_connection
        adapted = adapter(dialect.dbapi, within, prepared_statement_cache_size=100)
        adapted.isolation_level = "autocommit"  # it begins nothing of its own
    else:
        from sqlalchemy.dialects.postgresql import psycopg

        adapter = psycopg.AsyncAdapt_psycopg_connection
        adapted = adapter(dialect.dbapi, _Plain(within))
    with _engine(kind, adapted).connect() as connection:
        return function(connection)


def _kind(within: object) -> str | None:
    if isinstance(within, sqlite3.Connection):
        return "sqlite3"
    names = {(one.__module__.partition(".")[0], one.__name__) for one in type(within).__mro__}
    if ("psycopg", "AsyncConnection") in names:
        return "psycopg async"
    if ("psycopg", "Connection") in names:
        return "psycopg"
    asyncpg = ("asyncpg", "Connection") in names or ("asyncpg", "PoolConnectionProxy") in names
    return "asyncpg" if asyncpg else None


class _Plain:
    """The connection, with cursors that give rows as tuples, whatever its owner likes to get."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._connection, sqlite3.Connection):
            cursor = self._connection.cursor(*args, **kwargs)
            cursor.row_factory = None
            return cursor
        from psycopg.rows import tuple_row

        return self._connection.cursor(*args, **{"row_factory": tuple_row, **kwargs})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Leaving:
    """Of a dialect: what must not be done to a connection that is somebody's."""

    def do_begin(self, dbapi_connection: Any) -> None:
        """Theirs to do."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """Theirs to do."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Theirs to do."""

    def do_close(self, dbapi_connection: Any) -> None:
        """Theirs to do."""

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Theirs to do."""


@cache
def _dialect(kind: str) -> Any:
    base: Any = sa.make_url(_URLS[kind]).get_dialect()
    leaving = type(f"Leaving{base.__name__}", (_Leaving, base), {"supports_statement_cache": True})
    return leaving(dbapi=base.import_dbapi())


def _engine(kind: str, connection: Any) -> Engine:
    dialect = _dialect(kind)
    # Made by hand: ``create_engine`` asks a new connection for its settings, and rolls back after that.
    return Engine(
        StaticPool(lambda: connection, dialect=dialect, reset_on_return=None), dialect, sa.make_url(_URLS[kind])
    )
