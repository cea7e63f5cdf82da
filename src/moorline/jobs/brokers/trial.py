"""A broker for a trial beside production: a queue of its own where jobs are kept, and nothing is left of it."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.errors import ConfigurationError, StoreError, StoreUnavailable
from moorline.jobs.broker import Broker, Rescued, WorkerInfo
from moorline.jobs.brokers.choice import broker_at
from moorline.jobs.brokers.redis_link import SCHEMES as REDIS
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store.engines import parse_url
from moorline.store.store import Store

__all__ = ["Trial", "trial"]

_NAME: Final = "moorline-bench-"
_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")  # by SQLite's numbers
_OF_POSTGRES: Final = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "synchronous_standby_names",
)
# By the primary key: rows that others made before are not looked at, however many there are.
_REMOVE: Final = sa.text(
    "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE id >= :first AND queue = :queue LIMIT 1000)"
)
_FORGET: Final = sa.text("DELETE FROM workers WHERE queues = :queue")


@dataclass(frozen=True, slots=True)
class Trial:
    """``queue`` is the only one to use; ``kind`` and ``where`` show the server without a secret; ``about`` its version
    and what makes jobs durable there, as the server says it.
    """

    broker: Broker
    queue: str
    kind: str
    where: str
    about: dict[str, str]


@contextlib.contextmanager
def trial(*, database_url: str | None = None, queue_url: str | None = None, migrate: bool = False) -> Iterator[Trial]:
    """A trial on that database or queue; on a SQLite file in a temporary folder if neither is given.

    A SQLite file that is not there yet is tried in a folder beside it. *migrate* makes moorline's tables in a database
    that has none, and they stay; all else is removed when the block ends, whatever ends it.
    Raises ConfigurationError, StoreUnavailable, and StoreNotMigrated.
    """
    if database_url is not None and queue_url is not None:
        raise ConfigurationError("database_url, queue_url: give one of them: jobs wait in one place at a time")
    queue = _NAME + secrets.token_hex(4)
    if queue_url is not None:
        with _in_queue(queue_url, queue) as found:
            yield found
        return
    with contextlib.ExitStack() as stack:
        url = database_url
        file = None if url is None else _file(url)
        if url is None or (file is not None and not file.exists()):
            if file is not None and not file.parent.is_dir():
                raise ConfigurationError(f"database_url: there is no folder {file.parent}")
            folder = tempfile.TemporaryDirectory(prefix=_NAME, dir=None if file is None else file.parent)
            url, migrate = f"sqlite:///{stack.enter_context(folder)}/moorline.db", True
        migrate = migrate and Store(url).revision() is None  # a schema that is in use is not changed for a trial
        store = stack.enter_context(Store(url, auto_migrate=migrate))
        first = store.new_id()
        stack.callback(_removing(lambda: _remove_rows(store, queue, first), queue))
        where = store.url.render_as_string(hide_password=True).replace("+pysqlite", "").replace("+psycopg", "")
        yield Trial(_OnlyItsOwn(store), queue, store.dialect, where.partition("?")[0], store.write_sync(_about, None))


@contextlib.contextmanager
def _in_queue(url: str, queue: str) -> Iterator[Trial]:
    from moorline.jobs.brokers.carried import CarriedBroker
    from moorline.jobs.brokers.redis import RedisBroker

    scheme = url.partition("://")[0]
    with contextlib.ExitStack() as stack:
        if scheme in REDIS:
            # All its keys are below the prefix, done jobs among them: a prefix of its own can be cleared.
            redis = stack.enter_context(RedisBroker(url, prefix=queue))
            redis.ping()
            stack.callback(_removing(redis.clear, queue))
            yield Trial(redis, queue, "redis", redis.where.shown, redis.about())
            return
        broker = broker_at(url, None, queues=(queue,))
        assert isinstance(broker, CarriedBroker)
        carrier = stack.enter_context(broker).carrier
        about = carrier.about()
        stack.callback(_removing(lambda: carrier.remove(queue), queue))
        yield Trial(broker, queue, "sqs" if scheme == "sqs" else "rabbitmq", carrier.shown, about)


def _removing(remove: Callable[[], None], queue: str) -> Callable[[], None]:
    def removed() -> None:
        try:
            remove()
        except (StoreError, ConfigurationError) as error:
            kinds = (ConfigurationError, StoreUnavailable, StoreError)
            kind = next(one for one in kinds if isinstance(error, one))
            raise kind(f"{error}; what the trial made there, named {queue}, is left: remove it by hand") from error

    return removed


class _OnlyItsOwn(SqlBroker):
    """Looks after its own queue only: the clock of who tries must not decide which workers of others are dead, nor
    what is old.
    """

    async def rescue(self, worker: WorkerInfo) -> Rescued:
        """None: who dies in a trial ends it."""
        await self.store.write(self._heartbeat, worker)
        return Rescued()

    async def prune(self, ended_before: float, *, limit: int = 1000) -> int:
        """None."""
        del ended_before, limit
        return 0


def _remove_rows(store: Store, queue: str, first: str) -> None:
    while store.write_sync(_remove_some, (queue, first)):
        pass
    store.write_sync(_forget, queue)


def _remove_some(connection: Connection, payloads: list[tuple[str, str]]) -> list[int]:
    return [connection.execute(_REMOVE, {"queue": queue, "first": first}).rowcount for queue, first in payloads]


def _forget(connection: Connection, payloads: list[str]) -> list[int]:
    """A worker that was cut short twice could not take its leave."""
    return [connection.execute(_FORGET, {"queue": queue}).rowcount for queue in payloads]


def _about(connection: Connection, payloads: list[None]) -> list[dict[str, str]]:
    """Asked on the connection that writes: what another one is told may be otherwise."""

    def asked(statement: str) -> Any:
        return connection.exec_driver_sql(statement).scalar()

    if connection.dialect.name == "sqlite":
        facts = {
            "server": f"SQLite {sqlite3.sqlite_version}",
            "journal_mode": str(asked("PRAGMA journal_mode")),
            "synchronous": _SYNCHRONOUS[int(asked("PRAGMA synchronous"))],
            "file system": _file_system(asked("SELECT file FROM pragma_database_list WHERE name = 'main'")),
        }
    else:
        facts = {"server": f"PostgreSQL {asked('SHOW server_version')}"}
        facts |= {name: str(asked(f"SHOW {name}")) or "none" for name in _OF_POSTGRES}
    return [facts] * len(payloads)


def _file(url: str) -> Path | None:
    """Of a SQLite database."""
    parsed = parse_url(url)
    return Path(str(parsed.database)).absolute() if parsed.get_backend_name() == "sqlite" else None


def _file_system(path: str) -> str:
    """A folder in memory makes any disk look quick."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    except OSError:  # not Linux
        return "unknown"
    above = {str(folder) for folder in Path(path).parents}
    kind = max((one for one in mounts if one[0] in above), key=lambda one: len(one[0]), default=["", "unknown"])[1]
    return f"{kind} (in memory: nothing is flushed)" if kind in {"tmpfs", "ramfs"} else kind
