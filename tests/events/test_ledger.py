"""What is noted of deliveries: counts by the minute, and the last refusals, masked and capped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.events.schemes import GITHUB, NOW, SENDERS
from tests.events.test_receiver import post

from moorline.clock import ManualClock
from moorline.events import Inbox, Receiver
from moorline.events.ledger import _MOST_COUNTS, KEPT, PER_FLUSH, Ledger
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


def written(store: Store) -> list[tuple[Any, ...]]:
    """The counts as the database has them."""
    return [tuple(row) for row in store.read_sync(lambda connection: connection.exec_driver_sql(COUNTS).fetchall())]


def came(ledger: Ledger, at: float = NOW, service: str = "github") -> None:
    """One refused request."""
    ledger.refused(service, at, status=401, reason="mismatch", forged=True, method="POST", headers={})


def until(fact: Callable[[], bool]) -> None:
    """Wait for another thread's doing, at most 20 s."""
    ends = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < ends
        time.sleep(0.02)


async def test_a_note_before_the_store_is_open_is_written_after(database_url: str):
    """The first request may come before the database: from the next note on everything is written, that one too."""
    store = Store(database_url, auto_migrate=True)
    ledger = Ledger(store)
    came(ledger)
    with store:
        came(ledger)
        until(lambda: written(store) == [("github", int(NOW // 60), 0, 0, 2, 2)])


async def test_what_is_noted_while_the_store_is_away_is_written_later(database_url: str):
    """Nothing noted meanwhile is lost or counted twice; of refusals the newest stay."""
    store = Store(database_url, auto_migrate=True)
    ledger = Ledger(store)
    for number in range(PER_FLUSH + 5):
        came(ledger, NOW + number / 100)
        ledger.flush()
    ledger.stored("github", NOW, 3, 2)
    with store:
        ledger.flush()
        ledger.flush()
        assert written(store) == [("github", int(NOW // 60), 3, 2, PER_FLUSH + 5, PER_FLUSH + 5)]
        counted = store.read_sync(
            lambda connection: connection.exec_driver_sql("SELECT count(*), min(at) FROM rejected").one()
        )
        assert tuple(counted) == (PER_FLUSH, NOW + 0.05)


def test_what_waits_for_the_store_is_bounded(tmp_path: Path):
    """However long it is away: the oldest minutes go."""
    store = Store(f"sqlite:///{tmp_path}/bounded.db", auto_migrate=True)
    ledger = Ledger(store)
    for minute in range(_MOST_COUNTS + 7):
        came(ledger, minute * 60.0)
        if minute % 1_000 == 0:
            ledger.flush()
    with store:
        ledger.flush()
        found = written(store)
    assert (len(found), found[0][1], found[-1][1]) == (_MOST_COUNTS, 7, _MOST_COUNTS + 6)


def test_a_page_that_cannot_be_written_does_not_stop_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the database says of it: it is logged and gone, and the ledger goes on."""
    with Store(f"sqlite:///{tmp_path}/lost.db", auto_migrate=True) as store:
        ledger = Ledger(store)
        with monkeypatch.context() as patched:
            patched.setattr(store, "write_sync", lambda *_: (_ for _ in ()).throw(ValueError("no such value")))
            came(ledger)
            ledger.flush()
        came(ledger, service="stripe")
        ledger.flush()
        assert [row[0] for row in written(store)] == ["stripe"]
