from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.resend import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.email.protocol import Address, Attachment, Email, EmailEvent, EmailEventKind, InboundEmail
from moorline.services.email.resend import Resend

Run = Callable[[Any], Any]
SOON = datetime.now(UTC) + timedelta(hours=1)
FULL = Email(
    to=["Ada Lovelace <ada@customer.example>", Address("bob@customer.example", "Bøb, Jr.")],
    cc="carol@customer.example",
    bcc=["dan@customer.example"],
    sender="Shop <shop@shop.example>",
    reply_to="help@shop.example",
    subject="Grüße ⚓",
    text="Hello",
    html='<p>Hello <img src="cid:logo"></p>',
    attachments=[Attachment("r.pdf", b"%PDF-"), Attachment("logo.png", b"\x89PNG", content_id="logo")],
    tags=["receipt"],
    metadata={"order": "42"},
    headers={"X-Order": "42"},
    send_at=SOON,
)
BATCH = Email(
    to=["ada@customer.example", "Bob <bounced+1@resend.dev>"],
    sender="s@shop.example",
    subject="Hi",
    template="order-confirmation",
    template_data={"shop": "Moor", "n": 3},
    personal={"ada@customer.example": {"name": "Ada"}},
    metadata={"order": "42"},
)


def plain(**changes: Any) -> Email:
    return Email(**{"to": "delivered@resend.dev", "subject": "Hi", "text": "x", "sender": "s@shop.example", **changes})


CALLS: list[Callable[[Resend], Any]] = [
    lambda s: s.send(plain()),
    lambda s: s.send_batch(plain(to=["a@customer.example", "b@customer.example"])),
    lambda s: s.get_email("49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"),
    lambda s: s.cancel_email("49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"),
    lambda s: s.check(),
    lambda s: s.mint_key("moorline"),
    lambda s: s.find_keys("moorline"),
    lambda s: s.revoke_key("abc"),
]


def test_send(box: Box, run: Run):
    """A full message is accepted with its id, and arrives as it was meant."""
    sent = run(box.service(Resend).send(FULL))
    [held] = box.state("resend")["emails"]
    assert (sent.id, sent.accepted, held["last_event"]) == (held["id"], True, "scheduled")
    assert held["message"] == {
        "from": "Shop <shop@shop.example>",
        "to": ["Ada Lovelace <ada@customer.example>", '"Bøb, Jr." <bob@customer.example>'],
        "cc": ["carol@customer.example"],
        "bcc": ["dan@customer.example"],
        "reply_to": ["help@shop.example"],
        "subject": "Grüße ⚓",
        "text": "Hello",
        "html": '<p>Hello <img src="cid:logo"></p>',
        "headers": {"X-Order": "42"},
        "attachments": [
            {"content": "JVBERi0=", "filename": "r.pdf", "content_type": "application/pdf"},
            {"content": "iVBORw==", "filename": "logo.png", "content_type": "image/png", "content_id": "logo"},
        ],
        "tags": [{"name": "receipt", "value": "receipt"}, {"name": "order", "value": "42"}],
        "scheduled_at": SOON.isoformat(),
    }


def test_a_scheduled_mail_is_looked_at_and_called_off(box: Box, run: Run):
    """What has a time is scheduled until it is called off; a second time that is refused, as is an unknown id."""
    service = box.service(Resend)
    sent = run(service.send(plain(send_at=SOON)))
    found = run(service.get_email(sent.id))
    assert (found.id, found.status, found.kind) == (sent.id, "scheduled", EmailEventKind.ACCEPTED)
    assert (found.sender, found.to, found.subject) == ("s@shop.example", ("delivered@resend.dev",), "Hi")
    assert found.created_at is not None
    assert run(service.cancel_email(sent.id)).id == sent.id
    assert (run(service.get_email(sent.id)).status, run(service.get_email(sent.id)).kind) == ("canceled", None)
    with pytest.raises(errors.InvalidRequest):
        run(service.cancel_email(sent.id))
    for wrong in (service.get_email("x"), service.cancel_email("x")):
        with pytest.raises(errors.NotFound):
            run(wrong)


def test_check_knows_what_a_key_may(box: Box, run: Run):
    """A key that may do all is good, one that may only send is as well, and a wrong one is told."""
    assert run(box.service(Resend).check()) is True
    assert run(box.service(Resend, "re_send_1").check()) is True
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Resend, "re_wrong").check())
    assert (caught.value.code, caught.value.status) == ("invalid_api_key", 403)


def test_typed_errors(box: Box, run: Run):
    """Keys, scopes, quotas, senders and recipients are typed, with Resend's name as the code."""
    cases: list[tuple[str, Any, type[errors.CallError], str, int]] = [
        ("re_wrong", lambda s: s.send(plain()), errors.AuthenticationFailed, "invalid_api_key", 403),
        ("re_send_1", lambda s: s.get_email("x"), errors.PermissionDenied, "restricted_api_key", 401),
        ("re_daily", lambda s: s.send(plain()), errors.LimitFault, "daily_quota_exceeded", 429),
        ("re_monthly", lambda s: s.send(plain()), errors.LimitFault, "monthly_quota_exceeded", 429),
        ("re_1", lambda s: s.send(plain(to="a@example.com")), errors.InvalidRequest, "validation_error", 422),
        (
            "re_1",
            lambda s: s.send(plain(sender="s@unverified.example")),
            errors.InvalidRequest,
            "validation_error",
            403,
        ),
        (
            "re_1",
            lambda s: s.send_batch(plain(to="a@test.com"), strict=True),
            errors.InvalidRequest,
            "validation_error",
            422,
        ),
    ]
    for key, make, kind, code, status in cases:
        with pytest.raises(kind) as caught:
            run(make(box.service(Resend, key)))
        assert (caught.value.code, caught.value.status, len(caught.value.attempts)) == (code, status, 1)
        assert not isinstance(caught.value, errors.RateLimited)
    assert box.state("resend")["emails"] == []


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (400, "validation_error", errors.InvalidRequest),
        (400, "invalid_idempotency_key", errors.InvalidRequest),
        (401, "missing_api_key", errors.AuthenticationFailed),
        (401, "restricted_api_key", errors.PermissionDenied),
        (403, "invalid_api_key", errors.AuthenticationFailed),
        (403, "validation_error", errors.InvalidRequest),
        (404, "not_found", errors.NotFound),
        (405, "method_not_allowed", errors.InvalidRequest),
        (409, "invalid_idempotent_request", errors.IdempotencyConflict),
        (409, "concurrent_idempotent_requests", errors.Conflict),
        (422, "missing_required_field", errors.InvalidRequest),
        (422, "missing_required_fields", errors.InvalidRequest),
        (422, "invalid_attachment", errors.InvalidRequest),
        (422, "invalid_from_address", errors.InvalidRequest),
        (429, "rate_limit_exceeded", errors.RateLimited),
        (429, "daily_quota_exceeded", errors.LimitFault),
        (429, "monthly_quota_exceeded", errors.LimitFault),
        (451, "security_error", errors.InvalidRequest),
        (500, "application_error", errors.ServiceUnavailable),
        (500, "internal_server_error", errors.ServiceUnavailable),
    ],
)
def test_every_documented_error(status: int, name: str, kind: type[errors.CallError]):
    """Each name of the card is a class of ours, with name and message."""
    body = json.dumps({"statusCode": status, "name": name, "message": "No"}).encode()
    with pytest.raises(kind) as caught:
        Recorder(status, body).service(Resend, policy=Policy(retry=None)).send(plain()).result()
    assert (type(caught.value), caught.value.code, caught.value.message) == (kind, name, "No")


def test_a_limit_of_the_second_is_waited_for(box: Box, run: Run):
    """A 429 of the rate limit names its second; without patience it is RateLimited with that time."""
    box.arm(kind="status", status=429)
    with pytest.raises(errors.RateLimited) as caught:
        run(box.service(Resend, policy=Policy(retry=None)).send(plain()))
    assert caught.value.retry_at is not None
    assert (caught.value.code, caught.value.retryable) == ("rate_limit_exceeded", True)


def test_remaining_zero_slows_down_before_a_429():
    """An answer that leaves nothing closes the gate for the seconds that it names, counted from now."""
    limits = {"ratelimit-limit": "2", "ratelimit-remaining": "0", "ratelimit-reset": "50"}
    recorder = Recorder(200, b'{"id":"1"}', limits)
    service = recorder.service(Resend, policy=Policy(deadline=5))
    service.send(plain()).result()
    with pytest.raises(errors.RateLimited) as caught:
        service.send(plain()).result()
    assert (caught.value.outcome, len(recorder.requests)) == ("not_sent", 1)


def test_a_lost_answer_may_be_asked_for_again(box: Box, run: Run):
    """One Call sends one mail, though its first answer was lost: in one go, and when the same Call is sent again."""
    box.arm(kind="dropped", processed=True)
    service = box.service(Resend, policy=Policy(retry=Retry(base=0.001)))
    sent = run(service.send(plain()))
    assert [one["id"] for one in box.state("resend")["emails"]] == [sent.id]
    call = box.service(Resend, policy=Policy(retry=None)).send_batch(plain())
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(call)
    assert caught.value.retryable is True
    assert run(call).results[0].id == box.state("resend")["emails"][-1]["id"]
    assert len(box.state("resend")["emails"]) == 2


def test_a_key_for_another_mail(box: Box, run: Run):
    """A key of the caller's that was used for another mail is IdempotencyConflict, and is not tried again."""
    service = box.service(Resend)
    run(service.send(plain()).using(idempotency_key="receipt/42"))
    with pytest.raises(errors.IdempotencyConflict) as caught:
        run(service.send(plain(subject="Other")).using(idempotency_key="receipt/42"))
    assert len(caught.value.attempts) == 1
    with pytest.raises(errors.ConfigurationError, match="256"):
        service.send(plain()).using(idempotency_key="k" * 257)


def test_keys_go_where_they_are_known(box: Box, run: Run):
    """request() carries a key to the two endpoints that honour one: elsewhere what was lost is not made a second time."""
    service = box.service(Resend, policy=Policy(retry=Retry(base=0.001)))
    keyed = {path: service.request("POST", path, json={}).idempotency_key for path in ("/emails", "/emails/batch")}
    assert None not in keyed.values()
    for path in ("/api-keys", "/webhooks", "/emails/e1/cancel"):
        lost = service.request("POST", path, json={"name": "n"})
        assert lost.idempotency_key is None
        box.arm(kind="dropped", path=path)
        with pytest.raises(errors.OutcomeUnknown):
            run(lost)
    assert [one["path"] for one in box.seen()] == ["/api-keys", "/webhooks", "/emails/e1/cancel"]


def test_calling_off_has_no_key(box: Box, run: Run, impatient: Policy):
    """Resend knows no keys there: a lost answer is OutcomeUnknown after one attempt, and the mail tells what happened."""
    service = box.service(Resend, policy=impatient)
    sent = run(service.send(plain(send_at=SOON)))
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(service.cancel_email(sent.id))
    assert (caught.value.retryable, caught.value.idempotency_key) == (False, None)
    assert run(service.get_email(sent.id)).status == "canceled"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sender": None}, "sender"),
        ({"to": [f"a{n}@customer.example" for n in range(51)]}, "to"),
        ({"tags": ["a b"]}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": ["ä"]}, "tags"),
        ({"tags": ["a" * 257]}, "tags"),
        ({"tags": ["a", "a"]}, "tags"),
        ({"tags": ["a"], "metadata": {"a": "b"}}, "tags"),
        ({"metadata": {"order": "a.b"}}, r"metadata\[order\]"),
        ({"metadata": {"or der": "1"}}, r"metadata\[or der\]"),
        ({"metadata": {"order": "x" * 257}}, r"metadata\[order\]"),
        ({"template": "t"}, "text"),
        ({"template_data": {"a": 1}}, "template_data"),
        ({"template": "t", "text": None, "template_data": {"a": [1]}}, r"template_data\[a\]"),
        ({"template": "t", "text": None, "template_data": {"a": True}}, r"template_data\[a\]"),
    ],
)
def test_limits_are_checked_before_sending(changes: dict[str, Any], field: str):
    """What Resend would refuse by a documented rule is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        recorder.service(Resend).send(plain(**changes))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cc": "c@customer.example"}, "cc"),
        ({"to": ["ada@customer.example", "ADA@customer.example"]}, "to"),
        ({"to": [f"a{n}@customer.example" for n in range(101)]}, "to"),
        ({"attachments": [Attachment("a", b"x")]}, "attachments"),
        ({"send_at": SOON}, "send_at"),
        ({"personal": {"delivered@resend.dev": {"a": "b"}}}, "personal"),
    ],
)
def test_what_is_no_batch(changes: dict[str, Any], field: str):
    """Copies, one recipient twice, more than the limit, and what Resend does not allow in batches, are refused."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:"):
        Recorder().service(Resend).send_batch(plain(**changes))


def test_a_batch_is_one_message_for_each(box: Box, run: Run):
    """Each recipient has a message with data and an id of its own; the bad ones have their reason, unless it is strict."""
    sent = run(box.service(Resend).send_batch(BATCH))
    held = box.state("resend")["emails"]
    assert [(one.recipient.email, one.id) for one in sent.results] == [
        ("ada@customer.example", held[0]["id"]),
        ("bounced+1@resend.dev", held[1]["id"]),
    ]
    assert [(one["message"]["to"], one["message"]["template"]["variables"]) for one in held] == [
        (["ada@customer.example"], {"shop": "Moor", "n": 3, "name": "Ada"}),
        (["Bob <bounced+1@resend.dev>"], {"shop": "Moor", "n": 3}),
    ]
    people = ["a@example.com", "ada@customer.example", "b@test.com"]
    mixed = run(box.service(Resend).send_batch(plain(to=people)))
    assert [(one.recipient.email, one.accepted, bool(one.message)) for one in mixed.results] == [
        ("a@example.com", False, True),
        ("ada@customer.example", True, False),
        ("b@test.com", False, True),
    ]
    assert [one.recipient.email for one in mixed.failed] == ["a@example.com", "b@test.com"]
    assert mixed.results[1].id == box.state("resend")["emails"][-1]["id"]


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [{"id": "1"}, {"id": "2"}, {"id": "3"}]},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": [{"index": 0, "message": "x"}]},
        {"data": [{"id": "1"}], "errors": [{"index": "0"}]},
    ],
)
def test_a_batch_whose_answer_does_not_add_up(answer: dict[str, Any]):
    """No result is given to somebody whose it may not be."""
    service = Recorder(200, json.dumps(answer).encode()).service(Resend)
    with pytest.raises(errors.BadAnswer):
        service.send_batch(plain(to=["a@customer.example", "b@customer.example"])).result()


def test_a_template_may_give_sender_and_subject():
    """Resend's own package has both optional; its contract requires them, for mails without a template."""
    recorder = Recorder(200, b'{"id":"1"}')
    recorder.service(Resend).send(Email("ada@customer.example", template="t-1", template_data={"n": 1.5})).result()
    assert json.loads(recorder.requests[0].content) == {
        "to": ["ada@customer.example"],
        "template": {"id": "t-1", "variables": {"n": 1.5}},
    }


def test_a_message_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in, under the same key: the mail is sent once."""
    service = box.service(Resend)
    call = service.send(FULL)
    stored = json.loads(json.dumps(call.to_payload()))
    again = Call.from_payload(stored, lambda name: service)
    assert [*again.args, *again.kwargs.values()][0] == FULL
    assert again.result().id == call.result().id
    assert len(box.state("resend")["emails"]) == 1


def _both(service: Any) -> Any:
    return service.send_batch(BATCH)


@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("/emails", lambda s: s.send(FULL)),
        ("/emails", lambda s: s.send(plain(), topic_id="b6d24b8e-af0b-4c3c-be0c-359bbd97381e")),
        ("/emails", lambda s: s.send(plain(text=None, template="t", template_data={"a": "b", "n": 1}))),
        ("/emails/batch", _both),
        ("/emails/batch", lambda s: s.send_batch(plain(), strict=True)),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, path: str, make: Callable[[Any], Any]):
    """Every request that we build is valid by resend.json, and carries its key and the mode of the batch."""
    people = 2 if make is _both else 1
    recorder = Recorder(200, json.dumps({"id": "1", "data": [{"id": "1"}] * people}).encode())
    call = make(recorder.service(Resend))
    call.result()
    [request] = recorder.requests
    contract = Contract(contracts_dir, "resend")
    assert contract.request_problems("POST", path, request.content, request.headers["content-type"]) == []
    assert request.headers["idempotency-key"] == call.idempotency_key
    assert request.headers["user-agent"]  # without one it would be 403
    mode = request.headers.get("x-batch-validation")
    assert mode == (None if path == "/emails" else "strict" if call.kwargs else "permissive")


def _event(type_: str, data: dict[str, Any]) -> Event:
    payload = {"type": type_, "created_at": "2026-11-20T10:00:00.000Z", "data": data}
    return Event("resend", "msg_1", type_, json.dumps(payload).encode())


DATA: dict[str, Any] = {
    "email_id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794",
    "from": "Shop <shop@example.com>",
    "to": ["ada@example.com"],
    "subject": "Receipt",
    "created_at": "2026-11-20T09:59:00.000Z",
    "tags": {"order": "42", "receipt": "receipt"},
}


@pytest.mark.parametrize(
    ("word", "more", "kind", "facts"),
    [
        ("sent", {}, "accepted", {}),
        ("scheduled", {}, "accepted", {}),
        ("delivered", {}, "delivered", {}),
        ("delivery_delayed", {}, "deferred", {}),
        ("bounced", {"bounce": {"type": "Permanent", "subType": "General", "message": "no"}}, "bounced",
         {"permanent": True, "reason": "no"}),
        ("bounced", {"bounce": {"type": "Temporary", "subType": "MailboxFull", "message": "full"}}, "bounced",
         {"permanent": False, "reason": "full"}),
        ("bounced", {"bounce": {"type": "Undetermined", "subType": "?", "message": "?"}}, "bounced", {"reason": "?"}),
        ("complained", {}, "complained", {}),
        ("opened", {}, "opened", {}),
        ("clicked", {"click": {"link": "https://shop.example/"}}, "clicked", {"url": "https://shop.example/"}),
        ("failed", {"failed": {"reason": "reached_daily_quota"}}, "rejected", {"reason": "reached_daily_quota"}),
        ("suppressed", {"suppressed": {"type": "x", "message": "suppressed"}}, "rejected", {"reason": "suppressed"}),
    ],
)  # fmt: skip
def test_events_are_read(word: str, more: dict[str, Any], kind: str, facts: dict[str, Any]):
    """Each event of a mail is in the words of all services, with its facts, tags and metadata apart."""
    read = Resend.read_event(_event(f"email.{word}", DATA | more))
    assert isinstance(read, EmailEvent)
    assert (read.kind.value, read.recipient, read.message_id) == (kind, "ada@example.com", DATA["email_id"])
    assert (read.tags, read.metadata) == (("receipt",), {"order": "42"})
    assert read.at == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert {
        name: getattr(read, name) for name in ("permanent", "reason", "url") if getattr(read, name) is not None
    } == facts


def test_events_of_other_shapes():
    """Tags may be a list, several recipients are nobody in particular; contacts and new words have no common meaning."""
    changed = DATA | {"to": ["a@x.example", "b@x.example"], "tags": [{"name": "order", "value": "42"}]}
    read = Resend.read_event(_event("email.sent", changed))
    assert isinstance(read, EmailEvent)
    assert (read.recipient, read.metadata) == (None, {"order": "42"})
    for other in ("contact.created", "domain.updated", "email.teleported"):
        assert Resend.read_event(_event(other, {})) is None
    for wrong in (DATA | {"tags": 1}, DATA | {"to": [1]}, DATA | {"bounce": "x"}, DATA | {"email_id": 1}):
        with pytest.raises(errors.BadAnswer):
            Resend.read_event(_event("email.bounced", wrong))


def test_a_mail_that_came_in():
    """It has sender, recipients and subject; what is no address is left out, and a mail from nobody is no mail."""
    data = {
        "email_id": "56761188-7520-42d8-8898-ff6fc54ce618",
        "created_at": "2026-11-20T09:59:00.000Z",
        "from": "Ada <ada@customer.example>",
        "to": ["help@shop.example", "undisclosed-recipients:;"],
        "cc": [],
        "bcc": [],
        "message_id": "<1@customer.example>",
        "subject": "Help\r\n me",
        "attachments": [{"id": "1", "filename": None, "content_type": "application/pdf"}],
    }
    read = Resend.read_event(_event("email.received", data))
    assert isinstance(read, InboundEmail)
    assert (read.id, read.sender, read.to) == (
        data["email_id"],
        Address("ada@customer.example", "Ada"),
        (Address("help@shop.example"),),
    )
    assert (read.subject, read.text, read.headers) == ("Help me", None, {"Message-ID": "<1@customer.example>"})
    assert read.raw["attachments"]
    with pytest.raises(errors.BadAnswer, match="from"):
        Resend.read_event(_event("email.received", data | {"from": "nobody"}))


def test_what_becomes_of_a_batch():
    """Its events come signed, one for each step, and name the message that ``send_batch`` returned."""
    assert STAND_IN.secret is not None
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    people = ["ada@customer.example", "bounced@resend.dev", "complained+2@resend.dev", "suppressed@resend.dev"]
    sent = Resend("re_1", wire=wire, guards=Guards()).send_batch(plain(to=people, tags=["receipt"])).result()
    told = []
    for emission in emitted:
        signed = stand_in.sign(emission, url="https://x.example", secrets=(STAND_IN.secret,), hook_id="1", broken=False)
        [event] = verify_each(Resend, headers=signed.headers, body=emission.body, secrets=STAND_IN.secret)
        read = Resend.read_event(event)
        assert isinstance(read, EmailEvent)
        assert read.tags == ("receipt",)
        told.append((read.message_id, read.recipient, read.kind.value))
    ids = {one.recipient.email: one.id for one in sent.results}
    assert told == [
        (ids[person], person, kind)
        for person, kinds in zip(
            people,
            (
                ("accepted", "delivered"),
                ("accepted", "bounced"),
                ("accepted", "delivered", "complained"),
                ("rejected",),
            ),
            strict=True,
        )
        for kind in kinds
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "a@x.example"),
        ("Ada Lovelace", "Ada Lovelace <a@x.example>"),
        ("Bøb", "Bøb <a@x.example>"),
        ("a, b@c.example", '"a, b@c.example" <a@x.example>'),
        ('"q" \\', '"\\"q\\" \\\\" <a@x.example>'),
    ],
)
def test_mailboxes(name: str | None, text: str):
    """An address as text is one address, whatever is in its name."""
    assert Address("a@x.example", name).mailbox == text
    assert Address.of(text) == Address("a@x.example", name)
