"""Each service at which accounts are connected, from consent to revocation, against its stand-in; and its answers."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from tests.contracts import Contract
from tests.databases import migrated_sqlite
from tests.identity.shop import Browser

from moorline import Moorline, registry
from moorline.calls.service import Service
from moorline.clock import SYSTEM, ManualClock
from moorline.errors import (
    BadAnswer,
    CallError,
    ConfigurationError,
    ConnectionNotFound,
    ReauthorizationRequired,
    SignInFailed,
)
from moorline.identity.connection import Tokens
from moorline.identity.device import DeviceCode
from moorline.identity.grants import Assertion
from moorline.identity.oauth import Client, OAuth
from moorline.identity.vendors import google, microsoft
from moorline.sandbox import server
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.services import GCS, GitHub, HubSpot, MicrosoftGraph, Salesforce, Slack, Zendesk
from moorline.services.slack_account import USER_OAUTH

HOME = "http://127.0.0.1:8000"
READ = "https://www.googleapis.com/auth/devstorage.read_only"


@dataclass(frozen=True)
class Case:
    """A service, what is asked for beside the record's own scopes, who the account is, and a call of its own."""

    service: type[Service]
    scopes: tuple[str, ...]
    account: str
    path: str


CASES = [
    Case(GCS, (), "110000000000000000001", "/storage/v1/b/moorline-sandbox/o"),
    Case(GitHub, ("repo",), "62515", "/user/repos"),
    Case(HubSpot, ("crm.objects.contacts.read",), "62515", "/crm/v3/objects/contacts"),
    Case(MicrosoftGraph, ("Mail.Read",), "pairwise-acme", "/v1.0/me"),
    Case(
        Salesforce, (), "https://login.salesforce.com/id/00Dacme/005ada", "/services/data/v66.0/limits"
    ),
    Case(Slack, ("chat:write", "channels:read"), "T0ACME0001", "/auth.test"),
    Case(Zendesk, ("write",), "901", "/api/v2/users/me.json"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with server.running(seed=5) as url:
        yield url


@pytest.fixture
async def app(sandbox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Moorline]:
    """Its clock moves when told; the sandbox's does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    httpx2.post(f"{sandbox}/_sandbox/reset", trust_env=False)
    made = Moorline(migrated_sqlite(tmp_path / "app.db"), clock=ManualClock(SYSTEM.wall()))
    async with made:
        yield made


async def connected(app: Moorline, name: str) -> dict[str, list[str]]:
    """Go the whole way with a browser: the application's form, the vendor's page, the callback; what was asked for."""
    browser = Browser(app, HOME, "127.0.0.1")
    headers = {"origin": HOME, "sec-fetch-site": "same-origin"}
    answer = await browser.client.post(f"/auth/{name}/connect", headers=headers)
    assert answer.status_code == 303, answer.text
    at = answer.headers["location"]
    async with httpx2.AsyncClient(trust_env=False) as web:
        page = await web.get(at)
        assert page.status_code == 200, page.text
        action = re.search(r'action="([^"]*)"', page.text)
        assert action is not None
        scopes = re.findall(r'name="scope" value="([^"]*)"', page.text)
        back = await web.post(html.unescape(action[1]), data={"scope": scopes, "login": "acme"})
    done = await browser.get(back.headers["location"])
    assert done.status_code in (200, 303), done.text
    return parse_qs(urlsplit(at).query)


@pytest.mark.parametrize("case", CASES, ids=[case.service.name for case in CASES])
async def test_from_consent_to_revocation(app: Moorline, sandbox: str, case: Case):
    """Connected with PKCE where the service knows it; called; refreshed when the token is refused, and ahead of its end;
    ended when its user takes the grant back; connected again; and revoked at the service by us, where it lets us.
    """
    service, name = case.service, case.service.name
    clock: Any = app.clock

    def told(**what: Any) -> dict[str, Any]:
        found: dict[str, Any] = httpx2.post(f"{sandbox}/{name}/sandbox/grants", json=what, trust_env=False).json()
        return found

    app.service(service, clock=clock)  # whose calls' deadlines are by the same one
    app.connect(service, scopes=case.scopes, keys=KeyRing([Secret(new_key())]), owner=lambda _: "u_1")
    asked = await connected(app, name)
    assert ("code_challenge" in asked) == service.oauth.pkce
    (row,) = await app.connections.list("u_1")
    assert (row.account, row.state, row.version) == (case.account, "good", 1)
    assert row.scopes >= {*service.oauth.scopes, *case.scopes} - {*service.oauth.unlisted}
    own = app.connections.get("u_1", service)
    assert (await own.request("GET", case.path)) is not None
    told(expire=True)
    await own.request("GET", case.path)
    (row,) = await app.connections.list("u_1")
    assert row.version == 2
    assert row.expires_at is not None
    clock.advance(row.expires_at - clock.wall() - 30)
    await own.request("GET", case.path)
    (row,) = await app.connections.list("u_1")
    assert (row.version, row.state) == (3, "good")
    told(revoke="acme")
    clock.advance(row.expires_at - clock.wall() + 1)
    with pytest.raises(ReauthorizationRequired) as caught:
        await own.request("GET", case.path)
    assert caught.value.connection == row.id
    assert f"/auth/{name}/connect" in str(caught.value.reconnect)
    assert (await app.connections.list("u_1"))[0].state == "ended"
    await connected(app, name)
    (row,) = await app.connections.list("u_1")
    assert row.state == "good"
    await own.request("GET", case.path)
    assert told()["grants"] == 1
    known = bool(service.oauth.revoke)
    assert (await app.connections.revoke("u_1", service)).told == ("now" if known else "never")
    assert told()["grants"] == (0 if known else 1)


@pytest.mark.parametrize(
    ("service", "more"),
    [(GCS, "email"), (GitHub, "repo"), (MicrosoftGraph, "Mail.Read")],
    ids=lambda one: getattr(one, "name", one),
)
async def test_by_a_code_typed_in_elsewhere(app: Moorline, service: type[Service], more: str):
    """The stand-in's page is opened with the code, and the waiting program has the connection; or is told of a no."""
    clock: Any = app.clock
    app.connect(service, keys=KeyRing([Secret(new_key())]), owner=lambda _: "u_1")
    flow = app.connections.device(service)
    code = await flow.begin((more,))
    clock.advance(5)
    waiting = await flow.poll(code)
    assert isinstance(waiting, DeviceCode)
    assert waiting.interval == 10, "the sandbox's own clock has not moved: it was asked too soon"
    async with httpx2.AsyncClient(trust_env=False) as web:
        assert (await web.get(code.verification_uri, params={"user_code": "NONE-SUCH"})).status_code == 404
        page = await web.get(code.complete)
        action = re.search(r'action="([^"]*)"', page.text)
        assert action is not None
        form = {"scope": re.findall(r'name="scope" value="([^"]*)"', page.text), "login": "acme"}
        await web.post(html.unescape(action[1]), data=form)
        kept = await flow.connect("u_1", waiting)
        other = await flow.begin()
        await web.post(other.complete, data={"login": ""})
    assert kept.scopes >= {*code.scopes} - {*service.oauth.unlisted}
    assert kept.scopes <= {*code.scopes}
    path = next(case.path for case in CASES if case.service is service)
    assert await app.connections.get("u_1", service).request("GET", path)
    with pytest.raises(SignInFailed) as caught:
        await flow.finish(other)
    assert caught.value.reason == "denied"
    with pytest.raises(SignInFailed, match="in time"):
        await flow.finish(code)


async def test_each_refresh_of_microsofts_is_kept(app: Moorline, monkeypatch: pytest.MonkeyPatch):
    """It gives another refresh token, though the one before stays good, as long as it is asked for one; of each tenant."""

    class Work(MicrosoftGraph):
        oauth = microsoft("User.Read", tenant="organizations")

    app.connect(Work, keys=KeyRing([Secret(new_key())]), owner=lambda _: "u_1")
    await connected(app, "microsoft_graph")

    async def refresh_token() -> str:
        (row,) = await app.connections.list("u_1")
        found = app.connections.vault.tokens(row).refresh
        assert found is not None
        return found.reveal()

    seen = [await refresh_token()]
    for _ in range(2):
        await app.connections.refresh("u_1", Work)
        seen.append(await refresh_token())
    assert len(set(seen)) == 3
    # An account of one owner is none of another's, nor of nobody's: there is no key to fall back on.
    monkeypatch.delenv("MOORLINE_SANDBOX_URL")
    with pytest.raises(ConnectionNotFound):
        await app.connections.get("u_2", Work).get_me()
    with pytest.raises(ConfigurationError, match=r"no key of its own.*app\.connect\(Work\)"):
        await app.service(Work).get_me()


async def test_an_organization_of_salesforce_by_what_our_key_signs(app: Moorline):
    """The stand-in checks the signature; the account is asked where its token says, and renewed by another one."""
    clock: Any = app.clock
    app.connect(Salesforce, keys=KeyRing([Secret(new_key())]), owner=lambda _: "u_1")
    signed = Assertion("sandbox-consumer-key", "ada@acme.example", "https://login.salesforce.com")
    with pytest.raises(CallError):
        await app.connections.open("tenant_1", Salesforce, replace(signed, issuer="another app"))
    kept = await app.connections.open("tenant_1", Salesforce, signed, account="acme")
    org = app.connections.get("tenant_1", Salesforce)
    assert await org.request("GET", "/services/data/v66.0/limits")
    clock.advance(3600)
    again = await asyncio.to_thread(app.connections.open_sync, "tenant_1", Salesforce, signed, account="acme")
    assert (again.id, again.version) == (kept.id, kept.version + 1)
    assert (await app.connections.revoke("tenant_1", Salesforce)).told == "never"


def test_every_service_with_a_record_is_in_the_table():
    """A new one has to go the whole way too."""
    declared = {name for name in registry.names() if isinstance(getattr(registry.service(name), "oauth", None), OAuth)}
    assert declared == {case.service.name for case in CASES}


# --- answers as the vendors document them


def test_a_bot_and_a_user_of_slack():
    """The bot's token stands at the top, with commas between its scopes; a user's apart, and at the top of a refresh."""
    answer = {
        "ok": True, "access_token": "xoxb-canary", "token_type": "bot", "scope": "chat:write,channels:read",
        "bot_user_id": "U0KRQLJ9H", "app_id": "A0KRD7HC3", "team": {"name": "Acme", "id": "T9TK3CUKW"},
        "authed_user": {"id": "U1234", "scope": "search:read", "access_token": "xoxp-canary", "token_type": "user"},
    }  # fmt: skip
    bot = Slack.oauth.received(answer)
    assert (bot.account, bot.granted.tokens.access.reveal()) == ("T9TK3CUKW", "xoxb-canary")
    assert (bot.granted.scopes, bot.granted.lasts) == (frozenset({"chat:write", "channels:read"}), None)
    assert bot.granted.tokens.extra["bot_user_id"] == "U0KRQLJ9H"
    user = USER_OAUTH.received(answer)
    assert (user.account, user.granted.tokens.access.reveal()) == ("T9TK3CUKW", "xoxp-canary")
    assert (user.granted.scopes, user.granted.tokens.extra["id"]) == (frozenset({"search:read"}), "U1234")
    refreshed = {"ok": True, "access_token": "xoxe.xoxp-canary", "token_type": "user", "refresh_token": "xoxe-1-canary",
                 "expires_in": 43200}  # fmt: skip
    assert USER_OAUTH.received(refreshed, whose=False).granted.lasts == 43_200
    without = {**answer, "authed_user": {"id": "U1234"}}
    with pytest.raises(BadAnswer):
        USER_OAUTH.received(without)


@pytest.mark.parametrize("service", [Slack, GitHub, Zendesk], ids=lambda service: service.name)
def test_how_a_grant_is_taken_back(service: type[Service], contracts_dir: Path):
    """The requests fit the vendors' contracts, and show the token where these want it alone."""
    tokens, client = (
        Tokens(Secret("access-canary"), Secret("refresh-canary")),
        Client("Iv1.app", Secret("secret-canary")),
    )
    request = service.oauth.revoke(client, tokens)
    assert "canary" not in repr(request)
    if service is Slack:
        assert (request.method, request.url, request.bearer) == ("POST", "/auth.revoke", tokens.access)
    if service is GitHub:
        contract = Contract(contracts_dir, "github_signin")
        body = b'{"access_token":"access-canary"}'
        assert contract.request_problems("DELETE", request.url, body, "application/json") == []
        assert (request.json, request.basic) == ({"access_token": "access-canary"}, True)
    if service is Zendesk:
        assert (request.method, request.bearer) == ("DELETE", tokens.access)


@pytest.mark.parametrize("host", ["https://acme.my.salesforce.com", "https://evil.example", "https://evilforce.com", 7])
def test_a_connected_account_of_salesforce_is_asked_where_its_token_says(host: Any):
    """And nowhere that is not Salesforce's."""
    answer = {"access_token": "canary", "token_type": "Bearer", "id": "https://login.salesforce.com/id/1/2"}
    received = Salesforce.oauth.received({**answer, "instance_url": host})
    assert (received.granted.lasts, received.granted.scopes) == (3600, None)
    org = Salesforce("none", client_id="app", username="ada@acme.example")
    extra: Any = type("Key", (), {"extra": received.granted.tokens.extra})()
    org.fetched = extra
    url = f"{org.base_url}/services/data/v66.0/limits"
    if host == "https://acme.my.salesforce.com":
        assert org.located(url) == f"{host}/services/data/v66.0/limits"
        return
    with pytest.raises(BadAnswer):
        org.located(url)


def test_scopes_of_github():
    """A broader one gives the narrower ones, through all levels."""
    assert GitHub.oauth.missing({"repo", "admin:org"}, {"public_repo", "read:org"}) == frozenset()
    assert GitHub.oauth.missing({"public_repo"}, {"repo"}) == {"repo"}
    received = GitHub.oauth.received({"access_token": "gho_canary", "token_type": "bearer", "scope": "repo,gist"})
    assert (received.granted.scopes, received.granted.lasts) == (frozenset({"repo", "gist"}), None)


def test_google():
    """Long names are short ones, a wider right to storage gives a narrower one, and a refresh token is asked for."""
    record = google(READ)
    answer = {
        "access_token": "ya29.canary", "expires_in": 3599, "refresh_token": "1//canary", "token_type": "Bearer",
        "scope": f"openid https://www.googleapis.com/auth/userinfo.email {READ}",
    }  # fmt: skip
    granted = record.received(answer).granted
    assert record.missing(granted.scopes or (), {"email", READ}) == frozenset()
    assert record.missing(granted.scopes or (), {"profile"}) == {"profile"}
    assert (record.parameters["access_type"], record.client) == ("offline", "google")
    full = "https://www.googleapis.com/auth/devstorage.full_control"
    assert GCS.oauth.missing({full}, {READ, "https://www.googleapis.com/auth/devstorage.read_write"}) == frozenset()


def test_microsoft():
    """Of each kind of tenant; a refresh token is asked for, though no answer names it; refreshing names the scopes."""
    record = microsoft("User.Read", tenant="organizations")
    assert record.token == "https://login.microsoftonline.com/organizations/oauth2/v2.0/token"
    answer = {
        "token_type": "Bearer", "scope": "openid profile email User.Read", "expires_in": 4351, "access_token": "canary",
        "ext_expires_in": 4351, "refresh_token": "0.canary",
    }  # fmt: skip
    granted = record.received(answer).granted
    assert record.missing(granted.scopes or (), record.scopes) == frozenset()
    assert (record.refreshes_scope, record.rotates, "interaction_required" in record.endings) == (True, False, True)
    for wrong in ("", "a/b", "common?x", "-x"):
        with pytest.raises(ConfigurationError):
            microsoft("User.Read", tenant=wrong)
