"""What the pages show: all of it on each database, as HTML that any browser and reader can use, and as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.dashboard.seeding import Seeded, paths, row, seeded
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.events.retention import Retention, RetentionConfig
from moorline.jobs.broker import JobFilter, WorkerInfo
from moorline.jobs.job import JobRow
from moorline.services import Stripe
from moorline.settings import Settings


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind, migrated."""
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path / "any.db")
    url: str = request.getfixturevalue("migrated_postgres_url")
    return url


async def test_every_page_is_drawn_on_each_database(database_url: str, clock: ManualClock) -> None:
    """And each says the same in JSON, with a time; what is done there is noted."""
    async with Moorline(settings=Settings(database_url=database_url, tap=False), clock=clock) as app:
        there = await seeded(app, clock)
        app.service(Stripe, api_key="sk_test_0123456789abcdef")
        visitor = Visitor(app)
        await visitor.enter()
        for path in paths(there):
            page = await visitor.get(path)
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8"), path
            assert (await visitor.json(path))["now"] == clock.wall()
        assert (await visitor.post("/jobs/retry", {"id": there.dead})).status_code == 303
        assert (await app.jobs.broker.get(there.dead)).state == "ready"


async def test_the_overview_says_what_is_wrong(visitor: Visitor, there: Seeded) -> None:
    """What is dead, what waits too long, what has ended; what came in the last hour."""
    said = await visitor.json("")
    assert [(one["grade"], one["text"]) for one in said["problems"]] == [
        ("warn", "The oldest job of queue mail a word has been due for 7 minutes"),
        ("warn", "1 job is dead: tried to the end, and failed"),
        ("warn", "1 connection has ended: the owners have to connect again"),
    ]
    assert {name: said["events"][name] for name in ("stored", "duplicates", "forged", "refused")} == {
        "stored": 3, "duplicates": 1, "forged": 1, "refused": 1,
    }  # fmt: skip
    assert said["jobs"] == {"ready": 2, "blocked": 0, "running": 0, "dead": 1}
    assert said["ended"] == {"count": 1, "more": False}
    assert [one["pid"] for one in said["workers"]] == [4242]


async def test_jobs_that_nobody_works_on_are_the_first_thing_told(app: Moorline, visitor: Visitor) -> None:
    """Without a worker they wait for ever."""
    await app.jobs.broker.enqueue([row(app, "send_welcome")])
    said = await visitor.json("")
    assert said["problems"][0] == {
        "grade": "bad", "text": "No worker is alive, and 1 job is waiting", "at": "/jobs?state=ready",
    }  # fmt: skip


async def test_where_nothing_is_wrong_it_says_so(visitor: Visitor) -> None:
    """An application that has done nothing yet has pages all the same."""
    assert "All is well" in (await visitor.get()).text
    for path in ("/jobs", "/events", "/rejected", "/connections", "/services"):
        assert (await visitor.get(path)).status_code == 200


async def test_keys_that_end_are_told(visitor: Visitor, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the next thirty days by name, never by value; those of the next three as a problem."""
    now = int(clock.wall())
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_0123456789abcdef")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET_PREVIOUS", "whsec_fedcba9876543210")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET_PREVIOUS_UNTIL", str(now + 86_400 * 29))
    said = await visitor.json("")
    ending = {"service": "stripe", "name": "STRIPE_WEBHOOK_SECRET_PREVIOUS", "ends_at": now + 86_400.0 * 29}
    assert (said["ending"], said["problems"]) == ([ending], [])
    clock.advance(86_400 * 17)
    await visitor.enter()
    (problem,) = (await visitor.json(""))["problems"]
    assert (problem["grade"], "ends in 12.0 days" in problem["text"]) == ("warn", True)
    clock.advance(86_400 * 10)
    await visitor.enter()
    page = await visitor.get()
    assert "STRIPE_WEBHOOK_SECRET_PREVIOUS of stripe ends in 2.0 days" in page.text
    assert "whsec_" not in page.text


async def test_the_pages_can_be_used_by_everybody(visitor: Visitor, there: Seeded, app: Moorline) -> None:
    """One language and title, headings in their order, tables with captions and scopes, fields with labels, pictures
    with words; a colour never stands alone.
    """
    app.service(Stripe, api_key="sk_test_0123456789abcdef")
    pages = [await visitor.get(path) for path in paths(there)]
    pages += [await visitor.post("/jobs/skip", {"id": there.dead}), await Visitor(app).get(), await visitor.get("/no")]
    for answer in pages:
        page = read(answer.text)
        tags = [tag for tag, *_ in page.shape]
        assert answer.text.startswith("<!doctype html>")
        assert (tags[0], page.values("lang"), tags.count("h1"), tags[:4].count("head")) == ("html", ["en"], 1, 1)
        assert tags.count("table") == tags.count("caption")
        assert not re.search(r"<th(?![^>]*scope=)[ >]", answer.text)
        ids = page.values("id")
        assert len(set(ids)) == len(ids)
        for field in re.findall(r"<(?:input|select)[^>]*>", answer.text):
            before = answer.text[: answer.text.index(field)]
            labelled = before.rfind("<label") > before.rfind("</label>") or "aria-label=" in field
            assert labelled or 'type="hidden"' in field, field
        for svg in re.findall(r"<svg[^>]*>", answer.text):
            assert 'aria-hidden="true"' in svg or 'aria-label="' in svg
        for state in re.findall(r'<span class="state [a-z]+">(.*?)</span> ([a-z ]*)', answer.text):
            assert state[1].strip()


async def test_the_pages_need_nothing_but_themselves(visitor: Visitor, there: Seeded) -> None:
    """No script, no inline style, nothing of another host: the policy that they carry would not let it in."""
    for path in paths(there):
        page = read((await visitor.get(path)).text)
        assert not {"script", "style", "iframe", "object", "img"} & {tag for tag, *_ in page.shape}
        assert not [name for _, *names in page.shape for name in names if name == "style" or name.startswith("on")]
        for place in page.values("href") + page.values("src") + page.values("action") + page.values("formaction"):
            assert place.startswith(("/dashboard", "/auth/", "#")), place
    style = await visitor.get("/dashboard.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "url(" not in style.text
    assert "@import" not in style.text


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of two colours."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    first, second = sorted((light(one), light(other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_colours_can_be_read(scheme: int) -> None:
    """Every colour of text has a contrast of 4.5 to its paper, by WCAG 2.2's level AA."""
    style = Path("src/moorline/dashboard/static/dashboard.css")
    text = (Path(__file__).parents[2] / style).read_text()
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", text.split(":root {")[1 + scheme].split("}")[0]))
    pairs = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("accent", "paper")]
    pairs += [("accent", "card"), ("on-accent", "accent"), ("ink", "calm-paper"), ("soft", "calm-paper")]
    pairs += [(one, f"{one}-paper") for one in ("good", "warn", "bad", "busy")] + [("bad", "card"), ("good", "card")]
    poor = {pair: _contrast(*(colours[one] for one in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("kind", ["starlette", "fastapi"])
async def test_it_works_below_a_mount(app: Moorline, there: Seeded, kind: str) -> None:
    """Every link, form and redirect has the mount before it, and leads somewhere."""
    outer: Any = fastapi.FastAPI() if kind == "fastapi" else Starlette(routes=[Mount("/ops", app)])
    if kind == "fastapi":
        outer.mount("/ops", app)
    visitor = Visitor(outer, base="http://127.0.0.1:8000/ops")
    entered = await visitor.post("/login", {"token": "two-in-the-morning-0001", "next": "/ops/dashboard/jobs"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/ops/dashboard/jobs")
    seen: set[str] = set()
    waiting = ["/ops/dashboard"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = await visitor.client.get(f"http://127.0.0.1:8000{path}")
        assert answer.status_code == 200, path
        if answer.headers["content-type"].startswith("text/html"):
            page = read(answer.text)
            links = [one for one in page.values("href") if not one.startswith(("#", "/ops/auth/"))]
            assert all(one.startswith("/ops/dashboard") for one in links + page.values("action"))
            waiting += [one for one in links if one not in seen and one not in waiting]
    assert len(seen) > 15
    done = await visitor.client.post(
        "http://127.0.0.1:8000/ops/dashboard/jobs/retry",
        content=f"id={there.dead}".encode(),
        headers={"sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"},
    )
    assert done.headers["location"].startswith(f"/ops/dashboard/jobs/{there.dead}?said=retry")


async def test_lists_are_read_page_by_page(app: Moorline, visitor: Visitor) -> None:
    """Each job is on one page, newest first; the link to the next one keeps the filter."""
    made = await app.jobs.broker.enqueue([row(app, "sync", f"q{number % 2}") for number in range(31)])
    wanted = list(reversed(made))
    seen: list[str] = []
    query: str | None = "/jobs?state=ready&limit=10"
    while query is not None:
        said = await visitor.json(query)
        assert len(said["jobs"]) <= 10
        seen += [one["id"] for one in said["jobs"]]
        after = said["next"]
        query = None if after is None else f"/jobs?state=ready&limit=10&before={after}"
    assert seen == wanted
    page = read((await visitor.get("/jobs?state=ready&queue=q1&limit=10")).text)
    (more,) = [one for one in page.values("href") if "before=" in one]
    assert "state=ready" in more
    assert "queue=q1" in more


async def test_events_and_connections_are_read_page_by_page(
    app: Moorline, visitor: Visitor, clock: ManualClock
) -> None:
    """With limits as well."""
    there = [await seeded(app, clock, f"word {number}") for number in range(4)]
    seen = []
    query = "/events?limit=3"
    for _ in range(2):
        said = await visitor.json(query)
        seen += [one["id"] for one in said["events"]]
        query = f"/events?limit=3&before={said['next']}"
    assert seen == [one.event for one in reversed(there)]
    said = await visitor.json("/connections?limit=3")
    ended, _revoking, good = said["parts_of"]
    assert [one["id"] for one in ended["connections"]] == [one.ended for one in reversed(there)][:3]
    assert [one["id"] for one in good["connections"]] == [one.good for one in reversed(there)][:3]
    rest = await visitor.json(f"/connections?state=good&limit=3&before={good['next']}")
    assert [one["id"] for one in rest["parts_of"][0]["connections"]] == [there[0].good]
    assert len((await visitor.json("/rejected?limit=2"))["refused"]) == 2


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=201", "limit"),
        ("/jobs?limit=%D9%A1", "limit"),
        ("/jobs?limit=1e1", "limit"),
        ("/events?limit=101", "limit"),
        ("/rejected?limit=1001", "limit"),
        ("/connections?limit=201", "limit"),
        ("/connections?state=odd", "state"),
        ("/jobs?state=odd", "state"),
        ("/jobs?queue=a&queue=b", "queue"),
        ("/jobs?name=" + "x" * 501, "name"),
        ("/events?service=%00", "service"),
    ],
)
async def test_what_is_asked_for_is_bounded(visitor: Visitor, path: str, named: str) -> None:
    """400, and what was wrong is named."""
    answer = await visitor.get(path, accept="application/json")
    assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (400, named)


@pytest.mark.parametrize("path", ["/jobs/none", "/events/none", "/rejected/none", "/none", "/jobs/a/b", "/jobs/%2e%2e"])
async def test_what_is_not_there_is_404(visitor: Visitor, path: str) -> None:
    """With a page that says so."""
    assert (await visitor.get(path)).status_code == 404


async def test_an_event_that_was_pruned_is_said_to_be(app: Moorline, visitor: Visitor, clock: ManualClock) -> None:
    """Its row is still listed; the event itself is 410."""
    there = await seeded(app, clock)
    for job in await app.jobs.broker.list(JobFilter(event_id=there.event)):
        await app.jobs.broker.skip(job.id)
    clock.advance(50 * 366 * 86_400)  # ids of a process stay in order, and other tests' clocks may be far ahead
    assert (await Retention(app.store, RetentionConfig(keep_days=1, dedup_days=36_500)).run_once()).emptied == 1
    await visitor.enter()
    (listed,) = (await visitor.json("/events"))["events"]
    assert (listed["id"], listed["pruned"], listed["bytes"]) == (there.event, True, None)
    assert (await visitor.get(f"/events/{there.event}")).status_code == 410


async def test_the_counts_are_those_of_the_broker(app: Moorline, visitor: Visitor, clock: ManualClock) -> None:
    """Of every state of what is not over, by queue; jobs that are to be tried alone wait as well."""
    await seeded(app, clock)
    broker = app.jobs.broker
    orders = [
        JobRow(app.store.new_id(), "sync", b"{}", clock.wall(), clock.wall(), "q", order_key="a") for _ in range(3)
    ]
    await broker.enqueue([*orders, *(row(app, "sync", "q") for _ in range(4))])
    worker = WorkerInfo(app.store.new_id(), "host", 1, ("q",), clock.wall(), 30.0)
    await broker.claim(worker, 2)
    for waited in (0, 31):
        clock.advance(waited)
        await broker.rescue(WorkerInfo(app.store.new_id(), "host", 2, ("q",), clock.wall(), 30.0))
        wanted = {place: count for place, count in (await broker.counts()).items() if place[1] != "done"}
        queues = (await visitor.json("/jobs"))["queues"]
        found = {(one["queue"], state): count for one in queues for state, count in one["counts"].items() if count}
        assert found == wanted
