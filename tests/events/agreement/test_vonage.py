"""Vonage's own packages and our schemes accept each other's signatures, where they sign or verify at all."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any, Literal
from urllib.parse import urlencode

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vonage_http_client.auth import Auth  # type: ignore[import-untyped]
from vonage_jwt import verify_signature  # type: ignore[import-untyped]

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.services import Vonage, VonageSMS

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
secrets = st.text("abcdefgh0123456789", min_size=32, max_size=40)
Method = Literal["md5", "sha1", "sha256", "sha512"]


@given(text=texts, secret=secrets)
def test_we_accept_tokens_of_pyjwt(text: str, secret: str):
    """A token that PyJWT made as Vonage says is accepted; not for another secret, a changed byte, or when it is old."""
    body = json.dumps({"message_uuid": "u", "status": "read", "x": text}).encode()
    now = int(time.time())
    claims = {
        "iat": now, "jti": "j", "iss": "Vonage", "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": "abcd1234", "application_id": "aaaa",
    }  # fmt: skip
    headers = {"Authorization": "Bearer " + jwt.encode(claims, secret, algorithm="HS256")}
    event = verify(Vonage, headers=headers, body=body, secrets=["of another account", secret])
    assert (event.id, event.type, event.timestamp, event.secret_index) == ("read:u", "read", now, 1)
    wrongs: tuple[dict[str, Any], ...] = (
        {"secrets": secret + "x"},
        {"body": body + b" "},
        {"now": now + 400},
        {"now": now - 400},
    )
    for wrong in wrongs:
        with pytest.raises(InvalidSignature):
            verify(Vonage, **{"headers": headers, "body": body, "secrets": secret, **wrong})


@given(text=texts, secret=secrets)
def test_vonage_accepts_our_tokens(text: str, secret: str):
    """Their package takes our token, and refuses it for another secret; the digest is that of the body."""
    body = text.encode()
    token = Vonage.webhooks.sign(body, secret)["Authorization"].removeprefix("Bearer ")
    assert verify_signature(token, secret)
    assert not verify_signature(token, secret + "x")
    assert jwt.decode(token, secret, algorithms=["HS256"])["payload_hash"] == hashlib.sha256(body).hexdigest()


def auth(secret: str, method: Method) -> Any:
    return Auth(api_key="abcd1234", signature_secret=secret, signature_method=method)


fields = st.dictionaries(
    st.text("abcXYZ-", min_size=1, max_size=8).filter(lambda name: name not in ("sig", "timestamp", "status")),
    texts,
    max_size=5,
)
methods = st.sampled_from(["md5", "sha1", "sha256", "sha512"])


@given(said=fields, secret=secrets, method=methods, form=st.sampled_from(["form", "json", "get"]))
def test_we_accept_fields_that_vonage_signs(said: dict[str, str], secret: str, method: Method, form: str):
    """By each HMAC, as form, JSON and GET; not for another secret, another algorithm, a further field, or when it is old."""
    now = int(time.time())
    params = said | {"messageId": "0A", "timestamp": str(now)}
    params["sig"] = auth(secret, method).sign_params(dict(params)).upper()
    arguments = delivered(params, form)
    event = verify(VonageSMS, **arguments, secrets=f"{method}:{secret}")
    assert (event.id, event.type, event.timestamp) == ("0A", "received", now)
    assert event.payload["messageId"] == "0A"
    other = "sha256" if method != "sha256" else "sha512"
    wrongs: tuple[dict[str, Any], ...] = (
        {"secrets": f"{method}:{secret}x"},
        {"secrets": f"{other}:{secret}"},
        {"secrets": secret},
        {"now": now + 400},
        {"now": now - 400},
        delivered(params | {"more": ""}, form),
    )
    for wrong in wrongs:
        with pytest.raises(InvalidSignature):
            verify(VonageSMS, **{**arguments, "secrets": f"{method}:{secret}", **wrong})


def delivered(params: dict[str, str], form: str) -> dict[str, Any]:
    url = "https://shop.example/webhooks/vonage_sms"
    if form == "get":
        return {"headers": {}, "body": b"", "method": "GET", "url": f"{url}?{urlencode(params)}"}
    if form == "json":
        return {"headers": {"content-type": "application/json"}, "body": json.dumps(params).encode(), "url": url}
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return {"headers": headers, "body": urlencode(params).encode(), "url": url}


@given(said=fields, secret=secrets, method=methods)
def test_vonage_accepts_fields_that_we_sign(said: dict[str, str], secret: str, method: Method):
    """Their check takes what we sealed, and refuses another secret and another field."""
    body = json.dumps(said | {"messageId": "0A"}).encode()
    sealed = json.loads(VonageSMS.webhooks.seal(body, f"{method}:{secret}"))
    assert auth(secret, method).check_signature(dict(sealed))
    assert not auth(secret + "x", method).check_signature(dict(sealed))
    assert not auth(secret, method).check_signature(dict(sealed) | {"more": "1"})


@pytest.mark.parametrize("secret", ["s3cret", "md5hash:s3cret"])
def test_the_plain_md5_is_the_text_with_the_secret_behind_it(secret: str):
    """The account's default, by a few lines of hashlib: their package signs by HMAC alone."""
    text = b"&messageId=0A&text=a_b_c&timestamp=1790000000"
    params = {"text": "a&b=c", "messageId": "0A", "timestamp": "1790000000"}
    params["sig"] = hashlib.md5(text + b"s3cret").hexdigest()
    for form in ("form", "json", "get"):
        assert verify(VonageSMS, **delivered(params, form), secrets=secret, now=1_790_000_000).id == "0A"
    params["sig"] = hmac.new(b"s3cret", text, "md5").hexdigest()
    with pytest.raises(InvalidSignature):
        verify(VonageSMS, **delivered(params, "form"), secrets=secret, now=1_790_000_000)
