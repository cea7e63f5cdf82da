"""The app of GitHub's stand-in: which JWTs it takes, and what its tokens may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
import pytest

from moorline.clock import ManualClock
from moorline.sandbox import signing
from moorline.sandbox.services._github_apps import APP_ID, CLIENT_ID, INSTALLATION
from moorline.sandbox.services.github import STAND_IN
from moorline.sandbox.standin import Answer, Ask, Surroundings

SHA = "a" * 40
RUNS = "/repos/quay/hello/check-runs"


class Desk:
    """A stand-in with a clock, and who asks it."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_785_578_400.0)
        self.stand_in = STAND_IN.make(Surroundings(clock=self.clock))

    def proof(self, *, key: str | None = None, algorithm: str = "RS256", **claims: Any) -> str:
        """A JWT as PyJWT makes it."""
        now = int(self.clock.wall())
        given: Mapping[str, Any] = {"iat": now - 60, "exp": now + 600, "iss": str(APP_ID), **claims}
        return jwt.encode(dict(given), key or signing.private_key(), algorithm=algorithm)

    async def ask(self, method: str, path: str, token: str, body: bytes = b"", *, etag: str = "") -> Answer:
        """One request."""
        sent = {"authorization": f"Bearer {token}", "user-agent": "tests", "if-none-match": etag}
        path, _, query = path.partition("?")
        return await self.stand_in.handle(Ask(method, path, query, sent, body, "http://sandbox/github"))

    async def token(self) -> str:
        """The token of the installation."""
        made = await self.ask("POST", f"/app/installations/{INSTALLATION}/access_tokens", self.proof())
        assert made.status == 201
        found: str = made.content["token"]
        return found


@pytest.mark.parametrize(
    ("claims", "status", "words"),
    [
        ({}, 200, ""),
        ({"iss": CLIENT_ID}, 200, ""),
        ({"iss": "99"}, 404, "Integration not found"),
        ({"exp": 1_785_578_400 + 601}, 401, "too far in the future"),
        ({"exp": 1_785_578_400}, 401, "in the future"),
        ({"iat": 1_785_578_400 + 61}, 401, "'Issued at'"),
        ({"iat": None}, 401, "'Issued at'"),
    ],
)
async def test_a_jwt_has_ten_minutes(claims: dict[str, Any], status: int, words: str):
    """By the app's id or client id, begun already, over within ten minutes."""
    desk = Desk()
    answer = await desk.ask("GET", "/app", desk.proof(**claims))
    assert answer.status == status
    assert words in answer.content.get("message", "")


async def test_who_is_not_the_app():
    """Another key, another algorithm, a token, and what is no JWT at all."""
    desk = Desk()
    for proof in (
        desk.proof(key=signing.private_key(broken=True)),
        desk.proof(key="secret" * 8, algorithm="HS256"),
        "github_pat_1",
        "a.b.c",
    ):
        answer = await desk.ask("GET", "/app", proof)
        assert (answer.status, answer.content["message"]) == (401, "A JSON web token could not be decoded")
    assert (await desk.ask("GET", "/user", desk.proof())).status == 401


async def test_a_token_is_over_after_an_hour():
    """Tokens that nobody gave are no good, and the others for an hour."""
    desk = Desk()
    token = await desk.token()
    assert (await desk.ask("GET", "/user", token)).status == 200
    assert (await desk.ask("GET", "/user", "ghs_made_up")).status == 401
    desk.clock.advance(3600)
    assert (await desk.ask("GET", "/user", token)).status == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name":"ci","head_sha":"' + SHA.encode() + b'"}', 201),
        (b'{"name":"ci"}', 422),
        (b'{"name":"ci","head_sha":"main"}', 422),
        (b'{"name":"ci","head_sha":"' + SHA.encode() + b'","conclusion":"great"}', 422),
        (b'{"name":"ci","head_sha":"' + SHA.encode() + b'","output":{"title":"x"}}', 422),
        (b"[", 400),
    ],
)
async def test_check_runs(body: bytes, status: int):
    """They need a name and a commit, a known conclusion, and a title and summary where there is an output."""
    desk = Desk()
    assert (await desk.ask("POST", RUNS, await desk.token(), body)).status == status
    assert (await desk.ask("POST", RUNS, "github_pat_1", body)).status == 403


async def test_a_304_is_not_counted():
    """The same answer again costs nothing; another one does."""
    desk = Desk()
    first = await desk.ask("GET", "/user", "github_pat_1")
    again = await desk.ask("GET", "/user", "github_pat_1", etag=first.headers["ETag"])
    other = await desk.ask("GET", "/user", "github_pat_1", etag='"other"')
    used = [answer.headers["X-RateLimit-Used"] for answer in (first, again, other)]
    assert ([answer.status for answer in (first, again, other)], used) == ([200, 304, 200], ["1", "1", "2"])


async def test_deliveries_go_by_cursor():
    """Newest first, followed by the ``Link`` header; odd cursors and statuses are refused."""
    desk = Desk()
    path, seen = "/repos/quay/hello/hooks/1/deliveries?per_page=3", []
    while path:
        answer = await desk.ask("GET", path, "github_pat_1")
        seen += [one["id"] for one in answer.content]
        link = answer.headers.get("Link", "")
        path = link.partition(">")[0].removeprefix("<http://sandbox/github")
    assert (len(seen), seen) == (4, sorted(seen, reverse=True))
    for query, status in (("cursor=x", 400), ("status=lost", 422)):
        answer = await desk.ask("GET", f"/repos/quay/hello/hooks/1/deliveries?{query}", "github_pat_1")
        assert answer.status == status
    assert (await desk.ask("GET", "/repos/quay/hello/hooks/9/deliveries", "github_pat_1")).status == 404
