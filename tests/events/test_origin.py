"""The address that a sender signed, behind proxies: who is believed, and of what."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError
from moorline.events.origin import Origin

BEHIND = Origin(trusted_proxies=("10.0.0.0/8", "2001:db8::/32", "192.0.2.7"))
FORWARDING = (
    "forwarded",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-for",
    "x-real-ip",
)


def url(headers: dict[str, str], client: str | None = "10.1.2.3", origin: Origin = BEHIND, **seen: Any) -> str:
    """The address, of a request that came as http to ``inner:8000``."""
    named = {name.lower(): value for name, value in headers.items()}
    arguments = {"scheme": "http", "host": "inner:8000", "path": "/webhooks/x", "query": "a=1"} | seen
    return origin.url(**arguments, headers=named, client=client)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "http://inner:8000"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}, "https://shop.example"),
        ({"X-Forwarded-Proto": "HTTPS"}, "https://inner:8000"),
        ({"X-Forwarded-Proto": "ftp", "X-Forwarded-Host": "shop.example"}, "http://shop.example"),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "s.example", "X-Forwarded-Port": "443"},
            "https://s.example",
        ),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "s.example", "X-Forwarded-Port": "8443"},
            "https://s.example:8443",
        ),
        ({"X-Forwarded-Host": "s.example:81", "X-Forwarded-Port": "8443"}, "http://s.example:81"),
        ({"X-Forwarded-Host": "[2001:db8::1]", "X-Forwarded-Port": "81"}, "http://[2001:db8::1]:81"),
        ({"X-Forwarded-Host": "[2001:db8::1]:81"}, "http://[2001:db8::1]:81"),
        ({"X-Forwarded-Host": "s.example", "X-Forwarded-Port": "80a"}, "http://s.example"),
        ({"Forwarded": "for=192.0.2.60;proto=https;host=shop.example"}, "https://shop.example"),
        ({"Forwarded": 'for="[2001:db8::9]:47";host="[2001:db8::1]:8443";Proto=https'}, "https://[2001:db8::1]:8443"),
        ({"Forwarded": r'host="sh\op.example"'}, "http://shop.example"),
        ({"Forwarded": "proto=https;host=a.example", "X-Forwarded-Host": "b.example"}, "https://a.example"),
        ({"X-Forwarded-Host": "evil.example/path"}, "http://inner:8000"),
        ({"X-Forwarded-Host": "user@evil.example"}, "http://inner:8000"),
        ({"X-Forwarded-Host": "evil.example?x"}, "http://inner:8000"),
        ({"X-Forwarded-Host": "ev il.example"}, "http://inner:8000"),
    ],
)
def test_a_trusted_proxy_says_what_the_world_called(headers: dict[str, str], expected: str):
    """Scheme, host and port by either kind of header; what is written oddly is not believed."""
    assert url(headers) == f"{expected}/webhooks/x?a=1"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Proto": "http, https", "X-Forwarded-Host": "evil.example, shop.example"},
        {"Forwarded": "for=1;proto=http;host=evil.example, for=2;proto=https;host=shop.example"},
        {"Forwarded": 'host="evil.example, proto=http, for=2;proto=https;host=shop.example'},
    ],
)
def test_of_several_proxies_the_nearest_counts(headers: dict[str, str]):
    """What stands before its entry may have been written by the sender."""
    assert url(headers) == "https://shop.example/webhooks/x?a=1"


@pytest.mark.parametrize("client", ["10.255.0.1", "192.0.2.7", "2001:db8::5", "::ffff:10.0.0.1", "2001:db8::5%eth0"])
def test_who_is_trusted(client: str):
    """Addresses and networks, IPv4 within IPv6 too, and those with a zone."""
    assert url({"X-Forwarded-Host": "shop.example"}, client) == "http://shop.example/webhooks/x?a=1"


@pytest.mark.parametrize("client", ["11.0.0.1", "192.0.2.8", "2001:db9::5", "::ffff:11.0.0.1", "::1", "unix", "", None])
@given(headers=st.dictionaries(st.sampled_from(FORWARDING), st.text(max_size=30) | st.just("evil.example")))
def test_a_stranger_is_never_believed(client: str | None, headers: dict[str, str]):
    """Whatever it says of the address, the address is what we see."""
    assert url(headers, client) == "http://inner:8000/webhooks/x?a=1"
    assert url(headers, "10.1.2.3", Origin()) == "http://inner:8000/webhooks/x?a=1"


@given(headers=st.dictionaries(st.sampled_from(FORWARDING), st.text(max_size=40)))
def test_whatever_a_proxy_says_the_address_is_one(headers: dict[str, str]):
    """A scheme, a host that is one, our path at the end; and with a public address nothing of it counts."""
    told = url(headers)
    prefix = re.escape(headers.get("x-forwarded-prefix", "").rpartition(",")[2].strip().rstrip("/"))
    assert re.fullmatch(rf"https?://[A-Za-z0-9._~\[\]:-]+({prefix})?/webhooks/x\?a=1", told), told
    public = Origin("https://shop.example/api/", ("*",))
    assert url(headers, origin=public) == "https://shop.example/api/webhooks/x?a=1"


def test_a_prefix_that_a_proxy_cut_off_is_put_back():
    """``X-Forwarded-Prefix``, where it is a path."""
    assert url({"X-Forwarded-Prefix": "/shop/"}, query="") == "http://inner:8000/shop/webhooks/x"
    assert url({"X-Forwarded-Prefix": "shop"}, query="") == "http://inner:8000/webhooks/x"


def test_anybody_may_be_trusted():
    """``*`` believes every peer, even one without an address."""
    for client in ("203.0.113.1", "unix", None):
        assert url({"X-Forwarded-Proto": "https"}, client, Origin(trusted_proxies=("*",))).startswith("https://inner")


@pytest.mark.parametrize("public", ["shop.example", "ftp://shop.example", "https://", "https://a/?x=1", "https://a/#f"])
def test_a_public_address_that_is_none_is_named(public: str):
    """It is compared to nothing later, so it is looked at now."""
    with pytest.raises(ConfigurationError, match="public_url"):
        Origin(public)


@pytest.mark.parametrize("proxy", ["10.0.0.0/99", "proxy.internal", ""])
def test_a_proxy_that_is_no_address_is_named(proxy: str):
    """Names are not resolved: they could change."""
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        Origin(trusted_proxies=(proxy,))
