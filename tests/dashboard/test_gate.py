"""Who is let in, and who is not."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx2
import pytest
from tests.dashboard.seeding import TOKEN, Seeded
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite
from tests.identity.shop import SHOP, Browser, Idp, shop_of

from moorline import Moorline
from moorline.cli.root import _dashboard
from moorline.clock import ManualClock
from moorline.dashboard import drawing, routes
from moorline.errors import ConfigurationError, StoreUnavailable
from moorline.events.origin import Origin
from moorline.settings import load
from moorline.store import Store

POSTS = (
    "/jobs/retry", "/jobs/skip", "/jobs/stop", "/events/1/replay", "/connections/1/revoke", "/connections/1/refresh", "/keys/A_KEY/retire", "/keys/add", "/keys/A_KEY/add", "/keys/A_KEY/rotate", "/services/stripe/check",
    "/login", "/logout",
)  # fmt: skip
OTHERS_SITE = {
    "other site": {"sec_fetch_site": "cross-site", "origin": "https://evil.example"},
    "other site that says null": {"sec_fetch_site": "cross-site", "origin": "null"},
    "sibling": {"sec_fetch_site": "same-site", "origin": "https://other.shop.example"},
    "old browser, other origin": {"sec_fetch_site": "", "origin": "https://evil.example"},
    "old browser, nothing": {"sec_fetch_site": "", "origin": ""},
    "old browser, other page": {"sec_fetch_site": "", "origin": "", "referer": "https://evil.example/dashboard"},
}


# --- closed by default


@pytest.mark.parametrize("path", ["", ".json", "/", "/jobs", "/login", "/dashboard.css", "/services/x/check"])
async def test_it_is_closed_unless_it_is_opened(app: Moorline, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Without a token and users, its paths answer as any unknown path does, and nothing of it is loaded."""
    monkeypatch.delenv("MOORLINE_DASHBOARD_TOKEN")
    visitor = Visitor(app)
    found, unknown = await visitor.get(path), await visitor.client.get("/nothing-is-here")
    told = [(one.status_code, one.content, dict(one.headers)) for one in (found, unknown)]
    assert told[0] == told[1]
    assert found.status_code == 404
    assert (await visitor.post(path, {"token": TOKEN})).status_code == 404


async def test_paths_that_only_begin_alike_are_not_of_it(app: Moorline) -> None:
    """``/dashboards`` is an unknown path, whatever is open."""
    assert (await Visitor(app).client.get("/dashboards")).status_code == 404


async def test_a_short_token_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the variable and not the token."""
    monkeypatch.setenv("MOORLINE_DASHBOARD_TOKEN", "only-15-letters")
    with pytest.raises(ConfigurationError, match=r"MOORLINE_DASHBOARD_TOKEN.*16 characters") as caught:
        await Moorline(f"sqlite:///{tmp_path}/x.db").open()
    assert "only-15" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MOORLINE_DASHBOARD__IDLE", "1", r"dashboard\.idle .*MOORLINE_DASHBOARD__IDLE"),
        ("MOORLINE_DASHBOARD__LONGEST", "61", r"dashboard .*idle must be at most longest"),
        ("MOORLINE_DASHBOARD__TOKEN", "anything", r"dashboard\.token .*is no setting"),
        ("MOORLINE_DASHBORD_TOKEN", "anything", "did you mean MOORLINE_DASHBOARD_TOKEN"),
    ],
)
def test_settings_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """Each error names its key; a token in the wrong place opens nothing silently."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        load()


def test_users_are_named_in_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas."""
    monkeypatch.setenv("MOORLINE_DASHBOARD__USERS", "u_1, u_2")
    assert load().dashboard.users == ("u_1", "u_2")


async def test_without_jinja2_it_says_what_to_install(app: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, as there is nothing to draw with; and ``app.dashboard`` says it at once."""
    drawing._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    answer = await Visitor(app).get()
    assert "pip install 'moorline[dashboard]'" in answer.json()["error"]
    with pytest.raises(ConfigurationError, match="pip install"):
        app.dashboard(users=["u_1"])


def test_serving_says_where_it_is_or_how_it_is_opened(app: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the line that ``moorline serve`` begins with."""
    assert _dashboard(app, "http://127.0.0.1:8000") == "http://127.0.0.1:8000/dashboard"
    monkeypatch.delenv("MOORLINE_DASHBOARD_TOKEN")
    assert _dashboard(app, "http://127.0.0.1:8000") == "closed: set MOORLINE_DASHBOARD_TOKEN, or [dashboard] users"


# --- by token


async def test_the_token_lets_in_and_leaving_ends_it(app: Moorline) -> None:
    """Before and after it there is the form, with 401; a copy of the cookie is of no use after leaving."""
    visitor = Visitor(app)
    assert (await visitor.get("/jobs")).status_code == 401
    entered = await visitor.enter(next="/dashboard/jobs")
    assert (entered.status_code, entered.headers["location"]) == (303, "/dashboard/jobs")
    assert (await visitor.get("/jobs")).status_code == 200
    kept = dict(visitor.client.cookies)
    assert (await visitor.post("/logout")).status_code == 303
    assert (await visitor.get("/jobs")).status_code == 401
    visitor.client.cookies.update(kept)
    assert (await visitor.get("/jobs")).status_code == 401


async def test_the_cookie_is_for_this_host_alone_and_shows_nothing(app: Moorline) -> None:
    """Over https it is ``__Host-``, Secure, HttpOnly, SameSite; the token is not in it."""
    app.receiver.intake.origin.public_url = "https://ops.example"
    answer = await Visitor(app).enter()
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-moorline-dashboard=")
    assert {"Path=/", "HttpOnly", "Secure", "SameSite=Lax"} <= set(cookie.split("; "))
    assert TOKEN not in cookie


async def test_wrong_tokens_are_limited_by_address(app: Moorline, clock: ManualClock) -> None:
    """After five wrong ones of an address even the right one has to wait; others, and who is in, need not."""
    inside, outside = Visitor(app, peer="198.51.100.7"), Visitor(app)
    await inside.enter()
    for _ in range(5):
        wrong = await outside.enter(f"{TOKEN}x")
        assert (wrong.status_code, "not the one" in wrong.text) == (401, True)
    limited = await outside.enter()
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "300")
    assert (await outside.get("/jobs.json", authorization=f"Bearer {TOKEN}")).status_code == 429
    assert (await inside.get("/jobs")).status_code == 200
    assert (await Visitor(app, peer="198.51.100.8").enter()).status_code == 303
    clock.advance(301)
    assert (await outside.enter()).status_code == 303


async def test_behind_a_trusted_proxy_the_address_is_the_one_that_it_says(app: Moorline) -> None:
    """The last entry of the header alone: those before it may be anybody's."""
    app.receiver.intake.origin = Origin(None, ["203.0.113.9"])
    visitor = Visitor(app)
    for number in range(5):
        await visitor.post("/login", {"token": "wrong"}, x_forwarded_for=f"10.9.9.{number}, 192.0.2.1")
    assert (await visitor.post("/login", {"token": TOKEN}, x_forwarded_for="192.0.2.1")).status_code == 429
    assert (await visitor.post("/login", {"token": TOKEN}, x_forwarded_for="192.0.2.2")).status_code == 303


@pytest.mark.parametrize("token", ["", "a", "two-in-the-morning-000", "x" * 5_000, "é\x00", "two-in-the-morning-0001 "])
async def test_what_is_not_the_token_does_not_let_in(app: Moorline, token: str) -> None:
    """Shorter, longer, of other letters, none."""
    answer = await Visitor(app).enter(token)
    assert (answer.status_code, answer.headers.get("set-cookie")) == (401, None)


async def test_a_session_ends_with_its_token(app: Moorline, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """While both are accepted it goes on; without the one that it was entered by it is over."""
    monkeypatch.setenv("MOORLINE_DASHBOARD_TOKEN", f"another-token-of-0002 {TOKEN}")
    assert (await visitor.get("/jobs")).status_code == 200
    assert (await Visitor(app).enter("another-token-of-0002")).status_code == 303
    monkeypatch.setenv("MOORLINE_DASHBOARD_TOKEN", "another-token-of-0002")
    assert (await visitor.get("/jobs")).status_code == 401


async def test_a_session_ends_in_time(visitor: Visitor, clock: ManualClock) -> None:
    """Half an hour without a request, or twelve hours at all, and it is over; its use renews it."""
    for _ in range(25):
        clock.advance(1_700)
        assert (await visitor.get("/jobs")).status_code == 200
    clock.advance(1_700)
    assert (await visitor.get("/jobs")).status_code == 401
    await visitor.enter()
    clock.advance(1_801)
    assert (await visitor.get("/jobs")).status_code == 401


async def test_scripts_read_with_the_token_and_change_nothing(app: Moorline, there: Seeded) -> None:
    """``Authorization: Bearer`` is for reading alone; a wrong one is 401, in JSON."""
    script = Visitor(app)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert (await script.get(f"/jobs/{there.dead}.json", **bearer)).json()["job"]["state"] == "dead"
    assert (await script.post("/jobs/retry", {"id": there.dead}, **bearer)).status_code == 403
    wrong = await script.get("/jobs.json", authorization="Bearer nothing-of-the-kind")
    assert (wrong.status_code, wrong.headers["content-type"]) == (401, "application/json")
    assert (await script.get("/jobs.json")).json() == {"error": "not let in"}


@pytest.mark.parametrize(
    "next", ["https://evil.example", "//evil.example", "/dashboard//evil", "/dashboardx", "/shop", "/dashboard/\\e"]
)
async def test_it_leads_nowhere_else(app: Moorline, next: str) -> None:
    """After the token one goes to a page of the dashboard, whatever the form says."""
    assert (await Visitor(app).enter(next=next)).headers["location"] == "/dashboard"


async def test_by_plain_http_from_elsewhere_nothing_is_shown(app: Moorline) -> None:
    """A token would go over the wire in the clear."""
    answer = await Visitor(app, base="http://ops.example").enter()
    assert (answer.status_code, answer.headers.get("set-cookie")) == (503, None)


# --- forms of other sites


@pytest.mark.parametrize("headers", OTHERS_SITE.values(), ids=OTHERS_SITE)
async def test_forms_of_other_sites_are_refused(visitor: Visitor, headers: dict[str, str]) -> None:
    """Whatever changes anything is a form of this very site."""
    answers = {path: await visitor.post(path, {"confirm": "yes"}, **headers) for path in POSTS}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(POSTS, 403)
    assert (await visitor.get("/jobs")).status_code == 200


def test_no_form_is_left_out() -> None:
    """Every view that answers a POST is among those that are tried."""
    for method, path, _ in routes._VIEWS:
        assert method == "GET" or any(path.fullmatch(one) for one in POSTS)


async def test_nothing_is_changed_by_a_link(visitor: Visitor, there: Seeded) -> None:
    """What a POST does, a GET does not do: 405 that names what is allowed, or the page of something else."""
    for path in (f"/events/{there.event}/replay", f"/connections/{there.good}/revoke", "/services/stripe/check"):
        answer = await visitor.get(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await visitor.get("/jobs/retry")).status_code == 404
    assert (await visitor.get("/logout")).status_code == 405
    assert (await visitor.post("/jobs")).status_code == 405


# --- what every answer carries


async def test_every_answer_is_kept_by_nobody_and_framed_by_nobody(visitor: Visitor, app: Moorline) -> None:
    """Pages, forms, errors and redirects alike."""
    answers = [await visitor.get(path) for path in ("", "/jobs", "/nothing", "/jobs/none", "/jobs?state=odd", ".json")]
    answers += [await visitor.post("/jobs/retry", {"id": "none"}), await Visitor(app).get(), await Visitor(app).enter()]
    for answer in answers:
        headers = answer.headers
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy


async def test_forms_are_bounded(visitor: Visitor) -> None:
    """By size, by number of fields, and by kind."""
    assert (await visitor.post("/jobs/retry", {"id": "x" * 140_000})).status_code == 413
    assert (await visitor.post("/jobs/retry", [("id", "x")] * 1_200)).status_code == 400
    assert (await visitor.post("/jobs/retry", {"id": "x"}, content_type="multipart/form-data")).status_code == 415
    assert (await visitor.post("/jobs/retry", [("id", str(n)) for n in range(1_001)])).status_code == 400


async def test_head_is_get_without_the_body(visitor: Visitor) -> None:
    """With the same length told."""
    whole = await visitor.get("/services")
    head = await visitor.client.head("/dashboard/services")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


async def test_a_database_that_is_away_is_said(
    app: Moorline, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 and not a traceback; the form still asks for the token."""
    await app.close()

    def away() -> Store:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(app.store, "open", away)
    answer = await visitor.get("/jobs")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (await Visitor(app).get()).status_code == 401


# --- by sign-in


@pytest.fixture
def shop(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> tuple[Moorline, Idp]:
    """An application whose users sign in, and their provider; no token."""
    monkeypatch.delenv("MOORLINE_DASHBOARD_TOKEN")
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", SHOP)
    idp = Idp()
    app = shop_of(migrated_sqlite(tmp_path / "shop.db"), clock, httpx2.MockTransport(idp))
    app.on_sign_in(lambda identity: f"{identity.provider}:{identity.subject}")
    return app, idp


async def test_users_who_are_named_are_let_in(shop: tuple[Moorline, Idp]) -> None:
    """Who has not signed in is shown where to; who has and is not named is not let in; who is, is."""
    app, idp = shop
    app.dashboard(users=["idp:u-1"])
    async with app:
        browser = Browser(app)
        asked = await browser.get("/dashboard/jobs")
        assert asked.status_code == 401
        page = read(asked.text)
        assert "/auth/idp/login?next=/dashboard/jobs" in page.values("href")
        assert "password" not in page.values("type")
        idp.claims["sub"] = "u-2"
        await browser.sign_in(idp)
        assert (await browser.get("/dashboard")).status_code == 403
        idp.claims["sub"] = "u-1"
        await browser.sign_in(idp)
        answer = await browser.get("/dashboard")
        assert (answer.status_code, "user idp:u-1" in answer.text) == (200, True)
        assert (await browser.post("/auth/logout?next=/dashboard")).headers["location"] == "/dashboard"
        assert (await browser.get("/dashboard")).status_code == 401


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize(("said", "status"), [(True, 200), (False, 403), (None, 403), ("yes", 403)], ids=str)
async def test_a_function_may_decide(shop: tuple[Moorline, Idp], kind: str, said: object, status: int) -> None:
    """Only True lets in: what forgets to answer lets in nobody."""
    app, idp = shop

    async def later(session: object) -> object:
        return said

    app.dashboard(allow=(lambda session: said) if kind == "plain" else later)  # type: ignore[arg-type, return-value]
    async with app:
        browser = Browser(app)
        await browser.sign_in(idp)
        assert (await browser.get("/dashboard")).status_code == status


async def test_users_without_a_way_to_sign_in_are_told(app: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says what is missing."""
    monkeypatch.delenv("MOORLINE_DASHBOARD_TOKEN")
    app.dashboard(users=["u_1"])
    answer = await Visitor(app).get()
    assert (answer.status_code, "Nobody can sign in here yet" in answer.text) == (401, True)


@pytest.mark.parametrize("given", [{}, {"users": "u_1"}, {"users": [""]}, {"allow": "u_1"}], ids=str)
def test_what_opens_it_is_checked(app: Moorline, given: dict[str, object]) -> None:
    """For nobody, or for what is neither users nor a function, it is not opened."""
    with pytest.raises(ConfigurationError, match="dashboard: "):
        app.dashboard(**given)  # type: ignore[arg-type]
