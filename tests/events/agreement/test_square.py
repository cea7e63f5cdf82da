"""Square's own package and we agree. It only verifies: what we take is signed by a few lines of hmac, which it takes too."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from square.utils.webhooks_helper import verify_signature

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.services import Square

URL = "https://shop.example/webhooks/square"
HEADER = "x-square-hmacsha256-signature"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def good_to_square(body: str, header: str, key: str, url: str) -> bool:
    return verify_signature(request_body=body, signature_header=header, signature_key=key, notification_url=url)


@given(text=texts, key=texts.filter(str.strip), path=st.text("abc019-_/%?=&", max_size=20))
def test_square_accepts_what_we_sign(text: str, key: str, path: str):
    """Any body, key and address; both refuse another key, a changed byte and another address."""
    body = json.dumps({"event_id": "e", "type": "payment.updated", "x": text}, ensure_ascii=False)
    url = URL + path
    header = Square.webhooks.sign(body.encode(), key, url=url)[HEADER]
    assert good_to_square(body, header, key, url)
    assert verify(Square, headers={HEADER: header}, body=body.encode(), secrets=key, url=url).id == "e"
    for changed, secret, address in ((body + " ", key, url), (body, key + "x", url), (body, key, url + "/")):
        assert not good_to_square(changed, header, secret, address)
        with pytest.raises(InvalidSignature):
            verify(Square, headers={HEADER: header}, body=changed.encode(), secrets=secret, url=address)


@given(text=texts, key=texts.filter(str.strip))
def test_we_accept_what_is_signed_as_square_says(text: str, key: str):
    """The address, then the body, under the key as it is written."""
    body = json.dumps({"event_id": "e", "type": "refund.created", "x": text}, ensure_ascii=False).encode()
    header = base64.b64encode(hmac.new(key.encode(), URL.encode() + body, hashlib.sha256).digest()).decode()
    assert good_to_square(body.decode(), header, key, URL)
    event = verify(
        Square, headers={HEADER: header, "x-square-signature": "old"}, body=body, secrets=["x" + key, key], url=URL
    )
    assert event.secret_index == 1


def test_the_old_signature_counts_for_nothing():
    """Nobody talks us down to SHA-1: the old header alone is no signature."""
    body = b'{"event_id":"e","type":"x"}'
    old = base64.b64encode(hmac.new(b"k", URL.encode() + body, hashlib.sha1).digest()).decode()
    with pytest.raises(InvalidSignature, match="there is no"):
        verify(Square, headers={"x-square-signature": old}, body=body, secrets="k", url=URL)
    with pytest.raises(InvalidSignature):
        verify(Square, headers={HEADER: old}, body=body, secrets="k", url=URL)
