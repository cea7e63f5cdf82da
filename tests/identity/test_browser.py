"""Signing in with a real browser: Chromium, before a certified provider, and before the sandbox's in examples/shop.

The application is ``localhost`` and the provider ``127.0.0.1``: two sites to a browser, which between them keeps back
what ``SameSite`` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib.util
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from tests.databases import migrated_sqlite
from tests.identity.oidc_server import SECRET, OidcServer, Visitor
from tests.identity.shop import RING
from tests.serving import chromium, served

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.identity import Identity, OpenID
from moorline.sandbox import server

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.oracles, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30_000  # of Playwright's, for whatever the machine is busy with
SHOP = "shop.example"
EVIL = "http://evil.example/"


class Site(NamedTuple):
    """The application as it is served, and who has signed in."""

    home: str
    seen: list[Identity]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chrome() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def context(chrome: Browser) -> AsyncIterator[BrowserContext]:
    """A browser as good as new: without cookies and history."""
    made = await chrome.new_context(ignore_https_errors=True)
    made.set_default_timeout(SECONDS)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


class Sites(NamedTuple):
    """By http on this machine, and by https under a name."""

    plain: Site
    secure: Site
    oidc: OidcServer


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """The application by http and by https, with a certificate of its own, and a provider that knows both addresses."""
    folder = tmp_path_factory.mktemp("browser")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("MOORLINE_TAP", "false")
        patch.chdir(folder)
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [one.getsockname()[1] for one in listeners]
        homes = [f"http://localhost:{ports[0]}", f"https://{SHOP}:{ports[1]}"]
        oidc = stack.enter_context(OidcServer(*(f"{home}/auth/oidc/callback" for home in homes)))
        made: list[Site] = []
        for home, listener in zip(homes, listeners, strict=True):
            seen: list[Identity] = []
            options = _certificate(folder) if home.startswith("https") else {}
            if options:
                patch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", home)
            application = _application(folder / f"{len(made)}.db", oidc.issuer, seen)
            stack.enter_context(served(application, listener, **options))
            made.append(Site(home, seen))
        patch.delenv("MOORLINE_WEBHOOKS__PUBLIC_URL")
        yield Sites(made[0], made[1], oidc)


@pytest.fixture
def site(sites: Sites) -> Site:
    """By http, as on the machine of whoever develops it."""
    sites.plain.seen.clear()
    return sites.plain


def _application(database: Path, issuer: str, seen: list[Identity]) -> Starlette:
    """A page that says who is signed in."""
    moor = Moorline(migrated_sqlite(database))
    moor.sign_in(OpenID("oidc", issuer=issuer, client_id="basic", client_secret=SECRET), keys=RING, guards=Guards())

    @moor.on_sign_in
    def note(identity: Identity) -> str:
        seen.append(identity)
        return identity.subject

    async def front(request: Request) -> HTMLResponse:
        session = await moor.session(request)
        way = (
            '<a href="/auth/oidc/login?next=/basket">Sign in</a>'
            if session is None
            else '<form method="post" action="/auth/logout"><button>Sign out</button></form>'
        )
        who = "nobody" if session is None else session.user
        return HTMLResponse(f"<!doctype html><p id=who>{who}</p>{way}", headers={"Cache-Control": "no-store"})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with moor.running():
            yield

    routes = [Route("/", front), Route("/basket", front), Mount("/", moor)]
    return Starlette(routes=routes, middleware=[Middleware(moor.signed_in)], lifespan=lifespan)


def _certificate(folder: Path) -> dict[str, str]:
    """Options of uvicorn for a certificate that is signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SHOP)])
    names = x509.SubjectAlternativeName([x509.DNSName(SHOP)])
    day = dt.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(
        builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(pem)
    )
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return {"ssl_keyfile": str(folder / "key.pem"), "ssl_certfile": str(folder / "certificate.pem")}


# --- what a user does


async def begin(page: Page, home: str) -> None:
    """From the front page to that of the provider."""
    await page.goto(home)
    await page.get_by_role("link", name="Sign in").click()
    await page.wait_for_selector("input[name=login]")


async def log_in(page: Page, name: str) -> None:
    """The provider's first page."""
    await page.fill("input[name=login]", name)
    await page.fill("input[name=password]", "any")
    await page.get_by_role("button", name="Sign-in").click()
    await page.wait_for_selector("text=Authorize")


async def consent(page: Page) -> None:
    """Its second one, which leads back."""
    await page.get_by_role("button", name="Continue").click()


async def sign_in(page: Page, home: str, name: str = "ada") -> None:
    """All of it."""
    await begin(page, home)
    await log_in(page, name)
    await consent(page)
    assert await who(page) == name


async def who(page: Page) -> str:
    """Who is signed in, as the page says."""
    return await page.inner_text("#who")


async def go(page: Page, steps: int) -> None:
    """By the buttons beside the address; Playwright's own wait for what a provider's page of an error never says."""
    await page.evaluate(f"setTimeout(() => history.go({steps}))")


async def kept(context: BrowserContext, home: str) -> dict[str, Any]:
    """The application's cookies, by their names."""
    return {str(one["name"]): one for one in await context.cookies(home)}


async def test_a_user_signs_in(site: Site, page: Page, context: BrowserContext) -> None:
    """To the provider and back to where the user wanted to go. What the browser keeps is closed to scripts, and of the
    sign-in nothing is left; where the code was is told to nobody.
    """
    await begin(page, site.home)
    ((name, cookie),) = (await kept(context, site.home)).items()
    assert name.startswith("moorline-sign-in-")
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    await log_in(page, "ada")
    told: list[str | None] = []
    page.on("request", lambda request: told.append(request.headers.get("referer")))
    await consent(page)
    assert await who(page) == "ada"
    assert page.url == f"{site.home}/basket"
    ((name, cookie),) = (await kept(context, site.home)).items()
    assert (name, cookie["domain"], cookie["path"]) == ("moorline", "localhost", "/")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, False, "Lax")
    assert await page.evaluate("document.cookie") == ""
    assert told
    assert [one for one in told if one and "code=" in one] == []
    assert [(one.email, one.email_proved) for one in site.seen] == [("ada@example.com", True)]


async def test_by_https(sites: Sites, page: Page, context: BrowserContext) -> None:
    """There each cookie is ``Secure`` and ``__Host-``: neither a page that comes by http, nor one of a subdomain, nor a
    script of the application's own can plant one.
    """
    home = sites.secure.home
    await context.route(re.compile(f"^https?://(sub[.])?{SHOP}/$"), lambda route: route.fulfill(body="a page"))
    for elsewhere in (f"http://{SHOP}/", f"http://sub.{SHOP}/", f"https://sub.{SHOP}/"):
        await page.goto(elsewhere)
        await _plant(page)
        assert [name for name in await kept(context, home) if name.startswith("__Host-")] == []
    await sign_in(page, home)
    assert page.url == f"{home}/basket"
    closed = (await kept(context, home))["__Host-moorline"]
    assert (closed["httpOnly"], closed["secure"], closed["sameSite"], closed["path"]) == (True, True, "Lax", "/")
    assert closed["domain"] == SHOP  # without a dot: of no subdomain
    for elsewhere in (f"http://{SHOP}/", f"https://sub.{SHOP}/", home):
        await page.goto(elsewhere)
        await _plant(page)
        await page.goto(home)
        assert await who(page) == "ada"
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_selector("text=nobody")
    assert [name for name in await kept(context, home) if name.startswith("__Host-")] == []


async def _plant(page: Page) -> None:
    """What a page may try, of any host and scheme: a session of somebody else's."""
    marks = ["", "; secure", f"; domain={SHOP}", f"; domain={SHOP}; secure", "; path=/basket; secure"]
    tries = [f"{name}=planted; path=/{mark}" for mark in marks for name in ("moorline", "__Host-moorline")]
    await page.evaluate("tries => tries.forEach(one => { document.cookie = one })", tries)


async def test_signing_out(site: Site, page: Page, context: BrowserContext, chrome: Browser) -> None:
    """Nobody is signed in after it: not in this browser, not on its way back, and not with a copy of the cookie."""
    await sign_in(page, site.home)
    copied: Any = list((await kept(context, site.home)).values())
    other = await chrome.new_context()
    await other.add_cookies(copied)
    elsewhere = await other.new_page()
    await elsewhere.goto(site.home)
    assert await who(elsewhere) == "ada"
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_selector("text=nobody")
    assert await kept(context, site.home) == {}
    await go(page, -1)
    await page.wait_for_url(f"{site.home}/basket")
    assert await who(page) == "nobody"
    await elsewhere.reload()
    assert await who(elsewhere) == "nobody"
    await other.close()


async def test_back_and_again(site: Site, page: Page) -> None:
    """Reloading changes nothing, the way back passes by the callback, and opening that again begins no session and ends
    none.
    """
    callbacks: list[str] = []
    page.on("request", lambda request: callbacks.append(request.url) if "/callback?" in request.url else None)
    await sign_in(page, site.home)
    await page.reload()
    assert await who(page) == "ada"
    await go(page, -1)
    await page.wait_for_url("**/interaction/*")
    await page.wait_for_selector("text=went wrong")  # the provider's own is over
    await go(page, 1)
    assert await who(page) == "ada"
    (used,) = callbacks
    again = await page.goto(used)
    assert again is not None
    assert again.status == 400
    await page.goto(site.home)
    assert await who(page) == "ada"
    assert len(site.seen) == 1


async def test_two_tabs_at_once(site: Site, page: Page, context: BrowserContext) -> None:
    """Tabs that sign in at the same moment do so each with a state of its own, and all are signed in."""
    await sign_in(page, site.home)
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_selector("text=nobody")
    tabs = [page, *[await context.new_page() for _ in range(2)]]
    # The provider knows her by now, and sends her back at once.
    await asyncio.gather(*(tab.goto(f"{site.home}/auth/oidc/login?next=/basket") for tab in tabs))
    assert [await who(tab) for tab in tabs] == ["ada"] * 3
    assert len(site.seen) == 4
    for tab in tabs:
        await tab.reload()
    assert [await who(tab) for tab in tabs] == ["ada"] * 3
    assert list(await kept(context, site.home)) == ["moorline"]


async def test_a_forged_callback(site: Site, sites: Sites, page: Page, context: BrowserContext) -> None:
    """Links of another site to a forged answer, to an attacker's own, and out of this one sign nobody in, also while a
    sign-in of the victim's is under way, which goes on.
    """
    attacker = Visitor(sites.oidc)
    begun = await attacker.web.get(f"{site.home}/auth/oidc/login")
    answer = await attacker.through(begun.headers["location"], "mallory")
    await attacker.web.aclose()
    forged = [
        answer,
        re.sub("state=[^&]+", "state=forged", answer),
        f"{site.home}/auth/oidc/login?next=/%5Cevil.example",
    ]
    victim = await context.new_page()
    await begin(victim, site.home)
    for link in forged:
        await _evil(context, f'<a href="{link.replace("&", "&amp;")}">a kitten</a>')
        await page.goto(EVIL)
        async with page.expect_navigation() as gone:
            await page.get_by_role("link").click()
        assert (await (await gone.value).text()).count("<p>") >= 1
        assert (await gone.value).status == 400
        await page.goto(site.home)
        assert await who(page) == "nobody"
    assert site.seen == []
    await log_in(victim, "ada")
    await consent(victim)
    assert await who(victim) == "ada"


async def _evil(context: BrowserContext, content: str) -> None:
    """Another site's page."""
    await context.unroute(EVIL)
    await context.route(EVIL, lambda route: route.fulfill(content_type="text/html", body=content))


async def test_a_user_says_no(site: Site, page: Page, context: BrowserContext) -> None:
    """On either of the provider's pages: nobody is signed in, and the page leads to another try, which succeeds."""
    await begin(page, site.home)
    await page.get_by_text("Cancel").click()
    assert "You were not signed in" in await page.inner_text("body")
    await page.get_by_role("link", name="Sign in again").click()
    await log_in(page, "ada")
    await page.get_by_text("Cancel").click()
    assert "You were not signed in" in await page.inner_text("body")
    assert await kept(context, site.home) == {}
    assert site.seen == []
    await page.get_by_role("link", name="Sign in again").click()
    await consent(page)
    await page.wait_for_url(f"{site.home}/**")
    assert await who(page) == "ada"


async def test_another_site_changes_nothing(site: Site, page: Page, context: BrowserContext) -> None:
    """Its forms neither sign a user out nor add an account, and its links to sign out are none."""
    await sign_in(page, site.home)
    for status, content in (
        (403, f'<form method="post" action="{site.home}/auth/logout"><button>Win</button></form>'),
        (403, f'<form method="post" action="{site.home}/auth/oidc/login?add=1"><button>Win</button></form>'),
        (405, f'<form action="{site.home}/auth/logout"><button>Win</button></form>'),
    ):
        await _evil(context, content)
        await page.goto(EVIL)
        async with page.expect_navigation() as gone:
            await page.get_by_role("button").click()
        assert (await gone.value).status == status
        await page.goto(site.home)
        assert await who(page) == "ada"


# --- the shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """examples/shop before the sandbox, offline, with all three providers."""
    with server.running(seed=5) as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("shop"))
        patch.setenv("MOORLINE_SANDBOX_URL", sandbox)
        patch.setenv("MOORLINE_SIGN_IN__PROVIDERS", "google,github,microsoft")
        patch.setenv("MOORLINE_TAP", "false")
        patch.delenv("MOORLINE_ENCRYPTION_KEY", raising=False)
        spec = importlib.util.spec_from_file_location("shop_in_a_browser", ROOT / "examples/shop/main.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        with served(module.api) as url:
            yield url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("provider", "login", "name"),
    [
        ("Google", "ada@gmail.com", "Ada Lovelace"),
        ("GitHub", "octocat", "Mona Lisa"),
        ("Microsoft", "ada@contoso.example", "Ada Lovelace"),
        ("Microsoft", "grace@outlook.example", "Grace Hopper"),
    ],
)
async def test_the_shop(shop: str, page: Page, context: BrowserContext, provider: str, login: str, name: str) -> None:
    """A customer signs in, of Microsoft from two tenants, buys, sees the order and nobody else's, and signs out."""
    await page.goto(shop)
    await page.get_by_role("link", name=f"Sign in with {provider}").click()
    await page.locator(f'button[value="{login}"]').click()
    assert await page.inner_text("#name") == name
    assert page.url == f"{shop}/"
    assert "None yet." in await page.inner_text("table")
    await page.get_by_role("button", name="Pay by empty card").first.click()
    assert "nothing was charged" in await page.inner_text("[role=alert]")
    await page.get_by_role("button", name="Pay by Visa").first.click()
    await page.wait_for_selector("text=pi_")
    await page.reload()
    assert (await page.inner_text("table")).count("Captain's cap") == 1
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_selector("text=Sign in with Google")
    assert await kept(context, shop) == {}
    assert await page.evaluate("document.scripts.length") == 0


async def test_the_shop_with_a_user_who_says_no(shop: str, page: Page) -> None:
    """The page of the provider leads back, and nobody is signed in."""
    await page.goto(shop)
    await page.get_by_role("link", name="Sign in with Google").click()
    await page.get_by_role("button", name="No, go back").click()
    assert "You were not signed in" in await page.inner_text("body")
    await page.goto(shop)
    assert await page.locator("#name").count() == 0
