"""A new version of a key by the form of its page: the value goes in, and never comes out."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.dashboard.seeding import TOKEN
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.dashboard.page import Look
from moorline.secrets.keyring import new_key
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.settings import Settings
from moorline.store.schema import audit

NAME = "LEDGER_KEY"
OLD = "old-key-of-the-ledger-01"
NEW = "new=key&of<the>ledger-02 é"


@pytest.fixture
async def shop(clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Moorline]:
    """An application with one key, and a place where others are kept."""
    monkeypatch.setenv(NAME, OLD)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    settings = Settings(database_url=migrated_sqlite(tmp_path / "adding.db"), tap=False)
    made = Moorline(settings=settings, clock=clock)
    made.keys.watch.every = 1_000.0  # it looks when it is told
    async with made as app:
        assert [one.secret.reveal() for one in secrets().versions(NAME)] == [OLD]
        yield app


@pytest.fixture
async def operator(shop: Moorline) -> Visitor:
    """Somebody who has entered the token."""
    visitor = Visitor(shop)
    await visitor.enter()
    return visitor


def held(name: str = NAME) -> list[str]:
    """The values that are used, in their order."""
    return [one.secret.reveal() for one in secrets().versions(name)]


async def noted(app: Moorline) -> list[tuple[str, str, dict[str, Any]]]:
    """The audit: who, what, which."""
    rows = await app.store.read(lambda connection: connection.execute(sa.select(audit).order_by(audit.c.id)).all())
    return [(row.actor, row.action, json.loads(row.detail)) for row in rows]


async def test_a_value_is_accepted_after_the_others(
    shop: Moorline, operator: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The page says so, and the audit who did it and why; the value stands in no page, address, log, or row."""
    with caplog.at_level(logging.DEBUG):
        done = await operator.post(f"/keys/{NAME}/add", {"value": f" {NEW}\t", "why": f"yearly, not {NEW}"})
    assert (done.status_code, done.text) == (303, "")
    assert done.headers["location"] == f"/dashboard/keys/{NAME}?said=add&count=1&failed=0"
    assert held() == [OLD, NEW]
    ((actor, action, detail),) = await noted(shop)
    assert (actor, action, detail["name"], detail["why"]) == ("dashboard token", "keys.add", NAME, "yearly, not ***")
    page = await operator.get(f"/keys/{NAME}?said=add&count=1&failed=0")
    assert "1 version is accepted too, and used after all others" in page.text
    shown = page.text + json.dumps(await operator.json(f"/keys/{NAME}")) + caplog.text + repr(dict(done.headers))
    assert "of<the>ledger" not in shown
    assert "the&gt;ledger" not in shown
    again = await operator.post(f"/keys/{NAME}/add", {"value": NEW})
    assert (again.status_code, held(), len(await noted(shop))) == (303, [OLD, NEW], 1)


async def test_what_is_pasted_with_the_value_is_left_out(operator: Visitor) -> None:
    """White space, and the byte order mark of a text from Windows."""
    assert (await operator.post(f"/keys/{NAME}/add", {"value": "\ufeffpasted-key-0001\r\n"})).status_code == 303
    assert held() == [OLD, "pasted-key-0001"]


async def test_a_credential_that_is_not_there_yet_is_begun(shop: Moorline, operator: Visitor) -> None:
    """By its name on the list, or on the page of a name that nobody knows."""
    done = await operator.post("/keys/add", {"name": " OTHER_KEY ", "value": "other-key-0001"})
    assert done.headers["location"].startswith("/dashboard/keys/OTHER_KEY?said=add")
    assert "/dashboard/keys/THIRD_KEY/add" in read((await operator.get("/keys/THIRD_KEY")).text).values("action")
    assert (await operator.post("/keys/THIRD_KEY/add", {"value": "third-key-0001"})).status_code == 303
    assert (held("OTHER_KEY"), held("THIRD_KEY")) == (["other-key-0001"], ["third-key-0001"])
    assert {"OTHER_KEY", "THIRD_KEY"} < {one["name"] for one in (await operator.json("/keys"))["names"]}


async def test_the_form_keeps_nothing(operator: Visitor) -> None:
    """It is a POST with a password field that no browser fills in or cuts off, and that has no value."""
    for path, wanted in (("/keys", "/dashboard/keys/add"), (f"/keys/{NAME}", f"/dashboard/keys/{NAME}/add")):
        page = read((await operator.get(path)).text)
        assert wanted in page.values("action")
        assert set(page.values("method")) == {"post"}
        assert ("input", "type", "name", "autocomplete", "required") in page.shape
        (at,) = [number for number, one in enumerate(page.given) if one == ("input", "type", "password")]
        assert page.given[at + 1 : at + 3] == [("input", "name", "value"), ("input", "autocomplete", "off")]


LARGE = "x" * 70_000
REFUSED = {
    "nothing": ({}, "both are needed"),
    "blank": ({"value": "  "}, "both are needed"),
    "two": ([("value", "canary-one-0451"), ("value", "canary-two-0451")], "one value"),
    "large": ({"value": f"canary-0451-{LARGE}"}, "at most 65,536 characters"),
    "two lines": ({"value": "canary-0451-\r\n-0001"}, "U+000D"),
    "no text": ({"value": "canary-0451-\x00"}, "no text"),
    "the dashboard's own": ({"value": TOKEN}, "own token"),
    "no name": ({"value": "canary-0451-0001", "name": "a b"}, "no name of a secret"),
    "value as a name": ({"value": "canary-0451-0001", "name": "canary-0451-0001"}, "looks like a value"),
    "other value as a name": ({"value": "canary-0451-0001", "name": "sk_live_0451canary0451canary"}, "like a value"),
    "our own": ({"value": "canary-0451-0001", "name": "MOORLINE_ENCRYPTION_KEY"}, "moorline keys master"),
}


@pytest.mark.parametrize(("form", "said"), REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_is_said_without_the_value(
    shop: Moorline, operator: Visitor, caplog: pytest.LogCaptureFixture, form: Any, said: str
) -> None:
    """In words, as a page and as JSON; nothing is kept of it."""
    path = "/keys/add" if "name" in dict(form) else f"/keys/{NAME}/add"
    with caplog.at_level(logging.DEBUG):
        answers = [await operator.post(path, form, accept=kind) for kind in ("text/html", "application/json")]
    for answer in answers:
        assert (answer.status_code, said in answer.text) == (400, True), answer.text
        assert "location" not in answer.headers
        assert "canary" not in answer.text + caplog.text
        assert TOKEN not in answer.text + caplog.text
    assert (held(), await noted(shop)) == ([OLD], [])


async def test_one_that_was_retired_has_to_be_meant(shop: Moorline, operator: Visitor) -> None:
    """It is refused, with what to do, until that is ticked."""
    new = await shop.keys.add(NAME, NEW)
    await shop.keys.retire(NAME, new, force=True)
    refused = await operator.post(f"/keys/{NAME}/add", {"value": NEW})
    assert (refused.status_code, "was retired" in refused.text) == (409, True)
    assert held() == [OLD]
    assert (await operator.post(f"/keys/{NAME}/add", {"value": NEW, "force": "yes"})).status_code == 303
    assert held() == [OLD, NEW]


async def test_where_nothing_can_be_kept_no_value_is_asked_for(app: Moorline, visitor: Visitor) -> None:
    """Without a key to encrypt with there is no form, and a value that comes all the same is refused."""
    for path in ("/keys", f"/keys/{NAME}"):
        page = await visitor.get(path)
        assert "MOORLINE_ENCRYPTION_KEY" in page.text
        assert "password" not in read(page.text).values("type")
    answer = await visitor.post(f"/keys/{NAME}/add", {"value": "canary-0451-0001"})
    assert (answer.status_code, "set MOORLINE_ENCRYPTION_KEY" in answer.text) == (400, True)
    assert "canary" not in answer.text


async def test_it_is_added_below_a_mount(shop: Moorline) -> None:
    """The form leads there, and back."""
    visitor = Visitor(Starlette(routes=[Mount("/ops", shop)]), base="http://127.0.0.1:8000/ops")
    await visitor.enter()
    page = await visitor.get(f"/keys/{NAME}")
    assert f"/ops/dashboard/keys/{NAME}/add" in read(page.text).values("action")
    done = await visitor.post(f"/keys/{NAME}/add", {"value": NEW})
    assert done.headers["location"].startswith(f"/ops/dashboard/keys/{NAME}?said=add")


def test_a_request_shows_nothing_of_its_form(app: Moorline) -> None:
    """Whoever logs what a view was given."""
    look = Look(app, (), {}, {"value": ["canary-0451"]}, "ada", 0.0)
    assert "canary" not in repr(look)
    value = look.secret("value", 100)
    assert (value is not None and value.reveal(), repr(value)) == ("canary-0451", "Secret('***')")


# --- the trail


async def test_the_trail_is_text_and_has_an_end(shop: Moorline, operator: Visitor, clock: ManualClock) -> None:
    """Who, when, what and why of the newest twenty, newest first; what strangers wrote is text, and secrets masked."""
    versions = [(await shop.keys.versions(NAME))[0].version, await shop.keys.add(NAME, NEW, actor="ada")]
    canary = Secret("canary-of-the-trail-0451").reveal()
    usual = await operator.get(f"/keys/{NAME}")
    assert "These are the newest" not in usual.text
    for number in range(20):
        clock.advance(1)
        why = f'"><img src=x onerror=alert(1)> {canary}'
        await shop.keys.promote(NAME, versions[(number + 1) % 2], actor=f"<i>{number}</i>", why=why, force=True)
    trail = (await operator.json(f"/keys/{NAME}"))["trail"]
    assert [one["actor"] for one in trail] == [f"<i>{number}</i>" for number in reversed(range(20))]
    assert [one["at"] for one in trail] == [clock.wall() - back for back in range(20)]
    assert {(one["action"], one["force"]) for one in trail} == {("promote", True)}
    page = await operator.get(f"/keys/{NAME}")
    assert "These are the newest 20." in page.text
    assert canary not in page.text
    assert {"img", "i", "script"}.isdisjoint(tag for tag, *_ in read(page.text).shape)
    assert "<i>19</i>" in read(page.text).text
