"""Facts that hold for every service: the records are complete, faults are typed, random answers give typed errors only."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.services.conftest import Box, sandbox_key
from tests.services.recorder import token_answer

from moorline import errors, registry
from moorline.calls.guards import Guards
from moorline.calls.operations import Operation
from moorline.calls.parameters import parameters_of
from moorline.calls.service import Service
from moorline.events.verification import verify_each
from moorline.money import Money
from moorline.policies.policy import Policy
from moorline.sandbox.standin import Emission, Surroundings, registrations
from moorline.services.business.github import GitHub
from moorline.services.email.protocol import Email
from moorline.services.email.sendgrid import SendGrid
from moorline.services.payments.stripe import Stripe

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[[Any], Any]
EMAIL = Email("ada@example.com", "Hi", "x", sender="s@example.com")
SERVICES: list[Any] = [one for one in map(registry.service, registry.names()) if issubclass(one, Service)]
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "payments": ("create_payment", "get_payment", "capture_payment", "cancel_payment", "refund", "list_payments"),
    "email": ("send", "send_batch"),
    "sms": ("send",),
    "push": ("send", "send_many", "send_topic"),
    "analytics": ("track", "identify", "page", "screen", "group", "alias", "send_batch"),
    "monitoring": ("capture", "send_metrics", "send_logs", "send_events"),
    "business": (),
    "auth": ("verify_token", "get_user", "create_user", "update_user", "delete_user", "list_users"),
    "storage": (
        "put",
        "get",
        "get_range",
        "head",
        "list_objects",
        "delete",
        "delete_many",
        "copy",
        "upload",
        "download",
        "stream",
        "presign_get",
        "presign_put",
    ),
}
# The words of a category which in the base are makers of requests, for services alone: its users see the operations.
MAKERS = {"storage": {"get", "put", "delete"}}


def _calls(service: type[Service]) -> list[Callable[[Any], Any]]:
    """Calls of all its operations, from its own test file."""
    found: list[Callable[[Any], Any]] = importlib.import_module(f"tests.services.test_{service.name}").CALLS
    return found


def _made(service: type[Service], key: str, **options: Any) -> Any:
    given: dict[str, Any] = {name: one.sandbox or None for name, one in parameters_of(service).items()}
    return service(key, **given, **options)


def _operations(service: type[Service]) -> set[str]:
    """The names of its operations, those of its own bases included."""
    own = [kind for kind in service.__mro__ if kind.__module__.startswith("moorline.services.")]
    members = {name: one for kind in own for name, one in vars(kind).items()}
    return {name for name, one in members.items() if isinstance(getattr(one, "operation", None), Operation)}


CALLS = [(service, make) for service in SERVICES for make in _calls(service)]
WITH_EVENTS = [one for one in SERVICES if one.webhooks is not None and one.category in PROTOCOLS]
EVENTS = [(one, event) for one in WITH_EVENTS for event in registrations()[one.name].events]


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
def test_the_record_is_complete(service: type[Service]):
    """A service names its facts, has a health check and a stand-in, and no operation hides a part of the base."""
    assert service.docs
    assert all(fact.strip() in (service.__doc__ or "") for fact in service.docs.split(","))
    assert service.credentials.env.isupper() or service.oauth is not None, "without a key of its own: of whose account?"
    assert service.credentials.sandbox
    assert service.name in registrations()
    operations = _operations(service)
    assert "check" in operations
    assert not operations & set(dir(Service)) - MAKERS.get(service.category, set())
    for name in operations:
        assert (getattr(service, name).__doc__ or "").strip(), name
    for name in PROTOCOLS.get(service.category, ()):
        assert name in service.lacks or callable(getattr(service, name, None)), f"{name}, or why it is lacking"
    assert not any(hasattr(service, name) for name in service.lacks if name != "webhooks")
    if service.category in PROTOCOLS:
        assert (service.webhooks is None) is ("webhooks" in service.lacks)
        assert service.webhooks is None or hasattr(service, "read_event")
        assert len(service.usage.strip().splitlines()) >= 3, "usage: three lines that can be run"


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
def test_every_operation_is_called(service: type[Service]):
    """The service's own tests name a Call of each operation, for the tests of this file."""
    mine = _made(service, sandbox_key(service, "https://sandbox.example"))
    made = {getattr(make(mine), "operation", "request") for make in _calls(service)}
    assert made >= {name.lstrip("_") for name in _operations(service)}


@pytest.mark.parametrize("service", [one for one in SERVICES if one.usage], ids=lambda one: one.name)
def test_its_usage_runs(service: type[Service], served: str, box: Box, monkeypatch: pytest.MonkeyPatch):
    """The lines that its page shows run as they stand, against the sandbox."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", served)
    for name in (service.credentials.env, *(one.env for one in parameters_of(service).values())):
        monkeypatch.delenv(name, raising=False)
    exec(compile(service.usage, f"usage of {service.name}", "exec"), {"print": lambda *_: None})
    assert [entry for entry in box.seen() if entry["service"] == service.name]


@pytest.mark.parametrize("service", WITH_EVENTS, ids=lambda one: one.name)
def test_its_stand_in_sends_events(service: type[Service]):
    """The stand-in sends some by itself, and signs them."""
    record = registrations()[service.name]
    assert record.events
    assert record.secret


@pytest.mark.parametrize(("service", "event"), EVENTS, ids=lambda one: getattr(one, "name", one))
def test_events_are_signed_and_read(service: type[Any], event: str, served: str, monkeypatch: pytest.MonkeyPatch):
    """What the stand-in sends is accepted by the service's scheme and read into the words of its category; signed
    wrongly it is refused.
    """
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", served)  # where certificates are fetched
    record = registrations()[service.name]
    stand_in = record.make(Surroundings())
    emission = Emission(event, stand_in.sample(event), "0198c0de-0000-7000-8000-000000000001")
    url = f"https://shop.example/webhooks/{service.name}"
    secret = record.secret or ""

    def received(*, broken: bool) -> Sequence[Any]:
        signed = stand_in.sign(emission, url=url, secrets=(secret,), hook_id="7", broken=broken)
        body = emission.body if signed.body is None else signed.body
        return verify_each(service, headers=signed.headers, body=body, secrets=secret, url=signed.url or url)

    events = received(broken=False)
    assert events
    for one in events:
        read = service.read_event(one)
        assert read is not None, f"{one.type} has no common meaning"
        assert read.raw
    with pytest.raises(errors.InvalidSignature):
        received(broken=True)


@pytest.mark.contracts
@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
def test_the_facts_exist(service: type[Service], contracts_dir: Path):
    """The card and the contract that a service names are there."""
    for fact in service.docs.split(", "):
        folder = contracts_dir if fact.endswith(".json") else contracts_dir.parent
        assert (folder / fact).is_file(), fact


def test_the_stub_is_current():
    """``__init__.pyi`` says what the folder says."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "services.py", "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_table_names_every_operation():
    """The printed table has a line for each service with its operations."""
    spec = importlib.util.spec_from_file_location("services_script", ROOT / "scripts" / "services.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    table = script.table()
    assert all(
        word in table
        for word in ("Stripe", "`create_payment`", "`list_repositories`", "`send`", "STRIPE_WEBHOOK_SECRET")
    )


def test_importing_one_service_loads_no_other():
    """``from moorline.services import Stripe`` loads neither the other services nor an HTTP library; names are listed."""
    code = (
        "import sys; from moorline.services import Stripe; import moorline.services as s;"
        "bad = [m for m in sys.modules if m.startswith(('moorline.services.email', 'moorline.services.business', "
        "'httpx2', 'sqlalchemy', 'starlette', 'pydantic.'))]; assert not bad, bad;"
        "assert {'Stripe', 'SendGrid', 'GitHub'} <= set(dir(s));"
        "assert not hasattr(s, 'PayPol')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "status", "status": 500}, errors.ServiceUnavailable),
        ({"kind": "status", "status": 503, "retry_after": 9}, errors.ServiceUnavailable),
        ({"kind": "status", "status": 429, "retry_after": 9}, errors.RateLimited),
        ({"kind": "dropped"}, errors.ConnectionLost),
        ({"kind": "truncated"}, errors.BadAnswer),
        ({"kind": "malformed"}, errors.BadAnswer),
        ({"kind": "latency", "seconds": 2}, errors.AttemptTimeout),
    ],
    ids=lambda value: value.get("kind", "") + str(value.get("status", "")) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("kind_of_service", [Stripe, GitHub], ids=["stripe", "github"])
def test_every_fault_is_a_typed_error(
    box: Box,
    run: Run,
    impatient: Policy,
    kind_of_service: type[Any],
    fault: dict[str, Any],
    kind: type[errors.CallError],
):
    """Each kind of fault on a read comes as its own type, with service, operation, attempts and, if named, retry_at."""
    box.arm(**fault)
    with pytest.raises(kind) as caught:
        run(box.service(kind_of_service, policy=impatient).check())
    error = caught.value
    assert (error.service, error.operation, len(error.attempts)) == (kind_of_service.name, "check", 1)
    assert (error.retry_at is not None) is ("retry_after" in fault)


@pytest.mark.parametrize(
    "fault",
    [{"kind": "dropped"}, {"kind": "latency", "seconds": 2}],
    ids=lambda one: one["kind"],
)
def test_unanswered_writes_are_unknown(box: Box, run: Run, impatient: Policy, fault: dict[str, Any]):
    """A write without an answer is OutcomeUnknown; with an idempotency key it says that it may be sent again."""
    box.arm(**fault)
    with pytest.raises(errors.OutcomeUnknown) as keyless:
        run(box.service(SendGrid, policy=impatient).send(EMAIL))
    assert keyless.value.retryable is False
    box.arm(**fault)
    with pytest.raises(errors.OutcomeUnknown) as keyed:
        run(box.service(Stripe, policy=impatient).create_payment(Money(500, "eur")))
    assert (keyed.value.retryable, bool(keyed.value.idempotency_key)) == (True, True)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@cache
def _body(module: str) -> st.SearchStrategy[bytes]:
    """Bytes, JSON, and JSON with the words that the service's own file has, whole and cut off."""
    source = inspect.getsource(sys.modules[module])
    words = sorted(set(re.findall(r'"([A-Za-z][\w.:-]{1,40})"', source)))
    shaped = st.dictionaries(st.sampled_from(words), _json | st.sampled_from([*words, "eur", "EUR"]), max_size=12)
    nested = st.dictionaries(st.sampled_from(words), shaped | st.lists(shaped, max_size=2), max_size=6)
    value = _json | shaped | nested | st.lists(shaped, max_size=3)
    whole = (
        value.map(lambda one: json.dumps(one).encode())
        | st.binary(max_size=60)
        | st.just(b"[" * 100_000)
        | st.just(b'{"amount":' + b"9" * 5000 + b"}")
    )
    return whole | st.tuples(whole, st.floats(0, 1)).map(lambda one: one[0][: int(len(one[0]) * one[1])])


_headers = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "Link", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Request-Id", "Location", "ETag"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    max_size=3,
)


# A service's operations read with the same functions: 25 for each of them are hundreds for each service.
@settings(max_examples=1000 if os.environ.get("MOORLINE_TEST_FULL") else 25)
@given(status=st.sampled_from([200, 201]) | st.integers(200, 599), data=st.data(), headers=_headers)
@pytest.mark.parametrize(("kind", "make"), CALLS)
def test_random_answers_give_typed_errors_only(
    kind: type[Service], make: Callable[[Any], Any], status: int, data: st.DataObject, headers: dict[str, str]
):
    """Whatever status, headers and bytes come back, there is a value or one of our errors that names its service."""
    body = data.draw(_body(kind.__module__))
    # A redirect to somewhere else is followed into the same answer, five times at most.
    wire = httpx2.MockTransport(
        lambda request: token_answer(request) or httpx2.Response(status, content=body, headers=headers)
    )
    key = sandbox_key(kind, "https://sandbox.example")
    service = _made(kind, key, wire=wire, guards=Guards(), policy=Policy(retry=None, breaker=None))
    try:
        make(service).result()
    except errors.CallError as error:
        assert error.service == kind.name  # noqa: PT017 - most answers raise, some do not
        assert str(error).isprintable()  # noqa: PT017


def test_health_checks_run_on_a_loop(box: Box):
    """All health checks together on one event loop."""

    async def all_of_them() -> list[bool]:
        return list(await asyncio.gather(*(_awaited(box.service(one).check()) for one in SERVICES)))

    async def _awaited(call: Any) -> Any:
        return await call

    assert asyncio.run(all_of_them()) == [True] * len(SERVICES)
