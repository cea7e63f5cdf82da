"""``Store``: the database of one application, as the other rooms see it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, Misuse, StoreNotMigrated
from moorline.store.checkpoints import Checkpoints
from moorline.store.engines import (
    READERS,
    STATEMENT_TIMEOUT,
    Engines,
    is_disconnect,
    make_engines,
    parse_url,
    translated,
)
from moorline.store.ids import new_id
from moorline.store.schema import REVISION
from moorline.store.signals import PostgresSignals, Signals, SqliteSignals
from moorline.store.writer import Apply, Writer

__all__ = ["Store"]

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
A = ParamSpec("A")

_LONGEST_STATEMENT = 86_400.0
_MIGRATE = "run the migrations (start the application once with MOORLINE_MIGRATE=true)"
_MIGRATION_LOCK = 0x6D6F6F72  # PostgreSQL's advisory lock under which one process migrates


class Store:
    """A SQLite file (``sqlite:///moorline.db``) or a PostgreSQL database (``postgresql://…``).

    ``open()`` before use, ``close()`` after. A SQLite file is migrated when it is opened, a PostgreSQL database when
    told so (``auto_migrate=True``, or ``migrate()``). ``max_waiting`` bounds the writes that wait for a commit.
    ``statement_timeout``: seconds that PostgreSQL has for one statement (three times as many for one that only reads,
    and no end for migrations); half of them for getting a lock. A connection on which nothing is heard for a little
    longer is closed. SQLite waits 5 seconds for another process's transaction.

    Raises ConfigurationError for a URL that it cannot use.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock = SYSTEM,
        max_waiting: int = 10_000,
        auto_migrate: bool | None = None,
        statement_timeout: float = STATEMENT_TIMEOUT,
    ) -> None:
        if max_waiting < 1:
            raise ConfigurationError(f"max_waiting: {max_waiting} is not a positive number")
        if not 0 < statement_timeout <= _LONGEST_STATEMENT:
            raise ConfigurationError(
                f"statement_timeout: {statement_timeout!r} is not a positive number of seconds, a day at most"
            )
        self._url = parse_url(url)
        self.clock = clock
        self._max_waiting = max_waiting
        self._statement_timeout = statement_timeout
        self._auto_migrate = self._url.get_backend_name() == "sqlite" if auto_migrate is None else auto_migrate
        self._engines: Engines | None = None
        self._writer: Writer | None = None
        self._signals: Signals | None = None
        self._checkpoints: Checkpoints | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._closing: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Store({self._url.render_as_string(hide_password=True)!r})"

    @property
    def url(self) -> sa.URL:
        """The database's address; its password shows only to who asks for it."""
        return self._url

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._url.get_backend_name()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._writer is not None

    @property
    def waiting(self) -> int:
        """How many writes wait for the next commit."""
        return _opened(self._writer).waiting

    def open(self) -> Self:
        """Connect, migrate (see above) or check the schema, start the writer. Opening twice is harmless.

        Raises StoreUnavailable when the database does not answer, StoreNotMigrated when its schema is another one.
        """
        with self._lock:
            if self._writer is not None:
                return self
            engines = make_engines(self._url, self._statement_timeout)
            self._engines = engines
            try:
                if self._auto_migrate and self.revision() != REVISION:
                    self.migrate()
                else:
                    self.check()
            except BaseException:
                self._engines = None
                engines.dispose()
                raise
            self._signals = _signals(self._url, self._statement_timeout)
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="moorline-read")
            self._checkpoints = Checkpoints(_file(self._url)) if self.dialect == "sqlite" else None
            writer = Writer(
                engines.write.connect,
                max_waiting=self._max_waiting,
                clock=self.clock,
                committed=None if self._checkpoints is None else self._checkpoints.committed,
            )
            writer.start()
            self._writer = writer
        return self

    def before_close(self, callback: Callable[[], None]) -> None:
        """Call *callback* whenever the store is going to close, while it can still be written to."""
        self._closing.append(callback)

    def close(self) -> None:
        """Write what waits and disconnect. Closing twice is harmless."""
        if self._writer is not None:
            for callback in self._closing:
                callback()
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is None:
                return
            writer.close()
            if self._checkpoints is not None:
                self._checkpoints.close()
            _opened(self._signals).close()
            _opened(self._readers).shutdown(wait=True)
            _opened(self._engines).dispose()
            self._engines = self._signals = self._readers = self._checkpoints = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- writing

    def admit(self, within: float) -> None:
        """Raises StoreOverloaded when a write would have to wait longer than *within* seconds, as estimated.

        To refuse work before it is begun; with the same *within* ``write`` asks again.
        """
        _opened(self._writer).admit(within)

    def submit(self, apply: Apply[P, R], payload: P) -> Future[R]:
        """Queue a write; the future is done after the commit. For threads; see ``Writer.submit``."""
        return _opened(self._writer).submit(apply, payload)

    async def write(self, apply: Apply[P, R], payload: P, *, within: float | None = None) -> R:
        """Write *payload* together with whatever else waits; returns after the commit.

        ``apply(connection, payloads)`` gets every waiting payload of the same function at once. Cancelling the caller
        does not undo the write. With ``within`` it is refused if it would have to wait longer than so many seconds, as
        estimated. Raises StoreOverloaded, StoreUnavailable, or what *apply* answered.
        """
        return await _opened(self._writer).submit_async(apply, payload, within=within)

    def begin_write(self, apply: Apply[P, R], payload: P) -> asyncio.Future[R]:
        """As ``write``, queued when this returns; await the future for the commit."""
        return _opened(self._writer).submit_async(apply, payload)

    def write_sync(self, apply: Apply[P, R], payload: P, *, within: float | None = None) -> R:
        """As ``write``, blocking this thread until the commit. Do not call it in an event loop's thread."""
        return _opened(self._writer).submit(apply, payload, within=within).result()

    # --- reading

    async def read(self, function: Callable[Concatenate[Connection, A], R], *args: A.args, **kwargs: A.kwargs) -> R:
        """``function(connection, …)`` on a reading connection, in a thread. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_opened(self._readers), lambda: self.read_sync(function, *args, **kwargs))

    def read_sync(self, function: Callable[Concatenate[Connection, A], R], *args: A.args, **kwargs: A.kwargs) -> R:
        """As ``read``, in this thread."""
        engine = _opened(self._engines).read
        for last in (False, True):
            try:
                with engine.connect() as connection:
                    return function(connection, *args, **kwargs)
            except sa.exc.SQLAlchemyError as error:
                # A pooled connection that died while nobody looked: reading again on a new one is safe.
                if last or not is_disconnect(error):
                    raise translated(error) from error
        raise AssertionError("unreachable")

    def shared_with(self, connection: object) -> Connection:
        """The connection, for writing in its transaction. Raises ConfigurationError unless it is to this database."""
        if not isinstance(connection, Connection):
            raise ConfigurationError(f"within: {type(connection).__name__} is not a SQLAlchemy connection")
        theirs = connection.engine.url
        same = theirs.get_backend_name() == self.dialect
        if same and self.dialect == "sqlite":
            # Two paths to one file are one database, so the file is compared, not its name.
            same = self.read_sync(_sqlite_file) == _sqlite_file(connection)
        if not same:
            other, own = (url.render_as_string(hide_password=True) for url in (theirs, self._url))
            raise ConfigurationError(
                f"within: the connection is to {other}, and jobs are kept in {own}: they cannot share a transaction"
            )
        return connection

    # --- waking each other

    def notify(self, channel: str, *, delay: float = 0.0) -> None:
        """Wake who listens to *channel*, here at once and in other processes soon. Call it after the commit."""
        _opened(self._signals).notify(channel, delay=delay)

    def notify_here(self, channel: str) -> int:
        """Wake who listens in this process alone; how many there are."""
        return _opened(self._signals).here(channel)

    def notify_elsewhere(self, channel: str) -> None:
        """Wake who listens in other processes alone, soon. Call it after the commit."""
        _opened(self._signals).elsewhere(channel)

    def listen(self, channel: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* (on some thread) whenever something may have come; returns the function that ends it."""
        return _opened(self._signals).listen(channel, callback)

    # --- the schema

    def migrate(self) -> None:
        """Bring the schema to this program's version, in one transaction; other processes wait. Loads Alembic.

        Raises StoreUnavailable, or StoreNotMigrated when the database is newer than this program.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.util.exc import CommandError

        engines = self._engines or make_engines(self._url, self._statement_timeout)
        config = Config()
        config.set_main_option("script_location", "moorline.store:migrations")
        config.set_main_option("path_separator", "os")
        try:
            with engines.write.begin() as connection, contextlib.ExitStack() as stack:
                if engines.dialect == "postgresql":
                    from moorline.store.bounded import unbounded

                    stack.enter_context(unbounded(connection))
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise StoreNotMigrated(_of_another_version(self.revision())) from error
        except sa.exc.SQLAlchemyError as error:
            raise translated(error) from error
        finally:
            if self._engines is None:
                engines.dispose()

    def check(self) -> None:
        """Raises StoreNotMigrated unless the schema is this program's; StoreUnavailable when the database is down."""
        found = self.revision()
        if found != REVISION:
            raise StoreNotMigrated(_of_another_version(found))

    def revision(self) -> str | None:
        """The version of the schema that is there; None if there are no tables of moorline. Raises StoreUnavailable.

        A SQLite file that is not there is not made, and one that is another program's is left as it is.
        """
        sqlite = self.dialect == "sqlite"
        if sqlite and not Path(_file(self._url)).exists():
            return None
        engines = self._engines or make_engines(self._url, self._statement_timeout)
        try:
            # On PostgreSQL the connection that is kept for writing; it rolls back.
            with (engines.read if sqlite else engines.write).connect() as connection:
                if not sa.inspect(connection).has_table("alembic_version"):
                    return None
                found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
                return None if found is None else str(found)
        except sa.exc.SQLAlchemyError as error:
            raise translated(error) from error
        finally:
            if self._engines is None:
                engines.dispose()

    def new_id(self) -> str:
        """An identifier for a new row; sorts by time."""
        return new_id(self.clock.wall())

    def ping(self) -> None:
        """Raises StoreUnavailable unless the database answers."""
        self.read_sync(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())


def _opened(part: T | None) -> T:
    if part is None:
        raise Misuse("the store is not open: call open() first")
    return part


def _of_another_version(found: str | None) -> str:
    if found is None:
        return f"the database has no moorline tables, this program needs schema {REVISION}: {_MIGRATE}"
    if found > REVISION:
        newer = "a newer version of moorline has changed it. Update moorline here, or name another database"
        return f"the database has schema {found}, and this program knows none after {REVISION}: {newer}"
    return f"the database has schema {found}, this program needs {REVISION}: {_MIGRATE}"


def _signals(url: sa.URL, seconds: float) -> Signals:
    return SqliteSignals(_file(url)) if url.get_backend_name() == "sqlite" else PostgresSignals(url, seconds)


def _file(url: sa.URL) -> str:
    """SQLite's file, also when the process works in another folder later."""
    return str(Path(str(url.database)).absolute())


def _sqlite_file(connection: Connection) -> str:
    main = "SELECT file FROM pragma_database_list WHERE name = 'main'"
    return str(connection.exec_driver_sql(main).scalar_one())
