from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from tests.contracts import Contract
from tests.events.keys import certified
from tests.services.conftest import Box
from tests.services.recorder import Recorder
from vonage_http_client.auth import Auth  # type: ignore[import-untyped]
from vonage_jwt import verify_signature  # type: ignore[import-untyped]

from moorline import errors
from moorline.calls.call import Call
from moorline.clock import ManualClock
from moorline.events.event import Event
from moorline.sandbox.services.vonage import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.sms.protocol import SMS, InboundSMS, SMSEvent, SMSStatus
from moorline.services.sms.vonage import Vonage

Run = Callable[[Any], Any]
FROM, TO = "Moorline", "+447700900000"
APPLICATION = "78d335fa-323d-0114-9c3d-d6f0d48968cf"
PRIVATE = certified("an application of Vonage").private.decode()
PUBLIC = (
    load_pem_private_key(PRIVATE.encode(), None)
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
ACCEPTED = b'{"message_uuid": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"}'
CALLS: list[Callable[[Vonage], Any]] = [
    lambda s: s.send(SMS(TO, "Hi", FROM)),
    lambda s: s.check(),
]


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APPLICATION_ID", "PRIVATE_KEY", "API_KEY", "API_SECRET", "SENDER"):
        monkeypatch.delenv(f"VONAGE_{name}", raising=False)


def _application(box: Box) -> str:
    """The id of a new application in the sandbox that has our key."""
    asked = {"name": "shop", "keys": {"public_key": PUBLIC}}
    made: str = box.service(Vonage).request("POST", "/v2/applications", json=asked).result()["id"]
    return made


def _token(request: Any) -> str:
    scheme, _, token = request.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return str(token)


def test_send(box: Box, run: Run):
    """A message is taken, and later delivered; its text arrives as it was written, numbers without their plus."""
    sent = run(box.service(Vonage).send(SMS(TO, "Grüße ⚓ & more", FROM, reference="order-1"), ttl=600))
    assert (sent.status, sent.vendor_status, sent.to) == (SMSStatus.QUEUED, "accepted", TO)
    kept = box.state("vonage")["messages"][sent.id]
    assert (kept["to"], kept["text"], kept["ttl"], kept["client_ref"]) == (TO[1:], "Grüße ⚓ & more", 600, "order-1")
    assert kept["status"] == "delivered"


def test_the_sender_may_be_the_services(box: Box, run: Run):
    """Without one in the message it is VONAGE_SENDER's, a number without its plus; with neither it is refused."""
    sent = run(box.service(Vonage, sender="+447700900001").send(SMS(TO, "Hi")))
    assert box.state("vonage")["messages"][sent.id]["from"] == "447700900001"
    with pytest.raises(errors.InvalidRequest, match=r"^sender"):
        Recorder().service(Vonage, sender=None).send(SMS(TO, "Hi"))


def test_an_application_signs(box: Box, run: Run, tmp_path: Path):
    """By its private key, as text or as a file; another key, and another application, are AuthenticationFailed."""
    file = tmp_path / "private.key"
    file.write_text(PRIVATE)
    application = _application(box)
    for key in (PRIVATE, str(file)):
        vonage = box.service(Vonage, key, application_id=application)
        assert run(vonage.check()) is True
        assert run(vonage.send(SMS(TO, "Hi", FROM))).status is SMSStatus.QUEUED
    assert [one["path"] for one in box.seen() if one["method"] == "GET"] == ["/v1/users"] * 2
    other = certified("another application of Vonage").private.decode()
    for key, named in ((other, application), (PRIVATE, APPLICATION)):
        with pytest.raises(errors.AuthenticationFailed):
            run(box.service(Vonage, key, application_id=named).check())


def test_the_account_has_a_secret(box: Box, run: Run):
    """Without an application it is the account's pair, as the official package writes it; a wrong one is refused."""
    assert run(box.service(Vonage).check()) is True
    assert box.seen()[-1]["path"] == "/v2/applications"
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Vonage, "wrong-Secret-0123456789").check())
    assert (caught.value.code, caught.value.status, bool(caught.value.request_id)) == ("unauthorized", 401, True)
    recorder = Recorder(202, ACCEPTED)
    recorder.service(Vonage, key="s:cret-0123456789").send(SMS(TO, "Hi", FROM)).result()
    theirs = Auth(api_key="abcd1234", api_secret="s:cret-0123456789").create_basic_auth_string()
    assert recorder.requests[0].headers["authorization"] == theirs


def test_tokens_are_as_the_official_package_makes_them():
    """PyJWT, which vonage-jwt is built on, takes ours with the public key; claims and header are those of theirs."""
    recorder = Recorder(202, ACCEPTED)
    recorder.service(Vonage, key=PRIVATE, application_id=APPLICATION).send(SMS(TO, "Hi", FROM)).result()
    ours = _token(recorder.requests[0])
    theirs = Auth(application_id=APPLICATION, private_key=PRIVATE).generate_application_jwt().decode()
    assert jwt.get_unverified_header(ours) == jwt.get_unverified_header(theirs)
    read = [jwt.decode(token, PUBLIC, algorithms=["RS256"]) for token in (ours, theirs)]
    assert read[0].keys() == read[1].keys()
    assert [one["application_id"] for one in read] == [APPLICATION] * 2
    assert [one["exp"] - one["iat"] for one in read] == [900, 900]
    assert abs(read[0]["iat"] - time.time()) < 60
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(ours[:-8] + "AAAAAAAA", PUBLIC, algorithms=["RS256"])


def test_a_token_serves_for_ten_minutes():
    """One signature for many requests; a new one well before the end, and when the clock was set back."""
    recorder, clock = Recorder(202, ACCEPTED), ManualClock()
    vonage = recorder.service(Vonage, key=PRIVATE, application_id=APPLICATION, clock=clock)
    tokens: list[str] = []
    for seconds in (0.0, 599.0, 1.0):
        clock.advance(seconds)
        vonage.send(SMS(TO, "Hi", FROM)).result()
        tokens.append(_token(recorder.requests[-1]))
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({"VONAGE_API_KEY": "ab", "VONAGE_API_SECRET": "secret-1"}, {}, "Basic ab:secret-1"),
        ({"VONAGE_API_KEY": "ab", "VONAGE_API_SECRET": "secret-1", "VONAGE_APPLICATION_ID": "x"}, {}, "Bearer x"),
        ({"VONAGE_API_SECRET": "secret-1", "VONAGE_APPLICATION_ID": "x"}, {"account_key": "cd"}, "Basic cd:secret-1"),
        ({"VONAGE_API_KEY": "ab", "VONAGE_API_SECRET": "secret-1"}, {"application_id": "y"}, "Bearer y"),
        ({}, {"application_id": "y", "account_key": "cd"}, "Bearer y"),
    ],
)
def test_which_credential_it_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], given: dict[str, str], expected: str
):
    """The application's, where one is known; an account's key as an argument counts more than the environment."""
    for name, value in {**variables, "VONAGE_PRIVATE_KEY": PRIVATE}.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder(202, ACCEPTED)
    arguments = {"application_id": None, "account_key": None, **given}
    recorder.service(Vonage, key=None, **arguments).send(SMS(TO, "Hi", FROM)).result()
    scheme, _, shown = recorder.requests[0].headers["authorization"].partition(" ")
    if scheme == "Basic":
        assert f"Basic {base64.b64decode(shown).decode()}" == expected
    else:
        assert f"Bearer {jwt.decode(shown, PUBLIC, algorithms=['RS256'])['application_id']}" == expected
    assert Vonage.credentials.env == (
        "VONAGE_PRIVATE_KEY" if "VONAGE_APPLICATION_ID" in variables else "VONAGE_API_SECRET"
    )


@pytest.mark.parametrize(
    ("key", "parameters", "why"),
    [
        ("secret-0123456789", {"account_key": None}, "VONAGE_APPLICATION_ID.*VONAGE_API_KEY"),
        ("no/such/private.key", {"application_id": APPLICATION}, "cannot be read"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2hunter2", {"application_id": APPLICATION}, "cannot be used"),
        (None, {"application_id": APPLICATION}, "VONAGE_PRIVATE_KEY"),
        (None, {}, "VONAGE_API_SECRET"),
    ],
)
def test_credentials_that_cannot_be(key: str | None, parameters: dict[str, str | None], why: str):
    """What is missing or unusable is named, without its content, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.ConfigurationError, match=why) as caught:
        recorder.service(Vonage, key=key, **parameters).send(SMS(TO, "Hi", FROM)).result()
    assert "hunter2" not in str(caught.value)
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("to", "status", "code", "kind"),
    [
        ("+447700900402", 402, "low-balance", errors.PermissionDenied),
        ("+447700900403", 403, "forbidden", errors.PermissionDenied),
        ("+447700900429", 429, "1000", errors.RateLimited),
    ],
)
def test_errors(box: Box, run: Run, impatient: Any, to: str, status: int, code: str, kind: type[errors.CallError]):
    """Each comes as its own type with Vonage's code, words and trace, and nothing was sent."""
    with pytest.raises(kind) as caught:
        run(box.service(Vonage, policy=impatient).send(SMS(to, "Hi", FROM)))
    error = caught.value
    assert (error.status, error.code, bool(error.request_id)) == (status, code, True)
    assert box.state("vonage")["messages"] == {}


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (
            422,
            {
                "type": "https://developer.vonage.com/api-errors/messages#1150",
                "title": "Invalid params",
                "detail": "The value of one or more parameters is invalid.",
                "instance": "bf0ca0bf927b3b52e3cb03217e1a1ddf",
                "invalid_parameters": [{"name": "messenger.tag", "reason": "invalid value"}],
            },
            errors.InvalidRequest,
            "1150",
            "The value of one or more parameters is invalid. (messenger.tag: invalid value)",
        ),
        (
            402,
            {"type": "https://developer.nexmo.com/api-errors/#low-balance", "title": "Low balance"},
            errors.PermissionDenied,
            "low-balance",
            "Low balance",
        ),
        (401, {"Error": "Authentication Failed"}, errors.AuthenticationFailed, None, "Authentication Failed"),
        (429, {"Error": "Too Many Requests"}, errors.RateLimited, None, "Too Many Requests"),
        (422, {"type": "x#1000", "title": 1000}, errors.RateLimited, "1000", "1000"),
        (404, {"type": "about:blank"}, errors.NotFound, None, "answered 404"),
        (500, [], errors.ServiceUnavailable, None, "answered 500"),
    ],
)
def test_errors_of_other_shapes(
    impatient: Any, status: int, body: Any, kind: type[errors.CallError], code: str | None, message: str
):
    """Those that the official package's tests hold are read: the code is the fragment of the type."""
    recorder = Recorder(status, json.dumps(body).encode())
    with pytest.raises(kind) as caught:
        recorder.service(Vonage, policy=impatient).send(SMS(TO, "Hi", FROM)).result()
    assert (caught.value.code, caught.value.message) == (code, message)


def test_a_lost_answer_is_unknown(box: Box, run: Run):
    """Vonage has no keys: a message whose answer was lost is not sent again, and was sent."""
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(Vonage).send(SMS(TO, "Hi", FROM)))
    assert (caught.value.retryable, len(caught.value.attempts)) == (False, 1)
    assert len(box.state("vonage")["messages"]) == 1


def test_too_many_requests_are_repeated(box: Box, run: Run):
    """A 429 says that nothing was done, so the message is sent again, once."""
    box.arm(kind="status", status=429)
    assert run(box.service(Vonage).send(SMS(TO, "Hi", FROM))).status is SMSStatus.QUEUED
    assert len(box.state("vonage")["messages"]) == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(SMS(TO, "x" * 3201, FROM)), "text"),
        (lambda s: s.send(SMS(TO, "x", FROM, reference="r" * 101)), "reference"),
        (lambda s: s.send(SMS(TO, "x", FROM), ttl=19), "ttl"),
        (lambda s: s.send(SMS(TO, "x", FROM), ttl=604_801), "ttl"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Vonage], Any], field: str):
    """What Vonage documents is checked before anything is sent, by name."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(Vonage))
    assert recorder.requests == []


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.send(SMS(TO, "x" * 3200, "+447700900001")),
        lambda s: s.send(
            SMS(TO, "Hi ⚓", FROM, callback="https://shop.example/x", reference="r" * 100),
            ttl=604_800,
            sms_options={"encoding_type": "unicode"},
            trusted_recipient=True,
        ),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Any], Any]):
    """Every body that we build is valid by the contract."""
    recorder = Recorder(202, ACCEPTED)
    make(recorder.service(Vonage)).result()
    [request] = recorder.requests
    assert (request.method, request.url.path) == ("POST", "/v1/messages")
    contract = Contract(contracts_dir, "vonage_messages_v1.schema")
    assert contract.problems("/$defs/request_sms", json.loads(request.content)) == []


def test_answers_and_webhooks_fit_the_contract(box: Box, contracts_dir: Path):
    """What the stand-in says is valid by the contract."""
    contract = Contract(contracts_dir, "vonage_messages_v1.schema")
    vonage = box.service(Vonage)
    sent = vonage.send(SMS(TO, "Hi", FROM), failover=[{"channel": "sms"}]).result()
    assert contract.problems("/$defs/response_202", sent.raw) == []
    with pytest.raises(errors.InvalidRequest) as caught:
        vonage.send(SMS(TO, "Hi", FROM), surprise=1).result()
    assert contract.problems("/$defs/error", caught.value.detail) == []
    stand_in = STAND_IN.make(Surroundings())
    for event in STAND_IN.events:
        shape = "webhook_inbound_sms" if event == "received" else "webhook_status"
        assert contract.problems(f"/$defs/{shape}", json.loads(stand_in.sample(event))) == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in."""
    service = box.service(Vonage)
    call = service.send(
        SMS(TO, "Hi", FROM, callback="https://x.example/"), ttl=30, sms_options={"encoding_type": "auto"}
    )
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: service)
    sent = again.result()
    kept = box.state("vonage")["messages"][sent.id]
    assert (kept["webhook_url"], kept["ttl"], kept["sms"]) == ("https://x.example/", 30, {"encoding_type": "auto"})


def test_regions_and_what_is_lacking():
    """Europe's host is another; a message cannot be asked for."""
    recorder = Recorder(200, b"{}")
    recorder.service(Vonage, region="eu").check().result()
    assert recorder.requests[0].url.host == "api-eu.vonage.com"
    with pytest.raises(AttributeError, match="webhooks"):
        recorder.service(Vonage).get_message("x")


def _event(**fields: Any) -> Event:
    told = {"message_uuid": "u-1", "to": "447700900000", "from": "447700900001", "channel": "sms"}
    told |= {"timestamp": "2026-11-20T10:00:00Z"}
    return Event("vonage", "1", "x", json.dumps(told | fields).encode(), {"content-type": "application/json"})


def test_events():
    """Statuses and inbound messages are told apart; other channels have no meaning here."""
    problem = {
        "type": "https://developer.vonage.com/api-errors/messages#1120",
        "title": 1120,
        "detail": "Illegal Sender Address",
    }
    rejected = Vonage.read_event(_event(status="rejected", error=problem, client_ref="order-1"))
    assert isinstance(rejected, SMSEvent)
    assert (rejected.status, rejected.message_id, rejected.to) == (SMSStatus.UNDELIVERED, "u-1", TO)
    assert (rejected.error_code, rejected.reason, rejected.permanent) == ("1120", "Illegal Sender Address", None)
    assert (rejected.reference, rejected.at and rejected.at.isoformat()) == ("order-1", "2026-11-20T10:00:00+00:00")
    known = {"submitted": "sent", "delivered": "delivered", "read": "delivered", "undeliverable": "failed"}
    for status, expected in {**known, "something_new": "unknown"}.items():
        read = Vonage.read_event(_event(status=status))
        assert isinstance(read, SMSEvent)
        assert (read.status, read.vendor_status) == (expected, status)
    inbound = Vonage.read_event(_event(message_type="text", text="STOP ☕", **{"from": "60777"}))
    assert isinstance(inbound, InboundSMS)
    assert (inbound.sender, inbound.to, inbound.text) == ("60777", TO, "STOP ☕")
    assert Vonage.read_event(_event(channel="whatsapp", status="read")) is None
    with pytest.raises(errors.BadAnswer):
        Vonage.read_event(_event(status="read", to={"type": "sms", "number": "447700900000"}))


def test_webhooks_are_signed_as_vonage_does():
    """Vonage's own package takes what the stand-in signs."""
    stand_in = STAND_IN.make(Surroundings())
    emission = Emission("delivered", stand_in.sample("delivered"), "1")
    secret = "a signature secret of 32 letters."
    signed = stand_in.sign(emission, url="https://x.example/", secrets=(secret,), hook_id="", broken=False)
    token = signed.headers["Authorization"].removeprefix("Bearer ")
    assert verify_signature(token, secret)
    assert not verify_signature(token, secret + "x")
