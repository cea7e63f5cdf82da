"""Signing in offline: the sandbox's Google, GitHub and Microsoft, with their pages, over real HTTP."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity.shop import Browser

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.errors import ConfigurationError
from moorline.identity import GitHub, Google, Identity, Microsoft
from moorline.sandbox import server
from moorline.sandbox.standin import Emission, Surroundings, registrations

HOME = "http://127.0.0.1:8000"
NAMES = ("google", "github", "microsoft")
WHERE = {
    "google": "/google_signin/o/oauth2/v2/auth",
    "github": "/github_signin/login/oauth/authorize",
    "microsoft": "/microsoft_signin/common/oauth2/v2.0/authorize",
}
TOKEN = {
    "google": "/google_signin/token",
    "github": "/github_signin/login/oauth/access_token",
    "microsoft": "/microsoft_signin/common/oauth2/v2.0/token",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with server.running(seed=7) as url:
        yield url


@pytest.fixture
def seen() -> list[Identity]:
    return []


@pytest.fixture
async def shop(
    sandbox: str, seen: list[Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Moorline]:
    """An application on this machine, without any configuration but where the sandbox is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    for name in (
        "MOORLINE_ENCRYPTION_KEY",
        *(f"{one.upper()}_CLIENT_{what}" for one in NAMES for what in ("ID", "SECRET")),
    ):
        monkeypatch.delenv(name, raising=False)
    async with Moorline(migrated_sqlite(tmp_path / "shop.db")) as app:
        app.sign_in(Google, GitHub, Microsoft, guards=Guards())

        @app.on_sign_in
        def note(identity: Identity) -> str:
            seen.append(identity)
            return "u_1"

        yield app


async def through(shop: Moorline, name: str, login: str) -> tuple[Browser, httpx2.Response]:
    """The whole of it: the page of the provider, the button of that user, and back."""
    browser = Browser(shop, HOME, "127.0.0.1")
    page_at = await browser.begin(name=name)
    async with httpx2.AsyncClient(trust_env=False) as web:
        page = await web.get(page_at)
        assert page.status_code == 200
        assert f'value="{login}"' in page.text
        found = re.search(r'action="([^"]+)"', page.text)
        assert found is not None
        sent = await web.post(html.unescape(found[1]), data={"login": login})
    assert sent.status_code == 302
    return browser, await browser.get(sent.headers["location"])


@pytest.mark.parametrize(
    ("name", "login", "email", "proved"),
    [
        ("google", "ada@gmail.com", "ada@gmail.com", True),
        ("google", "grace@corp.example", "grace@corp.example", True),
        ("google", "mallory@victim.example", "mallory@victim.example", False),
        ("github", "octocat", "octocat@example.com", True),
        ("github", "ghost", None, False),
        ("microsoft", "ada@contoso.example", "ada@contoso.example", True),
        ("microsoft", "mallory@fabrikam.example", "ada@contoso.example", False),
        ("microsoft", "grace@outlook.example", "grace@outlook.example", True),
    ],
)
async def test_each_user_signs_in(
    shop: Moorline, seen: list[Identity], name: str, login: str, email: str | None, proved: bool
) -> None:
    """Each of the users goes through the page and is signed in, with an address that is proved only where it is."""
    browser, answer = await through(shop, name, login)
    assert (answer.status_code, answer.headers["location"]) == (303, "/basket")
    assert list(browser.cookies) == ["moorline"]  # plain http on this machine
    assert (seen[0].provider, seen[0].email, seen[0].email_proved) == (name, email, proved)


@pytest.mark.parametrize("name", NAMES)
async def test_a_user_says_no(shop: Moorline, seen: list[Identity], name: str) -> None:
    """The button that leads back signs nobody in."""
    _, answer = await through(shop, name, "")
    assert answer.status_code == 403
    assert seen == []


async def test_keys_change(shop: Moorline, sandbox: str, seen: list[Identity]) -> None:
    """After the keys have changed, an application that begins anew knows the same user by the new ones."""
    await through(shop, "google", "ada@gmail.com")
    shop.sign_in(Google, guards=Guards())
    async with httpx2.AsyncClient(base_url=sandbox, trust_env=False) as web:
        await web.post("/google_signin/sandbox/keys")
        await web.post("/microsoft_signin/sandbox/keys")
    await through(shop, "google", "ada@gmail.com")
    assert seen[0].subject == seen[1].subject


# --- what the stand-ins refuse

ASKED = {
    "client_id": "sandbox-client",
    "redirect_uri": f"{HOME}/cb",
    "response_type": "code",
    "state": "s",
    "scope": "openid",
}
PKCE = {"code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"}  # RFC 7636, B
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CLIENT = {"client_id": "sandbox-client", "client_secret": "sandbox-secret"}


@pytest.fixture
async def web(sandbox: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=sandbox, trust_env=False) as client:
        yield client


LOGINS = {"google": "ada@gmail.com", "github": "octocat", "microsoft": "ada@contoso.example"}


async def code_of(web: httpx2.AsyncClient, name: str, **more: str) -> str:
    asked = {**ASKED, **PKCE, "prompt": "none", "login_hint": LOGINS[name], **more}
    answer = await web.get(WHERE[name], params=asked)
    return parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]


async def exchanged(web: httpx2.AsyncClient, name: str, code: str, **more: str | None) -> Any:
    form = {**CLIENT, "grant_type": "authorization_code", "code": code, "redirect_uri": f"{HOME}/cb",
            "code_verifier": VERIFIER, **more}  # fmt: skip
    data = {key: value for key, value in form.items() if value is not None}
    return (await web.post(TOKEN[name], data=data, headers={"Accept": "application/json"})).json()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "another"},
        {"client_id": "another"},
        {"redirect_uri": f"{HOME}/other"},
        {"code_verifier": "a" * 43},
        {"code_verifier": None},
        {"code": "guessed"},
        {"grant_type": "password"},
    ],
)
async def test_wrong_requests_for_tokens(web: httpx2.AsyncClient, name: str, wrong: dict[str, Any]) -> None:
    """A wrong client, redirect, verifier, code or grant gets an error and no token."""
    code = await code_of(web, name)
    answer = await exchanged(web, name, **{"code": code, **wrong})
    assert "error" in answer
    assert "access_token" not in answer


@pytest.mark.parametrize("name", NAMES)
async def test_a_code_is_good_once(web: httpx2.AsyncClient, name: str) -> None:
    """A code that comes twice is refused, and takes back what it was turned into."""
    code = await code_of(web, name)
    token = (await exchanged(web, name, code))["access_token"]
    where = {"google": "/google_signin/v1/userinfo", "github": "/github_signin/user"}.get(name)
    proof = {"Authorization": f"Bearer {token}"}
    if where:
        assert (await web.get(where, headers=proof)).status_code == 200
    assert "error" in await exchanged(web, name, code)
    if where:
        assert (await web.get(where, headers=proof)).status_code == 401


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("wrong", "status", "error"),
    [
        ({"client_id": "x"}, 400, None),
        ({"redirect_uri": "http://shop.example/cb"}, 400, None),
        ({"redirect_uri": "javascript:alert(1)"}, 400, None),
        ({"redirect_uri": "https://[x"}, 400, None),
        ({"response_type": "token"}, 302, "unsupported_response_type"),
        ({"code_challenge_method": "plain"}, 302, "invalid_request"),
        ({"code_challenge": "short"}, 302, "invalid_request"),
        ({"prompt": "none"}, 302, "login_required"),
    ],
)
async def test_wrong_requests_to_sign_in(
    web: httpx2.AsyncClient, name: str, wrong: dict[str, str], status: int, error: str | None
) -> None:
    """A client or address that is not known is told on the page; all else goes back with the state."""
    answer = await web.get(WHERE[name], params={**ASKED, **PKCE, **wrong})
    assert answer.status_code == status
    if error is None:
        assert "location" not in answer.headers
    else:
        back = parse_qs(urlsplit(answer.headers["location"]).query)
        assert (back["error"], back["state"]) == ([error], ["s"])


async def test_github_answers_forms_and_commas(web: httpx2.AsyncClient) -> None:
    """Unless JSON is asked for the answer is a form; scopes come back with commas; errors with 200."""
    code = await code_of(web, "github", scope="read:user user:email")
    form = {
        **CLIENT,
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": f"{HOME}/cb",
        "code_verifier": VERIFIER,
    }
    answer = await web.post(TOKEN["github"], data=form)
    assert parse_qs(answer.text)["scope"] == ["read:user,user:email"]
    refused = await web.post(TOKEN["github"], data=form)
    assert (refused.status_code, parse_qs(refused.text)["error"]) == (200, ["bad_verification_code"])


async def test_github_without_the_scope(web: httpx2.AsyncClient) -> None:
    """The addresses are not found for a token that may not see them."""
    token = (await exchanged(web, "github", await code_of(web, "github", scope="read:user")))["access_token"]
    proof = {"Authorization": f"Bearer {token}"}
    assert (await web.get("/github_signin/user/emails", headers=proof)).status_code == 404
    assert (await web.get("/github_signin/user", headers={**proof, "User-Agent": ""})).status_code == 403


async def test_microsofts_documents(web: httpx2.AsyncClient) -> None:
    """``common`` has the template for an issuer, a tenant its own; keys name whom they sign for."""
    common = (await web.get("/microsoft_signin/common/v2.0/.well-known/openid-configuration")).json()
    assert common["issuer"] == "https://login.microsoftonline.com/{tenantid}/v2.0"
    own = (await web.get("/microsoft_signin/consumers/v2.0/.well-known/openid-configuration")).json()
    assert own["issuer"].startswith("https://login.microsoftonline.com/9188040d-")
    keys = (await web.get("/microsoft_signin/common/discovery/v2.0/keys")).json()["keys"]
    assert {key["issuer"] for key in keys} == {common["issuer"], own["issuer"]}
    assert (await web.get("/microsoft_signin/nowhere/v2.0/.well-known/openid-configuration")).json()["error_codes"] == [
        90002
    ]


async def test_googles_document(web: httpx2.AsyncClient) -> None:
    """Its issuer is Google's; the places are the sandbox's."""
    found = (await web.get("/google_signin/.well-known/openid-configuration")).json()
    assert found["issuer"] == "https://accounts.google.com"
    assert (await web.get(found["jwks_uri"])).json()["keys"]


@pytest.mark.parametrize("name", NAMES)
def test_they_send_no_webhooks(name: str) -> None:
    """Nothing is sampled or signed; an injected status has a body; the state names the users."""
    made = registrations()[f"{name}_signin"].make(Surroundings())
    with pytest.raises(ConfigurationError):
        made.sample("x")
    with pytest.raises(ConfigurationError):
        made.sign(Emission("x", b"", "1"), url="", secrets=(), hook_id="", broken=False)
    assert made.failure(503).status == made.failure(429).status + 74
    assert made.snapshot()["users"]
