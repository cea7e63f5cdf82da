"""Keys that go in the address or the body, not in a header."""

from __future__ import annotations

import httpx2
import pytest

from moorline import errors
from moorline.calls.dialects import UnheadedKey, UserKey
from moorline.calls.guards import Guards
from moorline.calls.service import Endpoints, Exchange, Plan, Service, operation
from moorline.policies.policy import Policy
from moorline.secrets.secret import Secret

KEY = "in-the-address-0123456789"


class Addressed(Service):
    """A service that takes its key in the query."""

    name, category = "addressed", "tests"
    endpoints = Endpoints("https://addressed.example")
    credentials = UnheadedKey(env="ADDRESSED_KEY")

    def presented(self, key: Secret, url: str, body: bytes | None) -> tuple[str, bytes | None]:
        """The key as a parameter, and the body with a word more."""
        return f"{url}?key={key.reveal()}", (body or b"") + b"!"

    @operation
    def say(self) -> Plan[object]:
        """Say something."""
        return self.post("/say", content=b"hello", parse=_parsed, repeatable=True)


def _parsed(exchange: Exchange) -> object:
    return exchange.data


def test_each_attempt_presents_the_key_of_now():
    """Address and body are made for each attempt, with the key as it is then; the plan holds none."""
    keys = iter(["first-key-0123456789", "second-key-0123456789"])
    seen: list[tuple[str, bytes]] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append((str(request.url), request.read()))
        assert "authorization" not in request.headers
        return httpx2.Response(503 if len(seen) == 1 else 200, json={}, headers={"Retry-After": "0"})

    service = Addressed(lambda: next(keys), wire=httpx2.MockTransport(wire), guards=Guards())
    call = service.say()
    assert (call.plan.path, call.plan.content) == ("/say", b"hello")
    call.result()
    url = "https://addressed.example/say?key="
    assert seen == [(url + "first-key-0123456789", b"hello!"), (url + "second-key-0123456789", b"hello!")]


@pytest.mark.parametrize("raised", [httpx2.ConnectError, httpx2.ReadError, httpx2.ReadTimeout])
def test_no_error_shows_the_address_with_its_key(raised: type[httpx2.TransportError]):
    """Whatever the wire says of an address, the error shows no key."""

    def wire(request: httpx2.Request) -> httpx2.Response:
        raise raised(f"failed at {request.url}", request=request)

    service = Addressed(KEY, wire=httpx2.MockTransport(wire), guards=Guards(), policy=Policy(retry=None, breaker=None))
    with pytest.raises(errors.CallError) as caught:
        service.say().result()
    shown = [str(caught.value), repr(caught.value), str(caught.value.attempts), repr(service), repr(service.say())]
    assert not [one for one in shown if KEY in one]


def test_a_key_that_is_the_user():
    """The user of Basic authentication is the key, and the password is empty."""
    assert UserKey("X").headers(Secret("abc")) == {"Authorization": "Basic YWJjOg=="}
    with pytest.raises(errors.ConfigurationError, match="X cannot hold a colon"):
        UserKey("X").headers(Secret("a:b"))
