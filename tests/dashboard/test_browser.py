"""The pages in a real browser, without JavaScript."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.dashboard.seeding import TOKEN, Seeded, seeded
from tests.databases import migrated_sqlite
from tests.serving import chromium, served

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.jobs.broker import JobFilter
from moorline.secrets.keyring import new_key
from moorline.settings import Settings


@pytest.mark.oracles
async def test_an_operator_finds_a_dead_job_and_tries_it_again(tmp_path: Path) -> None:
    """From the token to the overview, the dead letter, its error, and the button; on a phone too nothing is cut off.

    The browser's own headers pass as this very site's, and its policy lets the style in and no script.
    """
    clock = ManualClock()
    url = migrated_sqlite(tmp_path / "browser.db")
    settings = Settings(database_url=url, tap=False)
    async with Moorline(settings=settings, clock=clock) as filling:
        there: Seeded = await seeded(filling, clock, "<b>bold</b>", "it broke <script>document.title = 'x'</script>")
    app = Moorline(settings=settings, clock=clock)
    with served(app) as at:
        async with chromium() as browser:
            context = await browser.new_context(java_script_enabled=True, viewport={"width": 390, "height": 844})
            page = await context.new_page()
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            await page.goto(f"{at}/dashboard/jobs")
            await page.get_by_label("Dashboard token").fill(TOKEN)
            await page.get_by_role("button", name="Enter").click()
            assert page.url == f"{at}/dashboard/jobs"
            for path in ("", "/jobs", "/events", "/rejected", "/connections", "/services", f"/jobs/{there.dead}"):
                await page.goto(f"{at}/dashboard{path}")
                wide = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                assert wide[0] <= wide[1], path
                assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
                assert "moorline" in await page.title()
            assert await page.get_by_text("it broke <script>").count() > 0
            await page.get_by_role("button", name="Try again").click()
            assert await page.get_by_role("status").inner_text() == "✓ 1 tried again."
            await page.get_by_role("button", name="Give up").click()
            await page.get_by_role("button", name="Give up").click()
            await page.get_by_role("button", name="Leave").click()
            assert await page.get_by_label("Dashboard token").count() == 1
            assert [one for one in said if "401" not in one] == []
            await context.close()
    async with Moorline(settings=settings, clock=clock) as looking:
        jobs = await looking.jobs.broker.list(JobFilter(state="cancelled"))
        assert [job.id for job in jobs] == [there.dead]


@pytest.mark.oracles
async def test_an_operator_adds_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By forms alone: the value is not in the address, not in the page that follows, and not back in the form by the
    way back; on a phone too nothing is cut off.
    """
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    value = "new-key-of-the-browser-01"
    app = Moorline(settings=Settings(database_url=migrated_sqlite(tmp_path / "keys.db"), tap=False))
    with served(app) as at:
        async with chromium() as browser:
            context = await browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
            page = await context.new_page()
            await page.goto(f"{at}/dashboard/keys")
            await page.get_by_label("Dashboard token").fill(TOKEN)
            await page.get_by_role("button", name="Enter").click()
            await page.get_by_label("Name, such as").fill("BROWSER_KEY")
            await page.get_by_label("New value").fill(value)
            await page.get_by_label("Reason").fill("the first one")
            await page.get_by_role("button", name="Add").click()
            assert page.url == f"{at}/dashboard/keys/BROWSER_KEY?said=add&count=1&failed=0"
            assert "1 version is accepted too" in await page.get_by_role("status").inner_text()
            assert "the first one" in await page.content()
            assert value not in await page.content()
            wide = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1]
            await page.go_back()
            assert await page.get_by_label("New value").input_value() == ""
            await page.goto(f"{at}/dashboard/keys/BROWSER_KEY")
            await page.get_by_label("New value").fill(TOKEN)
            await page.get_by_role("button", name="Add").click()
            assert "own token" in await page.get_by_role("alert").inner_text()
            assert TOKEN not in await page.content()
            await context.close()
    with app.opened():
        assert [one.status for one in app.keys.versions_sync("BROWSER_KEY")] == ["added"]
