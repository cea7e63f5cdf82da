"""Applications with a dashboard that a token opens, on a clean environment."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.dashboard.seeding import TOKEN, Seeded, seeded
from tests.dashboard.visitor import Visitor
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.calls import guards
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.settings import Settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but a test's own, and a token."""
    for name in list(os.environ):
        if name.startswith("MOORLINE_") and not name.startswith("MOORLINE_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOORLINE_DASHBOARD_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Guards:
    """The breakers that the pages see: those of this one, and none that other tests have left behind."""
    made = Guards()
    monkeypatch.setattr(guards, "_all", weakref.WeakSet([made]))
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Moorline]:
    """An open application on SQLite, whose time moves when told."""
    url = migrated_sqlite(tmp_path / "dashboard.db")
    async with Moorline(settings=Settings(database_url=url, tap=False), clock=clock) as made:
        yield made


@pytest.fixture
async def there(app: Moorline, clock: ManualClock) -> Seeded:
    """What the application holds."""
    return await seeded(app, clock)


@pytest.fixture
async def visitor(app: Moorline) -> Visitor:
    """Somebody who has entered the token."""
    made = Visitor(app)
    answer = await made.enter()
    assert answer.status_code == 303, answer.text
    return made
