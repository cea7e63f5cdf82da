"""Which addresses of certificates are asked, and how long what came from there is kept."""

from __future__ import annotations

import datetime as dt
import re

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from moorline.clock import ManualClock
from moorline.errors import InvalidSignature
from moorline.events.certificates import Certificates, public_key, suitable

NOW = 1_790_000_000.0
HOST = re.compile(r"sns\.[a-z0-9-]{3,}\.amazonaws\.com(\.cn)?")
GOOD = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem"
HOSTILE = [
    "http://sns.us-east-1.amazonaws.com/x.pem",
    "https://sns.us-east-1.amazonaws.com.evil.example/x.pem",
    "https://sns.us-east-1.amazonaws.com@evil.example/x.pem",
    "https://user:secret@sns.us-east-1.amazonaws.com/x.pem",
    "https://@sns.us-east-1.amazonaws.com/x.pem",
    "https://evil.example/sns.us-east-1.amazonaws.com/x.pem",
    "https://evil.example?sns.us-east-1.amazonaws.com/x.pem",
    "https://evil.example#sns.us-east-1.amazonaws.com/x.pem",
    "https://evil.example\\@sns.us-east-1.amazonaws.com/x.pem",
    "https://sns.us-east-1.amazonaws.com\\@evil.example/x.pem",
    "https://sns.us-east-1.amazonaws.com:8443/x.pem",
    "https://sns.us-east-1.amazonaws.com:99999/x.pem",
    "https://sns.us-east-1.amazonaws.com:x/x.pem",
    "https://sns.us-east-1.amazonaws.com./x.pem",
    "https://sns.us-east-1.amazonaws.com%2eevil.example/x.pem",
    "https://sns.us-east-1.amazonaws.com%00.evil.example/x.pem",
    "https://sns.us-east-1.amazonaws.com\x00.evil.example/x.pem",
    "https://sns.us-east-1.amazonaws.com\n.evil.example/x.pem",
    "https://sns.us-east-1.amazonaws.com/x.pem\r\nX-Evil: 1",
    "https://sns.us-east-1.amazonaws.com/x y.pem",
    " https://sns.us-east-1.amazonaws.com/x.pem",
    "https://sns.us-east-1.amazonaws.com/x.pem ",
    "https://sns.us-east-1.amazonaws.com/x.pem#f",
    "https://sns.us-east-1.amazonaws.com/x.txt",
    "https://sns.us-east-1.amazonaws.com",
    "https://s3.us-east-1.amazonaws.com/bucket/x.pem",
    "https://\u0455ns.us-east-1.amazonaws.com/x.pem",
    "https://sns.us-east-1.amazonaws。com/x.pem",
    "https://[::1]/x.pem",
    "https://[sns.us-east-1.amazonaws.com]/x.pem",
    "https://127.0.0.1/x.pem",
    "https:sns.us-east-1.amazonaws.com/x.pem",
    "https:///sns.us-east-1.amazonaws.com/x.pem",
    "//sns.us-east-1.amazonaws.com/x.pem",
    "file:///etc/x.pem",
    "https://",
    "",
]


def test_the_senders_own_address_is_asked():
    """With or without the usual port, in either case."""
    for url in (
        GOOD,
        GOOD.replace(".com/", ".com:443/"),
        GOOD.replace("sns", "SNS"),
        GOOD.replace(".com/", ".com.cn/"),
    ):
        assert suitable(url, HOST, path=".pem"), url


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_not_asked(url: str):
    """Other hosts dressed as the sender's, other schemes and ports, names, passwords, and what parsers disagree about."""
    assert not suitable(url, HOST, path=".pem")


_PARTS = [
    "https://",
    "http://",
    "sns.us-east-1.amazonaws.com",
    ".evil.example",
    "@",
    ":",
    "/",
    "\\",
    "?",
    "#",
    "%2e",
    ".",
    "443",
    "80",
    "/x.pem",
    "[",
    "]",
    "::1",
    "é",
]
parts = st.sampled_from([*_PARTS, " ", "\t", "\x00"])


@given(st.lists(parts, max_size=8).map("".join) | st.builds(lambda tail: f"https://{tail}", st.text(max_size=60)))
@example(GOOD)
def test_what_is_asked_is_what_the_client_will_ask(url: str):
    """The HTTP client reads any address that was found fit in the same way: https, that host, that port, no user."""
    if suitable(url, HOST, path=".pem"):
        read = httpx2.URL(url)
        assert (read.scheme, read.port, read.userinfo, read.fragment) == ("https", None, b"", "")
        assert HOST.fullmatch(read.host)
        assert read.path.endswith(".pem")


def pem(begins: float = NOW - 10, ends: float = NOW + 10**8, *, elliptic: bool = False) -> bytes:
    """A certificate for that time."""
    key = ec.generate_private_key(ec.SECP256R1()) if elliptic else _KEY
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1)
    made = made.not_valid_before(dt.datetime.fromtimestamp(begins, dt.UTC))
    made = made.not_valid_after(dt.datetime.fromtimestamp(ends, dt.UTC))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


_KEY = rsa.generate_private_key(65537, 2048)


def test_a_certificate_is_kept_for_a_day():
    """After that it is fetched anew, so that one that was withdrawn is not believed for long."""
    clock = ManualClock(NOW)
    held = Certificates(clock)
    held.keep(GOOD, pem())
    clock.advance(86_399)
    assert held[GOOD]
    clock.advance(1)
    assert held.get(GOOD) is None
    assert len(held) == 0


def test_a_certificate_is_kept_no_longer_than_it_is_valid():
    """Its end counts, where that is nearer."""
    clock = ManualClock(NOW)
    held = Certificates(clock)
    held.keep(GOOD, pem(ends=NOW + 60))
    clock.advance(59)
    assert GOOD in held
    clock.advance(1)
    assert GOOD not in held


@pytest.mark.parametrize(
    "content",
    [pem(begins=NOW + 60), pem(begins=NOW - 100, ends=NOW - 60), b"", b"<html>", pem()[:300]],
    ids=["early", "late", "empty", "page", "cut"],
)
def test_what_is_no_certificate_of_this_time_is_not_kept(content: bytes):
    """It is a failed check, and the next delivery asks again."""
    held = Certificates(ManualClock(NOW))
    with pytest.raises(InvalidSignature) as raised:
        held.keep(GOOD, content)
    assert raised.value.reason == "certificate"
    assert list(held) == []


def test_only_so_many_are_kept():
    """The oldest goes first; one that was kept again is the newest."""
    held = Certificates(ManualClock(NOW))
    content = pem()
    for number in range(64):
        held.keep(f"{GOOD}{number}", content)
    held.keep(f"{GOOD}0", content)
    held.keep(f"{GOOD}64", content)
    assert len(held) == 64
    assert f"{GOOD}0" in held
    assert f"{GOOD}1" not in held


def test_the_key_must_be_of_the_kind_that_signs():
    """An elliptic key in place of RSA is a failed check."""
    assert public_key(pem()).key_size == 2048
    with pytest.raises(InvalidSignature, match="RSA"):
        public_key(pem(elliptic=True))
