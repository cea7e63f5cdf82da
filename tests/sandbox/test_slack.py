from __future__ import annotations

import base64
import json
from typing import Any

import httpx2
import pytest

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.sandbox.services.slack import STAND_IN
from moorline.sandbox.standin import Answer, Ask, Surroundings

TOKEN = {"Authorization": "Bearer xoxb-1"}
GENERAL = "C0GENERAL01"


async def call(box: httpx2.AsyncClient, method: str, content: Any = None, **headers: str) -> Any:
    answer = await box.post(f"/slack/{method}", json=content or {}, headers={**TOKEN, **headers})
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize(
    ("method", "content", "error"),
    [
        ("chat.postMessage", {"text": "x"}, "channel_not_found"),
        ("chat.postMessage", {"channel": GENERAL}, "no_text"),
        ("chat.postMessage", {"channel": GENERAL, "blocks": "x"}, "invalid_blocks"),
        ("chat.postMessage", {"channel": GENERAL, "blocks": "[{}]"}, "invalid_blocks"),
        ("chat.postMessage", {"channel": GENERAL, "blocks": [{"type": "divider"}] * 51}, "invalid_blocks"),
        ("chat.postMessage", {"channel": GENERAL, "markdown_text": "x" * 12_001}, "msg_too_long"),
        ("chat.postMessage", {"channel": GENERAL, "text": "x", "thread_ts": "1785578400.000100"}, "thread_not_found"),
        ("chat.postMessage", {"channel": GENERAL, "text": "x", "thread_ts": 1785578400.0001}, "invalid_arguments"),
        ("chat.postMessage", {"channel": "C0ARCHIVE01", "text": "x"}, "is_archived"),
        ("chat.postMessage", {"channel": "#random", "text": "x"}, "not_in_channel"),
        ("chat.postEphemeral", {"channel": GENERAL, "user": "U0NOBODY001", "text": "x"}, "user_not_in_channel"),
        ("chat.scheduleMessage", {"channel": GENERAL, "text": "x", "post_at": 1}, "time_in_past"),
        ("chat.scheduleMessage", {"channel": GENERAL, "text": "x", "post_at": 9_999_999_999}, "time_too_far"),
        ("chat.update", {"channel": GENERAL, "text": "x"}, "missing_argument"),
        ("conversations.list", {"types": "rooms"}, "invalid_types"),
        ("conversations.list", {"cursor": "x"}, "invalid_cursor"),
        ("conversations.history", {"channel": "C0RANDOM001"}, "not_in_channel"),
        ("conversations.open", {}, "users_list_not_supplied"),
        ("files.getUploadURLExternal", {"filename": "x", "length": 0}, "missing_argument"),
        ("files.completeUploadExternal", {"files": "x"}, "invalid_arguments"),
        ("files.completeUploadExternal", {"files": [{"id": "F1"}]}, "file_not_found"),
        ("reactions.add", {"channel": GENERAL, "timestamp": "1785578400.000100", "name": "eyes"}, "message_not_found"),
        ("api.test", {"error": "foo"}, "foo"),
        ("chat.shout", {}, "unknown_method"),
    ],
)
async def test_refusals_are_words_in_a_200(box: httpx2.AsyncClient, method: str, content: Any, error: str):
    """Whatever is wrong, the status is 200, and ``ok`` and a word say so."""
    answer = await call(box, method, content)
    assert (answer["ok"], answer["error"]) == (False, error)


async def test_how_a_token_is_brought(box: httpx2.AsyncClient):
    """In the header or in a form's field, and not in JSON; without one it is ``not_authed``."""
    for form, headers, expected in (
        ({"token": "xoxb-1"}, {}, None),
        ({}, TOKEN, None),
        ({}, {}, "not_authed"),
        ({"token": "xoxb-wrong"}, {}, "invalid_auth"),
        ({"token": "xoxb-expired"}, {}, "token_expired"),
    ):
        answer = (await box.post("/slack/auth.test", data=form, headers=headers)).json()
        assert answer.get("error") == expected
    in_json = (await box.post("/slack/auth.test", json={"token": "xoxb-1"})).json()
    assert in_json["error"] == "not_authed"
    plain = await box.post("/slack/auth.test", content=b"x", headers={**TOKEN, "Content-Type": "text/plain"})
    broken = await box.post("/slack/auth.test", content=b"{", headers={**TOKEN, "Content-Type": "application/json"})
    assert (plain.json()["error"], broken.json()["error"]) == ("invalid_post_type", "invalid_json")


async def test_long_text_is_cut_with_a_warning(box: httpx2.AsyncClient):
    """Which is why our own client refuses to send it."""
    answer = await call(box, "chat.postMessage", {"channel": GENERAL, "text": "x" * 40_001})
    assert len(answer["message"]["text"]) == 40_000
    assert answer["response_metadata"]["warnings"] == ["message_truncated"]


async def test_a_file_must_be_as_long_as_was_said(box: httpx2.AsyncClient):
    """An address takes the bytes of one file, of the length that was told, until it is completed."""
    asked = await call(box, "files.getUploadURLExternal", {"filename": "a.txt", "length": 5})
    url = asked["upload_url"].removeprefix("http://sandbox")
    assert (await box.post(url, content=b"too long")).status_code == 400
    assert (await box.post(url, content=b"hello")).text == "OK - 5"
    done = await call(box, "files.completeUploadExternal", {"files": [{"id": asked["file_id"]}]})
    assert done["files"] == [{"id": asked["file_id"], "title": ""}]
    assert (await box.post(url, content=b"hello")).status_code == 404


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [(b"{}", {}, 400), (b"[", {}, 400), (b'{"text":"x"}', TOKEN, 403), (b'{"text":"x"}', {}, 200)],
)
async def test_answers_to_commands(box: httpx2.AsyncClient, content: bytes, headers: dict[str, str], status: int):
    """They need content, and a token has no place there."""
    assert (await box.post("/slack/hooks/commands/T1/1/x", content=content, headers=headers)).status_code == status


async def test_tokens_that_rotate_end():
    """A token is good for twelve hours; a refresh token is good once; Basic authentication does as well."""
    clock = ManualClock()
    stand_in = STAND_IN.make(Surroundings(clock=clock))

    async def ask(method: str, headers: dict[str, str], body: str = "") -> Any:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        answer: Answer = await stand_in.handle(
            Ask("POST", f"/{method}", "", {**kind, **headers}, body.encode(), "http://x")
        )
        return answer.content

    basic = {"authorization": "Basic " + base64.b64encode(b"sandbox.client:sandbox").decode()}
    body = "grant_type=refresh_token&refresh_token=xoxe-1-sandbox"
    made = await ask("oauth.v2.access", basic, body)
    assert made["refresh_token"] != "xoxe-1-sandbox"
    assert (await ask("oauth.v2.access", basic, body))["error"] == "invalid_refresh_token"
    assert (await ask("oauth.v2.access", {"authorization": "Basic ?"}, body))["error"] == "invalid_client_id"
    bearer = {"authorization": f"Bearer {made['access_token']}"}
    assert (await ask("auth.test", bearer))["ok"]
    clock.advance(43_200)
    assert (await ask("auth.test", bearer))["error"] == "token_expired"


async def test_an_address_is_asked_first(box: httpx2.AsyncClient):
    """A new target gets ``url_verification`` before any event; an unknown event cannot be made."""
    asked = json.loads(STAND_IN.make(Surroundings()).sample("url_verification"))
    assert (asked["type"], len(asked["challenge"])) == ("url_verification", 40)
    with pytest.raises(ConfigurationError, match="event"):
        STAND_IN.make(Surroundings()).sample("pin_added")
