"""Connecting accounts as an attacker would have it: other sites, other owners, other codes, other services."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity.hub import HOME, READ, RING, Owner, of, seen

from moorline import Moorline, errors
from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Service
from moorline.clock import ManualClock
from moorline.identity import connect_routes
from moorline.identity.oauth import OAuth
from moorline.policies.policy import Policy
from moorline.services import HubSpot

POSTS = ("/auth/hubspot/connect", "/auth/hubspot/disconnect?id=x")


def changed(url: str, **with_: str | None) -> str:
    """An address with other parameters."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | with_
    kept = {name: value for name, value in query.items() if value is not None}
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(kept)}"


async def test_another_site_begins_and_ends_nothing(owner: Owner):
    """A form of another site, or of nobody knows which, is refused; nothing begins."""
    for headers in (
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site", "origin": HOME},
        {"sec-fetch-site": "same-site"},
        {"referer": "https://evil.example/"},
        {"origin": "null"},
        {},
    ):
        for path in POSTS:
            answer = await owner.browser.client.post(path, headers=headers)
            assert (answer.status_code, list(owner.browser.cookies)) == (403, [])


async def test_links_change_nothing(app: Moorline, owner: Owner):
    """A GET shows a page at most: no consent begins by a link, nothing is disconnected by one."""
    await owner.connect()
    row = await of(app)
    page = await owner.page("/auth/hubspot/connect?scopes=a+b")
    assert (page.status_code, page.headers.get_list("set-cookie")) == (200, [])
    assert (await owner.page(f"/auth/hubspot/disconnect?id={row.id}")).status_code == 405
    assert (await owner.browser.client.put("/auth/hubspot/connect")).status_code == 405
    assert (await of(app)).version == 1


async def test_nobody_connects_for_another_owner(app: Moorline, owner: Owner):
    """Who is somebody else at the callback than at the beginning gets nothing; nor does who is nobody."""
    back = await owner.consent(await owner.begin())
    owner.name = "u_2"
    assert (await owner.browser.get(back)).status_code == 403
    owner.name = "u_1"
    back = await owner.consent(await owner.begin())
    owner.name = ""
    assert (await owner.browser.get(back)).status_code == 403
    for path in ("/auth/connections", "/auth/hubspot/connect"):
        assert (await owner.page(path)).status_code == 403
    assert await app.connections.list() == []


async def test_an_answer_of_another_browser_is_of_no_use(app: Moorline, owner: Owner):
    """An attacker's account does not become the victim's, whoever begins: the cookie is in another browser."""
    mallory, victim = owner, Owner(app)
    back = await mallory.consent(await mallory.begin())
    answer = await victim.browser.get(back)
    assert (answer.status_code, "Try again" in answer.text) == (400, True)
    await victim.begin()
    assert (await victim.browser.get(back)).status_code == 400
    assert await app.connections.list() == []


async def test_an_answer_counts_once(app: Moorline, owner: Owner, hub_sandbox: str):
    """Played again, with the cookie that was kept aside, it is refused before the code is shown to anybody."""
    at = await owner.begin()
    kept = dict(owner.browser.cookies)
    back = await owner.consent(at)
    assert (await owner.browser.get(back)).status_code == 303
    asked = seen(hub_sandbox, "/oauth/2026-03/token")
    owner.browser.client.cookies.update(kept)
    assert (await owner.browser.get(back)).status_code == 400
    assert (seen(hub_sandbox, "/oauth/2026-03/token"), (await of(app)).version) == (asked, 1)


@pytest.mark.parametrize(
    "with_",
    [
        {"state": "x"}, {"state": None}, {"code": None}, {"code": ""}, {"code": "sandbox-code/forged"},
        {"access_token": "x"}, {"id_token": "x"},
    ],
)  # fmt: skip
async def test_forged_answers(app: Moorline, owner: Owner, with_: dict[str, str | None]):
    """Another state, none, another code, none, or tokens in the address."""
    answer = await owner.browser.get(changed(await owner.consent(await owner.begin()), **with_))
    assert answer.status_code == 400
    assert "forged" not in answer.text
    assert await app.connections.list() == []


async def test_an_answer_that_took_too_long(app: Moorline, owner: Owner, hub_clock: ManualClock):
    """Ten minutes, and no longer."""
    back = await owner.consent(await owner.begin())
    hub_clock.advance(601)
    answer = await owner.browser.get(back)
    assert (answer.status_code, "took too long" in answer.text) == (400, True)
    assert await app.connections.list() == []


async def test_consent_that_was_denied(owner: Owner):
    """A page says so, with a link to try again with the same scopes; nothing of the answer stands on it."""
    answer = await owner.browser.get(await owner.consent(await owner.begin(scopes="a", next="/deals"), login=""))
    assert answer.status_code == 403
    assert "HubSpot was not connected: access was refused." in answer.text
    link = f"/auth/hubspot/connect?scopes=oauth%20a%20{READ}&amp;next=%2Fdeals"
    assert f'href="{link}"' in answer.text
    assert (await owner.page(link.replace("&amp;", "&"))).status_code == 200


async def test_open_redirects(owner: Owner):
    """The way on is a path of this application, in links and in forms."""
    elsewhere = (
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/%2F/evil.example",
        "javascript:x()",
        "x",
    )
    for next_ in elsewhere:
        for answer in (
            await owner.submit("/auth/hubspot/connect", next=next_),
            await owner.submit(f"/auth/hubspot/connect?{urlencode({'next': next_})}"),
            await owner.page(f"/auth/hubspot/connect?{urlencode({'next': next_})}"),
            await owner.submit("/auth/hubspot/disconnect", id="x", next=next_),
        ):
            assert answer.status_code == 400
    assert (await owner.connect(next="/deals?new=1")).headers["location"] == "/deals?new=1"


async def test_what_is_another_owners_cannot_be_disconnected(app: Moorline, owner: Owner):
    """By its id neither, nor by the routes of another service."""
    await owner.connect()
    row = await of(app)
    mallory = Owner(app, "u_2")
    for id_ in (row.id, "", "' OR 1=1 --"):
        assert (await mallory.submit("/auth/hubspot/disconnect", id=id_)).status_code == 404
    assert (await mallory.submit("/auth/salesforce/disconnect", id=row.id)).status_code == 404
    assert (await of(app)).version == 1


@pytest.mark.parametrize(
    "body",
    [b"scopes=a&scopes=b", b"x=" + b"a" * 30_000, b"&".join(b"a%d=1" % number for number in range(100)), b"scopes=%ff"],
    ids=["twice", "too long", "too many", "no text"],
)
async def test_forms_that_cannot_be(owner: Owner, body: bytes):
    """Fields that are there twice, too many, too long, or no text."""
    headers = {"origin": HOME, "content-type": "application/x-www-form-urlencoded"}
    answer = await owner.browser.client.post("/auth/hubspot/connect", content=body, headers=headers)
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "http.request", "body": b"a=1", "more_body": True}] * 10_000, 413),
        ([{"type": "http.request", "body": b"a=1", "more_body": True}, {"type": "http.disconnect"}], 400),
        (
            [{"type": "http.request", "body": b"sco", "more_body": True}, {"type": "http.request", "body": b"pes=a"}],
            303,
        ),
        ([], 408),
    ],
    ids=["endless", "broken off", "in parts", "slow"],
)
async def test_forms_that_come_in_parts(
    app: Moorline, messages: list[dict[str, Any]], status: int, monkeypatch: pytest.MonkeyPatch
):
    """They are read to their end, up to a limit of bytes and of time."""
    monkeypatch.setattr(connect_routes, "_FORM_SECONDS", 0.01 if not messages else 10.0)
    left, sent = list(messages), []

    async def receive() -> Any:
        return left.pop(0) if left else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {
        "host": "127.0.0.1:8000",
        "origin": HOME,
        "x-owner": "u_1",
        "content-type": "application/x-www-form-urlencoded",
    }
    scope = {
        "type": "http", "method": "POST", "path": "/auth/hubspot/connect", "scheme": "http", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == status


@pytest.mark.parametrize("scopes", ['a"b', "a\\b", "é", "a " * 150, "x" * 501])
async def test_scopes_that_are_none(app: Moorline, owner: Owner, scopes: str):
    """In links, in forms and in code."""
    assert (await owner.submit("/auth/hubspot/connect", scopes=scopes)).status_code in (303, 400)
    many = " ".join(f"s{number}" for number in range(150)) if scopes.startswith("a a") else scopes
    assert (await owner.submit("/auth/hubspot/connect", scopes=many)).status_code == 400
    with pytest.raises(errors.ConfigurationError, match="scopes"):
        app.connections.get("u_1", HubSpot, scopes=many.split())


async def test_more_than_a_browser_keeps(owner: Owner):
    """A cookie over 4,096 bytes is dropped, and whoever comes back would be refused: a page says so before, and names
    what can be shorter. Up to there it is begun.
    """
    many = " ".join(f"https://www.googleapis.com/auth/some.api.scope{number:02}.readonly" for number in range(17))

    async def begun(length: int) -> httpx2.Response:
        owner.browser.client.cookies.clear()
        return await owner.submit("/auth/hubspot/connect", scopes=many, next="/".ljust(length, "a"))

    fits, over = 1, 2000
    while over - fits > 1:
        middle = (fits + over) // 2
        fits, over = (middle, over) if (await begun(middle)).status_code == 303 else (fits, middle)
    name, _, value = (await begun(fits)).headers["set-cookie"].partition(";")[0].partition("=")
    assert 4090 <= len(name) + len(value) <= 4096
    refused = await begun(over)
    assert (refused.status_code, "set-cookie" in refused.headers) == (400, False)
    assert "a shorter address to return to, or fewer scopes" in refused.text


# --- services that a test can bend


class Other(Service):
    """Another service at which accounts are connected."""

    name, category = "other", "tests"
    endpoints = Endpoints("https://other.example")
    credentials = BearerKey(env="OTHER_KEY")
    oauth = OAuth(
        authorize="https://other.example/authorize", token="/token", account="login", whoami="/me",
        issuer="https://other.example", answers_issuer=True, rotates=True, scopes=("a",),
    )  # fmt: skip


class Provider:
    """Its side: what it answers, what it was asked."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, str]], dict[str, Any]] = lambda _: {}
        self.login: Any = "<b>ada</b>"

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/me":
            return httpx2.Response(200, json={"login": self.login})
        if request.url.path != "/token":
            return httpx2.Response(200, json={})
        form = dict(parse_qsl(request.read().decode()))
        self.forms.append(form)
        usual = {"access_token": f"access-canary-{len(self.forms)}", "token_type": "bearer", "expires_in": 600}
        usual["refresh_token"] = f"refresh-canary-{len(self.forms)}"
        return httpx2.Response(200, json={**usual, **self.answer(form)})


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def bent(provider: Provider, tmp_path: Path, hub_clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An application that connects both, the other one not in the sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", HOME)
    for name in ("OTHER_CLIENT", "HUBSPOT_CLIENT"):
        monkeypatch.setenv(f"{name}_ID", "the-client")
        monkeypatch.setenv(f"{name}_SECRET", "client-secret-canary")
    async with Moorline(migrated_sqlite(tmp_path / "bent.db"), clock=hub_clock) as made:
        for service in (Other, HubSpot):
            wire = httpx2.MockTransport(provider)
            made.service(service, wire=wire, guards=Guards(clock=hub_clock), policy=Policy(retry=None, breaker=None))
        made.connect(Other, HubSpot, keys=RING, owner=lambda scope: "u_1")
        yield made


async def answered(app: Moorline, name: str = "other", **answer: str | None) -> httpx2.Response:
    """Begin at a service, and bring that answer back."""
    owner = Owner(app)
    asked = dict(parse_qsl(urlsplit(await owner.begin(f"/auth/{name}/connect")).query))
    usual = {"code": "code-canary", "state": asked["state"], "iss": "https://other.example"}
    return await owner.browser.get(changed(asked["redirect_uri"], **(usual | answer)))


async def test_the_issuer_is_checked(bent: Moorline):
    """A service that promises to name itself in its answers (RFC 9207) has to, and no other one may answer."""
    assert (await answered(bent)).status_code == 303
    assert (await of(bent)).account == "<b>ada</b>"
    for wrong in ("https://evil.example", None, "https://other.example/"):
        assert (await answered(bent, iss=wrong)).status_code == 400


async def test_a_swapped_service(bent: Moorline):
    """What was begun at one service is not ended at the callback of another one."""
    owner = Owner(bent)
    asked = dict(parse_qsl(urlsplit(await owner.begin("/auth/other/connect")).query))
    answer = {"code": "code-canary", "state": asked["state"], "iss": "https://other.example"}
    swapped = await owner.browser.get(f"/auth/hubspot/callback?{urlencode(answer)}")
    assert (swapped.status_code, await bent.connections.list()) == (400, [])


async def test_nothing_that_a_service_says_is_taken_for_html(bent: Moorline, provider: Provider):
    """Names of accounts, scopes and reasons are text on the page; nothing runs there. Its forms are sent here, from
    where a service leads on to hosts that nobody can list, which browsers hold against the policy: any by https.
    """
    provider.answer = lambda _: {"scope": 'a <script>alert(1)</script> "onload="x'}
    await answered(bent)
    page = await Owner(bent).page()
    assert "&lt;b&gt;ada&lt;/b&gt;" in page.text
    assert re.search(r"<script|<b>|onload=\"", page.text) is None
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self' https:;" in policy
    assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert "script" not in policy


@pytest.mark.parametrize("login", [None, "", 1.5, "a\nb", "x" * 501, ["a"]], ids=repr)
async def test_an_account_that_is_none(bent: Moorline, provider: Provider, login: Any):
    """Nothing is stored of whom nobody knows."""
    provider.login = login
    assert ((await answered(bent)).status_code, await bent.connections.list()) == (503, [])


async def test_fewer_scopes_are_noticed_at_a_refresh(bent: Moorline, provider: Provider, hub_clock: ManualClock):
    """A refresh that grants less changes what is stored, is an event, and stops calls that need more."""
    provider.answer = lambda form: {"scope": "a" if form["grant_type"] == "refresh_token" else "a b"}
    await answered(bent)
    other = bent.connections.get("u_1", Other, scopes=("b",))
    await other.request("GET", "/things")
    hub_clock.advance(590)
    with pytest.raises(errors.ReauthorizationRequired) as caught:
        await other.request("GET", "/things")
    assert (set(caught.value.missing), set((await of(bent)).scopes)) == ({"b"}, {"a"})
    assert caught.value.reconnect == f"{HOME}/auth/other/connect?account=%3Cb%3Eada%3C%2Fb%3E&scopes=b"
    assert [one.action for one in await bent.events(service="moorline")] == ["reduced", "connected"]


async def test_no_token_is_found_anywhere(
    bent: Moorline, provider: Provider, hub_clock: ManualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Tokens, codes and secrets stand in no log, no error, no page, no event, and nowhere in the database."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = [(await answered(bent)).text]
    other = bent.connections.get("u_1", Other)
    await other.request("GET", "/things")
    hub_clock.advance(590)
    await other.request("GET", "/things")
    provider.answer = lambda form: {"error": "invalid_grant", "error_description": f"no {form.get('refresh_token')}"}
    hub_clock.advance(600)
    with pytest.raises(errors.ReauthorizationRequired) as caught:
        await other.request("GET", "/things")
    error = caught.value
    shown += [str(error), repr(vars(error)), repr(other), repr(other.fetched), repr(bent.connections)]
    shown += [(await answered(bent)).text, (await Owner(bent).page()).text]
    shown += [record.getMessage() for record in caplog.records if record.name.startswith("moorline")]
    shown += [f"{one.body!r} {one.headers}" for one in await bent.events(service="moorline")]
    shown += [str((await of(bent)).to_dict()), repr(await of(bent))]
    await bent.close()
    assert provider.forms
    for text in (*shown, *stored(tmp_path)):
        assert "canary" not in text


def stored(folder: Path) -> list[str]:
    """All that a database has, by its own word and byte by byte."""
    dump = io.StringIO()
    with sqlite3.connect(folder / "bent.db") as database:
        dump.writelines(database.iterdump())
    return [dump.getvalue(), b"".join(path.read_bytes() for path in folder.glob("bent.db*")).decode("latin-1")]
