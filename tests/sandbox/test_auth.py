"""What the stand-ins of the services that know users refuse, and the tokens that they give."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import jwt as pyjwt
import pytest

from moorline.errors import ConfigurationError
from moorline.sandbox.standin import Emission, Surroundings, registrations

NAMES = ("auth0", "clerk", "firebase_auth", "supabase_auth")
KEYS = {
    "auth0": "/.well-known/jwks.json",
    "clerk": "/.well-known/jwks.json",
    "firebase_auth": "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com",
    "supabase_auth": "/.well-known/jwks.json",
}
CLERK = {"Authorization": "Bearer sk_test_1"}
SUPABASE = {"apikey": "sb_secret_1", "X-Supabase-Api-Version": "2024-01-01"}
USER = {"email_address": ["ada@example.com"], "skip_password_requirement": True}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"user_id":5}', b'{"user_id":"x","claims":[]}', b'{"user_id":"x","lifetime":"y"}']
)
async def test_how_a_token_is_not_asked_for(box: httpx2.AsyncClient, name: str, body: bytes):
    """400, which says how."""
    answer = await box.post(f"/{name}/sandbox/token", content=body)
    assert answer.status_code == 400
    assert "user_id" in answer.json()["error"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_token_of_nobody(box: httpx2.AsyncClient, name: str):
    """Is had for nobody."""
    answer = await box.post(f"/{name}/sandbox/token", json={"user_id": "nobody"})
    assert answer.status_code in (400, 404)


@pytest.mark.parametrize("name", NAMES)
async def test_keys_are_published(box: httpx2.AsyncClient, name: str):
    """One; two after a change, of which the second is new; and two ever after."""
    seen = []
    for _ in range(3):
        found = (await box.get(f"/{name}{KEYS[name]}")).json()
        seen.append([one["kid"] for one in found["keys"]] if "keys" in found else list(found))
        await box.post(f"/{name}/sandbox/keys")
    assert [len(one) for one in seen] == [1, 2, 2]
    assert seen[1][0] == seen[0][0]
    assert seen[2][0] == seen[1][1]


@pytest.mark.parametrize("name", NAMES)
async def test_no_private_key_is_published(box: httpx2.AsyncClient, name: str):
    """The members that RFC 7518 calls private are nowhere."""
    text = (await box.get(f"/{name}{KEYS[name]}")).text
    for key in json.loads(text).get("keys", []):
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & key.keys()
    assert "PRIVATE" not in text


async def test_claims_of_a_token(box: httpx2.AsyncClient):
    """The usual ones, those that were asked for in their place, and none that was taken away."""
    user = (await box.post("/clerk/v1/users", json=USER, headers=CLERK)).json()
    asked = {"user_id": user["id"], "claims": {"azp": None, "plan": "pro"}, "lifetime": 5}
    token = (await box.post("/clerk/sandbox/token", json=asked)).json()["token"]
    told = pyjwt.decode(token, options={"verify_signature": False})
    assert (told["sub"], told["plan"], "azp" in told, told["exp"] - told["iat"]) == (user["id"], "pro", False, 5)


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, USER, 401, "authentication_invalid"),
        ({"Authorization": "Bearer pk_test_1"}, USER, 401, "authentication_invalid"),
        ({**CLERK, "Clerk-API-Version": "2020-01-01"}, USER, 400, "api_version_invalid"),
        (CLERK, {**USER, "surprise": 1}, 422, "form_param_unknown"),
        (CLERK, {"email_address": "a@b.example"}, 422, "form_param_format_invalid"),
        (CLERK, {"email_address": ["a"], "skip_password_requirement": True}, 422, "form_param_format_invalid"),
        (CLERK, {"phone_number": ["123"], "skip_password_requirement": True}, 422, "form_param_format_invalid"),
        (CLERK, {"email_address": ["a@b.example"]}, 422, "form_param_missing"),
        (CLERK, {"email_address": ["a@b.example"], "password": "short"}, 422, "form_password_length_too_short"),
        (CLERK, [], 400, "request_body_invalid"),
    ],
)
async def test_what_clerk_refuses(box: httpx2.AsyncClient, headers: dict[str, str], body: Any, status: int, code: str):
    """With its code."""
    answer = await box.post("/clerk/v1/users", json=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, {}, 401, "no_api_key"),
        ({"apikey": "sb_other"}, {}, 401, "invalid_api_key"),
        (SUPABASE | {"apikey": "sb_publishable_1"}, {}, 401, "no_authorization"),
        (SUPABASE, {}, 400, "validation_failed"),
        (SUPABASE, [], 400, "bad_json"),
        (SUPABASE, {"email": 5}, 400, "bad_json"),
        (SUPABASE, {"email": "a"}, 400, "validation_failed"),
        (SUPABASE, {"phone": "12"}, 400, "validation_failed"),
        (SUPABASE, {"email": "a@b.example", "password": "x"}, 422, "weak_password"),
        (SUPABASE, {"email": "a@b.example", "ban_duration": "soon"}, 400, "validation_failed"),
    ],
)
async def test_what_supabase_refuses(
    box: httpx2.AsyncClient, headers: dict[str, str], body: Any, status: int, code: str
):
    """With its code, in the shape of the version that was asked for, and in the older one."""
    newer = await box.post(
        "/supabase_auth/admin/users", json=body, headers=headers | {"X-Supabase-Api-Version": "2024-01-01"}
    )
    assert (newer.status_code, newer.json()["code"]) == (status, code)
    older = {name: value for name, value in headers.items() if name == "apikey"}
    answer = await box.post("/supabase_auth/admin/users", json=body, headers=older)
    assert (answer.json()["code"], answer.json()["error_code"]) == (status, code)


async def test_who_gets_a_management_token(box: httpx2.AsyncClient):
    """The client with its secret, for the audience of the tenant; nobody else, and nothing works without one."""
    form = {
        "grant_type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret",
        "audience": "http://sandbox/auth0/api/v2/",
    }  # fmt: skip
    assert (await box.post("/auth0/oauth/token", data=form)).json()["expires_in"] == 86_400
    for changed in ({"grant_type": "password"}, {"client_id": "x"}, {"client_secret": "x"}, {"audience": "x"}):
        assert (await box.post("/auth0/oauth/token", data={**form, **changed})).status_code in (401, 403)
    assert (await box.get("/auth0/api/v2/users")).status_code == 401


@pytest.mark.parametrize("name", NAMES)
def test_events(name: str):
    """Those that a stand-in does not know are refused; Firebase sends none at all."""
    record = registrations()[name]
    stand_in = record.make(Surroundings())
    with pytest.raises(ConfigurationError, match="event"):
        stand_in.sample("surprise")
    if not record.events:
        with pytest.raises(ConfigurationError, match="no webhooks"):
            stand_in.sign(Emission("x", b"", "1"), url="", secrets=(), hook_id="", broken=False)
    for event in record.events:
        assert json.loads(stand_in.sample(event))
