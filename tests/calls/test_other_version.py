"""A key that a service refuses: the call goes on with the other accepted version, once, loudly, and for a while."""

from __future__ import annotations

from typing import Any, ClassVar

import httpx2
import pytest
from tests.calls.ledger import Ledger, Script, both, run

from moorline import errors
from moorline.calls.dialects import BearerKey, Endpoints
from moorline.calls.guards import Guards
from moorline.calls.parameters import Parameter
from moorline.calls.service import Plan, operation
from moorline.calls.tokens import ClientCredentials, Grant, TokenService
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy
from moorline.secrets.locker import secrets

NEW, OLD = "new-key-0123456789", "old-key-0123456789"


class Bank:
    """Accepts some keys, and counts what it was asked with."""

    def __init__(self, *accepted: str, status: int = 401) -> None:
        self.accepted = set(accepted)
        self.status = status
        self.asked: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.asked.append(key)
        if key not in self.accepted:
            return httpx2.Response(self.status, json={"error": {"code": "key"}})
        return httpx2.Response(200, json={"id": "b_1"})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def ledger(bank: Bank, clock: ManualClock, **options: Any) -> Ledger:
    policy = Policy(retry=None, **options)
    return Ledger(wire=httpx2.MockTransport(bank), clock=clock, guards=Guards(clock), policy=policy)


@pytest.fixture(autouse=True)
def _two_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_KEY", f"{NEW},{OLD}")
    for version in secrets().versions("LEDGER_KEY"):  # as long as the variable is the same, so are these
        version.secret.tally = None


@both
def test_the_other_version_is_sent_once_and_then_for_a_while(colour, clock, caplog):
    """The first call pays twice, the next ones do not; after five minutes the first one is tried again."""
    bank = Bank(OLD)
    service = ledger(bank, clock)
    assert run(colour, service.book(5)) == {"id": "b_1"}
    assert bank.asked == [NEW, OLD]
    for _ in range(3):
        run(colour, service.read("x"))
    assert bank.asked == [NEW, OLD, OLD, OLD, OLD]
    assert caplog.text.count("key_refused") == 1
    assert "LEDGER_KEY" in caplog.text
    assert NEW not in caplog.text
    assert OLD not in caplog.text
    clock.advance(301)
    bank.accepted.add(NEW)
    run(colour, service.read("x"))
    run(colour, service.read("x"))
    assert bank.asked[-2:] == [NEW, NEW]


@both
def test_a_version_that_no_request_can_carry(colour, clock, caplog, monkeypatch):
    """It is not sent at all: the other one is, loudly, and the call is one request. Without another one it is an
    error that names the credential.
    """
    bank = Bank(OLD)
    service = ledger(bank, clock)
    monkeypatch.setenv("LEDGER_KEY", f"\ufeff{NEW},{OLD}")
    for version in secrets().versions("LEDGER_KEY"):
        version.secret.tally = None
    for _ in range(3):
        assert run(colour, service.book(5)) == {"id": "b_1"}
    assert bank.asked == [OLD, OLD, OLD]
    assert caplog.text.count("key_refused") == 1
    assert NEW not in caplog.text
    monkeypatch.setenv("LEDGER_KEY", f"\ufeff{NEW},\ufeff{OLD}")
    with pytest.raises(errors.ConfigurationError, match="LEDGER_KEY holds characters"):
        run(colour, service.read("x"))
    assert len(bank.asked) == 3


@both
def test_it_does_not_trip_the_breaker(colour, clock):
    """However many keys are refused: it is no failure of the service."""
    bank = Bank()
    service = ledger(bank, clock)
    for _ in range(8):
        with pytest.raises(errors.AuthenticationFailed):
            run(colour, service.read("x"))
    assert service.guards.snapshot()["ledger"]["breaker"] == "closed"
    # Once both were refused, each call asks once: it would change nothing to ask with the other one.
    assert bank.asked[:4] == [NEW, OLD, OLD, NEW]
    assert bank.asked[4:] == [NEW] * (len(bank.asked) - 4)
    assert len(bank.asked) == 4 + 6


@both
def test_a_right_that_only_the_new_key_lacks(colour, clock, caplog):
    """The old one is sent, once a call and loudly, and for a while; the breaker hears of no failure."""
    bank = Bank(OLD, status=403)
    service = ledger(bank, clock, breaker=Breaker(failures=1))
    for _ in range(3):
        assert run(colour, service.book(5)) == {"id": "b_1"}
    assert bank.asked == [NEW, OLD, OLD, OLD]
    assert caplog.text.count("key_refused") == 1
    assert NEW not in caplog.text
    clock.advance(301)
    bank.accepted = {NEW}
    assert run(colour, service.read("x")) == "b_1"
    assert bank.asked[4:] == [NEW]


@both
def test_a_right_that_both_keys_lack(colour, clock, caplog):
    """Says nothing of either: each call asks with the first one again, then once with the other, and is denied."""
    bank = Bank(status=403)
    service = ledger(bank, clock)
    for _ in range(2):
        with pytest.raises(errors.PermissionDenied):
            run(colour, service.book(5))
    assert bank.asked == [NEW, OLD, NEW, OLD]
    assert "key_refused" not in caplog.text


@both
def test_a_right_that_is_missing_to_the_only_key(colour, clock, monkeypatch):
    """Is a 403 at once; so it is to a key that was passed as an argument."""
    monkeypatch.setenv("LEDGER_KEY", NEW)
    for given in (None, NEW):
        bank = Bank(OLD, status=403)
        service = Ledger(given, wire=httpx2.MockTransport(bank), clock=clock, guards=Guards(clock))
        with pytest.raises(errors.PermissionDenied):
            run(colour, service.read("x"))
        assert bank.asked == [NEW]


@both
def test_given_keys_have_no_other_version(colour, clock):
    """A key that was passed as an argument is not replaced by one of the environment."""
    bank = Bank(OLD)
    service = Ledger(NEW, wire=httpx2.MockTransport(bank), clock=clock, guards=Guards(clock))
    with pytest.raises(errors.AuthenticationFailed):
        run(colour, service.read("x"))
    assert bank.asked == [NEW]


def test_uses_are_counted(clock):
    """What was accepted and refused stands in the tallies of the versions; a caller's fault is no fault of the key."""
    ledger(Bank(OLD), clock).read("x").result()
    new, old = (one.secret.tally for one in secrets().versions("LEDGER_KEY"))
    assert new is not None
    assert (new.refused, new.accepted, new.refused_at) == (1, 0, clock.wall())
    assert old is None  # nobody wants to know of it


class Tokened(TokenService):
    name, category = "tokened", "payments"
    endpoints = Endpoints("https://tokened.example")
    credentials = BearerKey(env="LEDGER_KEY")
    client_id = Parameter("TOKENED_CLIENT")
    tokens: ClassVar[Grant] = ClientCredentials("/oauth/token")

    @operation
    def read(self) -> Plan[Any]:
        return self.get("/thing", parse=lambda exchange: exchange.data)


@both
def test_a_client_secret_that_is_refused(colour, clock):
    """Where the key fetches a token, the place of tokens refuses it, and gets the other version."""
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/oauth/token":
            return httpx2.Response(200, json={"ok": True})
        asked.append(OLD if OLD in _shown(request) else NEW)
        if asked[-1] == NEW:
            return httpx2.Response(401, json={"error": "invalid_client"})
        return httpx2.Response(200, json={"access_token": "token-0123456789", "expires_in": 60})

    service = Tokened(client_id="c", wire=httpx2.MockTransport(answer), clock=clock, guards=Guards(clock))
    assert run(colour, service.read()) == {"ok": True}
    clock.advance(61)
    assert run(colour, service.read()) == {"ok": True}
    assert asked == [NEW, OLD, OLD]


def _shown(request: httpx2.Request) -> str:
    import base64

    given = request.headers.get("authorization", "").removeprefix("Basic ")
    return base64.b64decode(given).decode() + request.content.decode()


def test_scripts_of_others_are_left_alone(clock):
    """Without a second version a 401 is one request, as before."""
    script = Script(401)
    with pytest.raises(errors.AuthenticationFailed):
        Ledger("only", wire=httpx2.MockTransport(script), guards=Guards(clock)).read("x").result()
    assert len(script.requests) == 1
