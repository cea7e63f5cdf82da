"""What strangers may write into the pages: names, errors, events, owners, answers of services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.dashboard.seeding import Seeded, paths, row, seeded
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite

from moorline import Bulkhead, Moorline, Policy
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.dashboard import drawing
from moorline.events.event import Event
from moorline.secrets.secret import Secret
from moorline.services import Stripe
from moorline.settings import Settings

_PIECES = (
    "<script>alert(1)</script>", "</pre>", "</title>", "</textarea>", "<img src=x onerror=alert(1)>", '"', "'", "<", ">",
    "&", "&amp;", "&#60;", "&lt", '" onmouseover="x', "' autofocus='", "<!--", "-->", "]]>", "{{ 7 * 7 }}", "{% raw %}",
    "javascript:x", "\u2028", "\u202e", "\r\n", "\t", " ", "a", "é", "漢", "\U0001f6a8", "%3Cb%3E", "/../", "?x=1&y=2", "=", "`",
)  # fmt: skip
WORDS = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join)


async def _shapes(
    app: Moorline, visitor: Visitor, clock: ManualClock, calm: Guards, text: str, error: str
) -> dict[str, Any]:
    """The elements of every page of an application in which strangers wrote that; and that they are there to be read."""
    there = await seeded(app, clock, text, error)
    wire = httpx2.MockTransport(lambda request: httpx2.Response(401, json={"error": {"message": error, "code": text}}))
    app.service(
        Stripe, api_key="sk_test_0123456789abcdef", wire=wire, policy=Policy(retry=None, breaker=None), guards=Guards()
    )
    found = {"checked": read((await visitor.post("/services/stripe/check")).text)}
    for number, path in enumerate(paths(there)):
        answer = await visitor.get(path)
        assert answer.status_code == 200
        found[f"{number} {path.partition('/0')[0]}"] = read(answer.text)
    found["confirm"] = read((await visitor.post(f"/connections/{there.ended}/revoke")).text)
    found["filter"] = read((await visitor.client.get("/dashboard/jobs", params={"state": "all", "name": text})).text)
    found["message"] = read((await visitor.client.get("/dashboard/jobs", params={"state": text})).text)
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    """Makes applications, each on a database of its own."""
    numbers = iter(range(10_000))
    return lambda clock: Moorline(
        settings=Settings(database_url=migrated_sqlite(tmp_path / f"{next(numbers)}.db"), tap=False), clock=clock
    )


async def _visited(fresh: Any, calm: Guards, text: str, error: str) -> dict[str, Any]:
    clock = ManualClock()
    async with fresh(clock) as app:
        visitor = Visitor(app)
        await visitor.enter()
        return await _shapes(app, visitor, clock, calm, text, error)


async def test_whatever_they_write_is_text(fresh: Any, calm: Guards) -> None:
    """A page has the same elements and attributes whoever writes what into it, and shows it as it was written."""
    usual = await _visited(fresh, calm, "a word", "it broke")
    shapes = {name: page.shape for name, page in usual.items()}
    for text, error in _SAID:
        pages = await _visited(fresh, calm, text, error)
        assert {name: page.shape for name, page in pages.items()} == shapes
        assert " ".join(error.split()) in " ".join(pages["2 /jobs?state=all"].text.split())


_SAID = [
    ("<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>"),
    ('" autofocus onfocus="alert(1)', "' onmouseover='alert(1)"),
    ("</title></textarea></select>", "<!-- ]]> &lt;b&gt; &#60;"),
    ("javascript:alert(1)//{{ 7 * 7 }}", "{% include 'x' %}{{ config }}"),
]


_OWN = {
    "state",
    "grade",
    "at",
    "of",
    "breaker",
    "mode",
    "id",
    "event_id",
    "next",
    "reconnect",
    "root",
    "mount",
    "action",
    "here",
    "title",
}


def _replaced(data: Any, text: str, key: str = "") -> Any:
    if isinstance(data, dict):
        return {name: _replaced(value, text, name) for name, value in data.items()}
    if isinstance(data, list):
        return [_replaced(one, text, key) for one in data]
    return (
        text if isinstance(data, str) and key not in _OWN and key not in ("states", "counted", "by", "fields") else data
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=WORDS)
@example(text="\ud800")
@example(text="\x00\x0b")
def test_whatever_is_in_any_field_is_text(drawn: dict[str, tuple[str, dict[str, Any]]], text: str) -> None:
    """As above for each field of each page, with random pieces of HTML, templates and addresses."""
    for template, context in drawn.values():
        usual = read(drawing.html(template, _replaced(context, "a word")).decode())
        page = read(drawing.html(template, _replaced(context, text)).decode())
        assert page.shape == usual.shape
        assert page.open == []


@pytest.fixture
async def drawn(app: Moorline, there: Seeded, visitor: Visitor, calm: Guards, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What every page was drawn from: its template and its data."""
    kept: dict[str, tuple[str, dict[str, Any]]] = {}
    html = drawing.html

    def keep(template: str, context: dict[str, Any]) -> bytes:
        kept[f"{len(kept)} {template}"] = template, json.loads(json.dumps(context))
        return html(template, context)

    app.service(Stripe, api_key="sk_test_0123456789abcdef")
    calm.passed_on("stripe", "paypal")
    calm.guard("stripe", Policy(bulkhead=Bulkhead(3), admission=9))
    monkeypatch.setattr(drawing, "html", keep)
    for path in [*paths(there), "/no"]:
        await visitor.get(path)
    await visitor.post("/jobs/skip", {"id": there.dead})
    monkeypatch.undo()
    return kept


async def test_no_secret_is_shown_anywhere(fresh: Any) -> None:
    """A registered secret, and well-known shapes, in every field: neither HTML nor JSON shows them."""
    secret, shaped = "canary-of-the-dashboard-0451", "sk_live_" + "0451canary0451canary"
    Secret(secret, name="CANARY")
    clock = ManualClock()
    async with fresh(clock) as app:
        visitor = Visitor(app)
        await visitor.enter()
        there = await seeded(
            app, clock, f"said {secret}", f'Authorization: Bearer {shaped} and {{"password": "hunter2!"}}'
        )
        for path in paths(there):
            for accept in ("text/html", "application/json"):
                text = (await visitor.get(path, accept=accept)).text
                assert secret not in text
                assert "0451canary" not in text
                assert "access-token-canary-7" not in text
        assert "hunter2" not in (await visitor.get(f"/jobs/{there.dead}")).text
        asked = await visitor.post(f"/connections/{there.good}/revoke")
        assert secret not in asked.text
        assert secret not in (await visitor.client.get("/dashboard/jobs", params={"name": secret})).text


async def test_what_names_a_secret_is_masked_in_arguments_and_bodies(app: Moorline, visitor: Visitor) -> None:
    """By the names of fields, at any depth, in jobs and events."""
    held = {"user": {"name": "ada", "api_key": "plain-word-17", "list": [{"password": "plain-word-18"}]}}
    (job,) = await app.jobs.broker.enqueue([row(app, "sync", payload=json.dumps(held).encode())])
    headers = {"content-type": "application/json", "x-api-key": "plain-word-19", "x-other": "shown"}
    event = Event("github", "e1", "push", json.dumps(held).encode(), headers, received_at=app.clock.wall())
    stored = await app.inbox.add(event)
    for path in (f"/jobs/{job}", f"/events/{stored.event_id}"):
        for accept in ("text/html", "application/json"):
            text = (await visitor.get(path, accept=accept)).text
            assert "ada" in text
            assert "plain-word" not in text


async def test_an_address_of_many_parts_is_refused(visitor: Visitor) -> None:
    """It is no failure of the page's."""
    parts = {f"a{number}": "1" for number in range(60)}
    answer = await visitor.client.get("/dashboard/jobs", params=parts)
    assert answer.status_code == 400
    assert "too many parts" in answer.text
