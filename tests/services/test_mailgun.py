from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract, decoded_multipart
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.sandbox.services.mailgun import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.email.mailgun import Mailgun
from moorline.services.email.protocol import Address, Attachment, Email, EmailEvent, EmailEventKind

Run = Callable[[Any], Any]
LATER = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = Email(
    to=["Ada Lovelace <ada@customer.example>", Address("bob@customer.example", "Bøb, Jr.")],
    cc="carol@customer.example",
    bcc=["dan@customer.example"],
    sender="Shop <shop@mg.shop.example>",
    reply_to=["help@shop.example", "Desk <desk@shop.example>"],
    subject="Grüße ⚓",
    text="Hello",
    html='<p>Hello <img src="cid:logo"></p>',
    attachments=[Attachment("r ü.pdf", b"%PDF-\r\n\x00--"), Attachment("logo.png", b"\x89PNG", content_id="logo")],
    tags=["receipt", "eu"],
    metadata={"order": "42"},
    headers={"X-Order": "42"},
    send_at=LATER,
)
BATCH = Email(
    to=["Ada <ada@customer.example>", "bounce@customer.example"],
    sender="s@mg.shop.example",
    subject="Hi %recipient.name%",
    template="welcome",
    template_data={"shop": "Moor", "n": 3},
    personal={"ada@customer.example": {"name": "Ada"}},
    metadata={"order": "42"},
    tags=["receipt"],
)
PERSONAL = Email(
    ["ada@customer.example", "bob@customer.example"],
    "Hi %recipient.name%",
    "%recipient.shop%",
    sender="s@mg.shop.example",
    template_data={"shop": "Moor"},
    personal={"bob@customer.example": {"name": "Bob"}},
)


def plain(**changes: Any) -> Email:
    return Email(
        **{"to": "ada@customer.example", "subject": "Hi", "text": "x", "sender": "s@mg.shop.example", **changes}
    )


CALLS: list[Callable[[Mailgun], Any]] = [
    lambda s: s.send(plain()),
    lambda s: s.send_batch(plain()),
    lambda s: s.check(),
]


def test_send(box: Box, run: Run):
    """A full message is accepted with its id, and arrives as it was meant, files included."""
    sent = run(box.service(Mailgun).send(FULL))
    [held] = box.state("mailgun")["messages"]
    assert (sent.id, sent.accepted, held["domain"]) == (held["id"], True, "mg.shop.example")
    assert sent.id.endswith("@mg.shop.example")
    assert sent.raw["id"] == f"<{sent.id}>"
    assert held["fields"] == {
        "from": ["Shop <shop@mg.shop.example>"],
        "to": ["Ada Lovelace <ada@customer.example>", '"Bøb, Jr." <bob@customer.example>'],
        "cc": ["carol@customer.example"],
        "bcc": ["dan@customer.example"],
        "subject": ["Grüße ⚓"],
        "text": ["Hello"],
        "html": ['<p>Hello <img src="cid:logo"></p>'],
        "h:Reply-To": ["help@shop.example, Desk <desk@shop.example>"],
        "o:deliverytime": ["Wed, 02 Jan 2030 03:04:05 +0000"],
        "h:X-Order": ["42"],
        "v:order": ["42"],
        "o:tag": ["receipt", "eu"],
    }
    assert held["files"] == [
        {"field": "attachment", "filename": "r ü.pdf", "type": "application/pdf", "size": 10},
        {"field": "inline", "filename": "logo", "type": "image/png", "size": 4},
    ]


def test_the_bytes_of_files():
    """Files go out as they are, and equal Calls are equal bytes."""
    recorder = Recorder(200, b'{"id":"<1@x>","message":"Queued. Thank you."}')
    service = recorder.service(Mailgun)
    for _ in range(2):
        service.send(FULL).result()
    first, second = recorder.requests
    assert first.content == second.content
    fields = decoded_multipart(first.content, first.headers["content-type"])
    assert [one for one in fields if not isinstance(one[1], str)] == [
        ("attachment", ("r ü.pdf", "application/pdf", b"%PDF-\r\n\x00--")),
        ("inline", ("logo", "image/png", b"\x89PNG")),
    ]


def test_options_by_name_and_test_mode(box: Box, run: Run):
    """Mailgun's own options go through by their names; test mode is one, and events tell of it."""
    options: dict[str, Any] = {"o:tracking": False, "o:tag": ["a", "b"], "o:deliver-within": "1h", "v:n": 3}
    run(box.service(Mailgun).send(plain(), test_mode=True, **options))
    fields = box.state("mailgun")["messages"][0]["fields"]
    assert {name: fields[name] for name in options} == {
        "o:tracking": ["no"], "o:tag": ["a", "b"], "o:deliver-within": ["1h"], "v:n": ["3"],
    }  # fmt: skip
    assert fields["o:testmode"] == ["yes"]
    wrong: dict[str, Any] = {"o:tracking": {"a": 1}}
    with pytest.raises(errors.InvalidRequest, match="o:tracking: must be text"):
        box.service(Mailgun).send(plain(), **wrong)


def test_check(box: Box, run: Run):
    """A good key is told by the refusal of a mail to nobody; a wrong one and an unknown domain are told apart."""
    assert run(box.service(Mailgun).check()) is True
    assert box.state("mailgun")["messages"] == []
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Mailgun, "key-wrong").check())
    assert caught.value.status == 401  # whose body is plain text
    with pytest.raises(errors.NotFound, match="Domain not found: unknown"):
        run(box.service(Mailgun, domain="unknown.example").check())
    with pytest.raises(errors.InvalidRequest, match="unverified"):
        run(box.service(Mailgun, domain="unverified.example").check())


def test_typed_errors(box: Box, run: Run):
    """Each refusal is of its class, with Mailgun's words, after one attempt."""
    cases: list[tuple[str, dict[str, Any], Email, type[errors.CallError], int]] = [
        ("key-wrong", {}, plain(), errors.AuthenticationFailed, 401),
        ("key-large", {}, plain(cc="b@customer.example"), errors.PermissionDenied, 403),
        ("key-1", {"domain": "unknown.example"}, plain(), errors.NotFound, 404),
        ("key-1", {"domain": "unverified.example"}, plain(), errors.InvalidRequest, 400),
        ("key-1", {"domain": "sandbox1.mailgun.org"}, plain(), errors.InvalidRequest, 400),
        ("key-1", {}, plain(to=Address("ada@localhost")), errors.InvalidRequest, 400),
    ]
    for key, options, email, kind, status in cases:
        with pytest.raises(kind) as caught:
            run(box.service(Mailgun, key, **options).send(email))
        assert (caught.value.status, len(caught.value.attempts)) == (status, 1)
    assert "to parameter is not a valid address" in str(caught.value)
    assert box.state("mailgun")["messages"] == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (402, errors.InvalidRequest),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (413, errors.InvalidRequest),
        (429, errors.RateLimited),
        (500, errors.ServiceUnavailable),
        (502, errors.ServiceUnavailable),
        (503, errors.ServiceUnavailable),
        (504, errors.ServiceUnavailable),
    ],
)
def test_every_documented_error(status: int, kind: type[errors.CallError]):
    """Each status of the card is a class of ours, with the message; there are no codes."""
    service = Recorder(status, b'{"message":"No"}').service(Mailgun, policy=Policy(retry=None))
    with pytest.raises(kind) as caught:
        service.send(plain()).result()
    assert (type(caught.value), caught.value.code, caught.value.message) == (kind, None, "No")


def test_a_limit_names_its_end_in_the_message(run: Run):
    """The time in the text is when the call may be sent again; until then nothing else is sent either."""
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    said = until.strftime("%a, %d %b %Y %H:%M:%S UTC")
    message = f"Domain x is not allowed to send: request limit exceeded, try again after {said}"
    recorder = Recorder(429, json.dumps({"message": message}).encode())
    service = recorder.service(Mailgun)
    with pytest.raises(errors.RateLimited) as caught:
        run(service.send(plain()))
    assert (caught.value.retry_at, caught.value.retryable) == (until.timestamp(), True)
    with pytest.raises(errors.RateLimited) as again:
        run(service.send(plain()))
    assert (again.value.outcome, len(recorder.requests)) == ("not_sent", 1)


def test_the_sandbox_names_it_too(box: Box, run: Run):
    """An injected 429 has Mailgun's words, a minute ahead."""
    box.arm(kind="status", status=429)
    with pytest.raises(errors.RateLimited, match="try again after") as caught:
        run(box.service(Mailgun, policy=Policy(retry=None)).send(plain()))
    assert caught.value.retry_at is not None


def test_unanswered_send_is_unknown_and_not_repeated(box: Box, run: Run):
    """Mailgun has no keys: a send whose answer was lost is OutcomeUnknown after one attempt, though it was accepted."""
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(Mailgun).send(plain()))
    assert (caught.value.retryable, len(caught.value.attempts)) == (False, 1)
    assert len(box.state("mailgun")["messages"]) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sender": None}, "sender"),
        ({"to": [f"a{n}@customer.example" for n in range(999)], "cc": ["a@x.example", "b@x.example"]}, "to"),
        ({"tags": [str(n) for n in range(11)]}, "tags"),
        ({"metadata": {"a": "x" * 16_000}, "tags": ["y" * 400]}, "metadata"),
        ({"template": "t", "template_data": {"a": "x" * 17_000}}, "metadata"),
        ({"template": "t", "template_data": {"a": object()}}, "template_data"),
        ({"template": "t", "template_data": {"a": float("nan")}}, "template_data"),
        ({"template_data": {"a": 1}}, "template_data"),
        ({"headers": {"reply-to": "x@x.example"}, "reply_to": "y@x.example"}, r"headers\[reply-to\]"),
        ({"attachments": [Attachment("a", b"x" * 20 * 1024 * 1024)]}, "attachments"),
    ],
)
def test_limits_are_checked_before_sending(changes: dict[str, Any], field: str):
    """What Mailgun would refuse by a documented limit is InvalidRequest naming field and limit, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        recorder.service(Mailgun).send(plain(**changes))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cc": "c@customer.example"}, "cc"),
        ({"to": ["ada@customer.example", "ADA@customer.example"]}, "to"),
        ({"to": [f"a{n}@customer.example" for n in range(1001)]}, "to"),
        ({"template": "t", "personal": {"ada@customer.example": {"a": 1}}, "metadata": {"a": "1"}}, "metadata"),
        ({"personal": {"ada@customer.example": {"a": object()}}}, "personal"),
    ],
)
def test_what_is_no_batch(changes: dict[str, Any], field: str):
    """Copies, one recipient twice, more than the limit and two things in one place are refused before sending."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:"):
        Recorder().service(Mailgun).send_batch(plain(**changes))


def test_a_batch_with_a_template(box: Box, run: Run):
    """Nobody sees the others; what is personal is in the recipient variables, and the template gets it from there."""
    sent = run(box.service(Mailgun).send_batch(BATCH))
    [held] = box.state("mailgun")["messages"]
    assert [(one.recipient.email, one.id, one.accepted) for one in sent.results] == [
        ("ada@customer.example", held["id"], True),
        ("bounce@customer.example", held["id"], True),
    ]
    fields = held["fields"]
    assert json.loads(fields["recipient-variables"][0]) == {
        "ada@customer.example": {"name": "Ada", "shop": "Moor", "n": 3},
        "bounce@customer.example": {"name": "", "shop": "Moor", "n": 3},
    }
    assert (fields["template"], json.loads(fields["t:variables"][0])) == (["welcome"], {"shop": "Moor", "n": 3})
    assert (fields["v:name"], fields["v:order"]) == (["%recipient.name%"], ["42"])


def test_a_batch_without_a_template(box: Box, run: Run):
    """Recipient variables are there always, as without them all would see all; text and subject are filled from them."""
    service = box.service(Mailgun)
    run(service.send_batch(PERSONAL))
    run(service.send_batch(plain(to=["ada@customer.example", "bob@customer.example"])))
    run(service.send(plain(to=["ada@customer.example", "bob@customer.example"])))
    batch, bare, seen = (one["fields"] for one in box.state("mailgun")["messages"])
    assert json.loads(batch["recipient-variables"][0]) == {
        "ada@customer.example": {"name": "", "shop": "Moor"},
        "bob@customer.example": {"name": "Bob", "shop": "Moor"},
    }
    assert "t:variables" not in batch
    assert json.loads(bare["recipient-variables"][0]) == {"ada@customer.example": {}, "bob@customer.example": {}}
    assert "recipient-variables" not in seen


def test_a_template_may_give_sender_and_subject(box: Box):
    """The contract requires both, and says beside them that a template may give them."""
    sent = box.service(Mailgun).send(Email("ada@customer.example", template="t", template_data={"a": [1]})).result()
    [held] = box.state("mailgun")["messages"]
    assert sent.id == held["id"]
    assert held["fields"] == {"to": ["ada@customer.example"], "template": ["t"], "t:variables": ['{"a":[1]}']}


def test_region_and_domain(monkeypatch: pytest.MonkeyPatch):
    """The EU has a host of its own; the domain is a parameter, looked for in the environment."""
    recorder = Recorder(200, b'{"id":"<1@x>","message":"Queued. Thank you."}')
    recorder.service(Mailgun, region="eu", domain="mg.example.org").send(plain()).result()
    [request] = recorder.requests
    assert str(request.url) == "https://api.eu.mailgun.net/v3/mg.example.org/messages"
    assert request.headers["authorization"].startswith("Basic ")
    monkeypatch.setenv("MAILGUN_DOMAIN", "mg.example.net")
    assert Mailgun("key-1").send(plain()).plan.path == "/v3/mg.example.net/messages"
    monkeypatch.delenv("MAILGUN_DOMAIN")
    with pytest.raises(errors.ConfigurationError, match="MAILGUN_DOMAIN"):
        Mailgun("key-1").send(plain())
    with pytest.raises(errors.ConfigurationError, match="domain"):
        Mailgun("key-1", domain="mg/../x")


def test_a_message_survives_a_queue(box: Box):
    """A Call with attachments, zones and options comes out of a queue as it went in."""
    service = box.service(Mailgun)
    call = service.send(FULL, test_mode=True, **{"o:tracking": False})
    stored = json.loads(json.dumps(call.to_payload()))
    again = Call.from_payload(stored, lambda name: service)
    assert again.plan.content == call.plan.content
    assert again.result().accepted is True


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.send(FULL),
        lambda s: s.send(plain(), test_mode=True, **{"o:tracking": False, "amp-html": "<p>"}),
        lambda s: s.send(plain(template="t", template_data={"a": [1]})),
        lambda s: s.send_batch(BATCH),
        lambda s: s.send_batch(PERSONAL),
        lambda s: s.check(),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Any], Any]):
    """Every request that we build is valid by mailgun.json."""
    recorder = Recorder(200, b'{"id":"<1@x>","message":"Queued. Thank you."}')
    make(recorder.service(Mailgun)).result()
    [request] = recorder.requests
    contract = Contract(contracts_dir, "mailgun")
    path = "/v3/mg.shop.example/messages"
    assert contract.request_problems("POST", path, request.content, request.headers["content-type"]) == []
    assert "idempotency-key" not in request.headers


TOLD: dict[str, Any] = {
    "id": "G9Bn5sl1TC6nu79C8C0bwg",
    "timestamp": 1790000000.12,
    "recipient": "ada@example.com",
    "message": {
        "headers": {"message-id": "20261120.1.9F@mg.example.com", "to": "ada@example.com", "subject": "Receipt"}
    },
    "tags": ["receipt"],
    "user-variables": {"order": "42", "items": [1, 2]},
    "flags": {"is-test-mode": False},
}
HARD = {"delivery-status": {"code": 550, "message": "5.1.1 unknown user", "description": ""}}
SUPPRESSED = {"delivery-status": {"code": 605, "message": "", "description": "Not delivering"}}


def _event(type_: str, more: dict[str, Any]) -> Event:
    payload = {"signature": {}, "event-data": {**TOLD, "event": type_, **more}}
    return Event("mailgun", "e1", type_, json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("word", "more", "kind", "facts"),
    [
        ("accepted", {}, "accepted", {}),
        ("delivered", {"delivery-status": {"code": 250, "message": "OK"}}, "delivered", {"reason": "OK"}),
        ("failed", {"severity": "permanent", "reason": "bounce", **HARD}, "bounced",
         {"permanent": True, "reason": "5.1.1 unknown user"}),
        ("failed", {"severity": "permanent", "reason": "suppress-bounce", **SUPPRESSED}, "rejected",
         {"permanent": True, "reason": "Not delivering"}),
        ("failed", {"severity": "temporary", "reason": "generic"}, "deferred", {"permanent": False, "reason": "generic"}),
        ("failed", {}, "bounced", {}),
        ("rejected", {"reject": {"reason": "Not allowed"}}, "rejected", {"reason": "Not allowed"}),
        ("opened", {}, "opened", {}),
        ("clicked", {"url": "https://shop.example/"}, "clicked", {"url": "https://shop.example/"}),
        ("unsubscribed", {}, "unsubscribed", {}),
        ("complained", {}, "complained", {}),
    ],
)  # fmt: skip
def test_events_are_read(word: str, more: dict[str, Any], kind: str, facts: dict[str, Any]):
    """Each event is in the words of all services; a failure is as bad as its severity says."""
    read = Mailgun.read_event(_event(word, more))
    assert isinstance(read, EmailEvent)
    assert (read.kind.value, read.recipient, read.message_id) == (
        kind,
        "ada@example.com",
        "20261120.1.9F@mg.example.com",
    )
    assert (read.tags, read.metadata) == (("receipt",), {"order": "42", "items": "[1, 2]"})
    assert read.at == datetime.fromtimestamp(1790000000.12, UTC)
    found = {name: getattr(read, name) for name in ("permanent", "reason", "url")}
    assert {name: value for name, value in found.items() if value is not None} == facts


def test_events_of_other_shapes():
    """Mail that came in and new words have no common meaning; half of an event is enough; a wrong shape is BadAnswer."""
    for other in ("stored", "teleported"):
        assert Mailgun.read_event(_event(other, {})) is None
    bare = Event("mailgun", "e1", "rejected", b'{"event-data":{"event":"rejected"}}')
    assert Mailgun.read_event(bare) == EmailEvent(EmailEventKind.REJECTED, "rejected")
    for wrong in (
        {"message": "x"},
        {"tags": "x"},
        {"timestamp": "soon"},
        {"timestamp": 1e300},
        {"user-variables": [1]},
    ):
        with pytest.raises(errors.BadAnswer):
            Mailgun.read_event(_event("opened", wrong))


def test_what_becomes_of_a_batch():
    """Its events come signed, name the message by the id that ``send_batch`` returned, and tell how bad a failure is."""
    assert STAND_IN.secret is not None
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    people = [f"{name}@customer.example" for name in ("ada", "bounce", "defer", "drop", "reject", "complain")]
    service = Mailgun("key-1", domain="mg.shop.example", wire=wire, guards=Guards())
    sent = service.send_batch(plain(to=people, metadata={"order": "42"}, tags=["receipt"])).result()
    read = []
    for emission in emitted:
        signed = stand_in.sign(emission, url="https://x.example", secrets=(STAND_IN.secret,), hook_id="1", broken=False)
        assert signed.body is not None
        [event] = verify_each(Mailgun, headers=signed.headers, body=signed.body, secrets=STAND_IN.secret)
        one = Mailgun.read_event(event)
        assert one is not None
        read.append(one)
    ends = [(one.recipient, one.kind.value, one.permanent) for one in read if one.kind is not EmailEventKind.ACCEPTED]
    assert ends == [
        ("ada@customer.example", "delivered", None),
        ("bounce@customer.example", "bounced", True),
        ("defer@customer.example", "deferred", False),
        ("drop@customer.example", "rejected", True),
        ("reject@customer.example", "rejected", None),
        ("complain@customer.example", "delivered", None),
        ("complain@customer.example", "complained", None),
    ]
    assert {(one.message_id, one.tags, tuple(one.metadata.items())) for one in read} == {
        (sent.results[0].id, ("receipt",), (("order", "42"),))
    }
