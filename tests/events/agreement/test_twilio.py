"""Twilio's ``RequestValidator`` and our scheme accept each other's signatures."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.events.delivery import pairs
from moorline.services import Twilio

FORM = "application/x-www-form-urlencoded"
SETTINGS = "X-Twilio-Webhooks-Signature-Settings"
URL = "https://shop.example/webhooks/twilio?a=1&b=%20c"
texts = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"]), max_size=20)
forms = st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=6)
urls = st.sampled_from([URL, "https://shop.example:443/x", "http://shop.example:8080/x?y", "http://shop.example"])


class Fields(dict[str, list[str]]):
    """What a framework gives their validator for a form with repeated names."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


def grouped(form: list[tuple[str, str]]) -> Fields:
    fields = Fields()
    for name, value in form:
        fields.setdefault(name, []).append(value)
    return fields


@given(form=forms, url=urls, secret=texts.filter(str.strip), modern=st.booleans())
def test_we_accept_what_twilio_signs(form: list[tuple[str, str]], url: str, secret: str, modern: bool):
    """Any form, with repeated names, any address, SHA-1 and SHA-256; not with another token, field or address."""
    algorithm = "HMAC_SHA256" if modern else "HMAC_SHA1"
    signature = RequestValidator(secret).compute_signature(url, grouped(form), algorithm)
    headers = {"X-Twilio-Signature": signature, "Content-Type": FORM}
    if modern:
        headers[SETTINGS] = f"key=webhooks_sharedkey_1,algorithm={algorithm}"
    body = urlencode(form).encode()
    assert verify(Twilio, headers=headers, body=body, secrets=[secret + "y", secret], url=url).secret_index == 1
    wrongs: tuple[dict[str, Any], ...] = ({"secrets": secret + "x"}, {"body": body + b"&x=1"}, {"url": url + "x"})
    for wrong in wrongs:
        with pytest.raises(InvalidSignature):
            verify(Twilio, **{"headers": headers, "body": body, "secrets": secret, "url": url, **wrong})


@given(form=forms, url=urls, secret=texts.filter(str.strip))
def test_twilio_accepts_what_we_sign(form: list[tuple[str, str]], url: str, secret: str):
    """Their validator takes our header, and refuses another token, another field, another address."""
    header = Twilio.webhooks.sign(urlencode(form).encode(), secret, url=url)["X-Twilio-Signature"]
    fields = grouped(form)
    assert RequestValidator(secret).validate(url, fields, header)
    assert not RequestValidator(secret + "x").validate(url, fields, header)
    assert not RequestValidator(secret).validate(url + "x", fields, header)
    assert not RequestValidator(secret).validate(url, grouped([*form, ("x", "1")]), header)


@given(value=texts, secret=texts.filter(str.strip), url=urls)
def test_both_accept_each_others_json(value: str, secret: str, url: str):
    """A JSON body stands in the address by its digest; another body, and another digest, are refused by both."""
    body = json.dumps({"MessageSid": "SM1", "x": value})
    called = Twilio.webhooks.address(url, body.encode())
    headers = Twilio.webhooks.sign(body.encode(), secret, url=called) | {"Content-Type": "application/json"}
    assert RequestValidator(secret).validate(called, body, headers["X-Twilio-Signature"])
    assert not RequestValidator(secret).validate(called, body + " ", headers["X-Twilio-Signature"])
    theirs = {"X-Twilio-Signature": RequestValidator(secret).compute_signature(called, {})}
    for given_headers in (headers, theirs):
        assert (
            verify(Twilio, headers=given_headers, body=body.encode(), secrets=secret, url=called).id == "received:SM1"
        )
        with pytest.raises(InvalidSignature):
            verify(Twilio, headers=given_headers, body=body.encode() + b" ", secrets=secret, url=called)


@given(form=forms, secret=texts.filter(str.strip))
def test_both_accept_each_others_get(form: list[tuple[str, str]], secret: str):
    """A GET has its fields in the address; the event's body is the query, as a form."""
    query = urlencode([("MessageSid", "SM1"), *form])
    url = f"https://shop.example/webhooks/twilio?{query}"
    ours = Twilio.webhooks.sign(b"", secret, url=url, method="GET")
    assert RequestValidator(secret).validate(url, {}, ours["X-Twilio-Signature"])
    theirs = {"X-Twilio-Signature": RequestValidator(secret).compute_signature(url, {})}
    event = verify(Twilio, headers=theirs, body=b"", secrets=secret, url=url, method="GET")
    assert event.body == query.encode()
    assert pairs(event.body.decode()) == [("MessageSid", "SM1"), *form]


@pytest.mark.parametrize(("signed_url", "called_url"), [
    ("https://shop.example:443/x", "https://shop.example/x"),
    ("https://shop.example/x", "https://shop.example:443/x"),
    ("https://shop.example/x", "https://shop.example:8443/x"),
    ("http://shop.example:80/x?a:1", "http://shop.example/x?a:1"),
])  # fmt: skip
def test_the_port_may_be_signed_or_not(signed_url: str, called_url: str):
    """Twilio signs either with the port or without: both sides take both."""
    body, fields = b"MessageSid=SM1", {"MessageSid": "SM1"}
    header = RequestValidator("token").compute_signature(signed_url, fields)
    assert RequestValidator("token").validate(called_url, fields, header)
    headers = {"X-Twilio-Signature": header, "Content-Type": FORM}
    assert verify(Twilio, headers=headers, body=body, secrets="token", url=called_url).id == "received:SM1"
