"""Slack's tokens that rotate: fetched with a refresh token, which is another one each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from tests.contracts import Contract
from tests.services.conftest import Box

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.secrets.secret import Secret
from moorline.services.business.slack import Slack

Run = Callable[[Any], Any]
APP: dict[str, Any] = {"client_id": "sandbox.client", "client_secret": "sandbox"}
FIRST = "xoxe-1-canary0001"


class Server:
    """Gives the tokens 1, 2, … for the refresh token that came with the one before."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.refresh = FIRST
        self.requests: list[httpx2.Request] = []
        self.minted: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/api/oauth.v2.access":
            self.requests.append(request)
            return httpx2.Response(200, json={"ok": True, "user_id": "U1"})
        form = dict(httpx2.QueryParams(request.read().decode()))
        self.minted.append(request)
        if form["refresh_token"] != self.refresh:
            return httpx2.Response(200, json={"ok": False, "error": "invalid_refresh_token"})
        number = len(self.minted)
        self.refresh = f"xoxe-1-canary{number + 1:04}"
        token = {"access_token": f"xoxe.xoxb-1-canary{number}", "expires_in": 43200, "refresh_token": self.refresh}
        return httpx2.Response(200, json={"ok": True, **token})

    def slack(self, key: Any = FIRST) -> Slack:
        guards = Guards(self.clock)
        return Slack(key, **APP, wire=httpx2.MockTransport(self), guards=guards, clock=self.clock)


class Kept:
    """A source of the key that keeps what comes in its place."""

    def __init__(self) -> None:
        self.key = Secret(FIRST)

    def __call__(self) -> Secret:
        return self.key

    def rotated(self, successor: Secret) -> None:
        """Another one is to be used from now on."""
        self.key = successor


def test_a_token_is_fetched_and_renewed(run: Run, contracts_dir: Path):
    """One for twelve hours, then another, by the refresh token that came with the first; the request fits slack.json."""
    server = Server()
    slack = server.slack()
    for _ in range(2):
        run(slack.check())
    assert len(server.minted) == 1
    server.clock.advance(43_200 - 299)
    run(slack.check())
    assert [one.headers["authorization"] for one in server.requests] == [
        "Bearer xoxe.xoxb-1-canary1",
        "Bearer xoxe.xoxb-1-canary1",
        "Bearer xoxe.xoxb-1-canary2",
    ]
    contract = Contract(contracts_dir, "slack")
    for asked in server.minted:
        kind = asked.headers["content-type"]
        assert contract.request_problems("POST", "/oauth.v2.access", asked.content, kind) == []
    assert "canary" not in repr(slack)


def test_the_next_refresh_token_is_kept(run: Run):
    """A source that can keep it is given each; another process goes on with it, and the old one is refused."""
    server, source = Server(), Kept()
    run(server.slack(source).check())
    assert source.key.reveal() == server.refresh == "xoxe-1-canary0002"
    run(server.slack(source).check())
    assert source.key.reveal() == "xoxe-1-canary0003"
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(server.slack().check())
    assert (caught.value.code, caught.value.outcome) == ("invalid_refresh_token", "not_sent")


def test_the_environment_names_either(run: Run, monkeypatch: pytest.MonkeyPatch):
    """A bot's token counts more than a refresh token."""
    server = Server()
    monkeypatch.delenv("SLACK_BOT_TOKEN", raising=False)
    monkeypatch.setenv("SLACK_REFRESH_TOKEN", FIRST)
    options: Any = {**APP, "wire": httpx2.MockTransport(server), "guards": Guards()}
    run(Slack(**options).check())
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-plain")
    run(Slack(**options).check())
    assert [one.headers["authorization"] for one in server.requests] == [
        "Bearer xoxe.xoxb-1-canary1",
        "Bearer xoxb-plain",
    ]


def test_the_sandbox_rotates(box: Box, run: Run):
    """As Slack does, for our client and for Slack's own: each refresh token once."""
    slack = box.service(Slack, "xoxe-1-sandbox", **APP)
    assert run(slack.check()) is True
    assert run(slack.post_message("C0GENERAL01", "Hi")).bot_id
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(Slack, "xoxe-1-sandbox", **APP).check())
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(Slack, "xoxe-1-sandbox", client_id="other", client_secret="x").check())
    client = WebClient(base_url=f"{box.url}/slack/")
    with pytest.raises(SlackApiError, match="invalid_refresh_token"):
        client.oauth_v2_access(**APP, grant_type="refresh_token", refresh_token="xoxe-1-sandbox")
    box.client.post("/_sandbox/reset")
    found = client.oauth_v2_access(**APP, grant_type="refresh_token", refresh_token="xoxe-1-sandbox")
    assert run(box.service(Slack, found["access_token"]).check()) is True
    assert found["expires_in"] == 43_200
