"""What the tests of the relay share: jobs for the outbox, and a broker that may fail at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moorline.errors import StoreUnavailable
from moorline.events import Inbox, Relay
from moorline.jobs.brokers.sql_outbox import insert_outbox
from moorline.jobs.job import JobRow
from moorline.services import GitHub
from moorline.store.ids import new_id
from moorline.store.store import Store

__all__ = ["Elsewhere", "job", "put", "relayed"]


class Elsewhere:
    """A broker that keeps what it was given, in the order of its coming; ``at`` is called before and after it is kept."""

    def __init__(self) -> None:
        self.kept: list[JobRow] = []
        self.at: Callable[[str], None] = lambda _: None

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """Keep the rows; repeated ones too, as most brokers do."""
        assert again
        self.at("before")
        self.kept += rows
        self.at("after")
        return [row.id for row in rows]

    def away(self, step: str) -> Callable[[str], None]:
        """Fails at that step: before anything was kept, or with the answer lost."""

        def fail(now: str) -> None:
            if now == step:
                raise StoreUnavailable("the broker is away")

        return fail


def job(store: Store, **changes: Any) -> JobRow:
    """A job, due now."""
    now = store.clock.wall()
    return JobRow(new_id(now), "event:f", b"e", now, now)._replace(**changes)


def put(store: Store, *rows: JobRow) -> list[str]:
    """Commit them to the outbox; their ids."""
    store.write_sync(_put, rows)
    return [row.id for row in rows]


def _put(connection: Any, payloads: list[tuple[JobRow, ...]]) -> list[None]:
    insert_outbox(connection, [row for rows in payloads for row in rows])
    return [None] * len(payloads)


def relayed(store: Store, relay: Relay) -> Inbox:
    """An inbox with two handlers for all of GitHub's events, one of them in an order by the payload's ``lane``."""
    inbox = Inbox(store, relay=relay, max_wait=60.0)
    inbox.handlers.on(GitHub, "*", name="plain")(len)
    inbox.handlers.on(GitHub, "*", name="ordered", key="lane")(len)
    return inbox
