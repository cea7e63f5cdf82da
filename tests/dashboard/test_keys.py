"""The rotation of keys on the dashboard: as ``moorline keys`` decides it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from tests.calls.ledger import Ledger
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.errors import CallError
from moorline.secrets.locker import secrets
from moorline.settings import Settings

NAME = "LEDGER_KEY"
OLD, NEW = "old-key-of-the-ledger-01", "new-key-of-the-ledger-02"


class Bank:
    """Accepts these keys."""

    def __init__(self) -> None:
        self.accepted = {OLD, NEW}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        good = request.headers["authorization"].removeprefix("Bearer ") in self.accepted
        return httpx2.Response(200 if good else 401, json={"id": "b_1"})


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
async def shop(
    bank: Bank, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: Guards
) -> AsyncIterator[Moorline]:
    """An application that uses the first of two keys."""
    monkeypatch.setenv(NAME, f"{OLD},{NEW}")
    for version in secrets().versions(NAME):
        version.secret.tally = None
    settings = Settings(database_url=migrated_sqlite(tmp_path / "keys.db"), tap=False)
    async with Moorline(settings=settings, clock=clock) as app:
        service = app.service(Ledger, wire=httpx2.MockTransport(bank), clock=clock, guards=calm)
        await service.read("x")
        app.keys.watch.flush()
        yield app


async def _entered(app: Moorline) -> Visitor:
    visitor = Visitor(app)
    await visitor.enter()
    return visitor


async def test_it_shows_who_uses_which_version(shop: Moorline) -> None:
    """By fingerprints, in the order of use, with what to do next; the values nowhere."""
    visitor = await _entered(shop)
    old, new = [one.version for one in await shop.keys.versions(NAME)]
    (listed,) = (await visitor.json("/keys"))["names"]
    assert (listed["name"], [one["version"] for one in listed["versions"]]) == (NAME, [old, new])
    said = await visitor.json(f"/keys/{NAME}")
    assert [(one["version"], one["place"], one["accepted"]) for one in said["versions"]] == [(old, 1, 1), (new, 2, 0)]
    assert said["versions"][0]["used_by"][0]["accepted"] == 1
    for path in ("/keys", f"/keys/{NAME}"):
        page = (await visitor.get(path)).text
        assert read(page).values("aria-current") == ["page"]
        assert old in page
        assert OLD not in page
        assert NEW not in page


async def test_a_rotation_from_the_first_to_the_last_step(shop: Moorline, clock: ManualClock) -> None:
    """Promote, then retire once the old one is unused, and undo it; each asks first, and is in the trail with who and
    why.
    """
    visitor = await _entered(shop)
    old, new = [one.version for one in await shop.keys.versions(NAME)]
    asked = await visitor.post(f"/keys/{NAME}/promote", {"version": new})
    assert (asked.status_code, f"Use version {new} of {NAME} first" in asked.text) == (200, True)
    assert [one.secret.reveal() for one in secrets().versions(NAME)] == [OLD, NEW]
    done = await visitor.post(f"/keys/{NAME}/promote", {"version": new, "confirm": "yes", "why": "yearly"})
    assert done.headers["location"] == f"/dashboard/keys/{NAME}?said=promote&count=1&failed=0"
    assert [one.secret.reveal() for one in secrets().versions(NAME)] == [NEW, OLD]
    early = await visitor.post(f"/keys/{NAME}/retire", {"version": old, "confirm": "yes"})
    assert (early.status_code, "was used within" in early.text) == (409, True)
    clock.advance(86_401)
    await visitor.enter()
    assert (await visitor.post(f"/keys/{NAME}/retire", {"version": old, "confirm": "yes"})).status_code == 303
    assert [one.secret.reveal() for one in secrets().versions(NAME)] == [NEW]
    assert (await visitor.post(f"/keys/{NAME}/rollback", {"confirm": "yes"})).status_code == 303
    assert [one.secret.reveal() for one in secrets().versions(NAME)] == [NEW, OLD]
    trail = (await visitor.json(f"/keys/{NAME}"))["trail"]
    assert [(one["action"], one["actor"], one["why"]) for one in trail] == [
        ("rollback", "dashboard token", None),
        ("retire", "dashboard token", None),
        ("promote", "dashboard token", "yearly"),
    ]


async def test_what_is_no_version_is_refused(shop: Moorline) -> None:
    """And the last good one is never retired, by force either."""
    visitor = await _entered(shop)
    old, new = [one.version for one in await shop.keys.versions(NAME)]
    for form in ({}, {"version": "ffff"}, {"version": "<b>"}, {"version": old, "unused": "-1"}):
        assert (await visitor.post(f"/keys/{NAME}/retire", {**form, "confirm": "yes"})).status_code == 400
    by_force = {"confirm": "yes", "force": "yes", "unused": "0"}
    assert (await visitor.post(f"/keys/{NAME}/retire", {"version": old, **by_force})).status_code == 303
    assert (await visitor.post(f"/keys/{NAME}/retire", {"version": new, **by_force})).status_code == 409
    assert [one.secret.reveal() for one in secrets().versions(NAME)] == [NEW]


async def test_a_key_that_its_service_refuses_is_the_first_thing_told(
    shop: Moorline, bank: Bank, clock: ManualClock
) -> None:
    """On the overview, with the process that was refused."""
    bank.accepted.clear()
    clock.advance(1)
    with pytest.raises(CallError):
        await shop.services["ledger"].read("x")  # type: ignore[attr-defined]
    shop.keys.watch.flush()
    said = await (await _entered(shop)).json("")
    assert [one["grade"] for one in said["problems"]][:1] == ["bad"]
    assert f"Alert: {NAME}: the service refuses version" in said["problems"][0]["text"]
    assert said["problems"][0]["at"] == f"/keys/{NAME}"
    clock.advance(1_000)
    visitor = await _entered(shop)
    assert [one for one in (await visitor.json(""))["problems"] if "refuses" in one["text"]] == []
