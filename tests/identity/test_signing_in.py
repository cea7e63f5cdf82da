"""Signing in and out, as a browser does it, with a provider that is known by discovery."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity import tokens
from tests.identity.shop import ACCESS, CLIENT, ISSUER, SHOP, Browser, Idp, idp_provider, shop_of

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, SignInFailed, StoreUnavailable
from moorline.identity import GitHub, Google, Identity, Microsoft, OpenID, Session, identities
from moorline.identity.provider import Provider

pytestmark = pytest.mark.usefixtures("shop_environment")


def keeps(seen: list[Identity]) -> Callable[[Identity], str]:
    """Notes who signs in, and lets them in."""

    def note(identity: Identity) -> str:
        seen.append(identity)
        return "u_1"

    return note


async def who(app: Moorline, browser: Browser) -> Session | None:
    """Who is signed in, by the cookies of that browser."""
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/", "scheme": "https", "query_string": b"",
        "headers": [(b"cookie", cookie.encode()), (b"host", b"shop.example")], "client": ("203.0.113.9", 1),
    }  # fmt: skip
    return await app.session(scope)


async def test_a_user_signs_in(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """The browser goes to the provider and back, and is sent on to where it wanted to go, with a session."""
    answer = await browser.sign_in(idp)
    assert (answer.status_code, answer.headers["location"]) == (303, "/basket")
    session = await who(shop, browser)
    assert session is not None
    assert session.provider == "idp"
    assert list(browser.cookies) == ["__Host-moorline"]


async def test_the_request_to_sign_in_is_as_it_must_be(browser: Browser) -> None:
    """PKCE by S256, a state, a nonce, and the exact address to come back to; no secret."""
    asked = parse_qs(urlsplit(await browser.begin()).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert len(asked["code_challenge"][0]) == 43
    assert len(asked["state"][0]) == len(asked["nonce"][0]) == 43
    assert asked["redirect_uri"] == [f"{SHOP}/auth/idp/callback"]
    assert (asked["client_id"], asked["response_type"], asked["scope"]) == (
        [CLIENT],
        ["code"],
        ["openid email profile"],
    )
    assert asked.keys().isdisjoint({"client_secret", "code_verifier"})


async def test_the_cookies_are_closed(browser: Browser, idp: Idp) -> None:
    """HttpOnly, Secure, SameSite=Lax, for this host alone; the one of the sign-in lasts ten minutes and then goes."""
    first = await browser.get("/auth/idp/login")
    begun = first.headers["set-cookie"]
    assert begun.startswith("__Host-moorline-sign-in-")
    assert begun.endswith("; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax")
    done = await browser.get(idp.authorize(first.headers["location"]))
    gone, kept = done.headers.get_list("set-cookie")
    assert gone.split("=")[0] == begun.split("=")[0]
    assert "; Max-Age=0;" in gone
    assert kept.endswith("; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax")


async def test_answers_are_kept_by_nobody(browser: Browser, idp: Idp) -> None:
    """No cache keeps them, and no site learns from where the browser came; redirects hold neither code nor token."""
    for answer in (
        await browser.sign_in(idp),
        await browser.get("/auth/idp/callback"),
        await browser.post("/auth/logout"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        shown = f"{answer.headers} {answer.text}"
        assert "canary" not in shown


async def test_the_same_user_comes_back(shop: Moorline, idp: Idp) -> None:
    """A subject of a provider is the same user in every browser; another subject is another user."""
    found = []
    for subject in ("u-1", "u-1", "u-2"):
        idp.claims = {"sub": subject, "email": f"{subject}@example.com"}
        browser = Browser(shop)
        await browser.sign_in(idp)
        session = await who(shop, browser)
        assert session is not None
        found.append(session.user)
    assert found[0] == found[1] != found[2]


async def test_several_tabs_at_once(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """Two sign-ins of a browser that are under way do not disturb each other."""
    first, second = await browser.begin("/one"), await browser.begin("/two")
    answers = [await browser.get(idp.authorize(second)), await browser.get(idp.authorize(first))]
    assert [one.headers["location"] for one in answers] == ["/two", "/one"]


async def test_a_browser_keeps_five_sign_ins(browser: Browser, clock: ManualClock) -> None:
    """Of more that are begun the oldest are forgotten, so that the header stays small."""
    for _ in range(9):
        await browser.begin()
        clock.advance(1)
    assert len(browser.cookies) == 5


async def test_signing_out(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """The cookie goes, and a copy of it is of no use any more."""
    await browser.sign_in(idp)
    copy = Browser(shop)
    copy.client.cookies.set("__Host-moorline", browser.cookies["__Host-moorline"])
    assert await who(shop, copy) is not None
    answer = await browser.post("/auth/logout?next=/bye")
    assert (answer.status_code, answer.headers["location"]) == (303, "/bye")
    assert await who(shop, browser) is None
    assert await who(shop, copy) is None


async def test_all_sessions_of_a_user_end(shop: Moorline, idp: Idp, clock: ManualClock) -> None:
    """In every browser at once, and nobody else's; who signs in afterwards is signed in."""
    ada, phone, other = Browser(shop), Browser(shop), Browser(shop)
    for browser in (ada, phone):
        await browser.sign_in(idp)
    idp.claims = {"sub": "bob", "email": "bob@example.com"}
    await other.sign_in(idp)
    session = await who(shop, ada)
    assert session is not None
    await shop.end_sessions(session.user)
    assert [await who(shop, one) for one in (ada, phone)] == [None, None]
    assert await who(shop, other) is not None
    clock.advance(1)
    idp.claims = {}
    await ada.sign_in(idp)
    assert await who(shop, ada) is not None
    assert await who(shop, phone) is None
    shop.end_sessions_sync(session.user)
    assert await who(shop, ada) is None


async def test_all_sessions_end_without_a_browser(database: str, clock: ManualClock, idp: Idp) -> None:
    """A process that signs nobody in, and has not opened its database yet, ends them as well; ids may be numbers."""
    async with shop_of(database, clock, idp) as app:
        app.on_sign_in(lambda _: 42)
        browser = Browser(app)
        await browser.sign_in(idp)
        elsewhere = Moorline(database, clock=clock)
        await elsewhere.end_sessions(42)
        await elsewhere.close()
        assert await who(app, browser) is None


async def test_sessions_end_when_idle_and_when_old(
    shop: Moorline, browser: Browser, idp: Idp, clock: ManualClock
) -> None:
    """A session that is used lives on to its longest, one that is not ends a day after it was seen."""
    inner = shop.signed_in(_hello)
    used = Browser(inner)
    await browser.sign_in(idp)
    used.client.cookies.set("__Host-moorline", browser.cookies["__Host-moorline"])
    days = 0
    while (await used.get("/")).text != "nobody":
        clock.advance(43_200)
        days += 1
        assert days < 40
    assert days == 28
    assert await who(shop, browser) is None


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    session = scope["moorline.session"]
    body = b"nobody" if session is None else session.user.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("told", [[], [(b"Cache-Control", b"public, max-age=60")]])
async def test_a_renewed_session_is_kept_by_no_cache(
    shop: Moorline, browser: Browser, idp: Idp, clock: ManualClock, told: list[tuple[bytes, bytes]]
) -> None:
    """An answer that anybody may keep is kept by nobody while it carries a session; without one it is as it was."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": told})
        await send({"type": "http.response.body", "body": b""})

    await browser.sign_in(idp)
    used = Browser(shop.signed_in(inner))
    used.client.cookies.set("__Host-moorline", browser.cookies["__Host-moorline"])
    first = await used.get("/")
    assert first.headers.get("cache-control") == (told[0][1].decode() if told else None)
    clock.advance(61)
    renewed = await used.get("/")
    assert renewed.headers["set-cookie"].startswith("__Host-moorline=")
    assert renewed.headers.get_list("cache-control") == ["no-store"]


async def test_idle_cookies_end(shop: Moorline, browser: Browser, idp: Idp, clock: ManualClock) -> None:
    """A cookie that nobody renews ends after a day."""
    await browser.sign_in(idp)
    clock.advance(86_399)
    assert await who(shop, browser) is not None
    clock.advance(1)
    assert await who(shop, browser) is None


async def test_the_userinfo_adds_what_the_token_lacks(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """Where the ID token has no e-mail address, userinfo is asked, for the same subject only."""
    seen: list[Identity] = []
    shop.on_sign_in(keeps(seen))
    idp.claims = {"email": None, "email_verified": None}
    idp.user = {"sub": "u-1", "email": "ada@example.com", "email_verified": True, "iss": "somebody"}
    assert (await browser.sign_in(idp)).status_code == 303
    assert (seen[0].email, seen[0].email_proved, seen[0].claims["iss"]) == ("ada@example.com", True, ISSUER)
    idp.user["sub"] = "u-2"
    assert (await browser.sign_in(idp)).status_code == 400


@pytest.mark.parametrize("answer", [None, ""])
async def test_the_application_refuses(shop: Moorline, browser: Browser, idp: Idp, answer: str | None) -> None:
    """``on_sign_in`` that gives no user lets nobody in."""
    shop.on_sign_in(lambda _: answer)
    assert (await browser.sign_in(idp)).status_code == 403
    assert await who(shop, browser) is None


async def test_the_application_finds_its_own_users(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """``on_sign_in``, async too, gives the id of the user; the table is not asked."""

    @shop.on_sign_in
    async def find(identity: Identity) -> int:
        assert identity.subject == "u-1"
        return 42

    await browser.sign_in(idp)
    session = await who(shop, browser)
    assert session is not None
    assert session.user == "42"
    assert await shop.store.read(identities.of_user, "42") == []


async def test_a_plain_function_may_wait(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """``on_sign_in`` that is no coroutine runs beside the loop, which can serve others while it asks a database."""
    loop = asyncio.get_running_loop()

    async def served_meanwhile() -> str:
        return "u_7"

    @shop.on_sign_in
    def find(identity: Identity) -> str:
        return asyncio.run_coroutine_threadsafe(served_meanwhile(), loop).result(10)

    await browser.sign_in(idp)
    session = await who(shop, browser)
    assert session is not None
    assert session.user == "u_7"


async def test_discovery_is_kept(shop: Moorline, browser: Browser, idp: Idp, clock: ManualClock) -> None:
    """The document is read once an hour, and serves on while the provider is down."""
    await browser.begin()
    await browser.begin()
    assert idp.asked == ["/.well-known/openid-configuration"]
    clock.advance(3601)
    idp.down = True
    await browser.begin()
    await browser.begin()
    assert len(idp.asked) == 2


async def test_a_provider_that_is_down(browser: Browser, idp: Idp) -> None:
    """That is not the user's fault: 503, with when to come again."""
    idp.down = True
    answer = await browser.get("/auth/idp/login")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_the_page_of_a_failure_leads_back(browser: Browser, idp: Idp) -> None:
    """A user who said no sees a plain page with a way to try again, and none of the provider's words."""
    answer = await browser.sign_in(idp, code=None, error="access_denied", error_description="<b>canary</b>")
    assert answer.status_code == 403
    assert 'href="/auth/idp/login"' in answer.text
    assert "canary" not in answer.text


async def test_nothing_is_open_by_default(tmp_path: Path) -> None:
    """Without ``sign_in`` the routes are not there; with it only those of its providers are."""
    async with Moorline(migrated_sqlite(tmp_path / "closed.db")) as app:
        for path in ("/auth/google/login", "/auth/google/callback", "/auth/logout"):
            assert (await Browser(app).get(path)).status_code == 404
        with pytest.raises(ConfigurationError, match="nobody can sign in"):
            await app.session({"type": "http"})


async def test_other_routes_are_not_there(browser: Browser) -> None:
    """Another provider, another word, and another method."""
    for path in ("/auth/google/login", "/auth/idp/", "/auth/idp/login/", "/auth/idp/delete"):
        assert (await browser.get(path)).status_code == 404
    assert (await browser.post("/auth/idp/callback")).status_code == 405
    assert (await browser.get("/auth/logout")).status_code == 405


@pytest.mark.parametrize("bare", [False, True])
async def test_a_mounted_application(shop: Moorline, idp: Idp, bare: bool) -> None:
    """Below a mount, of which the path may know nothing, the address to come back to has the mount in it, and it works."""

    async def mount(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix("/api") if bare else scope["path"]
        await shop({**scope, "root_path": "/api", "path": path}, receive, send)

    browser = Browser(mount)
    begun = (await browser.get("/api/auth/idp/login")).headers["location"]
    assert parse_qs(urlsplit(begun).query)["redirect_uri"] == [f"{SHOP}/api/auth/idp/callback"]
    assert (await browser.get(idp.authorize(begun))).headers["location"] == "/api/"


async def test_a_database_that_is_down(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """Nobody is signed in, and the browser is told to come again."""
    url = idp.authorize(await browser.begin())

    def fail(*_: object) -> None:
        raise StoreUnavailable("down")

    shop.store.write = fail  # type: ignore[assignment]
    answer = await browser.get(url)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "__Host-moorline" not in browser.cookies


async def test_a_database_that_was_never_there(idp: Idp, clock: ManualClock, tmp_path: Path) -> None:
    """An application that cannot open its database answers 503 to whoever comes back."""
    (tmp_path / "file").write_text("")
    app = shop_of(f"sqlite:///{tmp_path}/file/x.db", clock, idp)
    browser = Browser(app)
    assert (await browser.get(idp.authorize(await browser.begin()))).status_code == 503
    assert (await Browser(app.signed_in(_hello)).get("/")).status_code == 503


async def test_a_database_that_is_down_under_a_session(
    shop: Moorline, browser: Browser, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a session has ended cannot be told then: its browser is to come again, who has none is served."""

    async def fail(*_: object) -> None:
        raise StoreUnavailable("down")

    await browser.sign_in(idp)
    wrapped = shop.signed_in(_hello)
    used, sent = Browser(wrapped), []
    used.client.cookies.set("__Host-moorline", browser.cookies["__Host-moorline"])

    async def send(message: Any) -> None:
        sent.append(message)

    with monkeypatch.context() as patch:
        patch.setattr(shop.store, "read", fail)
        answer = await used.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (answer.headers["cache-control"], "down" in answer.text) == ("no-store", False)
        assert (await Browser(wrapped).get("/")).text == "nobody"
        cookie = f"__Host-moorline={browser.cookies['__Host-moorline']}".encode()
        headers = [(b"cookie", cookie), (b"host", b"shop.example")]
        await wrapped({"type": "websocket", "path": "/", "scheme": "wss", "headers": headers}, None, send)
        assert sent == [{"type": "websocket.close", "code": 1013}]
    assert (await used.get("/")).text != "nobody"


async def test_the_session_of_a_websocket(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """A WebSocket has the same session; the lifespan has none and passes."""
    await browser.sign_in(idp)
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await shop.session(scope) if scope["type"] == "websocket" else scope["type"])

    wrapped = shop.signed_in(inner)
    cookie = f"__Host-moorline={browser.cookies['__Host-moorline']}"
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/",
        "scheme": "wss",
        "query_string": b"",
        "client": ("1.2.3.4", 1),
    }
    scope["headers"] = [(b"cookie", b"a=b"), (b"cookie", cookie.encode()), (b"host", b"shop.example")]
    await wrapped(scope, None, None)
    await wrapped({"type": "lifespan"}, None, None)
    assert seen[0].provider == "idp"
    assert seen[1] == "lifespan"


async def test_the_session_opens_the_database(database: str, clock: ManualClock, idp: Idp) -> None:
    """Where nobody has opened the application yet, looking for a session does."""
    app = shop_of(database, clock, idp)
    browser = Browser(app)
    await browser.sign_in(idp)
    await app.close()
    assert await who(app, browser) is not None
    await app.close()
    used = Browser(app.signed_in(_hello))
    used.client.cookies.set("__Host-moorline", browser.cookies["__Host-moorline"])
    assert (await used.get("/")).text != "nobody"
    await app.close()


async def test_the_session_of_a_request(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """A request object of a framework will do as well."""
    from starlette.requests import Request

    await browser.sign_in(idp)
    cookie = f"__Host-moorline={browser.cookies['__Host-moorline']}".encode()
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "https", "headers": [(b"cookie", cookie)]}
    session = await shop.session(Request(scope))
    assert session is not None
    assert session.provider == "idp"


async def test_the_address_in_other_letters(
    database: str, clock: ManualClock, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public address with capitals and the usual port is the browser's own all the same."""
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", "https://Shop.example:443")
    async with shop_of(database, clock, idp) as app:
        assert (await Browser(app).post("/auth/logout")).status_code == 303


@pytest.mark.parametrize("given", [True, 1.5, ["u"]])
async def test_what_is_no_id_of_a_user(shop: Moorline, browser: Browser, idp: Idp, given: Any) -> None:
    """``on_sign_in`` that gives something else lets nobody in."""
    shop.on_sign_in(lambda _: given)
    assert (await browser.sign_in(idp)).status_code == 403


async def test_without_authlib(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what to install."""
    monkeypatch.setitem(sys.modules, "authlib.oauth2.rfc7636", None)
    assert (await browser.get("/auth/idp/login")).status_code == 503
    assert "moorline[identity]" in caplog.text


# --- whose an account is


async def _signed_in(app: Moorline, idp: Idp, name: str, browser: Browser | None = None) -> str:
    """The user as which somebody signs in with the provider of that name; or why not."""
    found = browser or Browser(app)
    answer = await found.get(idp.authorize(await found.begin(name=name)))
    session = await who(app, found)
    return session.user if answer.status_code == 303 and session is not None else f"{answer.status_code}"


@pytest.fixture
async def two(database: str, clock: ManualClock, idp: Idp) -> AsyncIterator[Moorline]:
    """An application with two providers; both are the same server, as two clients of it would be."""
    other = Provider(
        name="other", issuer=ISSUER, authorize=f"{ISSUER}/authorize", token=f"{ISSUER}/token", keys=f"{ISSUER}/keys",
        client_id=CLIENT, client_secret=idp_provider().client_secret, authentication="basic",
    )  # fmt: skip
    async with shop_of(database, clock, idp, idp_provider(), other) as app:
        yield app


async def test_a_proved_address_joins(two: Moorline, idp: Idp) -> None:
    """Two providers that both have proved an address, in any case of letters, lead to one user."""
    first = await _signed_in(two, idp, "idp")
    idp.claims = {"sub": "x-9", "email": "ADA@example.com"}
    assert await _signed_in(two, idp, "other") == first
    assert len(await two.store.read(identities.of_user, first)) == 2


async def test_an_address_that_is_not_proved_joins_nothing(two: Moorline, idp: Idp) -> None:
    """Whoever shows a known address without proof has to sign in as before."""
    await _signed_in(two, idp, "idp")
    for said in (False, None, "true", 1):
        idp.claims = {"sub": "x-9", "email_verified": said}
        assert await _signed_in(two, idp, "other") == "409"


async def test_an_account_cannot_wait_for_its_victim(two: Moorline, idp: Idp) -> None:
    """Whoever took an address without proof gets nothing of the user who proves it later."""
    idp.claims = {"sub": "thief", "email_verified": False}
    thief = await _signed_in(two, idp, "idp")
    idp.claims = {"sub": "ada"}
    ada = await _signed_in(two, idp, "other")
    assert ada not in (thief, "409")
    idp.claims = {"sub": "thief", "email_verified": False}
    assert await _signed_in(two, idp, "idp") == thief


async def test_addresses_of_other_alphabets_do_not_fold(two: Moorline, idp: Idp) -> None:
    """A letter that becomes an ASCII one in the other case (a dotless i, a Kelvin sign) makes no known address."""
    idp.claims = {"email": "kim@example.com"}
    first = await _signed_in(two, idp, "idp")
    for number, email in enumerate(("\u212aim@example.com", "k\u0131m@example.com")):
        idp.claims = {"sub": f"x-{number}", "email": email}
        assert await _signed_in(two, idp, "other") not in (first, "409")


async def test_a_signed_in_user_adds_an_account(two: Moorline, idp: Idp) -> None:
    """By a POST of this very site; an account that is another user's cannot be added."""
    browser = Browser(two)
    ada = await _signed_in(two, idp, "idp", browser)
    idp.claims = {"sub": "x-9", "email": "somebody@example.net", "email_verified": False}
    begun = await browser.post("/auth/other/login?add=1")
    assert (await browser.get(idp.authorize(begun.headers["location"]))).status_code == 303
    assert await _signed_in(two, idp, "other") == ada
    idp.claims = {"sub": "bob", "email": "bob@example.net"}
    bob = await _signed_in(two, idp, "other")
    assert bob != ada
    begun = await browser.post("/auth/other/login?add=1")
    assert (await browser.get(idp.authorize(begun.headers["location"]))).status_code == 409


async def test_signing_in_adds_nothing_by_itself(two: Moorline, idp: Idp) -> None:
    """A GET, which another site can cause, signs in as whoever it is and adds no account to who was signed in."""
    browser = Browser(two)
    ada = await _signed_in(two, idp, "idp", browser)
    idp.claims = {"sub": "x-9", "email": "somebody@example.net"}
    begun = await browser.get("/auth/other/login?add=1")
    await browser.get(idp.authorize(begun.headers["location"]))
    session = await who(two, browser)
    assert session is not None
    assert session.user != ada


async def test_nobody_adds_an_account(two: Moorline) -> None:
    """Adding wants a user who is signed in, and a page of this site."""
    assert (await Browser(two).post("/auth/other/login?add=1")).status_code == 403
    assert (await Browser(two).post("/auth/other/login?add=1", origin="https://evil.example")).status_code == 403


# --- by settings, and what is refused beforehand


async def test_sign_in_by_settings(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``[sign_in]`` names the providers; those by discovery have their issuers."""
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", "a" * 43)
    monkeypatch.setenv("MOORLINE_SIGN_IN__PROVIDERS", "google,okta")
    monkeypatch.setenv("MOORLINE_SIGN_IN__ISSUERS", '{"okta": "https://dev-1.okta.com"}')
    for name in ("GOOGLE", "OKTA"):
        monkeypatch.setenv(f"{name}_CLIENT_ID", "id")
        monkeypatch.setenv(f"{name}_CLIENT_SECRET", "some secret")
    async with Moorline(database) as app:
        begun = (await Browser(app).get("/auth/google/login")).headers["location"]
        assert begun.startswith("https://accounts.google.com/o/oauth2/v2/auth?response_type=code&client_id=id&")


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda app: app.sign_in(), "which providers"),
        (lambda app: app.sign_in(Google), "GOOGLE_CLIENT_ID"),
        (lambda app: app.sign_in(Google(client_id="x")), "GOOGLE_CLIENT_SECRET"),
        (lambda app: app.sign_in(idp_provider()), "MOORLINE_ENCRYPTION_KEY"),
        (lambda app: app.sign_in(idp_provider(), idp_provider()), "twice"),
        (lambda app: app.sign_in("google"), "no provider"),
        (lambda app: app.sign_in(Microsoft), "MICROSOFT_TENANT_ID"),
        (lambda app: app.sign_in(Microsoft(tenant="common")), "tenants"),
        (lambda app: app.sign_in(Microsoft(tenant="contoso.example")), "GUID"),
        (lambda app: app.sign_in(Microsoft(tenant="common", tenants=("contoso",))), "GUIDs"),
        (lambda app: app.sign_in(OpenID("okta", issuer="http://okta.example")), "https"),
        (lambda app: app.sign_in(OpenID("Okta!", issuer="https://okta.example")), "name"),
        (lambda app: app.sign_in(Google(parameters={"state": "x"})), "state"),
        (lambda app: app.sign_in(Google(scopes=("email",))), "openid"),
        (lambda app: app.sign_in(idp_provider(), idle=10.0), "idle"),
    ],
)
def test_what_cannot_be_is_said_at_once(database: str, monkeypatch: pytest.MonkeyPatch, make: Any, wrong: str) -> None:
    """Each mistake of the configuration is named when the application is made."""
    for name in ("GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET", "MICROSOFT_TENANT_ID", "MOORLINE_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    if wrong == "idle":
        monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", "a" * 43)
    with pytest.raises(ConfigurationError, match=wrong):
        make(Moorline(database))


# --- the ready providers


GITHUB_USER = {
    "id": 583231,
    "login": "octocat",
    "name": None,
    "email": "public@example.net",
    "avatar_url": "https://x.example/a",
}


class GitHubServer:
    """Answers as GitHub does."""

    def __init__(self) -> None:
        self.emails: Any = [
            {"email": "old@example.com", "primary": False, "verified": True, "visibility": None},
            {"email": "octo@example.com", "primary": True, "verified": True, "visibility": "private"},
        ]
        self.token: dict[str, Any] = {"access_token": ACCESS, "scope": "read:user,user:email", "token_type": "bearer"}
        self.emails_status = 200

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/login/oauth/access_token":
            form = parse_qs(request.read().decode())
            assert request.headers["accept"] == "application/json"
            assert form["client_secret"] == ["github secret"]
            assert len(form["code_verifier"][0]) == 43
            return httpx2.Response(200, json=self.token)
        assert request.headers["authorization"] == f"Bearer {ACCESS}"
        assert request.headers["user-agent"]
        if request.url.path == "/user/emails":
            return httpx2.Response(self.emails_status, json=self.emails)
        return httpx2.Response(200, json=GITHUB_USER)


async def _github(database: str, clock: ManualClock, server: GitHubServer) -> tuple[int, list[Identity]]:
    seen: list[Identity] = []
    provider = GitHub(client_id="gh", client_secret="github secret")
    async with shop_of(database, clock, server, provider) as app:
        app.on_sign_in(keeps(seen))
        browser = Browser(app)
        asked = {name: one[0] for name, one in parse_qs(urlsplit(await browser.begin(name="github")).query).items()}
        assert "nonce" not in asked
        assert asked["scope"] == "read:user user:email"
        answer = await browser.get("/auth/github/callback", params={"code": "c0de", "state": asked["state"]})
        return answer.status_code, seen


async def test_github_is_asked_who_it_is(database: str, clock: ManualClock) -> None:
    """The number is the subject; the address is the primary and verified one, never the profile's."""
    status, seen = await _github(database, clock, GitHubServer())
    assert status == 303
    found = seen[0]
    assert (found.subject, found.email, found.email_proved, found.name) == (
        "583231",
        "octo@example.com",
        True,
        "octocat",
    )


@pytest.mark.parametrize(
    "emails", [[], [{"email": "a@x.example", "primary": True, "verified": False}], "none", {"message": "x"}]
)
async def test_github_without_a_verified_address(database: str, clock: ManualClock, emails: Any) -> None:
    """Then there is none, and it proves nothing."""
    server = GitHubServer()
    server.emails = emails
    _, seen = await _github(database, clock, server)
    assert (seen[0].email, seen[0].email_proved) == (None, False)


async def test_github_with_less_granted(database: str, clock: ManualClock) -> None:
    """A user who did not grant the addresses, or may not show them, signs in without one."""
    server = GitHubServer()
    server.token["scope"] = "read:user"
    assert (await _github(database, clock, server))[1][0].email is None
    server.token["scope"], server.emails_status = "user:email", 404
    assert (await _github(database, clock, server))[1][0].email is None


async def test_github_is_named_as_it_names_itself(database: str, clock: ManualClock) -> None:
    """A page that says that it does not answer writes GitHub."""
    server = GitHubServer()
    server.token = {}
    provider = GitHub(client_id="gh", client_secret="github secret")
    async with shop_of(database, clock, server, provider) as app:
        browser = Browser(app)
        asked = parse_qs(urlsplit(await browser.begin(name="github")).query)
        answer = await browser.get("/auth/github/callback", params={"code": "c0de", "state": asked["state"][0]})
    assert answer.status_code == 503
    assert "GitHub does not answer" in answer.text


async def test_github_hides_errors_in_200(database: str, clock: ManualClock) -> None:
    """A code that is not good is answered with 200 and an error: nobody is signed in."""
    server = GitHubServer()
    server.token = {"error": "bad_verification_code", "error_description": "The code passed is incorrect or expired."}
    assert await _github(database, clock, server) == (400, [])


TID, OID = "72f988bf-86f1-41af-91ab-2d7cd011db47", "00000000-0000-0000-66f3-3332eca7ea81"
CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"
LOGIN = "https://login.microsoftonline.com"


def microsoft(**options: Any) -> Microsoft:
    given = {"tenant": "common", "tenants": "any", "client_id": CLIENT, "client_secret": "x" * 20, **options}
    return Microsoft(**given)


def ms_claims(tid: str = TID, **more: Any) -> dict[str, Any]:
    return {
        "iss": f"{LOGIN}/{tid}/v2.0",
        "tid": tid,
        "oid": OID,
        "sub": "pairwise",
        "email": "ceo@victim.example",
        **more,
    }


async def _microsoft(
    database: str, clock: ManualClock, provider: Microsoft, said: dict[str, Any], issuer: str | None
) -> tuple[int, list[Identity]]:
    nonce = ""

    def server(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/keys"):
            bound = {} if issuer is None else {"issuer": issuer}
            return httpx2.Response(200, json={"keys": [tokens.jwk("RSA", **bound)]})
        body = tokens.claims(aud=CLIENT, nonce=nonce, **said)
        answer = {"access_token": ACCESS, "token_type": "Bearer", "id_token": tokens.token(body)}
        return httpx2.Response(200, json=answer)

    seen: list[Identity] = []
    async with shop_of(database, clock, server, provider) as app:
        app.on_sign_in(keeps(seen))
        browser = Browser(app)
        asked = parse_qs(urlsplit(await browser.begin(name="microsoft")).query)
        nonce = asked["nonce"][0]
        answer = await browser.get("/auth/microsoft/callback", params={"code": "c0de", "state": asked["state"][0]})
    return answer.status_code, seen


TEMPLATE = f"{LOGIN}/{{tenantid}}/v2.0"


async def test_microsoft_of_many_tenants(database: str, clock: ManualClock) -> None:
    """The issuer is the template with the token's own tenant; the user is tenant and object; the address proves nothing."""
    status, seen = await _microsoft(database, clock, microsoft(), ms_claims(), TEMPLATE)
    assert status == 303
    assert (seen[0].subject, seen[0].email, seen[0].email_proved) == (f"{TID}.{OID}", "ceo@victim.example", False)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({"xms_edov": True}, {}),
        ({"xms_edov": "1"}, {}),
        ({"xms_edov": 1}, {}),
        ({"verified_primary_email": ["CEO@victim.example"]}, {}),
        ({"verified_secondary_email": ["x@y.example", "ceo@victim.example"]}, {}),
        ({}, {"trusted": (TID,)}),
        ({"tid": CONSUMERS, "iss": f"{LOGIN}/{CONSUMERS}/v2.0"}, {}),
    ],
)
def test_when_microsoft_proves_an_address(said: dict[str, Any], options: dict[str, Any]) -> None:
    """Where the domain's owner was verified, it is listed as verified, the tenant is trusted, or it is a personal one."""
    assert microsoft(**options).identity({**ms_claims(), **said}).email_proved


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"email_verified": True},
        {"xms_edov": False},
        {"xms_edov": "0"},
        {"xms_edov": None},
        {"xms_edov": "false"},
        {"verified_primary_email": []},
        {"verified_primary_email": ["other@victim.example"]},
        {"verified_primary_email": "ceo@victim.example"},
        {"preferred_username": "ceo@victim.example"},
    ],
)
def test_when_microsoft_proves_none(said: dict[str, Any]) -> None:
    """Anything else is what an administrator of some tenant has typed."""
    assert not microsoft().identity({**ms_claims(), **said}).email_proved


@pytest.mark.parametrize(
    ("options", "said", "issuer"),
    [
        ({}, ms_claims(tid="x"), TEMPLATE),
        ({}, ms_claims() | {"tid": None}, TEMPLATE),
        ({}, ms_claims() | {"tid": CONSUMERS}, TEMPLATE),
        ({}, ms_claims() | {"iss": f"{LOGIN}/{{tenantid}}/v2.0"}, TEMPLATE),
        ({}, ms_claims() | {"iss": f"https://sts.windows.net/{TID}/"}, TEMPLATE),
        ({}, ms_claims() | {"oid": None}, TEMPLATE),
        ({}, ms_claims(), f"{LOGIN}/{CONSUMERS}/v2.0"),
        ({"tenants": (CONSUMERS,)}, ms_claims(), TEMPLATE),
        ({"tenant": "organizations"}, ms_claims(CONSUMERS), TEMPLATE),
        ({"tenant": "consumers"}, ms_claims(), TEMPLATE),
        ({"tenant": CONSUMERS}, ms_claims(), TEMPLATE),
    ],
)
async def test_tenants_that_are_not_let_in(
    database: str, clock: ManualClock, options: dict[str, Any], said: dict[str, Any], issuer: str
) -> None:
    """Another tenant, another issuer, a template taken literally, and a key that is another issuer's."""
    status, seen = await _microsoft(database, clock, microsoft(**options), said, issuer)
    assert status in (400, 403)
    assert seen == []


def test_the_issuers_of_answers() -> None:
    """Google has two spellings, GitHub one; of Microsoft it is the issuer of a tenant that is let in, never a template."""
    assert Google().is_issuer("accounts.google.com")
    assert not Google().is_issuer("https://accounts.google.com/")
    assert GitHub().is_issuer("https://github.com/login/oauth")
    assert not GitHub().is_issuer("https://github.com")
    own = Microsoft(tenant=TID)
    assert own.is_issuer(f"{LOGIN}/{TID}/v2.0")
    for told in (TEMPLATE, f"{LOGIN}/{CONSUMERS}/v2.0", f"{LOGIN}/{TID}", TID, f"https://evil.example/{TID}/v2.0"):
        assert not own.is_issuer(told)
    assert not microsoft().is_issuer(TEMPLATE)
    assert microsoft().is_issuer(f"{LOGIN}/{CONSUMERS}/v2.0")


@pytest.mark.parametrize(
    ("said", "proved"),
    [
        ({"email": "ada@gmail.com", "email_verified": True}, True),
        ({"email": "ada@corp.example", "email_verified": True, "hd": "corp.example"}, True),
        ({"email": "ada@corp.example", "email_verified": True}, False),
        ({"email": "ada@gmail.com", "email_verified": False}, False),
        ({"email": "ada@gmail.com", "email_verified": "true"}, False),
        ({"email": "ada@gmail.com.evil.example", "email_verified": True}, False),
        ({"email": "ada@corp.example", "hd": "corp.example"}, False),
    ],
)
def test_when_google_proves_an_address(said: dict[str, Any], proved: bool) -> None:
    """Its own addresses and those of a Workspace; any other was proved once, and may have changed hands."""
    found = Google(client_id="x").identity({"sub": "1", **said})
    assert found.email_proved is proved


def test_googles_hosted_domain() -> None:
    """The claim decides, not the address and not the parameter."""
    google = Google(client_id="x", hosted_domain="corp.example")
    assert google.parameters["hd"] == "corp.example"
    assert google.identity({"sub": "1", "hd": "corp.example"}).subject == "1"
    with pytest.raises(SignInFailed, match="hosted domain"):
        google.identity({"sub": "1", "email": "ada@corp.example", "email_verified": True})


def test_nothing_secret_is_shown() -> None:
    """Neither a provider nor an identity shows what it holds."""
    assert "canary" not in repr(idp_provider())
    assert repr(Identity("google", "1", "ada@example.com")) == "<Identity of google>"
