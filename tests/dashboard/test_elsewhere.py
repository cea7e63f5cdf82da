"""The pages of an application whose jobs wait in another place than its database."""

from __future__ import annotations

from pathlib import Path

from tests.dashboard.seeding import paths, row, seeded
from tests.dashboard.visitor import Visitor
from tests.databases import migrated_sqlite
from tests.servers import RedisServer

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.settings import Settings


async def test_jobs_in_redis_are_shown_and_tried_again(
    redis_server: RedisServer, clock: ManualClock, tmp_path: Path
) -> None:
    """Counted by the broker; since when they wait and who works is not known there, and is not claimed to be."""
    settings = Settings(database_url=migrated_sqlite(tmp_path / "events.db"), queue_url=redis_server.url, tap=False)
    async with Moorline(settings=settings, clock=clock) as app:
        visitor = Visitor(app)
        await visitor.enter()
        there = await seeded(app, clock)
        await app.jobs.broker.enqueue([row(app, "sync", "mail") for _ in range(3)])
        for path in paths(there):
            assert (await visitor.get(path)).status_code == 200, path
        said = await visitor.json("")
        assert (said["workers"], said["jobs"]["dead"]) == (None, 1)
        assert (await visitor.post("/jobs/retry", {"id": there.dead})).status_code == 303
        assert (await app.jobs.broker.get(there.dead)).state == "ready"
        asked = await visitor.post("/jobs/skip", {"all": "yes", "queue": "mail"})
        assert "Give up 3 jobs?" in asked.text
