from __future__ import annotations

import json
import string
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import redaction
from moorline.secrets import Secret


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "proxy-authorization", "Cookie", "Set-Cookie", "Stripe-Signature", "X-Hub-Signature-256",
        "x-postmark-server-token", "DD-API-KEY", "X-Api-Key", "client_secret", "refreshToken", "access_token", "password",
        "db_password", "PRIVATE KEY", "aws_secret_access_key", "sessionid", "card[cvc]", "X-Amz-Signature", "passphrase",
    ],
)  # fmt: skip
def test_sensitive_names(name):
    """Case, dashes, underscores and trailing numbers do not hide a sensitive name."""
    assert redaction.is_sensitive(name)
    assert redaction.headers({name: "value"}) == {name: "***"}
    assert redaction.data({name: "value"}) == {name: "***"}


@pytest.mark.parametrize(
    "name",
    ["Idempotency-Key", "unique_key", "public_key", "max_tokens", "Content-Type", "X-Request-Id", "author", "keyboard"],
)
def test_harmless_names(name):
    """Names that an operator needs to see stay readable."""
    assert not redaction.is_sensitive(name)
    assert redaction.headers({name: "value"}) == {name: "value"}


def test_headers_with_a_live_secret_under_a_harmless_name():
    """A secret in an unsuspected header is still masked, by its value."""
    Secret("header-canary-0123456789")
    assert redaction.headers({"X-Trace": "a header-canary-0123456789 b"}) == {"X-Trace": "a *** b"}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://u:p@api.test:8443/v1/charges?limit=3&key=abc", "https://api.test:8443/v1/charges?limit=***&key=***"),
        ("https://u:p@h@api.test/", "https://api.test/"),
        ("/v1/x?token=abc&flag", "/v1/x?token=***&flag"),
        ("https://api.test/cb#access_token=abc&state=x", "https://api.test/cb#access_token=***&state=***"),
        ("https://api.test/page#section", "https://api.test/page#section"),
        ("https://api.test/?next=https://u:p@other.test/", "https://api.test/?next=***"),
        ("https://[bad/?a=b", "https://[bad/?a=***"),
        ("https://api.test/keys/sk_live_0123456789", "https://api.test/keys/***"),
        ("https://discord.com/api/webhooks/12345/AbCdEf-012", "https://discord.com/api/webhooks/***"),
        ("", ""),
    ],
)
def test_urls(address, shown):
    """Of a URL the scheme, host, path and the names of its query are shown, even if it is malformed."""
    assert redaction.url(address) == shown


SAFE = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
CANARY = st.text(string.ascii_letters + string.digits + "-._~%!", min_size=6, max_size=40).map(lambda s: f"q{s}Z9")


@given(canary=CANARY, name=SAFE, host=SAFE, place=st.sampled_from(["user", "password", "query", "fragment"]))
def test_credentials_in_urls_do_not_leave(canary, name, host, place):
    """Wherever a URL may carry a credential, it is not shown, registered or not."""
    address = {
        "user": f"https://{canary}:x@{host}.test/path?a=1",
        "password": f"https://u:{canary}@{host}.test/path?a=1",
        "query": f"https://{host}.test/path?a=1&{name}={canary}",
        "fragment": f"https://{host}.test/path#{name}={canary}",
    }[place]
    shown = redaction.url(address)
    assert canary not in shown
    assert urlsplit(shown).hostname == f"{host}.test"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.ascii_lowercase, max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_data_without_secrets_is_unchanged(value):
    """Data that holds no secret, up to eight levels deep, comes back equal."""
    shown = redaction.data(value)
    assert shown == value or "..." in json.dumps(shown)


@given(JSON, st.sampled_from(["token", "clientSecret", "api-key", "Password"]))
def test_secrets_in_data_do_not_leave(value, name):
    """A value under a sensitive name is masked at any depth, whatever its type."""
    shown = redaction.data({"outer": [{"inner": {name: "canary-xyz", "other": value}}]})
    assert shown["outer"][0]["inner"][name] == "***"
    assert "canary-xyz" not in json.dumps(shown)


def test_data_of_all_kinds():
    """Bytes, sets, exceptions, Secrets and numbers that JSON has not become redacted text; others and None stay."""
    Secret("kinds-canary-0123456789")
    shown = redaction.data(
        {
            "bytes": b"\xff kinds-canary-0123456789",
            "set": {"x"},
            "error": ValueError("kinds-canary-0123456789"),
            "secretive": Secret("kinds-canary-0123456789"),
            "number": 1.5,
            "endless": [float("inf"), float("-inf"), float("nan")],
            "tokens": 12,
            "token": None,
            "password": 1234,
            "kinds-canary-0123456789": 1,
        }
    )
    assert shown == {
        "bytes": "\\xff ***",
        "set": ["x"],
        "error": "***",
        "secretive": "Secret('***')",
        "number": 1.5,
        "endless": ["inf", "-inf", "nan"],
        "tokens": 12,
        "token": None,
        "password": "***",
        "***": 1,
    }


def test_data_ends_eight_levels_down():
    """Data that is nested deeper, or in itself, is cut."""
    loop: dict[str, object] = {}
    loop["again"] = loop
    assert json.dumps(redaction.data(loop)).count("again") == 8


@pytest.mark.parametrize(
    ("content", "kind", "shown"),
    [
        (b'{"id": 1, "client_secret": "abc", "n": [{"token": "x"}]}', "application/json; charset=utf-8",
         '{"id": 1, "client_secret": "***", "n": [{"token": "***"}]}'),
        (b'{"error": "bad', "application/problem+json", '{"error": "bad'),
        (b'{"password": "abc', "application/json", '{"password": "***'),
        (b"amount=2000&card%5Bcvc%5D=123&api_key=abc", "application/x-www-form-urlencoded",
         "amount=2000&card%5Bcvc%5D=***&api_key=***"),
        (b"<p>password=abc</p>", "text/html", "<p>password=***"),
        (b"\x00\x01", "application/octet-stream", "<2 bytes of application/octet-stream>"),
        (b"abc", "", "<3 bytes of unknown type>"),
        (b"", "application/json", ""),
    ],
)  # fmt: skip
def test_bodies(content, kind, shown):
    """Bodies are masked by what they are; what cannot be read is only described."""
    assert redaction.body(content, kind) == shown


def test_long_bodies_are_cut():
    """No more than the limit is shown, and the length is told."""
    shown = redaction.body(b"x" * 3000, "text/plain", limit=100)
    assert shown.startswith("x" * 100 + "... (")
    assert len(shown) < 150


@given(start=st.integers(0, 700), limit=st.sampled_from([16, 100]))
def test_a_secret_at_the_cut_does_not_leave_in_part(start, limit):
    """A secret that the cut of a large body runs through shows none of its first half."""
    Secret("cutting-canary-9876543210")
    content = b"y" * start + b" cutting-canary-9876543210 " + b"y" * 5000
    for kind in ("text/plain", "application/json"):
        assert "cutting" not in redaction.body(content, kind, limit=limit)
