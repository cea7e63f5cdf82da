"""What is noted of deliveries: counts by the minute, and the last refusals, masked and capped."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.events.schemes import GITHUB, NOW, SENDERS
from tests.events.test_receiver import post

from moorline.clock import ManualClock
from moorline.events import Inbox, Receiver
from moorline.events.ledger import KEPT, PER_FLUSH
from moorline.store.store import Store

Rows = Callable[[str], list[Any]]
SENDER = SENDERS[0]
COUNTS = "SELECT service, minute, stored, duplicates, forged, refused FROM event_counts ORDER BY service, minute"


def receiver_on(inbox: Inbox, clock: ManualClock) -> Receiver:
    return Receiver(inbox, lambda _: [SENDER.secret], {"github": GITHUB}.get, clock=clock)


def flushed(inbox: Inbox) -> None:
    assert inbox.ledger is not None
    inbox.ledger.flush()


async def test_what_came_is_counted_by_the_minute(inbox: Inbox, rows: Rows):
    """New, again, forged and otherwise refused are told apart; processes add to the same minute."""
    clock = ManualClock(NOW)
    receiver = receiver_on(inbox, clock)
    for _ in range(3):
        await post(receiver, SENDER.body, SENDER.signed())
    await post(receiver, SENDER.body, SENDER.signed("wrong"))
    await post(receiver, SENDER.body, SENDER.signed(), method="PUT")
    flushed(inbox)
    clock.advance(60)
    await post(receiver_on(Inbox(inbox.store), clock), SENDER.body, SENDER.signed())
    other = receiver_on(Inbox(inbox.store), clock)
    await post(other, SENDER.body, SENDER.signed())
    flushed(other.inbox)
    minute = int(NOW // 60)
    assert rows(COUNTS) == [("github", minute, 1, 2, 1, 2), ("github", minute + 1, 0, 1, 0, 0)]


async def test_a_refusal_is_kept_with_its_reason(inbox: Inbox, rows: Rows):
    """So that a signature can be debugged: why, when, the headers, the body's size; no credential."""
    receiver = receiver_on(inbox, ManualClock(NOW))
    headers = SENDER.signed("wrong") | {"Authorization": "Bearer token-of-somebody", "X-Long": "x" * 5000}
    await post(receiver, SENDER.body, headers)
    flushed(inbox)
    [(service, at, status, reason, method, kept, size, digest)] = rows(
        "SELECT service, at, status, reason, method, headers, size, digest FROM rejected"
    )
    assert (service, at, status, reason, method, size) == ("github", NOW, 401, "mismatch", "POST", len(SENDER.body))
    assert digest.startswith("sha256:")
    shown = json.loads(kept)
    assert shown["authorization"] == "***"
    assert shown["x-hub-signature-256"].startswith("sha256=")
    assert len(shown["x-long"]) == 500


async def test_unknown_names_are_noted_under_one(inbox: Inbox, rows: Rows):
    """A scanner cannot fill the tables with names of its own."""
    receiver = receiver_on(inbox, ManualClock(NOW))
    for number in range(PER_FLUSH * 2):
        await post(receiver, b"", path=f"/webhooks/name-{number}")
    flushed(inbox)
    assert rows(COUNTS) == [("unknown", int(NOW // 60), 0, 0, 0, PER_FLUSH * 2)]
    assert rows("SELECT service, count(*) FROM rejected GROUP BY service") == [("unknown", PER_FLUSH)]


async def test_the_ring_keeps_the_newest(inbox: Inbox, rows: Rows):
    """A flood of forgeries pushes out its own oldest, and nobody else's."""
    assert inbox.ledger is not None
    note: dict[str, Any] = {"status": 401, "reason": "mismatch", "forged": True, "method": "POST", "headers": {}}
    inbox.ledger.refused("stripe", NOW, **note)
    for number in range(KEPT // PER_FLUSH + 3):
        for _ in range(PER_FLUSH):
            inbox.ledger.refused("github", NOW + number, **note)
        flushed(inbox)
    counted = rows("SELECT service, count(*), max(at) FROM rejected GROUP BY service ORDER BY service")
    assert counted == [("github", KEPT, NOW + KEPT // PER_FLUSH + 2), ("stripe", 1, NOW)]


async def test_what_was_noted_is_written_when_the_store_closes(database_url: str):
    """A process that ends in order leaves nothing unwritten; closed and opened again it goes on."""
    store = Store(database_url, auto_migrate=True)
    inbox = Inbox(store)
    receiver = receiver_on(inbox, ManualClock(NOW))
    for _ in range(2):
        with store:
            await post(receiver, SENDER.body, SENDER.signed())
    with store:
        [row] = store.read_sync(lambda connection: connection.exec_driver_sql(COUNTS).fetchall())
    assert tuple(row) == ("github", int(NOW // 60), 1, 1, 0, 0)
