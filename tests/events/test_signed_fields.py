"""What is special to a signature among the fields: what could be read in two ways, and who chooses the algorithm."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from tests.events.senders.sample import NOW

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import verify
from moorline.events.delivery import FORM
from moorline.services import VonageSMS

SCHEME = VonageSMS.webhooks
SECRET = "sha256:s3cret"
SEALED = SCHEME.seal(b"messageId=0A&text=a%26b%3Dc", SECRET, now=NOW)
SIG = dict(parse_qsl(SEALED.decode()))["sig"]


def checked(body: bytes, media: str = FORM, secrets: Any = SECRET, **options: Any) -> Any:
    return verify(VonageSMS, headers={"content-type": media}, body=body, secrets=secrets, now=NOW, **options)


def test_separators_in_values_are_signed_as_underscores():
    """The rule of the sender: so ``&`` and ``=`` in a value may be changed to ``_``, and nothing else."""
    assert checked(SEALED).payload["text"] == "a&b=c"
    assert checked(SEALED.replace(b"a%26b%3Dc", b"a_b_c")).payload["text"] == "a_b_c"
    with pytest.raises(InvalidSignature):
        checked(SEALED.replace(b"a%26b%3Dc", b"a-b-c"))


@pytest.mark.parametrize(
    "body",
    [
        SEALED + b"&text=a_b_c",
        SEALED + b"&sig=" + SIG.encode(),
        SEALED.replace(b"messageId=0A&text=", b"messageId%3D0A%26text="),
        b"sig=" + SIG.encode(),
        b"",
        SEALED.replace(b"timestamp", b"Timestamp"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes):
    """A field that comes twice, a name that holds two fields, no time, nothing at all."""
    with pytest.raises(InvalidSignature):
        checked(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"1", b"{", b'"x"', b'{"a":{"b":1},"sig":"00"}', b'{"a":[],"sig":"00"}', b'{"a":true,"sig":"00"}',
        b'{"a":null,"sig":"00"}', b'{"a":NaN,"sig":"00"}', b'{"sig":"00","sig":"00"}', b"[" * 100_000, b"\xff",
        b'[["sig","00"],["timestamp","1790000000"]]',
    ],
)  # fmt: skip
def test_only_a_flat_object_is_read(body: bytes):
    """Anything else is a failed check, and no error of another kind."""
    with pytest.raises(InvalidSignature):
        checked(body, "application/json")


def test_numbers_are_signed_as_they_are_written():
    """A JSON number counts by its digits."""
    form = SCHEME.seal(b"messageId=0A&price=0.0300&n=1", SECRET, now=NOW)
    said = dict(parse_qsl(form.decode()))
    body = f'{{"messageId":"0A","price":0.0300,"n":1,"timestamp":{said["timestamp"]},"sig":"{said["sig"]}"}}'
    assert checked(body.encode(), "application/json").id == "0A"
    with pytest.raises(InvalidSignature):
        checked(body.replace("0.0300", "0.03").encode(), "application/json")


def test_the_secret_chooses_the_algorithm_and_the_request_does_not():
    """The same text under another hash, and under the weak default, is another signature."""
    for other in ("sha512:s3cret", "sha1:s3cret", "md5:s3cret", "md5hash:s3cret", "s3cret", "SHA256:s3cret"):
        with pytest.raises(InvalidSignature):
            checked(SEALED, secrets=other)
    assert checked(SEALED, secrets=["md5:s3cret", "s3cret", SECRET]).secret_index == 2
    assert checked(SCHEME.seal(b"messageId=0A", "a:b", now=NOW), secrets="a:b").id == "0A"  # no algorithm is called a
    with pytest.raises(ConfigurationError, match="empty"):
        checked(SEALED, secrets="sha256:")


def test_a_get_needs_its_address():
    """Its fields stand there and nowhere else; a body beside them is not looked at."""
    url = f"https://shop.example/webhooks/vonage_sms?{SEALED.decode()}"
    event = checked(b"messageId=0B", method="GET", url=url)
    assert (event.id, event.body) == ("0A", SEALED)
    with pytest.raises(ConfigurationError, match="url"):
        checked(SEALED, method="GET")
    with pytest.raises(InvalidSignature):
        checked(b"", method="GET", url=url + "&" + urlencode({"x": "1"}))
