"""Adyen's own package and we agree, in both directions, on notifications and on what is signed in a header."""

from __future__ import annotations

import json
from typing import Any

import pytest
from Adyen.util import (  # type: ignore[import-untyped]
    generate_notification_sig,
    generate_payload_sig,
    is_valid_hmac_notification,
    is_valid_hmac_payload,
)
from hypothesis import given
from hypothesis import strategies as st
from tests.events.senders.adyen import SAMPLE

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import verify, verify_each
from moorline.events.schemes.signed_items import SignedItems
from moorline.services import Adyen

KEY, OTHER = SAMPLE.secret, SAMPLE.other
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":"), max_size=16)
items: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "pspReference": plain.filter(bool),
        "merchantAccountCode": plain,
        "merchantReference": texts,
        "amount": st.fixed_dictionaries({"value": st.integers(0, 10**12), "currency": st.sampled_from(["EUR", "JPY"])}),
        "eventCode": st.sampled_from(["AUTHORISATION", "REFUND", "CANCEL_OR_REFUND"]),
        "success": st.sampled_from(["true", "false"]),
    },
    optional={"originalReference": plain, "reason": texts},
)
printable = items.filter(lambda item: item["pspReference"].isprintable())


def delivery(*found: dict[str, Any]) -> bytes:
    """The body with those items."""
    wrapped = [{"NotificationRequestItem": item} for item in found]
    return json.dumps({"live": "false", "notificationItems": wrapped}).encode()


def signed(item: dict[str, Any], key: str = KEY) -> dict[str, Any]:
    """The item with the signature that Adyen's package makes."""
    return item | {"additionalData": {"hmacSignature": generate_notification_sig(item, key).decode()}}


@given(first=printable, second=printable)
def test_we_accept_what_adyen_signs(first: dict[str, Any], second: dict[str, Any]):
    """One item or two, whatever their texts; one with another key's signature spoils the delivery."""
    body = delivery(signed(first), signed(second))
    events = verify_each(Adyen, headers={}, body=body, secrets=[OTHER, KEY])
    assert [event.payload["pspReference"] for event in events] == [first["pspReference"], second["pspReference"]]
    assert {event.secret_index for event in events} == {1}
    for wrong in (delivery(signed(first), signed(second, OTHER)), delivery(signed(first, OTHER), signed(second))):
        with pytest.raises(InvalidSignature):
            verify_each(Adyen, headers={}, body=wrong, secrets=KEY)


@given(item=items)
def test_adyen_accepts_what_we_sign(item: dict[str, Any]):
    """Adyen's package finds our signature good, and not under another key."""
    sealed = json.loads(Adyen.webhooks.seal(delivery(item), KEY))
    assert is_valid_hmac_notification(sealed, KEY)
    assert not is_valid_hmac_notification(sealed, OTHER)


@given(item=printable, place=st.sampled_from(["pspReference", "merchantReference", "eventCode", "success", "value"]))
def test_both_refuse_a_changed_field(item: dict[str, Any], place: str):
    """Each of the signed fields counts."""
    changed = signed(item)
    if place == "value":
        changed = changed | {"amount": item["amount"] | {"value": item["amount"]["value"] + 1}}
    else:
        changed = changed | {place: item[place] + "x"}
    assert not is_valid_hmac_notification(changed, KEY)
    with pytest.raises(InvalidSignature):
        verify(Adyen, headers={}, body=delivery(changed), secrets=KEY)


# Adyen/adyen-python-api-library, test/mocks/util/*.json and test/test_util.py: signed by Adyen itself.
PUBLISHED = [
    ("T7FD4VM4D3RZNN82", "\\\\slashes are fun", "nIgT81gaB5oJpn2jPXupDq68iRo2wUlBsuYjtYfwKqo="),
    ("M8NB66SBZSGLNK82", ":slashes are fun", "2EQYm7YJpKO4EtHSPu55SQTyWf8dkW5u2nD1tJFpViA="),
    ("X3GWNS6KJ8NKGK82", "//slashes are fun", "9Z0xdpG9Xi3zcmXv14t/BvMBut77O/Xq9D4CQXSDUi4="),
]


@pytest.mark.parametrize(("reference", "text", "signature"), PUBLISHED)
def test_what_adyen_published_is_accepted(reference: str, text: str, signature: str):
    """Backslashes, colons and slashes are signed as they are."""
    item = {
        "additionalData": {"authCode": "076181", "hmacSignature": signature},
        "amount": {"currency": "EUR", "value": 1000},
        "eventCode": "AUTHORISATION",
        "eventDate": "2023-01-10T13:40:54+01:00",
        "merchantAccountCode": "AntoniStroinski",
        "merchantReference": text,
        "pspReference": reference,
        "success": "true",
    }
    event = verify(Adyen, headers={}, body=delivery(item), secrets=OTHER)
    assert (event.id, event.name) == (f"AUTHORISATION:true:{reference}", "AUTHORISATION.true")


PAYLOAD = b'{"type":"merchant.created","environment":"test","data":{"companyId":"C"}}'


@given(text=texts)
def test_what_is_signed_in_a_header_agrees_too(text: str):
    """Adyen's package signs for us, we sign for it, and both refuse another key and a changed byte."""
    body = json.dumps({"type": "merchant.created", "x": text}).encode()
    headers = {"HmacSignature": generate_payload_sig(body, KEY).decode(), "Protocol": "HmacSHA256"}
    event = verify(Adyen, headers=headers, body=body, secrets=[OTHER, KEY])
    assert (event.type, event.secret_index, event.id[:7]) == ("merchant.created", 1, "sha256:")
    other = Adyen.webhooks.otherwise
    assert other is not None
    made = other.sign(body, KEY)["HmacSignature"]
    assert is_valid_hmac_payload(made, KEY, body)
    for key, changed in ((OTHER, body), (KEY, body + b" ")):
        assert not is_valid_hmac_payload(made, key, changed)
        with pytest.raises(InvalidSignature):
            verify(Adyen, headers=headers, body=changed, secrets=key)


def test_a_header_vouches_for_no_notification():
    """A delivery with items is proved by its items: the other way in is closed to it."""
    body = delivery(
        json.loads(json.dumps(PUBLISHED and {"pspReference": "x", "eventCode": "REFUND", "success": "true"}))
    )
    headers = {"HmacSignature": generate_payload_sig(body, KEY).decode()}
    with pytest.raises(InvalidSignature):
        verify(Adyen, headers=headers, body=body, secrets=KEY)


def test_the_first_item_of_two_lists_counts_as_much_as_the_last():
    """A list that is there twice hides nothing: whatever would be stored must be signed."""
    good = signed(
        {"pspReference": "a", "eventCode": "REFUND", "success": "true", "amount": {"value": 1, "currency": "EUR"}}
    )
    forged = good | {"pspReference": "b"}
    lists = [json.dumps([{"NotificationRequestItem": one}]) for one in (forged, good)]
    for first, second in (lists, lists[::-1]):
        body = f'{{"notificationItems":{first},"notificationItems":{second}}}'.encode()
        with pytest.raises(InvalidSignature):
            verify_each(Adyen, headers={}, body=body, secrets=KEY)


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item.replace(b'"pspReference"', b'"pspReference":"forged","pspReference"', 1),
        lambda item: item.replace(b'"success": "true"', b'"success": true', 1),
        lambda item: item.replace(b'"value": 1', b'"value": 1.0', 1),
        lambda item: item.replace(b'"hmacSignature"', b'"hmacSignatur"', 1),
        lambda item: item.replace(b'"additionalData": {', b'"additionalData": [{', 1).replace(b"}}}]}", b"}]}}]}", 1),
        lambda item: item.replace(b'{"pspReference"', b'[{"pspReference"', 1).replace(b"}}}]}", b"}}]}]}", 1),
    ],
)
def test_items_of_another_form_are_refused(change: Any):
    """Keys that are there twice, other kinds of values, no signature: a failed check, never another error."""
    good = delivery(
        signed(
            {"pspReference": "a", "eventCode": "REFUND", "success": "true", "amount": {"value": 1, "currency": "EUR"}}
        )
    )
    assert verify(Adyen, headers={}, body=good, secrets=KEY).type == "REFUND"
    assert change(good) != good
    with pytest.raises(InvalidSignature):
        verify_each(Adyen, headers={}, body=change(good), secrets=KEY)


def test_no_text_is_the_signature_of_two_items():
    """Nothing is escaped: so a colon may stand in the one field where merchants write, and nowhere else."""
    item = {"pspReference": "a", "merchantReference": "r:1", "eventCode": "REFUND", "success": "true"}
    item |= {"amount": {"value": 1, "currency": "EUR"}}  # type: ignore[dict-item]
    moved = signed(item) | {"merchantAccountCode": ":r", "merchantReference": "1"}
    assert is_valid_hmac_notification(signed(item), KEY)
    assert verify(Adyen, headers={}, body=delivery(signed(item)), secrets=KEY).type == "REFUND"
    shifted = {"merchantAccountCode": "x:y", "merchantReference": "z"}
    assert is_valid_hmac_notification(
        signed(item | {"merchantAccountCode": "x", "merchantReference": "y:z"}) | shifted, KEY
    )  # the same text
    for forged in (moved, signed(item | {"merchantAccountCode": "x", "merchantReference": "y:z"}) | shifted):
        with pytest.raises(InvalidSignature):
            verify(Adyen, headers={}, body=delivery(forged), secrets=KEY)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"{}", b'{"notificationItems":[]}', b'{"notificationItems":[{}]}', b"\xff"]
)
def test_what_holds_no_item_is_not_signed(body: bytes):
    """Nothing in it proves it: neither an item nor, with a record that knows no header, anything else."""
    alone = SignedItems(env="X", type="type", each="items.*", signed=("a",), signature="s")
    for scheme in (Adyen, alone):
        with pytest.raises(InvalidSignature):
            verify(scheme, headers={}, body=body, secrets=KEY)


def test_a_record_says_where_items_lie():
    """Without, the argument is named; so it is for a key that is no hex."""
    with pytest.raises(ConfigurationError, match="each"):
        SignedItems(env="X", signed=("a",), signature="s")
    with pytest.raises(ConfigurationError, match="hex"):
        verify(Adyen, headers={}, body=b"{}", secrets="no hex")
