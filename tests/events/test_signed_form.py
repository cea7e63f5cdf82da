"""What is special to a signature over an address and a form: what it does not cover, and other ways to part its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.events.senders.sample import NOW
from tests.events.senders.twilio import SAMPLE
from tests.events.test_senders import receiver_for, sent

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import Inbox, verify
from moorline.events.delivery import FORM, Delivery
from moorline.services import Twilio
from moorline.store.store import Store

SCHEME = Twilio.webhooks
URL = "https://shop.example/webhooks/twilio"
SETTINGS = "X-Twilio-Webhooks-Signature-Settings"


def checked(
    headers: dict[str, str], body: bytes, *, url: str | None = URL, method: str = "POST", media: str = FORM
) -> Any:
    return verify(
        Twilio, headers={**headers, "Content-Type": media}, body=body, secrets="12345", url=url, method=method, now=NOW
    )


def test_the_example_of_the_senders_documentation():
    """The vector of Twilio's security page (also in the tests of its package)."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    body = b"CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309"
    headers = {"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="}
    assert checked(headers, body, url=url).type == "received"
    with pytest.raises(InvalidSignature):
        checked(headers, body.replace(b"1234&", b"1235&"), url=url)


def test_the_order_and_the_encoding_of_the_fields_do_not_matter():
    """Sorted by name, repeated values once: what says the same is the same event."""
    one, other = b"b=2&a=1&a=0&MessageSid=SM1", b"MessageSid=SM1&a=0&a=%31&a=1&%62=2"
    headers = SCHEME.sign(one, "12345", url=URL)
    assert checked(headers, one).dedup_key == checked(headers, other).dedup_key


def test_the_text_parted_anew_is_the_same_event():
    """Names and values have nothing between them; a replay with other fields under the same text is a duplicate."""
    body = b"MessageSid=SM1&MessageStatus=sent"
    headers = SCHEME.sign(body, "12345", url=URL)
    moved = checked(headers, b"MessageSid=SM1MessageStatussent")
    assert moved.id != checked(headers, body).id
    assert moved.dedup_key == checked(headers, body).dedup_key


def test_empty_values_and_white_space_are_signed():
    """They are kept as they came."""
    body = b"Body=+x+&Empty=&MessageSid=SM1"
    headers = SCHEME.sign(body, "12345", url=URL)
    assert checked(headers, body).payload["Body"] == " x "
    for changed in (b"Body=x&Empty=&MessageSid=SM1", b"Body=+x+&MessageSid=SM1x"):
        with pytest.raises(InvalidSignature):
            checked(headers, changed)


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"", FORM),
        (b"&&&", FORM),
        (b"&".join(b"a%d=" % number for number in range(1001)), FORM),
        (b'{"MessageSid":"SM2"}', "application/json"),
        (b"", "application/json"),
        (b"", ""),
    ],
)
def test_a_signature_of_the_address_alone_covers_no_body(body: bytes, media: str):
    """A GET's signature fits the address: by POST it stands for nothing that could be sent behind it."""
    url = URL + "?MessageSid=SM1"
    headers = SCHEME.sign(b"", "12345", url=url, method="GET")
    assert checked(headers, b"", url=url, method="GET").id == "received:SM1"
    with pytest.raises(InvalidSignature):
        checked(headers, body, url=url, media=media)


def test_the_digest_of_a_body_is_one_and_belongs_to_a_post():
    """Two digests, one that is spelled otherwise, or a GET with one, are refused."""
    body = b'{"MessageSid":"SM1"}'
    url = SCHEME.address(URL, body)
    headers = SCHEME.sign(body, "12345", url=url)
    assert checked(headers, body, url=url, media="application/json").id == "received:SM1"
    twice = SCHEME.address(url, b"{}")
    for called, method in ((url, "GET"), (twice, "POST"), (url.replace("bodySHA256", "bodysha256"), "POST")):
        again = SCHEME.sign(body, "12345", url=url)
        with pytest.raises(InvalidSignature):
            checked(again, body, url=called, method=method, media="application/json")


@pytest.mark.parametrize("told", ["HMAC_MD5", "none", "", "HMAC_SHA512"])
def test_no_other_algorithm_is_taken(told: str):
    """The header that names it can choose between two that are good, and nothing else."""
    body = b"MessageSid=SM1"
    headers = SCHEME.sign(body, "12345", url=URL)
    assert checked(headers | {SETTINGS: "key=1,algorithm=hmac_sha1"}, body)
    with pytest.raises(InvalidSignature):
        checked(headers | {SETTINGS: f"key=1,algorithm={told}"}, body)
    with pytest.raises(InvalidSignature):
        checked(headers | {SETTINGS: "key=1,algorithm=HMAC_SHA256"}, body)


@pytest.mark.parametrize(
    ("signed", "called"),
    [
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]:443/x"),
        ("https://user:pass@shop.example:443/x", "https://user:pass@shop.example/x"),
        ("https://shop.example", "https://shop.example:443"),
    ],
)
def test_ports_of_odd_addresses(signed: str, called: str):
    """IPv6 addresses and user names have colons that begin no port."""
    body = b"MessageSid=SM1"
    for one, other in ((signed, called), (called, signed)):
        assert checked(SCHEME.sign(body, "12345", url=one), body, url=other)


def test_another_address_is_another_signature():
    """Scheme, host, path and query count byte for byte, and the address must be known."""
    body = b"MessageSid=SM1"
    headers = SCHEME.sign(body, "12345", url=URL + "?a=%2F")
    for url in (
        URL,
        URL + "?a=/",
        URL + "?a=%2f",
        URL.replace("https", "http") + "?a=%2F",
        URL.replace("shop", "evil") + "?a=%2F",
    ):
        with pytest.raises(InvalidSignature):
            checked(headers, body, url=url)
    with pytest.raises(ConfigurationError, match="url"):
        checked(headers, body, url=None)


async def test_a_get_is_stored_with_its_fields(tmp_path: Path):
    """Through the receiver a GET's query is the event's form, and its replay a duplicate."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        inbox = Inbox(store)
        receiver = receiver_for(SAMPLE, inbox)
        for query, status in (
            ("MessageSid=SM1&Body=caf%C3%A9", 200),
            ("MessageSid=SM1&Body=caf%C3%A9", 200),
            ("MessageSid=SM1&Body=x", 401),
        ):
            url = f"{URL}?{query}"
            headers = SCHEME.sign(b"", "12345", url=f"{URL}?MessageSid=SM1&Body=caf%C3%A9", method="GET")
            answer = await sent(receiver, headers, b"", url, "GET")
            assert answer.status == status
        events = await inbox.recent()
        assert [(event.id, event.duplicates) for event in events] == [("received:SM1", 1)]
        found = await inbox.get("received:SM1")
        assert found.payload == {"MessageSid": "SM1", "Body": "café"}


@pytest.mark.parametrize("url", ["http://[/webhooks/x?sig=aa&timestamp=1", "https://[::1/x", "http://a]b/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("service", ["twilio", "vonage_sms"])
def test_an_address_that_is_none_is_a_signature_that_is_not_good(service: str, method: str, url: str):
    """The host is whatever a stranger wrote: it must not be an error of ours."""
    headers = {"X-Twilio-Signature": "aaaa", "Content-Type": FORM}
    with pytest.raises(InvalidSignature):
        verify(service, headers=headers, body=b"a=b", secrets="abcdef", url=url, method=method)


@pytest.mark.parametrize("media", [FORM, "application/json"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_host_that_is_none_is_refused_where_a_query_is_looked_for(method: str, media: str):
    """In a form by GET, and in what is no form."""
    delivery = Delivery({"content-type": media}, b"{}", method=method, url="http://[/x?a=1")
    with pytest.raises(InvalidSignature):
        delivery.query  # noqa: B018
    if method == "GET":
        with pytest.raises(InvalidSignature):
            delivery.as_form()
