"""What the pages do: as the commands do it, once it is confirmed, and noted in the audit."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import sqlalchemy as sa
from tests.dashboard.seeding import Seeded, row
from tests.dashboard.visitor import Visitor, read

from moorline import Moorline, Policy
from moorline.calls.guards import Guards
from moorline.identity import vault_sql
from moorline.jobs.broker import JobFilter
from moorline.services import SendGrid, Stripe
from moorline.store.schema import audit


async def noted(app: Moorline) -> list[tuple[str, str, dict[str, Any]]]:
    """The audit: who, what, which."""

    def rows(connection: sa.Connection) -> list[tuple[str, str, dict[str, Any]]]:
        found = connection.execute(sa.select(audit).order_by(audit.c.id))
        return [(one.actor, one.action, json.loads(one.detail)) for one in found]

    return await app.store.read(rows)


def fields(page: str) -> list[tuple[str, str]]:
    """What the form of a page that asks would send."""
    given = [dict(pairs) for pairs in _inputs(page)]
    return [(one["name"], one["value"]) for one in given if one.get("type") == "hidden"]


def _inputs(page: str) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for tag, name, value in read(page).given:
        if tag == "input" and name == "type":
            found.append([])
        if tag == "input":
            found[-1].append((name, value))
    return found


async def test_a_dead_job_is_tried_again_at_once(app: Moorline, visitor: Visitor, there: Seeded) -> None:
    """With all its attempts; the page says so, and the audit."""
    answer = await visitor.post("/jobs/retry", {"id": there.dead})
    assert answer.headers["location"] == f"/dashboard/jobs/{there.dead}?said=retry&count=1&failed=0"
    job = await app.jobs.broker.get(there.dead)
    assert (job.state, job.attempts) == ("ready", 0)
    assert "1 tried again" in (await visitor.get(f"/jobs/{there.dead}?said=retry&count=1&failed=0")).text
    detail = {"jobs": 1, "failed": 0, "ids": [there.dead]}
    assert await noted(app) == [("dashboard token", "dashboard.jobs.retry", detail)]


async def test_giving_up_asks_first(app: Moorline, visitor: Visitor, there: Seeded) -> None:
    """Nothing is done until the form of the page that asks is sent."""
    asked = await visitor.post("/jobs/skip", {"id": there.dead})
    assert (asked.status_code, "Give up 1 job?" in asked.text) == (200, True)
    assert (await app.jobs.broker.get(there.dead)).state == "dead"
    assert fields(asked.text) == [("id", there.dead), ("confirm", "yes")]
    assert (await visitor.post("/jobs/skip", fields(asked.text))).status_code == 303
    job = await app.jobs.broker.get(there.dead)
    assert (job.state, job.reason) == ("cancelled", "skipped")


async def test_all_that_fit_are_tried_again(app: Moorline, visitor: Visitor) -> None:
    """Those that were shown when it was asked, and no other; only of that queue."""
    broker = app.jobs.broker
    ids = await broker.enqueue([row(app, "sync", "q1") for _ in range(3)] + [row(app, "sync", "q2")])
    for one in ids:
        await broker.cancel(one)
    asked = await visitor.post("/jobs/retry", {"all": "yes", "state": "cancelled", "queue": "q1", "name": ""})
    assert "Try 3 jobs again" in asked.text
    (later,) = await broker.enqueue([row(app, "sync", "q1")])
    await broker.cancel(later)
    answer = await visitor.post("/jobs/retry", fields(asked.text))
    assert answer.headers["location"] == "/dashboard/jobs?said=retry&count=3&failed=0"
    found = {job.id: job.state for job in await broker.list(JobFilter())}
    assert found == {**dict.fromkeys(ids[:3], "ready"), ids[3]: "cancelled", later: "cancelled"}


async def test_a_filter_that_means_all_jobs_is_none(app: Moorline, visitor: Visitor, there: Seeded) -> None:
    """Some of it has to be said; no form that was cut off does anything to everything."""
    for form in ({}, {"all": "yes"}, {"all": "yes", "state": "", "queue": "", "name": ""}, {"state": "dead"}):
        answer = await visitor.post("/jobs/skip", {**form, "confirm": "yes"})
        assert (answer.status_code, "choose jobs" in answer.text) == (400, True)
    assert (await app.jobs.broker.get(there.dead)).state == "dead"


async def test_one_that_cannot_be_does_not_keep_the_others_from_it(app: Moorline, visitor: Visitor) -> None:
    """How many could not be is said; of a single one, why."""
    broker = app.jobs.broker
    ready, done = await broker.enqueue([row(app, "sync"), row(app, "sync")])
    await broker.cancel(done)
    form = [("id", ready), ("id", done), ("id", "nothing"), ("confirm", "yes")]
    answer = await visitor.post("/jobs/stop", form)
    assert answer.headers["location"] == "/dashboard/jobs?said=stop&count=1&failed=2"
    assert "1 stopped, or asked to stop; 2 could not be" in (await visitor.get("/jobs?said=stop&count=1&failed=2")).text
    alone = await visitor.post("/jobs/stop", {"id": done, "confirm": "yes"})
    assert (alone.status_code, "cancelled" in alone.text) == (409, True)
    assert (await visitor.post("/jobs/retry", {"id": "nothing"})).status_code == 404


async def test_what_is_given_up_leaves_its_group(app: Moorline, visitor: Visitor) -> None:
    """As by the command: what follows the group does not wait for it."""

    @app.job()
    async def part(name: str) -> None: ...

    @app.job()
    async def whole() -> None: ...

    group = await app.group([part.call("a"), part.call("b")], then=whole.call())
    jobs = [job.id for job in await app.jobs.broker.list(JobFilter()) if job.name.endswith("part")]
    await visitor.post("/jobs/skip", [*(("id", one) for one in jobs), ("confirm", "yes")])
    assert (await group.state()).finished_at is not None


async def test_an_event_is_handled_again(app: Moorline, visitor: Visitor, there: Seeded) -> None:
    """By all its handlers, or the one that is named; a name that is none is 400."""
    before = await app.jobs.broker.list(JobFilter(event_id=there.event))
    answer = await visitor.post(f"/events/{there.event}/replay", {"handler": ""})
    assert answer.headers["location"] == f"/dashboard/events/{there.event}?said=replayed&count=1&failed=0"
    await visitor.post(f"/events/{there.event}/replay", {"handler": "on_push"})
    assert len(await app.jobs.broker.list(JobFilter(event_id=there.event))) == len(before) + 2
    wrong = await visitor.post(f"/events/{there.event}/replay", {"handler": "nobody"})
    assert wrong.status_code == 400
    assert [action for _, action, _ in await noted(app)] == ["dashboard.events.replay"] * 2


async def test_a_connection_is_taken_away_once_that_is_confirmed(
    app: Moorline, visitor: Visitor, there: Seeded
) -> None:
    """The page that asks names owner and service; then it is gone, and is noted without a token."""
    asked = await visitor.post(f"/connections/{there.good}/revoke")
    assert "good a word" in asked.text
    assert await app.store.read(vault_sql.load, there.good) is not None
    assert (await visitor.post(f"/connections/{there.good}/revoke", fields(asked.text))).status_code == 303
    assert await app.store.read(vault_sql.load, there.good) is None
    assert (await visitor.post(f"/connections/{there.good}/revoke", fields(asked.text))).status_code == 404
    ((_, action, detail),) = await noted(app)
    assert (action, detail["of"], detail["how"]) == ("dashboard.connections.revoke", "good a word", "deleted")


async def test_a_service_is_asked_whether_its_key_is_good(app: Moorline, visitor: Visitor, calm: Guards) -> None:
    """By a call that changes nothing: what it says, and what to do about it; its words are escaped."""
    policy = Policy(retry=None)
    bad = httpx2.MockTransport(
        lambda request: httpx2.Response(401, json={"error": {"message": "Invalid <b>key</b> sk_live_0123456789abcdef"}})
    )
    good = httpx2.MockTransport(lambda request: httpx2.Response(200, json={"batch_id": "b_1"}))
    app.service(Stripe, api_key="sk_test_0123456789abcdef", wire=bad, policy=policy, guards=calm)
    app.service(SendGrid, api_key="SG.0123456789abcdef", wire=good, policy=policy)
    answer = await visitor.post("/services/stripe/check")
    assert "stripe</strong> is not fine" in answer.text
    assert "Invalid &lt;b&gt;key&lt;/b&gt; ***" in answer.text
    assert "STRIPE_SECRET_KEY is not taken by stripe" in answer.text
    assert "sendgrid</strong> is fine" in (await visitor.post("/services/sendgrid/check")).text
    assert (await visitor.post("/services/paypal/check")).status_code == 400
    guarded = {one["name"]: one for one in (await visitor.json("/services"))["guards"]}
    assert guarded["stripe"]["breaker"] == "closed"


async def test_what_a_query_says_was_done_is_in_our_own_words(visitor: Visitor) -> None:
    """A link cannot make a page say anything else."""
    for query in ("said=All%20is%20lost", "said=retry&count=<b>&failed=-1", "said=", "said=retry&said=skip"):
        page = await visitor.get(f"/jobs?{query}")
        assert page.status_code == 200
        assert "lost" not in page.text
        assert "<b>" not in page.text


async def test_more_than_a_thousand_are_done_in_parts(app: Moorline, visitor: Visitor) -> None:
    """The newest thousand at once, and the page says that there are more."""
    ids = await app.jobs.broker.enqueue([row(app, "sync", "big") for _ in range(1_001)])
    asked = await visitor.post("/jobs/skip", {"all": "yes", "queue": "big", "state": "ready"})
    assert "Give up 1,000 jobs?" in asked.text
    assert "do it again for the rest" in asked.text
    done = await visitor.post("/jobs/skip", fields(asked.text))
    assert done.headers["location"] == "/dashboard/jobs?said=skip&count=1000&failed=0"
    left = await app.jobs.broker.list(JobFilter(state="ready"))
    assert [job.id for job in left] == ids[:1]
