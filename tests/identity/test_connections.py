"""Accounts are connected, used, refreshed, ended and connected again, with the sandbox's HubSpot over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity.conftest import Issuer, Provider, granted
from tests.identity.hub import DEALS, HOME, READ, RING, WRITE, Owner, contact, grants, of, query, seen

from moorline import Moorline, errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.identity.connection import Tokens
from moorline.identity.connector import ConnectDesk
from moorline.identity.vault import Vault
from moorline.policies.breaker import Breaker
from moorline.policies.deadline import deadline
from moorline.policies.policy import Policy
from moorline.services import HubSpot


async def test_an_account_is_connected_and_used(app: Moorline, owner: Owner, hub_sandbox: str):
    """From the page through the consent to a call, in both colours; then it is on the page, and in the list."""
    page = await owner.page()
    assert (page.status_code, "Not connected." in page.text) == (200, True)
    answer = await owner.connect()
    assert (answer.status_code, answer.headers["location"]) == (303, "/auth/connections")
    assert (await contact(app))["results"] == []
    hubspot = app.connections.get("u_1", HubSpot, scopes=(READ,))
    assert await asyncio.to_thread(lambda: list(hubspot.list_objects("contacts"))) == []
    row = await of(app)
    assert (row.owner, row.service, row.account, row.state, row.scopes) == (
        "u_1", "hubspot", "62515", "good", frozenset({"oauth", READ}),
    )  # fmt: skip
    page = await owner.page()
    assert all(word in page.text for word in ("62515", "connected", READ, "Disconnect", "Connect another account"))
    assert seen(hub_sandbox, "/oauth/2026-03/token") == 1


async def test_the_request_for_consent_is_as_it_must_be(owner: Owner):
    """PKCE by S256, a state of 256 bits, the exact way back, the scopes of the record and of the application."""
    at = await owner.begin()
    assert urlsplit(at).path == "/hubspot/oauth/authorize"
    asked = query(at)
    assert (asked["client_id"], asked["response_type"], asked["scope"]) == (
        ["sandbox-client"], ["code"], [f"oauth {READ}"],
    )  # fmt: skip
    assert (len(asked["state"][0]), len(asked["code_challenge"][0])) == (43, 43)
    assert asked["redirect_uri"] == [f"{HOME}/auth/hubspot/callback"]
    assert asked.keys().isdisjoint({"client_secret", "code_verifier", "nonce"})


async def test_the_token_is_refreshed_ahead_of_its_end(
    app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str
):
    """Half an hour after it was given, and no sooner."""
    await owner.connect()
    await contact(app)
    first = (await of(app)).expires_at
    hub_clock.advance(1000)
    await contact(app)
    assert (await of(app)).expires_at == first
    hub_clock.advance(700)
    await contact(app)
    row = await of(app)
    assert first is not None
    assert row.expires_at is not None
    assert row.expires_at > first
    assert (row.version, seen(hub_sandbox, "/oauth/2026-03/token")) == (2, 2)


async def test_a_token_that_is_refused_is_refreshed_once(
    app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str
):
    """The call is sent again with the new one, and succeeds."""
    await owner.connect()
    await contact(app)
    hub_clock.advance(60)
    grants(hub_sandbox, expire=True)
    assert (await contact(app))["results"] == []
    assert (await of(app)).version == 2


async def test_a_thousand_callers_make_one_refresh(
    app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str
):
    """Each with a service of its own from ``get``: on one loop, and in threads."""
    await owner.connect()
    hub_clock.advance(1800)
    made = [app.connections.get("u_1", HubSpot, scopes=(READ,)) for _ in range(1000)]
    await asyncio.gather(*(one.fetched.ready_async() for one in made if one.fetched is not None))
    assert (seen(hub_sandbox, "/oauth/2026-03/token"), (await of(app)).version) == (2, 2)
    hub_clock.advance(1800)
    threads = [threading.Thread(target=one.fetched.ready) for one in made[:20] if one.fetched is not None]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert seen(hub_sandbox, "/oauth/2026-03/token") == 3
    assert len({one.key().reveal() for one in made}) == 1


async def test_a_grant_that_ended(app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str):
    """ReauthorizationRequired with the link, an event, a row on the page; then it is connected again, the same row."""
    told: list[dict[str, Any]] = []
    both, loop = asyncio.Event(), asyncio.get_running_loop()

    @app.on("moorline", "connection")
    def note(event: Any) -> None:
        told.append({"what": event.action, **event.payload})
        if len(told) == 2:
            loop.call_soon_threadsafe(both.set)

    await owner.connect()
    row = await of(app)
    grants(hub_sandbox, revoke="acme")
    hub_clock.advance(1800)
    with pytest.raises(errors.ReauthorizationRequired, match="it was revoked") as caught:
        await contact(app, scopes=(READ, WRITE))
    error = caught.value
    assert (error.connection, error.retryable, error.outcome, error.service) == (row.id, False, "not_sent", "hubspot")
    assert error.reconnect == f"/auth/hubspot/connect?account=62515&scopes={WRITE}"
    with pytest.raises(errors.ReauthorizationRequired):
        await asyncio.to_thread(contact(app).result)
    assert seen(hub_sandbox, "/oauth/2026-03/token") == 2  # it is not asked again
    page = await owner.page()
    assert all(word in page.text for word in ("has to be connected again", "it was revoked", "Reconnect"))
    assert (await owner.page(error.reconnect)).status_code == 200
    events = await app.events(service="moorline")
    assert [(one.type, one.action) for one in events] == [("connection", "ended"), ("connection", "connected")]
    async with app.running(worker=True):
        await asyncio.wait_for(both.wait(), 20)
    ended = next(one for one in told if one["what"] == "ended")
    assert (ended["id"], ended["owner"], ended["state"], ended["account"]) == (row.id, "u_1", "ended", "62515")
    await app.open()
    at = await owner.begin(error.reconnect)
    assert query(at)["scope"] == [f"oauth {READ} {WRITE}"]
    await owner.browser.get(await owner.consent(at))
    assert (await contact(app, scopes=(READ, WRITE)))["results"] == []
    assert ((await of(app)).id, (await of(app)).state) == (row.id, "good")


async def test_a_grant_that_ended_before_its_token(
    app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str
):
    """HubSpot refuses the token, then the refresh token: the call in hand says so, in both colours."""
    for colour in ("async", "blocking"):
        await owner.connect()
        await contact(app)
        hub_clock.advance(60)
        grants(hub_sandbox, revoke="acme")
        call = contact(app)
        with pytest.raises(errors.ReauthorizationRequired, match="it was revoked") as caught:
            await (call if colour == "async" else asyncio.to_thread(call.result))
        assert caught.value.reconnect == "/auth/hubspot/connect?account=62515"
        assert (await of(app)).state == "ended"


async def test_more_scopes_are_asked_for_when_they_are_needed(app: Moorline, owner: Owner):
    """The link asks for the missing ones beside the old; until then no call is made, after it at once."""
    await owner.connect()
    await contact(app)
    with pytest.raises(errors.ReauthorizationRequired, match=f"not granted hubspot for {DEALS}") as caught:
        await contact(app, scopes=(READ, DEALS))
    assert caught.value.missing == {DEALS}
    link = app.connections.connect_url(HubSpot, scopes=(DEALS,), account="62515")
    assert caught.value.reconnect == link
    page = await owner.page(link)
    assert all(word in page.text for word in (DEALS, READ, "You will be asked to allow"))
    at = await owner.begin(link)
    assert query(at)["scope"] == [f"oauth {READ} {DEALS}"]
    await owner.browser.get(await owner.consent(at))
    assert (await contact(app, scopes=(READ, DEALS)))["results"] == []
    assert (await of(app)).scopes == {"oauth", READ, DEALS}


async def test_a_scope_that_was_not_granted_is_noticed(app: Moorline, owner: Owner):
    """The owner unticks one: it is told on the page, and calls that need it are not made."""
    answer = await owner.connect(without=(READ,))
    assert answer.status_code == 303
    page = await owner.page()
    assert "Not allowed: <code>crm.objects.contacts.read</code>" in page.text
    with pytest.raises(errors.ReauthorizationRequired) as caught:
        await contact(app, scopes=(READ,))
    assert caught.value.missing == {READ}


async def test_owners_are_apart(app: Moorline, owner: Owner):
    """A tenant as well as a user; each has accounts of its own, and several at one service."""
    tenant = Owner(app, "tenant/7")
    await owner.connect()
    await tenant.connect(login="globex")
    assert ((await of(app)).account, (await of(app, "tenant/7")).account) == ("62515", "62516")
    with pytest.raises(errors.ConnectionNotFound, match="has not connected hubspot") as caught:
        await contact(app, "u_2")
    assert caught.value.connect == "/auth/hubspot/connect"
    await owner.connect(login="globex", new="1")
    assert {row.account for row in await app.connections.list("u_1", HubSpot)} == {"62515", "62516"}
    assert (await contact(app, account="62515"))["results"] == []
    with pytest.raises(errors.ConnectionNotFound):
        await contact(app, account="1")
    page = await tenant.page()
    assert "62515" not in page.text


async def test_an_account_is_disconnected(app: Moorline, owner: Owner, hub_sandbox: str):
    """By the button: HubSpot is told, the tokens are gone, and no call is made any more."""
    await owner.connect()
    hubspot = contact(app)
    await hubspot
    row = await of(app)
    answer = await owner.submit("/auth/hubspot/disconnect", id=row.id)
    assert (answer.status_code, answer.headers["location"]) == (303, "/auth/connections")
    assert (await app.connections.list(), grants(hub_sandbox)["grants"]) == ([], 0)
    with pytest.raises(errors.ConnectionNotFound):
        await contact(app)
    events = await app.events(service="moorline")
    assert [one.action for one in events] == ["disconnected", "connected"]


@pytest.mark.parametrize("said", ["429", "remaining"])
async def test_the_limits_of_an_account_hold_up_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_clock: ManualClock, said: str
):
    """HubSpot counts the calls of each account by itself: what one owner's may not have now, another's may, and the
    application's own key. The breaker is one for all.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    for name in ("CLIENT_ID", "CLIENT_SECRET", "ACCESS_TOKEN"):
        monkeypatch.setenv(f"HUBSPOT_{name}", "the-application")
    limits = {"remaining": "0", "max": "110", "interval-milliseconds": "60000"}
    spent = 429, {"retry-after": "60"}
    if said == "remaining":
        spent = 200, {f"x-hubspot-ratelimit-{name}": value for name, value in limits.items()}
    sent: list[str] = []
    down = False

    def hubspot(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["authorization"])
        status, headers = spent if "0001" in sent[-1] else (500 if down else 200, {})
        return httpx2.Response(status, headers=headers, json={"results": []})

    policy = Policy(retry=None, deadline=5.0, breaker=Breaker(failures=1))
    async with Moorline(migrated_sqlite(tmp_path / "limits.db"), clock=hub_clock) as app:
        wire = httpx2.MockTransport(hubspot)
        service = app.service(HubSpot, guards=Guards(clock=hub_clock), wire=wire, policy=policy)
        app.connect(HubSpot, keys=RING)
        for number in (1, 2):
            await app.connections.vault.keep(f"u_{number}", "hubspot", granted(number), account=f"portal{number}")
        with contextlib.suppress(errors.RateLimited):
            await contact(app)
        for held in (contact(app), contact(app)):
            with pytest.raises(errors.RateLimited, match="not sent"):
                await held
        assert len(sent) == 1
        own = service.request("GET", "/crm/v3/objects/contacts")
        for free in (contact(app, "u_2"), own):
            assert (await free)["results"] == []
            assert (await asyncio.to_thread(free.result))["results"] == []
        down = True
        with pytest.raises(errors.ServiceUnavailable):
            await contact(app, "u_2")
        with pytest.raises(errors.CircuitOpen):
            await own


@pytest.mark.parametrize("told", ["never", "later"])
async def test_a_token_at_hand_is_of_no_use_after_it_was_disconnected(
    app: Moorline, owner: Owner, hub_sandbox: str, monkeypatch: pytest.MonkeyPatch, told: str
):
    """HubSpot would still take it, as another owner has connected the account, or as it could not be told: no call is
    made, whoever holds the token and by which name, in both colours, and not while the database is down either.
    """
    await owner.connect()
    if told == "never":
        await Owner(app, "u_2").connect()
    else:
        fault = {"service": "hubspot", "kind": "status", "path": "/oauth/2026-03/token/revoke", "status": 503}
        httpx2.post(f"{hub_sandbox}/_sandbox/faults", json={**fault, "count": 50}, trust_env=False).raise_for_status()
    held = [app.connections.get("u_1", HubSpot, account=account) for account in (None, "62515")]
    for hubspot in held:
        await hubspot.request("GET", "/crm/v3/objects/contacts")
    asked = seen(hub_sandbox, "/crm/v3/objects/contacts")
    assert (await app.connections.revoke("u_1", HubSpot)).told == told

    async def away(*_: Any) -> Any:
        raise errors.StoreUnavailable("it is down")

    with monkeypatch.context() as patch:
        patch.setattr(app.store, "read", away)
        with pytest.raises(errors.StoreUnavailable):
            await held[0].request("GET", "/crm/v3/objects/contacts")
    for hubspot in held:
        call = hubspot.request("GET", "/crm/v3/objects/contacts")
        with pytest.raises(errors.ConnectionNotFound):
            await call
        with pytest.raises(errors.ConnectionNotFound):
            await asyncio.to_thread(call.result)
    assert seen(hub_sandbox, "/crm/v3/objects/contacts") == asked
    if told == "never":
        assert (await contact(app, "u_2"))["results"] == []


async def test_what_cannot_be_revoked_now_is_revoked_later(
    app: Moorline, owner: Owner, hub_sandbox: str, hub_clock: ManualClock
):
    """HubSpot is down: the connection is of no more use at once; a worker's chore takes it back when HubSpot is up."""
    await owner.connect()
    fault = {"service": "hubspot", "kind": "status", "path": "/oauth/2026-03/token/revoke", "status": 503, "count": 50}
    armed = httpx2.post(f"{hub_sandbox}/_sandbox/faults", json=fault, trust_env=False)
    assert armed.status_code < 300, armed.text
    done = await app.connections.revoke("u_1", HubSpot)
    assert (done.told, done.connection.state) == ("later", "revoking")
    with pytest.raises(errors.ConnectionNotFound):
        await contact(app)
    assert "is being disconnected" in (await owner.page()).text
    httpx2.request("DELETE", f"{hub_sandbox}/_sandbox/faults", trust_env=False)
    hub_clock.advance(60)
    later = await app.upkeep().run_once("worker-1")
    assert (later.revoked, await app.connections.list(), grants(hub_sandbox)["grants"]) == (1, [], 0)
    assert [one.action for one in await app.events(service="moorline")] == ["disconnected", "connected"]


async def test_a_connection_is_refreshed_now(app: Moorline, owner: Owner, hub_sandbox: str):
    """In both colours."""
    await owner.connect()
    assert (await app.connections.refresh("u_1", HubSpot)).version == 2
    assert (await asyncio.to_thread(app.connections.refresh_sync, "u_1", "hubspot")).version == 3
    grants(hub_sandbox, revoke="acme")
    with pytest.raises(errors.ReauthorizationRequired):
        await app.connections.refresh("u_1", HubSpot)
    with pytest.raises(errors.ConnectionNotFound):
        await app.connections.refresh("u_2", HubSpot)


async def test_an_owner_with_more_accounts_than_a_page_of_the_database(app: Moorline, owner: Owner):
    """All are on the page; the oldest of them is connected again with what it has granted, and disconnected."""
    keep = app.connections.vault.keep
    first = await keep("u_1", "hubspot", replace(granted(), scopes=frozenset({"oauth", DEALS})), account="first")
    await asyncio.gather(*(keep("u_1", "hubspot", granted(each), account=f"more-{each}") for each in range(104)))
    for path in ("/auth/connections", "/auth/hubspot/connect"):
        page = await owner.page(path)
        assert (page.text.count(">Disconnect<"), first.id in page.text) == (105, True)
    assert DEALS in query(await owner.begin(account="first"))["scope"][0].split()
    answer = await owner.submit("/auth/hubspot/disconnect", id=first.id)
    assert answer.status_code == 303
    left = [row.account for row in await app.connections.list("u_1", limit=200) if row.state == "good"]
    assert (len(left), "first" in left) == (104, False)


async def test_a_refresh_that_cannot_be_stored(
    app: Moorline, owner: Owner, hub_sandbox: str, hub_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    """That is said; calls go on with the new token, which is stored as soon as the database is back."""
    await owner.connect()

    def away(self: Vault, *_: Any) -> Any:
        raise errors.StoreUnavailable("away")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "changed", away)
        with pytest.raises(errors.StoreUnavailable):
            await app.connections.refresh("u_1", HubSpot)
        with pytest.raises(errors.StoreUnavailable):
            await asyncio.to_thread(app.connections.refresh_sync, "u_1", HubSpot)
        assert (await contact(app))["results"] == []
    assert (await of(app)).version == 1
    hub_clock.advance(31)
    assert (await contact(app, account="62515"))["results"] == []
    assert ((await of(app)).version, seen(hub_sandbox, "/oauth/2026-03/token")) == (2, 2)


async def test_it_is_refreshed_with_the_scopes_that_it_has(
    app: Moorline, owner: Owner, hub_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    """Those that were granted later too: providers that are told the scopes would take them away."""
    told: list[frozenset[str]] = []
    refreshed = ConnectDesk.refreshed

    def noted(self: ConnectDesk, tokens: Any, scopes: Any = ()) -> Any:
        told.append(frozenset(scopes))
        return refreshed(self, tokens, scopes)

    monkeypatch.setattr(ConnectDesk, "refreshed", noted)
    await owner.connect()
    await contact(app)
    at = await owner.begin(app.connections.connect_url(HubSpot, scopes=(DEALS,), account="62515"))
    await owner.browser.get(await owner.consent(at))
    hub_clock.advance(1800)
    await contact(app)
    assert told == [{"oauth", READ, DEALS}]


async def test_an_application_does_not_close_under_a_refresh(
    app: Moorline, owner: Owner, hub_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    """What asks the service is closed after the new token was stored, however long ago its caller went away."""
    issuer, asked, opened = Issuer(), asyncio.Event(), asyncio.Event()
    closed: list[int] = []

    async def held(request: httpx2.Request) -> httpx2.Response:
        asked.set()
        await opened.wait()
        return issuer(request)

    policy = Policy(retry=None, breaker=None)
    provider = Provider("k", wire=httpx2.MockTransport(held), guards=Guards(clock=hub_clock), policy=policy)

    def refreshed(_: ConnectDesk, tokens: Tokens, __: Any) -> Any:
        assert tokens.refresh is not None
        issuer.good = tokens.refresh.reveal()
        return provider.refreshed(tokens)

    async def aclose(_: ConnectDesk) -> None:
        closed.append((await of(app)).version)

    monkeypatch.setattr(ConnectDesk, "refreshed", refreshed)
    await owner.connect()
    hub_clock.advance(1800)
    with deadline(0.05, clock=hub_clock), pytest.raises(errors.DeadlineExceeded):
        await contact(app)
    await asked.wait()
    with monkeypatch.context() as patch:
        patch.setattr(ConnectDesk, "aclose", aclose)
        closing = asyncio.ensure_future(app.close())
        await asyncio.sleep(0)
        opened.set()
        await closing
    assert closed == [2]


async def test_what_two_owners_have_connected_is_not_revoked_under_one_of_them(
    app: Moorline, owner: Owner, hub_sandbox: str
):
    """HubSpot would end both grants: it is told when the last of them is disconnected."""
    await owner.connect()
    await Owner(app, "u_2").connect()
    assert (await app.connections.revoke("u_1", HubSpot)).told == "never"
    assert (await contact(app, "u_2"))["results"] == []
    assert (await app.connections.revoke("u_2", HubSpot)).told == "now"
    assert await app.connections.list() == []


@pytest.mark.postgres
async def test_all_processes_make_one_refresh(
    app: Moorline, hub_clock: ManualClock, hub_sandbox: str, migrated_postgres_url: str
):
    """Three applications on one PostgreSQL, with hundreds of callers each."""
    apps = [Moorline(migrated_postgres_url, clock=hub_clock) for _ in range(3)]
    for one in apps:
        one.service(HubSpot, guards=Guards(clock=hub_clock))
        one.connect(HubSpot, scopes=(READ,), keys=RING, owner=lambda _: "u_1")
        await one.open()
    await Owner(apps[0]).connect()
    hub_clock.advance(1800)
    keys: list[Any] = [one.connections.get("u_1", HubSpot).fetched for one in apps for _ in range(300)]
    await asyncio.gather(*(key.ready_async() for key in keys))
    assert (seen(hub_sandbox, "/oauth/2026-03/token"), {key.connection.version for key in keys}) == (2, {2})
    assert len({key.current().reveal() for key in keys}) == 1
    await apps[1].connections.revoke("u_1", HubSpot)
    hub_clock.advance(31)
    for one in apps:
        with pytest.raises(errors.ConnectionNotFound):
            await contact(one)
        await one.close()
