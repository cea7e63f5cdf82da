"""Parts of a service that it closes for a while (Sentry's ``X-Sentry-Rate-Limits``): read, and kept per part."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import errors
from moorline.calls.dialects import BearerKey, Closings, Endpoints, RateLimitHeaders
from moorline.calls.exchange import Exchange, Plan
from moorline.calls.guards import Guards
from moorline.calls.operations import operation
from moorline.calls.service import Service
from moorline.calls.shared_guard import SharedGuard
from moorline.errors import ConfigurationError
from moorline.policies.allowance import Reading
from moorline.policies.breaker import Terms
from moorline.policies.gate import Gate
from moorline.policies.policy import Policy

HEADER = "X-Sentry-Rate-Limits"
PARTS = {"error": "error", "default": "error", "transaction": "transaction", "log_item": "log_item"}
LIMITS = RateLimitHeaders(apart=True, closings=Closings(HEADER, PARTS))


def answer(status: int = 200, **headers: str) -> Exchange:
    return Exchange(status, {name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ("60:transaction:key, 2700:default;error;security:organization", {"transaction": 60, "error": 2700}),
        ("60::organization", {"": 60}),
        ("60:", {"": 60}),
        ("2.5:error", {"error": 2.5}),
        ("60:security;unheard_of:key", {}),
        ("60:unheard_of;error:key:reason:ns1;ns2", {"error": 60}),
        ("60:error,120:error,30:error", {"error": 120}),
        ("60", {}),
        ("-1:error", {}),
        ("soon:error,,:", {}),
        (" 7 : error ; log_item : key ", {"error": 7, "log_item": 7}),
        ("1" * 2000, {}),
        ("", {}),
    ],
)
def test_the_field_is_read(said: str, closed: dict[str, float]):
    """Seconds and known parts count, no part is all, unknown parts alone close nothing, the longer of two holds."""
    record = LIMITS.closings
    assert record is not None
    assert record.read(said) == closed


@given(st.text(max_size=200))
def test_no_field_raises(said: str):
    """Whatever stands there, what is read is seconds of known parts."""
    readings = LIMITS.readings(answer(x_sentry_rate_limits=said), 0.0)
    assert all(one.sound and one.closed and one.bucket in {"", *PARTS.values()} for one in readings)


@pytest.mark.parametrize(
    ("status", "headers", "bucket", "wait"),
    [
        (429, {"x_sentry_rate_limits": "7:error", "retry_after": "99"}, "error", 7),
        (429, {"x_sentry_rate_limits": "7:error", "retry_after": "99"}, "log_item", None),
        (429, {"x_sentry_rate_limits": "7:error,30:"}, "error", 30),
        (429, {"retry_after": "99"}, "error", 99),
        (429, {}, "error", 60),
        (503, {"retry_after": "9"}, "error", 9),
        (503, {}, "error", None),
        (200, {}, "error", None),
    ],
)
def test_what_a_part_has_to_wait(status: int, headers: dict[str, str], bucket: str, wait: float | None):
    """The field wins over Retry-After; without it a 429 closes all, for a minute where it names no time."""
    assert LIMITS.asked_wait(answer(status, **headers), 0.0, bucket) == wait
    assert LIMITS.named_wait(answer(status, **headers), 0.0, bucket) == wait
    assert LIMITS.readings(answer(200), 0.0) == ()


def test_a_gate_keeps_parts_apart():
    """A closed part waits, the others pass; what closes all holds for every part; a shorter word shortens nothing."""
    now = [100.0]
    gate = Gate(lambda: now[0], apart=True)
    gate.heed([Reading(0, None, 60, None, "error", closed=True)])
    gate.heed([Reading(0, None, 10, None, "error", closed=True)])
    assert gate.take(1, operation="error").wait == 60
    assert gate.take(1, operation="log_item").ok
    gate.heed([Reading(0, None, 5, None, "", closed=True)])
    assert gate.take(1, operation="log_item").wait == 5
    now[0] += 60
    assert gate.take(1, operation="error").wait == 0


class _Parted(Service):
    name, category = "parted", "monitoring"
    endpoints = Endpoints(
        "https://a.example",
        regions={"eu": "https://a.eu.example"},
        hosts={"logs": Endpoints("https://logs.example", regions={"eu": "https://logs.eu.example"})},
    )
    credentials = BearerKey(env="PARTED_KEY", sandbox="k")
    limits = LIMITS

    @operation
    def fail(self) -> Plan[Any]:
        """An error."""
        return self.post("/errors", json={}, bucket="error", parse=lambda one: one.data)

    @operation
    def log(self) -> Plan[Any]:
        """A log."""
        return self.post("/logs", json={}, bucket="log_item", parse=lambda one: one.data)

    @operation
    def far(self) -> Plan[Any]:
        """A log, at the other address."""
        return self.post("/logs", json={}, host="logs", parse=lambda one: one.data)


@pytest.mark.parametrize("status", [200, 429])
def test_a_service_stops_for_the_closed_part_alone(status: int):
    """Answered 200 or 429: calls of the closed part are refused unsent until the time is over, the others go on."""
    sent: list[str] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        said = {HEADER: "60:error:key"} if request.url.path == "/errors" else {}
        return httpx2.Response(status if said else 200, json={}, headers=said)

    service = _Parted("k", wire=httpx2.MockTransport(wire), guards=Guards(), policy=Policy(deadline=5))
    if status == 200:
        service.fail().result()
    else:
        with pytest.raises(errors.RateLimited):
            service.fail().result()
    with pytest.raises(errors.RateLimited) as caught:
        service.fail().result()
    assert (caught.value.outcome, caught.value.retry_at is not None) == ("not_sent", True)
    service.log().result()
    service.log().result()
    assert sent == ["/errors", "/logs", "/logs"]


def test_a_service_with_several_addresses(monkeypatch: pytest.MonkeyPatch):
    """A Plan's host is one of the service's addresses in its region; a base URL and the sandbox stand for all."""
    seen: list[str] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={})

    def asked(**options: Any) -> str:
        service = _Parted("k", wire=httpx2.MockTransport(wire), guards=Guards(), **options)
        service.far().result()
        return seen[-1]

    assert asked() == "https://logs.example/logs"
    assert asked(region="eu") == "https://logs.eu.example/logs"
    assert asked(base_url="https://b.example") == "https://b.example/logs"
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", "http://127.0.0.1:9")
    assert asked() == "http://127.0.0.1:9/parted/logs"
    with pytest.raises(ConfigurationError, match=r"hosts\['logs'\]"):
        Endpoints(
            "https://a.example", regions={"eu": "https://b.example"}, hosts={"logs": Endpoints("https://c.example")}
        )


def test_the_breaker_of_one_address_is_not_that_of_another():
    """An intake that is down does not stop what goes elsewhere."""

    def wire(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(500 if request.url.host == "logs.example" else 200, json={})

    service = _Parted("k", wire=httpx2.MockTransport(wire), guards=Guards(), policy=Policy(retry=None))
    for _ in range(6):
        with pytest.raises(errors.ServiceFault):
            service.far().result()
    with pytest.raises(errors.CircuitOpen):
        service.far().result()
    service.log().result()


def test_other_processes_are_told_of_each_closed_part():
    """Each with its lane and its seconds, and not as a limit that is counted."""
    told: list[dict[str, Any]] = []

    class Store:
        def tell(self, message: dict[str, Any]) -> None:
            told.append(message)

    store: Any = Store()
    shared = SharedGuard(store, "parted", None, Terms(), (), None)
    gate = Gate(lambda: 0.0, apart=True)
    shared.heard(gate, "error", LIMITS.readings(answer(x_sentry_rate_limits="60:error,5:"), 0.0), 0.0)
    assert [(one["do"], one["lane"], one["close"], one["readings"]) for one in told] == [
        ("heard", "error", 60.0, []),
        ("heard", "", 5.0, []),
    ]
