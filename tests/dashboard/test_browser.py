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
