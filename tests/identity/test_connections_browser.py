"""The pages at which accounts are connected, in Chromium, without JavaScript: forms lead on in spite of the policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Route
from tests.calls.tls_server import tls_server
from tests.databases import migrated_sqlite
from tests.identity.hub import DEALS, READ, RING
from tests.serving import chromium, served

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Service
from moorline.identity import Google
from moorline.identity.oauth import OAuth
from moorline.sandbox import server
from moorline.services import HubSpot

pytestmark = pytest.mark.oracles


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An application that signs users in and connects HubSpot, both by the sandbox; to a browser two sites."""
    folder = tmp_path_factory.mktemp("connections")
    with server.running(seed=5) as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MOORLINE_SANDBOX_URL", sandbox)
        patch.setenv("MOORLINE_TAP", "false")
        app = Moorline(migrated_sqlite(folder / "shop.db"))
        app.service(HubSpot, guards=Guards())
        app.sign_in(Google, keys=RING, guards=Guards())
        app.connect(HubSpot, scopes=(READ,), keys=RING)
        with served(app) as url:
            yield url.replace("127.0.0.1", "localhost")


async def test_a_user_connects_and_disconnects_an_account(site: str):
    """From nobody to a connected account, with more scopes, with a consent that is denied, and without it again."""
    async with chromium() as browser:
        context = await browser.new_context(java_script_enabled=False)
        context.set_default_timeout(30_000)
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda told: complaints.append(told.text) if "Security Policy" in told.text else None)

        await page.goto(f"{site}/auth/connections")
        await page.get_by_role("link", name="Sign in with Google").click()
        await page.locator('button[value="ada@gmail.com"]').click()
        assert page.url == f"{site}/auth/connections"
        assert "Not connected." in await page.inner_text("body")

        await page.get_by_role("button", name="Connect").click()
        await page.get_by_role("button", name="No, go back").click()
        assert "HubSpot was not connected: access was refused." in await page.inner_text("body")
        await page.get_by_role("link", name="Try again").click()
        await page.get_by_role("button", name="Connect").click()
        await page.locator('button[value="acme"]').click()
        assert page.url == f"{site}/auth/connections"
        assert "62515: connected" in await page.inner_text("body")

        await page.goto(f"{site}/auth/hubspot/connect?scopes={DEALS}&account=62515")
        assert DEALS in await page.inner_text("body")
        await page.get_by_role("button", name="Reconnect").click()
        await page.locator(f'input[value="{READ}"]').uncheck()
        await page.locator('button[value="acme"]').click()
        body = await page.inner_text("body")
        assert f"Allowed: {DEALS}, oauth" in body
        assert f"Not allowed: {READ}" in body

        await page.get_by_role("button", name="Disconnect").click()
        assert "Not connected." in await page.inner_text("body")
        assert complaints == []
        await context.close()


async def test_a_service_leads_on_to_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The consent page may be elsewhere: at the sign-in of the user's company, at a regional host. The browser goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.setenv("LEADING_CLIENT_ID", "the-client")
    with tls_server(tmp_path, "company.example") as (port, _):
        company = f"https://company.example:{port}/consent"
        places = Starlette(routes=[Route("/authorize", lambda _: RedirectResponse(company))])
        with served(places) as service:

            class Leading(Service):
                name, category = "leading", "tests"
                endpoints = Endpoints(service)
                credentials = BearerKey(env="LEADING_KEY")
                oauth = OAuth(authorize=f"{service}/authorize", token="/token", account="login", authentication="none")

            app = Moorline(migrated_sqlite(tmp_path / "shop.db"))
            app.service(Leading, guards=Guards())
            app.connect(Leading, keys=RING, owner=lambda scope: "u_1")
            with served(app) as url:
                async with chromium() as browser:
                    context = await browser.new_context(java_script_enabled=False, ignore_https_errors=True)
                    context.set_default_timeout(30_000)
                    page = await context.new_page()
                    await page.goto(f"{url}/auth/connections")
                    await page.get_by_role("button", name="Connect").click()
                    await page.wait_for_url(company)
                    await context.close()
