"""Users who are signed in connect accounts of theirs; a provider may sign them in and be connected, by one callback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity.shop import SHOP, Browser, Idp, shop_of

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Service
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.identity.oauth import OAuth
from moorline.policies.policy import Policy
from moorline.secrets.keyring import new_key


class Drive(Service):
    """What the provider has beside identities, under the provider's name."""

    name, category = "idp", "tests"
    endpoints = Endpoints("https://drive.example")
    credentials = BearerKey(env="IDP_KEY")
    oauth = OAuth(authorize="https://drive.example/authorize", token="/token", scopes=("files",))


def token(request: httpx2.Request) -> httpx2.Response:
    """What any code is turned into."""
    del request
    return httpx2.Response(200, json={"access_token": "a-token-0123", "token_type": "bearer", "expires_in": 600})


@pytest.fixture
async def shop(
    tmp_path: Path, clock: ManualClock, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Moorline]:
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", SHOP)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    monkeypatch.setenv("IDP_CLIENT_ID", "x")
    monkeypatch.setenv("IDP_CLIENT_SECRET", "y" * 20)
    monkeypatch.chdir(tmp_path)
    async with shop_of(migrated_sqlite(tmp_path / "shop.db"), clock, idp) as app:
        app.service(Drive, wire=httpx2.MockTransport(token), guards=Guards(clock=clock), policy=Policy(retry=None))
        app.connect(Drive)
        yield app


async def begun(browser: Browser) -> dict[str, str]:
    """Begin to connect: what the provider is asked."""
    answer = await browser.post("/auth/idp/connect")
    assert answer.status_code == 303, answer.text
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


async def test_the_owner_is_the_user_who_is_signed_in(shop: Moorline, idp: Idp):
    """Who is nobody is shown where to sign in, and comes back to what was wanted."""
    browser = Browser(shop)
    page = await browser.get("/auth/idp/connect?scopes=a+b")
    assert (page.status_code, "Sign in with Idp" in page.text) == (403, True)
    link = "/auth/idp/login?next=%2Fauth%2Fidp%2Fconnect%3Fscopes%3Da%2Bb"
    assert f'href="{link}"' in page.text
    there = (await browser.get(link)).headers["location"]
    back = await browser.get(idp.authorize(there))
    assert (back.status_code, back.headers["location"]) == (303, "/auth/idp/connect?scopes=a+b")
    asked = await begun(browser)
    answer = await browser.get(f"{asked['redirect_uri']}?code=c&state={asked['state']}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/auth/connections")
    [row] = await shop.connections.list()
    session = await shop.session(scope_of(browser))
    assert session is not None
    assert (row.owner, row.service, row.account, sorted(row.scopes)) == (session.user, "idp", "", ["files"])
    assert "Account</strong>: connected" in (await browser.get("/auth/connections")).text


async def test_one_callback_for_both(shop: Moorline, idp: Idp):
    """What was begun decides; an answer to a sign-in connects nothing, an answer to a consent signs nobody in."""
    browser = Browser(shop)
    await browser.sign_in(idp)
    there, asked = await browser.begin(), await begun(browser)
    assert (await browser.get(idp.authorize(there))).headers["location"] == "/basket"
    # With that a new session has begun, of the same user: what the user wanted is still theirs.
    assert (await browser.get(f"{asked['redirect_uri']}?code=c&state={asked['state']}")).status_code == 303
    assert len(await shop.connections.list()) == 1
    there, asked = await browser.begin(), await begun(browser)
    state = dict(parse_qsl(urlsplit(there).query))["state"]
    taken = await browser.get(f"{asked['redirect_uri']}?code=c&state={state}&iss=https://idp.example")
    assert (taken.status_code, len(await shop.connections.list())) == (400, 1)  # a code of the one for the other
    nobody = Browser(shop)
    refused = await nobody.get(f"{asked['redirect_uri']}?code=c&state={asked['state']}")
    assert (refused.status_code, "code=c" in refused.text) == (400, False)
    assert len(await shop.connections.list()) == 1


async def test_after_signing_out_nothing_is_connected(shop: Moorline, idp: Idp):
    """The callback asks again who it is."""
    browser = Browser(shop)
    await browser.sign_in(idp)
    asked = await begun(browser)
    await browser.post("/auth/logout")
    answer = await browser.get(f"{asked['redirect_uri']}?code=code-canary&state={asked['state']}")
    assert (answer.status_code, "canary" in answer.text, await shop.connections.list()) == (403, False, [])


@pytest.mark.parametrize("gives", [None, "", True, 1.5, ["u_1"]], ids=repr)
async def test_an_owner_that_is_none(shop: Moorline, gives: Any):
    """What the application says of a request is an id, or refuses."""

    @shop.connection_owner
    async def owner(scope: Any) -> Any:
        del scope
        return gives

    answer = await Browser(shop).get("/auth/connections")
    assert (answer.status_code, "Sign in with" in answer.text) == (403, False)
    shop.connection_owner(lambda scope: 7)
    assert (await Browser(shop).get("/auth/connections")).status_code == 200


def test_scopes_of_several_services_are_a_mapping(shop: Moorline):
    """Or nobody knows of which they are."""

    class Other(Drive):
        name = "other"

    class Third(Drive):
        name = "third"

    with pytest.raises(ConfigurationError, match="of which service"):
        shop.connect(Other, Third, scopes=("a",))


def scope_of(browser: Browser) -> dict[str, Any]:
    """A request of that browser, as ASGI has it."""
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    return {
        "type": "http", "method": "GET", "path": "/", "scheme": "https", "query_string": b"",
        "headers": [(b"cookie", cookie.encode()), (b"host", b"shop.example")], "client": ("203.0.113.9", 1),
    }  # fmt: skip
