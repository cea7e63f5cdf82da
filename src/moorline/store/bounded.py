"""Connections to PostgreSQL whose waits end: a line may take all that is sent, and never answer.

A machine that is gone is noticed by TCP (``LINE``). A server that hangs, a proxy that does, or a firewall that has
forgotten the connection and answers for it, is not: then only silence tells.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection as SqlConnection

__all__ = ["LINE", "BoundedConnection", "Silence", "unbounded"]

RV = TypeVar("RV")

LINE: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 8_000,
}
"""A server that a cut line or a dead machine took away is noticed in seconds."""


class Silence(psycopg.OperationalError):
    """Nothing was heard for too long. The connection is closed; the statement may still be carried out."""


class BoundedConnection(psycopg.Connection[Any]):
    """One that is closed when nothing moves on it for ``limit`` seconds (None: for ever) while an answer is due.

    The time begins anew with each byte that goes or comes, so that much to send, or to read, takes as long as it does.
    """

    limit: float | None = None

    @classmethod
    def to(cls, conninfo: str, limit: float) -> Self:
        """Connected and committing each statement, with what of ``LINE`` *conninfo* does not say otherwise."""
        line = {key: value for key, value in LINE.items() if key not in conninfo_to_dict(conninfo)}
        connection = cls.connect(conninfo, autocommit=True, **line)
        connection.limit = limit
        return connection

    def wait(self, gen: Generator[Any, Any, RV], *args: Any, **kwargs: Any) -> RV:
        """As psycopg's; raises Silence. Who names a time itself is waited for as long as that."""
        limit = self.limit
        if limit is None or kwargs.get("timeout") is not None:
            return super().wait(gen, *args, **kwargs)
        return super().wait(self._listened_to(gen, limit), *args, **kwargs)

    def _listened_to(self, gen: Generator[Any, Any, RV], limit: float) -> Generator[Any, Any, RV]:
        last = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted  # nothing is ready: the interval is over in which psycopg looks
                if ready:
                    last = time.monotonic()
                elif time.monotonic() - last > limit:
                    self.pgconn.finish()
                    raise Silence(f"nothing was heard for {limit:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return cast("RV", end.value)


@contextlib.contextmanager
def unbounded(connection: SqlConnection) -> Iterator[None]:
    """Statements of its transaction may take as long as they need, as migrations do."""
    driver = cast("BoundedConnection", connection.connection.dbapi_connection)
    limit, driver.limit = driver.limit, None
    try:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        yield
    finally:
        driver.limit = limit
