"""Connected accounts on the dashboard, with the sandbox's HubSpot over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite
from tests.identity.hub import READ, Owner, of, seen

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.sandbox import server
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.services import HubSpot
from moorline.store.steps import perform


@pytest.fixture(scope="module")
def time() -> ManualClock:
    """One clock for the sandbox and the applications of this module."""
    return ManualClock()


@pytest.fixture(scope="module")
def sandbox(time: ManualClock) -> Iterator[str]:
    with server.running(seed=7, clock=time) as url:
        yield url


@pytest.fixture
async def shop(
    sandbox: str, time: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Moorline]:
    """An application at which an account was connected."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    for name in ("HUBSPOT_CLIENT_ID", "HUBSPOT_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    httpx2.post(f"{sandbox}/_sandbox/reset", trust_env=False)
    async with Moorline(migrated_sqlite(tmp_path / "shop.db"), clock=time) as app:
        app.service(HubSpot, guards=Guards(clock=time))
        app.connect(HubSpot, scopes=(READ,), keys=KeyRing([Secret(new_key())]))
        app.connection_owner(lambda scope: dict(scope["headers"]).get(b"x-owner", b"").decode() or None)
        await Owner(app).connect()
        yield app


async def _entered(app: Any) -> Visitor:
    visitor = Visitor(app)
    await visitor.enter()
    return visitor


async def test_a_connection_is_revoked_and_the_service_is_told(shop: Moorline, sandbox: str) -> None:
    """As ``moorline connections revoke`` does it; the page says what became of it."""
    visitor, row = await _entered(shop), await of(shop)
    before = seen(sandbox, "/revoke")
    answer = await visitor.post(f"/connections/{row.id}/revoke", {"confirm": "yes"})
    assert answer.headers["location"] == "/dashboard/connections?said=revoked&count=1&failed=0"
    assert await shop.connections.list() == []
    assert seen(sandbox, "/revoke") == before + 1
    assert "the service was told" in (await visitor.get("/connections?said=revoked&count=1")).text


async def test_a_token_is_refreshed(shop: Moorline) -> None:
    """Now, whatever its end; the version says so."""
    visitor, row = await _entered(shop), await of(shop)
    assert (await visitor.post(f"/connections/{row.id}/refresh")).status_code == 303
    assert (await of(shop)).version > row.version
    assert (await visitor.post("/connections/none/refresh")).status_code == 404


async def test_one_that_ended_has_the_link_to_connect_it_again(shop: Moorline) -> None:
    """First on the page, with the reason; the link is the application's own, with the account."""
    visitor, row = await _entered(shop), await of(shop)
    await perform(shop.store, shop.connections.vault.ended(row, "the user took it back"))
    page = await visitor.get("/connections")
    assert page.text.index("Ended: to be connected again") < page.text.index("<h2>Good</h2>")
    assert "the user took it back" in page.text
    (link,) = [one for one in read(page.text).values("href") if one.startswith("/auth/")]
    assert link == f"/auth/hubspot/connect?account={row.account}"
    assert (await Owner(shop).page(link)).status_code == 200
    said = await visitor.json("")
    assert [one["text"] for one in said["problems"]] == ["1 connection has ended: the owners have to connect again"]
