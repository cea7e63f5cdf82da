"""The whole sign-in against a certified provider, its pages and its checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.databases import migrated_sqlite
from tests.identity.oidc_server import CLIENTS, SECRET, OidcServer, Visitor
from tests.identity.shop import RING, Browser

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.errors import SignInFailed
from moorline.identity import Identity, OpenID
from moorline.identity.desk import Desk
from moorline.identity.flow import read_answer

pytestmark = pytest.mark.oracles

HOME = "http://127.0.0.1:8000"
BACK = f"{HOME}/auth/oidc/callback"
Make = Callable[..., Moorline]


@pytest.fixture
async def visitor(oidc_server: OidcServer) -> AsyncIterator[Visitor]:
    made = Visitor(oidc_server)
    yield made
    await made.web.aclose()


def provider(oidc_server: OidcServer, client: str = "basic", **options: Any) -> OpenID:
    secret = {"authentication": "none"} if client == "public" else {"client_secret": SECRET}
    return OpenID("oidc", issuer=oidc_server.issuer, client_id=client, **{**secret, **options})


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes an application, opened, whose users are noted in ``seen``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    made: list[Moorline] = []

    def one(with_: OpenID, seen: list[Identity]) -> Moorline:
        app = Moorline(migrated_sqlite(tmp_path / f"{len(made)}.db"))
        app.sign_in(with_, keys=RING, guards=Guards())

        @app.on_sign_in
        def note(identity: Identity) -> str:
            seen.append(identity)
            return identity.subject

        made.append(app)
        return app

    yield one
    for app in made:
        await app.close()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_user_signs_in(oidc_server: OidcServer, visitor: Visitor, make: Make, client: str) -> None:
    """By discovery alone: each way of a client to prove itself, each algorithm, ``iss`` and nonce included; the e-mail
    address is in the userinfo.
    """
    seen: list[Identity] = []
    app = make(
        provider(oidc_server, client, authentication={"post": "post", "public": "none"}.get(client, "basic")), seen
    )
    browser = Browser(app, HOME, "127.0.0.1")
    back = await visitor.through(await browser.begin(name="oidc"), "ada")
    assert parse_qs(urlsplit(back).query)["iss"] == [oidc_server.issuer]
    answer = await browser.get(back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/basket")
    found = seen[0]
    assert (found.subject, found.email, found.email_proved, found.name) == ("ada", "ada@example.com", True, "ada")
    assert list(browser.cookies) == ["moorline"]
    assert (await browser.get(back)).status_code == 400


async def test_an_address_that_is_not_verified(oidc_server: OidcServer, visitor: Visitor, make: Make) -> None:
    """What the provider does not vouch for is not proved."""
    seen: list[Identity] = []
    browser = Browser(make(provider(oidc_server), seen), HOME, "127.0.0.1")
    await browser.get(await visitor.through(await browser.begin(name="oidc"), "unproved"))
    assert (seen[0].email, seen[0].email_proved) == ("unproved@example.com", False)


async def test_the_visitor_goes_away(oidc_server: OidcServer, visitor: Visitor, make: Make) -> None:
    """Who does not want to sign in is sent back, and is not signed in."""
    seen: list[Identity] = []
    browser = Browser(make(provider(oidc_server), seen), HOME, "127.0.0.1")
    back = await visitor.through(await browser.begin(name="oidc"), None)
    assert (await browser.get(back)).status_code == 403
    assert seen == []


async def test_signed_in_lately(oidc_server: OidcServer, visitor: Visitor, make: Make) -> None:
    """Where that is asked for, the provider says when, and it is checked."""
    seen: list[Identity] = []
    browser = Browser(make(provider(oidc_server, max_age=60), seen), HOME, "127.0.0.1")
    answer = await browser.get(await visitor.through(await browser.begin(name="oidc"), "ada"))
    assert answer.status_code == 303
    assert seen[0].claims["auth_time"]


async def test_a_wrong_secret(oidc_server: OidcServer, visitor: Visitor, make: Make) -> None:
    """The provider does not take it: nobody is signed in."""
    seen: list[Identity] = []
    browser = Browser(make(provider(oidc_server, client_secret="another secret"), seen), HOME, "127.0.0.1")
    back = await visitor.through(await browser.begin(name="oidc"), "ada")
    assert (await browser.get(back)).status_code == 400
    assert seen == []


async def test_the_provider_checks_what_we_send(oidc_server: OidcServer, visitor: Visitor) -> None:
    """Another verifier, another redirect and a second use of a code are refused by it: they were sent as it wants them."""
    desk = Desk(provider(oidc_server), guards=Guards())
    try:
        changes: list[dict[str, Any]] = [{"verifier": "x" * 43}, {"redirect_uri": f"{HOME}/other"}, {}]
        for change in changes:
            url, pending = await desk.begin(redirect_uri=BACK, next="/")
            answer = read_answer(urlsplit(await visitor.through(url, "ada")).query)
            code = await desk.code(pending, answer)
            if change:
                with pytest.raises(SignInFailed) as caught:
                    await desk.finish(replace(pending, **change), code)
                assert (caught.value.reason, caught.value.code) == ("provider", "invalid_grant")
                continue
            assert (await desk.finish(pending, code)).subject == "ada"
            with pytest.raises(SignInFailed, match="invalid_grant"):
                await desk.finish(pending, code)
    finally:
        await desk.aclose()


async def test_the_provider_wants_pkce(oidc_server: OidcServer, visitor: Visitor) -> None:
    """A request from which the challenge was taken out on its way is refused by it."""
    desk = Desk(provider(oidc_server), guards=Guards())
    try:
        url, pending = await desk.begin(redirect_uri=BACK, next="/")
        stripped = "&".join(one for one in url.split("&") if not one.startswith("code_challenge"))
        answer = read_answer(urlsplit(await visitor.through(stripped, "ada")).query)
        with pytest.raises(SignInFailed, match="invalid_request"):
            await desk.code(pending, answer)
    finally:
        await desk.aclose()
