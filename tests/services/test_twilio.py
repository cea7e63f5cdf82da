from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder
from twilio.request_validator import RequestValidator

from moorline import errors
from moorline.calls.call import Call
from moorline.events.event import Event
from moorline.sandbox.services.twilio import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.sms.protocol import SMS, InboundSMS, SMSEvent, SMSStatus
from moorline.services.sms.twilio import Twilio

Run = Callable[[Any], Any]
FROM, TO = "+15005550006", "+14155552671"
LATER = datetime.now(UTC) + timedelta(hours=1)
CALLS: list[Callable[[Twilio], Any]] = [
    lambda s: s.send(SMS(TO, "Hi", FROM)),
    lambda s: s.get_message("SM1"),
    lambda s: s.cancel_message("SM1"),
    lambda s: s.redact_message("SM1"),
    lambda s: s.delete_message("SM1"),
    lambda s: s.list_messages().page(),
    lambda s: s.check(),
]


def test_send_and_look(box: Box, run: Run):
    """A message is queued at first and delivered later; its text arrives as it was written."""
    twilio = box.service(Twilio)
    sent = run(twilio.send(SMS(TO, "Grüße ⚓ & more", FROM)))
    assert (sent.status, sent.vendor_status, sent.to, sent.segments) == (SMSStatus.QUEUED, "queued", TO, 1)
    found = run(twilio.get_message(sent.id))
    assert (found.id, found.status, found.raw["body"]) == (sent.id, SMSStatus.DELIVERED, "Grüße ⚓ & more")


def test_the_sender_may_be_the_services(box: Box, run: Run, monkeypatch: pytest.MonkeyPatch):
    """Without one in the message it is TWILIO_SENDER's; ``MG…`` is a Messaging Service; with neither it is refused."""
    service = "MG" + "0" * 32
    sent = run(box.service(Twilio, sender=service).send(SMS(TO, "Hi")))
    assert (sent.vendor_status, sent.raw["from"], sent.raw["messaging_service_sid"]) == ("accepted", None, service)
    assert run(box.service(Twilio).send(SMS(TO, "Hi"))).raw["from"] == FROM
    monkeypatch.delenv("TWILIO_SENDER", raising=False)
    with pytest.raises(errors.InvalidRequest, match=r"^sender"):
        Recorder().service(Twilio, sender=None).send(SMS(TO, "Hi"))


def test_scheduled_and_forgotten(box: Box, run: Run):
    """What is scheduled can be given up, what was sent cannot; texts and whole messages can be forgotten."""
    twilio = box.service(Twilio)
    sent = run(twilio.send(SMS(TO, "Hi", "MG" + "0" * 32), send_at=LATER))
    assert sent.vendor_status == "scheduled"
    assert run(twilio.cancel_message(sent.id)).status is SMSStatus.CANCELED
    other = run(twilio.send(SMS(TO, "secret", FROM)))
    with pytest.raises(errors.InvalidRequest):
        run(twilio.cancel_message(other.id))
    assert run(twilio.redact_message(other.id)).raw["body"] == ""
    assert run(twilio.delete_message(other.id)) is None
    with pytest.raises(errors.NotFound):
        run(twilio.get_message(other.id))


def test_listing(box: Box, run: Run):
    """Newest first, page by page, by recipient."""
    twilio = box.service(Twilio)
    sent = [run(twilio.send(SMS(TO, str(number), FROM))).id for number in range(5)]
    run(twilio.send(SMS("+447700900000", "other", FROM)))
    assert [one.id for one in twilio.list_messages(to=TO, page_size=2)] == sent[::-1]
    assert len(list(twilio.list_messages())) == 6


@pytest.mark.parametrize(
    ("to", "sender", "code", "kind"),
    [
        ("+15005550001", FROM, "21211", errors.InvalidRequest),
        ("+15005550002", FROM, "21612", errors.InvalidRequest),
        ("+15005550003", FROM, "21408", errors.InvalidRequest),
        ("+15005550004", FROM, "21610", errors.InvalidRequest),
        ("+15005550009", FROM, "21614", errors.InvalidRequest),
        (TO, "+15005550001", "21212", errors.InvalidRequest),
        (TO, "+15005550007", "21606", errors.InvalidRequest),
        (TO, "+15005550008", "21611", errors.RateLimited),
    ],
)
def test_magic_numbers(
    box: Box, run: Run, impatient: Any, to: str, sender: str, code: str, kind: type[errors.CallError]
):
    """Twilio's test numbers lead to the errors that its pages name, and nothing was sent."""
    with pytest.raises(kind) as caught:
        run(box.service(Twilio, policy=impatient).send(SMS(to, "Hi", sender)))
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert box.state("twilio")["messages"] == {}


def test_credentials(box: Box, run: Run):
    """A token, or an API key with its secret, is taken; another is AuthenticationFailed."""
    assert run(box.service(Twilio).check()) is True
    assert run(box.service(Twilio, api_key_sid="SK0123456789abcdef0123456789abcdef").check()) is True
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Twilio, "wrong-token-0123456789").check())
    assert caught.value.code == "20003"
    recorder = Recorder(200, b'{"messages": []}')
    recorder.service(Twilio, key="s:cret-0123456789").check().result()
    expected = base64.b64encode(b"AC0123456789abcdef0123456789abcdef:s:cret-0123456789").decode()
    assert recorder.requests[0].headers["authorization"] == f"Basic {expected}"


def test_a_lost_answer_is_unknown(box: Box, run: Run):
    """Twilio has no keys: a message whose answer was lost is not sent again, and was sent."""
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(Twilio).send(SMS(TO, "Hi", FROM)))
    assert (caught.value.retryable, len(caught.value.attempts)) == (False, 1)
    assert len(box.state("twilio")["messages"]) == 1


def test_too_many_requests_are_repeated(box: Box, run: Run):
    """A 429 says that nothing was done, so the message is sent again, once."""
    box.arm(kind="status", status=429)
    assert run(box.service(Twilio).send(SMS(TO, "Hi", FROM))).status is SMSStatus.QUEUED
    assert len(box.state("twilio")["messages"]) == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(SMS(TO, "x" * 1601, FROM)), "text"),
        (lambda s: s.send(SMS(TO, "x", FROM), media=["https://a.example/x.png"] * 11), "media"),
        (lambda s: s.send(SMS(TO, "x", FROM), send_at=LATER), "send_at"),
        (lambda s: s.send(SMS(TO, "x", "MG1"), send_at=datetime(2030, 1, 1)), "send_at"),  # noqa: DTZ001
        (lambda s: s.send(SMS(TO, "x", FROM), valid_for=0), "valid_for"),
        (lambda s: s.send(SMS(TO, "x", FROM), valid_for=36_001), "valid_for"),
        (lambda s: s.send(SMS(TO, "x", FROM), ContentVariables={"a": 1}), "extra"),
        (lambda s: s.list_messages(page_size=1001), "page_size"),
        (lambda s: s.list_messages(to="0770"), "to"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Twilio], Any], field: str):
    """What Twilio documents is checked before anything is sent, by name."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(Twilio))
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda s: s.send(SMS(TO, "Hi", FROM, callback="https://shop.example/x")), "Messages.json"),
        (
            lambda s: s.send(
                SMS(TO, "Hi", "MG" + "0" * 32),
                media=["https://a.example/1.png", "https://a.example/2.png"],
                send_at=LATER,
                valid_for=600,
                SmartEncoded=True,
            ),
            "Messages.json",
        ),
        (lambda s: s.cancel_message("SM" + "0" * 32), f"Messages/SM{'0' * 32}.json"),
        (lambda s: s.redact_message("SM" + "0" * 32), f"Messages/SM{'0' * 32}.json"),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Any], Any], path: str):
    """Every form that we build is valid by twilio.json, lists as repeated names."""
    recorder = Recorder(201, b'{"sid": "SM1", "status": "queued"}')
    make(recorder.service(Twilio)).result()
    [request] = recorder.requests
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    form = {name: one[0] if len(one) == 1 else one for name, one in parse_qs(request.content.decode(), True).items()}
    contract = Contract(contracts_dir, "twilio")
    full = f"/2010-04-01/Accounts/AC0123456789abcdef0123456789abcdef/{path}"
    assert request.url.path == full
    assert contract.form_problems("POST", full, form) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path):
    """The stand-in's answers are valid by twilio.json."""
    contract = Contract(contracts_dir, "twilio")
    twilio = box.service(Twilio)
    base = "/2010-04-01/Accounts/AC0123456789abcdef0123456789abcdef/Messages"
    sent = twilio.send(SMS(TO, "Hi", FROM)).result()
    for method, path, status, data in [
        ("POST", f"{base}.json", 201, sent.raw),
        ("GET", f"{base}/{sent.id}.json", 200, twilio.get_message(sent.id).result().raw),
        ("GET", f"{base}.json", 200, twilio.request("GET", f"{base}.json").result()),
    ]:
        assert contract.answer_problems(method, path, status, json.dumps(data).encode()) == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in."""
    service = box.service(Twilio)
    call = service.send(SMS(TO, "Hi", FROM, callback="https://x.example/"), send_at=None, media=["https://a.example/1"])
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: service)
    assert again.result().raw["num_media"] == "1"


def test_regions():
    """Ireland's host is another; an unknown one is named."""
    recorder = Recorder(200, b'{"messages": []}')
    recorder.service(Twilio, region="ie1").check().result()
    assert recorder.requests[0].url.host == "api.dublin.ie1.twilio.com"


def _event(**fields: str) -> Event:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return Event("twilio", "1", "x", str(httpx2.QueryParams(fields)).encode(), headers)


def test_events():
    """Statuses and inbound messages are told apart, and calls have no meaning here."""
    base = {"MessageSid": "SM1", "AccountSid": "AC1", "To": TO, "From": FROM}
    failed = Twilio.read_event(_event(**base, MessageStatus="undelivered", ErrorCode="30003"))
    assert isinstance(failed, SMSEvent)
    assert (failed.status, failed.message_id, failed.error_code, failed.permanent) == (
        SMSStatus.UNDELIVERED,
        "SM1",
        "30003",
        None,
    )
    new = Twilio.read_event(_event(**base, MessageStatus="something_new"))
    assert isinstance(new, SMSEvent)
    assert (new.status, new.vendor_status) == (SMSStatus.UNKNOWN, "something_new")
    inbound = Twilio.read_event(_event(**base, Body="STOP ☕", NumMedia="1", MediaUrl0="https://a.example/1"))
    assert isinstance(inbound, InboundSMS)
    assert (inbound.sender, inbound.to, inbound.text, inbound.media) == (FROM, TO, "STOP ☕", ("https://a.example/1",))
    assert Twilio.read_event(_event(CallSid="CA1", CallStatus="completed")) is None


def test_callbacks_are_signed_as_twilio_does():
    """Twilio's own validator takes what the stand-in signs."""
    stand_in = STAND_IN.make(Surroundings())
    body = stand_in.sample("delivered")
    url = "https://shop.example/webhooks/twilio?a=1"
    signed = stand_in.sign(Emission("delivered", body, "1"), url=url, secrets=("tok",), hook_id="", broken=False)
    fields = {name: one[0] for name, one in parse_qs(body.decode(), True).items()}
    assert RequestValidator("tok").validate(url, fields, signed.headers["X-Twilio-Signature"])
