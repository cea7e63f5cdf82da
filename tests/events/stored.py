"""Events that are stored, for the tests of what is done with stored events."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.databases import migrated_sqlite

from moorline.clock import SYSTEM, Clock
from moorline.events import Event, Inbox
from moorline.store.store import Store

START = 1_790_000_000.0
"""When the first one was received."""


def pull(number: int, *, at: float | None = None, **payload: Any) -> Event:
    """The event of that number, a second after the one before it."""
    return Event(
        service=payload.pop("service", "github"),
        id=f"7:{number}",
        type=payload.pop("type", "pull_request"),
        action=payload.pop("action", "closed"),
        body=payload.pop("body", None) or json.dumps({"number": number, **payload}).encode(),
        headers={"x-github-event": "pull_request", "content-type": "application/json"},
        received_at=START + number if at is None else at,
    )


def add_all(inbox: Inbox, events: Iterable[Event]) -> list[str]:
    """Store them in their order, committed together; their ids in the inbox."""
    futures = [inbox.store.submit(inbox._apply, inbox._arrival(event)) for event in events]
    return [future.result().event_id for future in futures]


@contextlib.contextmanager
def fresh_store(clock: Clock = SYSTEM) -> Iterator[Store]:
    """An empty SQLite store, for each of many examples: a copy of one that was migrated once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(migrated_sqlite(Path(folder) / "a.db"), auto_migrate=False, clock=clock) as store,
    ):
        yield store
