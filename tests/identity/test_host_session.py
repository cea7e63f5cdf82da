"""The host application's own session holds who is signed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from tests.identity.shop import Browser, Idp, shop_of

from moorline import Moorline
from moorline.clock import ManualClock

HOST = "the host's own cookie"


@pytest.fixture
async def shop(shop_environment: None, database: str, clock: ManualClock, idp: Idp) -> AsyncIterator[Moorline]:
    async with shop_of(database, clock, idp, host_session=lambda scope: scope["session"]) as app:
        yield app


def host_of(shop: Moorline) -> Any:
    """An application with a session of its own, in which it keeps a basket."""

    async def front(request: Request) -> JSONResponse:
        session = await shop.session(request)
        request.session.setdefault("basket", []).append("rope")
        return JSONResponse({"user": None if session is None else session.user, "held": dict(request.session)})

    inner = Starlette(routes=[Route("/", front), Mount("/", shop)])
    return SessionMiddleware(shop.signed_in(inner), secret_key=HOST, https_only=True)


async def test_signing_in_and_out(shop: Moorline, idp: Idp, clock: ManualClock) -> None:
    """No cookie of ours remains; what else the session holds stays; it is renewed while it is used."""
    browser = Browser(host_of(shop))
    assert (await browser.get("/")).json()["user"] is None
    answer = await browser.sign_in(idp)
    assert (answer.status_code, answer.headers["location"]) == (303, "/basket")
    assert list(browser.cookies) == ["session"]
    seen = (await browser.get("/")).json()
    assert seen["user"]
    assert seen["held"]["basket"] == ["rope", "rope"]
    assert seen["held"]["moorline"]["user"] == seen["user"]
    clock.advance(80_000)
    assert (await browser.get("/")).json()["held"]["moorline"]["seen_at"] == clock.wall()
    clock.advance(80_000)
    assert (await browser.get("/")).json()["user"] == seen["user"]
    copied = Browser(host_of(shop))
    copied.client.cookies.set("session", browser.cookies["session"])
    assert (await browser.post("/auth/logout")).status_code == 303
    left = (await browser.get("/")).json()
    assert (left["user"], "moorline" in left["held"]) == (None, False)
    assert (await copied.get("/")).json()["user"] is None


async def test_all_sessions_of_a_user_end(shop: Moorline, idp: Idp) -> None:
    """Those that hosts hold, too."""
    browser = Browser(host_of(shop))
    await browser.sign_in(idp)
    user = (await browser.get("/")).json()["user"]
    await shop.end_sessions(user)
    assert (await browser.get("/")).json()["user"] is None


async def test_a_session_begins_under_another_id(shop: Moorline, idp: Idp) -> None:
    """Where the host's session has one (as Django's has), so that nobody can fix it beforehand."""

    class Held(dict[str, Any]):
        cycled = 0

        def cycle_key(self) -> None:
            self.cycled += 1

    held = Held()

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await shop({**scope, "session": held}, receive, send)

    await Browser(inside).sign_in(idp)
    assert held.cycled == 1
    assert held["moorline"]["provider"] == "idp"


@pytest.mark.parametrize("held", [{"id": 1}, {"user": "u_1"}, "u_1", None, 5])
async def test_what_is_no_session_signs_nobody_in(shop: Moorline, held: Any) -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"shop.example")], "session": {}}
    scope["session"] = {"moorline": held}
    assert await shop.session(scope) is None


async def test_a_host_without_a_session_is_told(shop: Moorline, idp: Idp, caplog: pytest.LogCaptureFixture) -> None:
    """The user may try again; the log says what is missing."""
    answer = await Browser(shop).sign_in(idp)
    assert answer.status_code == 503
    assert "is its middleware around this" in caplog.text
