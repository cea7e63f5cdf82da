from __future__ import annotations

import logging
from typing import Any

import aiohttp_retry
import botocore.config
import botocore.session
import httpx
import httpx2
import pytest
import requests
import slack_sdk
import stripe
import tenacity
import twilio.http.http_client
import twilio.rest
import urllib3
from requests.adapters import HTTPAdapter
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
from tests.calls.ledger import Ledger

from moorline import errors
from moorline.calls.adapters.doubles import doubles, refuse_doubles, retries_of, switch_off
from moorline.calls.adapters.requests import Adapter
from moorline.transport import AsyncTransport, Transport

SID = "AC00000000000000000000000000000000"


def session(**options: Any) -> requests.Session:
    made = requests.Session()
    made.mount("https://", HTTPAdapter(**options))
    return made


class Stainless:
    """What openai's and anthropic's clients have in common."""

    def __init__(self, max_retries: int) -> None:
        self.max_retries = max_retries


def twilio_client(**options: Any) -> Any:
    client = twilio.http.http_client.TwilioHttpClient(**options)
    return twilio.rest.Client(SID, "token", http_client=client)


def aws(**retries: Any) -> Any:
    return botocore.session.Session().create_client(
        "sqs", region_name="us-east-1", config=botocore.config.Config(retries=retries or None)
    )


@tenacity.retry(stop=tenacity.stop_after_attempt(3))
def persistent() -> None:
    """Retries by itself."""


RETRYING: list[tuple[str, Any, str]] = [
    ("requests", lambda: session(max_retries=3), "max_retries"),
    ("requests' Retry", lambda: session(max_retries=urllib3.Retry(total=None, connect=2)), "max_retries"),
    ("an adapter", lambda: HTTPAdapter(max_retries=2), "max_retries"),
    ("urllib3", lambda: urllib3.Retry(4), "retries=False"),
    ("urllib3's pools", lambda: urllib3.PoolManager(retries=4), "retries=False"),
    ("httpx", lambda: httpx.HTTPTransport(retries=2, verify=False), "retries"),
    ("httpx's client", lambda: httpx.Client(transport=httpx.HTTPTransport(retries=2, verify=False)), "retries"),
    ("stripe", lambda: stripe.StripeClient("sk_test_canary", max_network_retries=2), "max_network_retries=0"),
    ("stainless", lambda: Stainless(2), "max_retries=0"),
    ("botocore", aws, '{"total_max_attempts": 1, "mode": "standard"}'),
    ("twilio", lambda: twilio_client(max_retries=2), "http_client"),
    ("slack", slack_sdk.WebClient, "retry_handlers"),
    ("tenacity", lambda: persistent, "Policy(retry=None)"),
]
SINGLE: list[tuple[str, Any]] = [
    ("requests", requests.Session),
    ("our adapter", Adapter),
    ("urllib3", lambda: urllib3.Retry(0)),
    ("httpx", lambda: httpx.Client(transport=httpx.HTTPTransport(verify=False))),
    ("stripe", lambda: stripe.StripeClient("sk_test_canary", max_network_retries=0)),
    ("stainless", lambda: Stainless(0)),
    ("botocore", lambda: aws(max_attempts=0)),
    ("twilio", twilio_client),
    ("slack", lambda: slack_sdk.WebClient(retry_handlers=[])),
    ("a function", lambda: len),
]


@pytest.mark.parametrize(("make", "fix"), [each[1:] for each in RETRYING], ids=[each[0] for each in RETRYING])
def test_retries_of_others_are_found_and_refused(make, fix):
    """An SDK that retries by itself is refused with what to write instead, and no secret."""
    with pytest.raises(errors.ConfigurationError) as caught:
        refuse_doubles(make())
    assert fix in str(caught.value)
    assert "would multiply" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("make", [each[1] for each in SINGLE], ids=[each[0] for each in SINGLE])
def test_what_does_not_retry_is_left_alone(make):
    """A client whose own retries are off is fine."""
    assert doubles(make()) == []
    refuse_doubles(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: session(max_retries=3),
        lambda: stripe.StripeClient("sk_test_canary", max_network_retries=2),
        lambda: Stainless(2),
        lambda: slack_sdk.WebClient(retry_handlers=[RateLimitErrorRetryHandler()]),
    ],
    ids=["requests", "stripe", "stainless", "slack"],
)
def test_retries_are_switched_off_where_that_is_safe(make, caplog):
    """What is a setting read for each request is switched off, with a line that names it."""
    sdk = make()
    with caplog.at_level(logging.WARNING):
        assert len(switch_off(sdk, service="acme")) == 1
    assert doubles(sdk) == []
    assert any("double_retries_off" in record.getMessage() for record in caplog.records)
    assert switch_off(sdk) == []


def test_retries_that_only_their_owner_can_switch_off_are_refused():
    """The retries of botocore are wired up when the client is made."""
    with pytest.raises(errors.ConfigurationError, match="total_max_attempts"):
        switch_off(aws())


@pytest.mark.parametrize("kind", [httpx2.HTTPTransport, httpx2.AsyncHTTPTransport])
def test_a_wire_of_our_own_that_retries_is_refused(kind):
    """An httpx2 transport with retries of its own is no wire for a transport of ours, nor for a service."""
    wire = kind(retries=3, verify=False)
    ours: Any = Transport if kind is httpx2.HTTPTransport else AsyncTransport
    for make in (lambda: ours(wire=wire), lambda: Ledger("key", wire=wire)):
        with pytest.raises(errors.ConfigurationError, match=r"HTTPTransport\(retries=\.\.\.\) is 3.*leave retries out"):
            make()
    single = kind(verify=False)
    ours(wire=single)
    Ledger("key", wire=single)


async def test_aiohttp_retry_is_found():
    """A session that retries is refused."""
    async with aiohttp_retry.RetryClient() as client:
        with pytest.raises(errors.ConfigurationError, match="aiohttp"):
            refuse_doubles(client)


@pytest.mark.parametrize(
    ("retry", "count"),
    [
        (None, 0),
        (False, 0),
        (True, 0),
        (3, 3),
        (urllib3.Retry(False), 0),
        (urllib3.Retry(5, read=False), 5),
        (urllib3.Retry(total=None, status=2, connect=4), 4),
    ],
)
def test_urllib3s_numbers(retry, count):
    """However urllib3 is told, the number of repeats is known."""
    assert retries_of(retry) == count
