from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder
from vonage_http_client.auth import Auth  # type: ignore[import-untyped]

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.events.event import Event
from moorline.sandbox.services.vonage_sms import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.sms.protocol import SMS, InboundSMS, SMSEvent, SMSStatus
from moorline.services.sms.vonage_sms import VonageSMS

Run = Callable[[Any], Any]
FROM, TO = "Moorline", "+447700900000"
CALLS: list[Callable[[VonageSMS], Any]] = [
    lambda s: s.send(SMS(TO, "Hi", FROM)),
    lambda s: s.check(),
    lambda s: s.mint_key("moorline"),
    lambda s: s.revoke_key("abc"),
]


def _answer(*parts: dict[str, str]) -> bytes:
    return json.dumps({"message-count": str(len(parts)), "messages": list(parts)}).encode()


def test_send(box: Box, run: Run):
    """A message is taken, and later delivered; its text arrives as it was written, whatever letters it has."""
    sent = run(box.service(VonageSMS).send(SMS(TO, "Grüße ⚓ & more", FROM, reference="order-1"), ttl=600))
    assert (sent.status, sent.vendor_status, sent.to) == (SMSStatus.QUEUED, "0", TO)
    assert (sent.segments, sent.price) == (1, "0.03330000")
    kept = box.state("vonage_sms")["messages"][sent.id]
    assert (kept["to"], kept["text"], kept["type"], kept["ttl"]) == (TO[1:], "Grüße ⚓ & more", "unicode", "600000")
    assert (kept["client-ref"], kept["delivery"]) == ("order-1", "delivered")


def test_a_long_text_is_several_messages(box: Box, run: Run):
    """Each has an id and a price; the first id and the sum are told."""
    sent = run(box.service(VonageSMS).send(SMS(TO, "x" * 307, FROM)))
    assert (sent.segments, sent.price) == (3, "0.09990000")
    assert list(box.state("vonage_sms")["messages"]) == [one["message-id"] for one in sent.raw["messages"]]
    assert sent.id == sent.raw["messages"][0]["message-id"]


def test_a_part_that_is_missing(box: Box, run: Run):
    """Some parts were sent and others not: it is not sent again, and not called sent, though the status is throttled."""
    with pytest.raises(errors.OutcomeUnknown, match=r"1 of 2 parts.*Throttled") as caught:
        run(box.service(VonageSMS).send(SMS("+447700900097", "x" * 200, FROM)))
    error = caught.value
    assert (error.code, error.status, error.retryable, error.outcome) == ("1", 200, False, "unknown")
    assert [one["status"] for one in error.detail["messages"]] == ["0", "1"]
    assert len(box.state("vonage_sms")["messages"]) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("1", errors.RateLimited),
        ("2", errors.InvalidRequest),
        ("3", errors.InvalidRequest),
        ("4", errors.AuthenticationFailed),
        ("5", errors.ServiceUnavailable),
        ("6", errors.InvalidRequest),
        ("7", errors.InvalidRequest),
        ("8", errors.PermissionDenied),
        ("9", errors.PermissionDenied),
        ("10", errors.RateLimited),
        ("11", errors.PermissionDenied),
        ("12", errors.InvalidRequest),
        ("14", errors.AuthenticationFailed),
        ("15", errors.InvalidRequest),
        ("22", errors.InvalidRequest),
        ("29", errors.PermissionDenied),
    ],
)
def test_statuses(box: Box, impatient: Any, status: str, kind: type[errors.CallError]):
    """Each documented status comes as its own type, with Vonage's words, although the answer was 200."""
    with pytest.raises(kind) as caught:
        box.service(VonageSMS, policy=impatient).send(SMS(f"+4477009009{status:0>2}", "x" * 200, FROM)).result()
    assert (type(caught.value), caught.value.code, caught.value.status) == (kind, status, 200)
    assert not caught.value.message.startswith("answered")
    assert box.state("vonage_sms")["messages"] == {}


def test_throttled_messages_are_repeated():
    """Status 1 says that nothing was done: the message is sent again."""
    recorder = Recorder(200, _answer({"status": "1", "error-text": "Throttled"}, {"status": "1"}))
    guards, wire = Guards(clock=ManualClock()), httpx2.MockTransport(recorder)
    with pytest.raises(errors.RateLimited):
        VonageSMS("s-1", account_key="abcd1234", wire=wire, guards=guards).send(SMS(TO, "x" * 200, FROM)).result()
    assert len(recorder.requests) > 1
    partly = _answer({"status": "0", "message-id": "1"}, {"status": "1", "error-text": "Throttled"})
    recorder = Recorder(200, partly)
    with pytest.raises(errors.OutcomeUnknown):
        recorder.service(VonageSMS).send(SMS(TO, "x" * 200, FROM)).result()
    assert len(recorder.requests) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"message-count": "0", "messages": []}', errors.BadAnswer),
        (b'{"messages": [{"status": "0"}]}', errors.BadAnswer),
        (b'{"messages": ["0"]}', errors.BadAnswer),
        (b"{}", errors.BadAnswer),
    ],
)
def test_answers_that_say_nothing(body: bytes, kind: type[errors.CallError]):
    """An answer without a message or its id is not called sent."""
    with pytest.raises(kind):
        Recorder(200, body).service(VonageSMS).send(SMS(TO, "Hi", FROM)).result()


def test_credentials(box: Box, run: Run):
    """The pair is the one that the official package writes; a wrong one is AuthenticationFailed, by 200 and by 401."""
    assert run(box.service(VonageSMS).check()) is True
    wrong = box.service(VonageSMS, "wrong-Secret-0123456789")
    for call, code in ((wrong.check(), "401"), (wrong.send(SMS(TO, "Hi", FROM)), "4")):
        with pytest.raises(errors.AuthenticationFailed) as caught:
            run(call)
        assert caught.value.code == code
    recorder = Recorder(200, b'{"value": 1.0}')
    recorder.service(VonageSMS, key="s:cret-0123456789").check().result()
    [request] = recorder.requests
    assert (request.url.host, request.url.path) == ("rest.nexmo.com", "/account/get-balance")
    theirs = Auth(api_key="abcd1234", api_secret="s:cret-0123456789").create_basic_auth_string()
    assert request.headers["authorization"] == theirs


def test_a_lost_answer_is_unknown(box: Box, run: Run):
    """There are no keys: a message whose answer was lost is not sent again, and was sent."""
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(VonageSMS).send(SMS(TO, "Hi", FROM)))
    assert (caught.value.retryable, len(caught.value.attempts)) == (False, 1)
    assert len(box.state("vonage_sms")["messages"]) == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(SMS(TO, "x", FROM, reference="r" * 101)), "reference"),
        (lambda s: s.send(SMS(TO, "x", FROM, callback="https://a.example/" + "x" * 90)), "callback"),
        (lambda s: s.send(SMS(TO, "x", FROM), ttl=19), "ttl"),
        (lambda s: s.send(SMS(TO, "x", FROM), ttl=604_801), "ttl"),
        (lambda s: s.send(SMS(TO, "x")), "sender"),
    ],
)
def test_limits_are_checked_before_sending(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[VonageSMS], Any], field: str
):
    """What Vonage documents is checked before anything is sent, by name."""
    monkeypatch.delenv("VONAGE_SENDER", raising=False)
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(VonageSMS, sender=None))
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda s: s.send(SMS(TO, "x€" * 100, "+447700900001")), "text"),
        (
            lambda s: s.send(
                SMS(TO, "Hi ⚓", FROM, callback="https://shop.example/x", reference="r" * 100),
                ttl=604_800,
                **{"entity-id": "1", "status-report-req": True},
            ),
            "unicode",
        ),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Any], Any], kind: str):
    """Every form that we build is valid by vonage.json, but for the key, which is in the header (vonage-sms 1.2)."""
    recorder = Recorder(200, _answer({"status": "0", "message-id": "1"}))
    make(recorder.service(VonageSMS)).result()
    [request] = recorder.requests
    form = {name: one[0] for name, one in parse_qs(request.content.decode(), True).items()}
    assert (form["type"], "api_secret" in form) == (kind, False)
    numbers = {name: int(form[name]) for name in ("ttl",) if name in form}
    flags = {name: form[name] == "true" for name in ("status-report-req",) if name in form}
    contract = Contract(contracts_dir, "vonage")
    value = {**form, **numbers, **flags, "api_key": "abcd1234"}
    assert contract.problems(contract.component("NewMessage"), value) == []
    assert request.url.path == "/sms/json"


def test_answers_and_webhooks_fit_the_contract(box: Box, contracts_dir: Path):
    """What the stand-in says is valid by vonage.json."""
    contract = Contract(contracts_dir, "vonage")
    vonage = box.service(VonageSMS)
    sent = vonage.send(SMS(TO, "x" * 200, FROM, reference="order-1")).result()
    assert contract.problems(contract.component("SMS"), sent.raw) == []
    with pytest.raises(errors.InvalidRequest) as caught:
        vonage.send(SMS(TO, "Hi", FROM), surprise=1).result()
    assert contract.problems(contract.component("Error"), caught.value.detail) == []
    stand_in = STAND_IN.make(Surroundings())
    for event in STAND_IN.events:
        shape = "InboundMessage" if event == "received" else "DeliveryReceipt"
        told = dict(parse_qsl(stand_in.sample(event).decode(), strict_parsing=True))
        assert contract.problems(contract.component(shape), told) == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in."""
    service = box.service(VonageSMS)
    extra: dict[str, Any] = {"entity-id": "1"}
    call = service.send(SMS(TO, "Hi", FROM, callback="https://x.example/"), ttl=30, **extra)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: service)
    sent = again.result()
    kept = box.state("vonage_sms")["messages"][sent.id]
    assert (kept["callback"], kept["ttl"], kept["entity-id"]) == ("https://x.example/", "30000", "1")


def _event(kind: str = "form", **fields: str) -> Event:
    told = {"messageId": "0A0000001234567B", "msisdn": "447700900000", "api-key": "abcd1234"}
    told |= {"message-timestamp": "2026-11-20 10:00:00", **fields}
    if kind == "json":
        return Event("vonage_sms", "1", "x", json.dumps(told).encode(), {"content-type": "application/json"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return Event("vonage_sms", "1", "x", urlencode(told).encode(), headers)


@pytest.mark.parametrize("kind", ["form", "json"])
def test_events(kind: str):
    """The recipient of a receipt is its msisdn, the sender of an inbound message is."""
    receipt: dict[str, str] = {"to": "AcmeInc", "price": "0.0333", "scts": "2001011400", "client-ref": "a&b=c"}
    for status, code, expected, permanent in [
        ("delivered", "0", SMSStatus.DELIVERED, None),
        ("accepted", "0", SMSStatus.SENT, None),
        ("buffered", "0", SMSStatus.SENT, None),
        ("failed", "3", SMSStatus.UNDELIVERED, True),
        ("rejected", "6", SMSStatus.UNDELIVERED, None),
        ("expired", "7", SMSStatus.UNDELIVERED, False),
        ("something_new", "99", SMSStatus.UNKNOWN, None),
    ]:
        read = VonageSMS.read_event(_event(kind, **receipt, **{"status": status, "err-code": code}))
        assert isinstance(read, SMSEvent)
        assert (read.status, read.vendor_status, read.to, read.reference) == (expected, status, TO, "a&b=c")
        assert (read.error_code, read.permanent) == (None if code == "0" else code, permanent)
        assert read.at is not None
        assert read.at.isoformat() == "2026-11-20T10:00:00+00:00"
    inbound = VonageSMS.read_event(_event(kind, to="60777", text="STOP ☕", type="unicode", keyword="STOP"))
    assert isinstance(inbound, InboundSMS)
    assert (inbound.sender, inbound.to, inbound.text) == (TO, "60777", "STOP ☕")


def test_there_is_no_message_to_look_at():
    """Message Search is about to go."""
    with pytest.raises(AttributeError, match="receipts"):
        Recorder().service(VonageSMS).get_message("x")


def test_webhooks_are_signed_as_vonage_does():
    """Vonage's own package takes what the stand-in signs."""
    stand_in = STAND_IN.make(Surroundings())
    emission = Emission("delivered", stand_in.sample("delivered"), "1")
    signed = stand_in.sign(emission, url="https://x.example/", secrets=("sha512:s3cret",), hook_id="", broken=False)
    assert signed.body is not None
    fields = dict(parse_qsl(signed.body.decode(), strict_parsing=True))
    auth = Auth(api_key="abcd1234", signature_secret="s3cret", signature_method="sha512")
    assert auth.check_signature(dict(fields))
    assert not auth.check_signature({**fields, "status": "failed"})
