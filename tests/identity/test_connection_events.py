"""What becomes of a connection is told in the transaction that changes it: both are stored, or neither."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity.conftest import Issuer, granted

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, ReauthorizationRequired
from moorline.events.handlers import Handlers
from moorline.events.inbox import Inbox
from moorline.events.own import OWN, Beside, own_event
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.sources import Sources
from moorline.identity.connection import Connection, What
from moorline.identity.refreshing import FreshToken
from moorline.identity.vault import Vault
from moorline.store.steps import perform


@pytest.fixture
def inbox(vault: Vault) -> Inbox:
    """Tells of the vault's connections; one handler keeps the order of an owner's, on each database."""
    made = Inbox(vault.store, Handlers(Sources().sender))
    made.handlers.on("moorline", "connection.ended", key="owner", name="ended")(lambda event: None)
    made.handlers.on("moorline", "connection", name="all")(lambda event: None)

    def tell(row: Connection, what: What) -> Beside:
        event = own_event("connection", what, f"{row.id}.{row.version}.{what}", row.to_dict(), vault.store.clock.wall())
        return made.beside(event)

    vault.teller = tell
    return made


async def told(inbox: Inbox) -> list[str | None]:
    """What was told, oldest first."""
    return [event.action for event in await inbox.recent(service=OWN)][::-1]


async def test_each_change_is_told_once(vault: Vault, inbox: Inbox, clock: ManualClock):
    """Whoever finds that a grant is over, however many at the same time: one event, with the jobs of its handlers."""
    issuer = Issuer()
    issuer.good = "another"
    row = await vault.keep("u_1", "provider", granted())
    clock.advance(3600)
    processes = [FreshToken(vault, row.id, issuer.provider(clock).refreshed) for _ in range(10)]
    ends = await asyncio.gather(*(one.ready_async() for one in processes), return_exceptions=True)
    assert {type(end) for end in ends} == {ReauthorizationRequired}
    await vault.keep("u_1", "provider", granted(1))
    await perform(vault.store, vault.gone(await vault.get("u_1", "provider")))
    assert await told(inbox) == ["connected", "ended", "connected", "disconnected"]
    [event] = [one for one in await inbox.recent(service=OWN) if one.action == "ended"]
    assert (event.payload["owner"], event.payload["state"]) == ("u_1", "ended")
    assert "canary" not in event.body.decode()
    again = await inbox.replay(str(event.inbox_id))
    assert len(again) == 2


async def test_neither_without_the_other(vault: Vault, inbox: Inbox):
    """An event that cannot be stored undoes the change; a change that comes too late tells of nothing."""
    row = await vault.keep("u_1", "provider", granted())
    assert await perform(vault.store, vault.ended(row, "first")) is not None
    assert await perform(vault.store, vault.ended(row, "second")) is None
    assert await perform(vault.store, vault.gone(row)) is False
    assert await told(inbox) == ["connected", "ended"]

    def broken(row: Connection, what: What) -> Any:
        beside = inbox.beside(own_event("connection", what, "x", row.to_dict(), 0.0))

        def fails(database: Any) -> None:
            beside.also(database)
            raise OSError("the disk is full")

        return Beside(fails, beside.wrapped, beside.woken)

    vault.teller = broken
    with pytest.raises(OSError, match="full"):
        await vault.keep("u_2", "provider", granted())
    assert (len(await vault.connections()), await told(inbox)) == (1, ["connected", "ended"])


async def test_nobody_else_sends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """There is no route for them, no scheme, and no source that may be called so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    async with Moorline(migrated_sqlite(tmp_path / "own.db")) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as web:
            assert (await web.post("/webhooks/moorline", json={"type": "connection"})).status_code == 404
        with pytest.raises(ConfigurationError, match="name"):
            app.source("moorline", SharedSecret(header="X-Secret", env="X_SECRET"))
        assert app.webhook_paths() == []
