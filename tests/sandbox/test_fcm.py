from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from moorline.errors import ConfigurationError
from moorline.sandbox.services.fcm import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.secrets.secret import Secret
from moorline.services.push.fcm import FCM

SEND = "/fcm/v1/projects/moorline-sandbox/messages:send"


async def token(box: httpx2.AsyncClient) -> dict[str, str]:
    """The header with an access token."""
    key = Secret(FCM.credentials.sandbox.replace("{sandbox}", "http://localhost"))
    asked = FCM.tokens.request(FCM(key), key, time.time())
    answer = await box.post(asked.url, data=dict(asked.form or {}))
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message"),
        ({"message": {}}, "message"),
        ({"message": {"token": "a", "topic": "b"}}, "message"),
        ({"message": {"token": "a", "surprise": 1}}, "message"),
        ({"message": {"token": "a", "data": {"n": 1}}}, "message.data"),
        ({"message": {"token": "a", "data": {"from": "x"}}}, "message.data"),
        ({"message": {"token": "a", "android": {"ttl": 5}}}, "message.android.ttl"),
        ({"message": {"token": "a", "android": {"ttl": "9999999s"}}}, "message.android.ttl"),
        ({"message": {"topic": "/topics/x"}}, "message.topic"),
        ({"message": {"token": "a"}, "validateOnly": "yes"}, "validateOnly"),
    ],
)
async def test_what_it_refuses(box: httpx2.AsyncClient, body: Any, field: str):
    """400 INVALID_ARGUMENT, with the field in a detail."""
    answer = await box.post(SEND, json=body, headers=await token(box))
    error = answer.json()["error"]
    assert (answer.status_code, error["status"], error["code"]) == (400, "INVALID_ARGUMENT", 400)
    violations = [one for one in error["details"] if "fieldViolations" in one]
    assert violations[0]["fieldViolations"][0]["field"] == field


async def test_who_it_knows(box: httpx2.AsyncClient):
    """Without a token it is 401; a project of somebody else's is 403; what was signed by nobody gives no token."""
    assert (await box.post(SEND, json={})).status_code == 401
    other = await box.post(SEND.replace("moorline-sandbox", "other-one"), json={}, headers=await token(box))
    assert other.status_code == 403
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    for form in ({"grant_type": "x"}, {"grant_type": grant}, {"grant_type": grant, "assertion": "a.b.c"}):
        assert (await box.post("/fcm/token", data=form)).status_code == 400


def test_it_sends_no_webhooks():
    """And says so."""
    stand_in = STAND_IN.make(Surroundings())
    emission = Emission("x", b"", "1")
    with pytest.raises(ConfigurationError, match="no webhooks"):
        stand_in.sample("x")
    with pytest.raises(ConfigurationError, match="no webhooks"):
        stand_in.sign(emission, url="", secrets=(), hook_id="", broken=False)
