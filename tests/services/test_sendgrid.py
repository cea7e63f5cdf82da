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
from moorline.calls.minting import KnowsKeys, MintsKeys
from moorline.events.event import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.sandbox.services.sendgrid import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.secrets.secret import Secret
from moorline.services.email.protocol import Address, Attachment, Email, EmailEventKind
from moorline.services.email.sendgrid import SendGrid

Run = Callable[[Any], Any]
FULL = Email(
    to=["Ada Lovelace <ada@example.com>", Address("bob@example.com", "Bøb, Jr.")],
    cc="carol@example.com",
    bcc=["dan@example.com"],
    sender="Shop <shop@example.com>",
    reply_to="help@example.com",
    subject="Grüße ⚓",
    text="Hello",
    html='<p>Hello <img src="cid:logo"></p>',
    attachments=[Attachment("r.pdf", b"%PDF-"), Attachment("logo.png", b"\x89PNG", content_id="logo")],
    tags=["receipt"],
    metadata={"order": "42"},
    headers={"X-Order": "42"},
    send_at=datetime.now(UTC) + timedelta(hours=1),
)


BATCH = Email(
    to=["ada@example.com", "bounce@example.com"],
    sender="s@example.com",
    template="d-1",
    template_data={"shop": "Moor"},
    personal={"ada@example.com": {"name": "Ada"}},
    metadata={"order": "42"},
    tags=["receipt"],
)


def plain(**changes: Any) -> Email:
    return Email(**{"to": "ada@example.com", "subject": "Hi", "text": "x", "sender": "s@example.com", **changes})


CALLS: list[Callable[[SendGrid], Any]] = [
    lambda s: s.send(plain()),
    lambda s: s.send_batch(plain()),
    lambda s: s.check(),
    lambda s: s.mint_key("moorline"),
    lambda s: s.find_keys("moorline"),
    lambda s: s.revoke_key("abc"),
]


def test_send(box: Box, run: Run):
    """A full message is accepted, answers with the id of X-Message-Id, and arrives as it was meant."""
    sent = run(box.service(SendGrid).send(FULL))
    [held] = box.state("sendgrid")["messages"]
    assert (sent.id, sent.accepted) == (held["id"], True)
    mail = held["message"]
    assert mail["personalizations"][0]["to"][1] == {"email": "bob@example.com", "name": "Bøb, Jr."}
    assert mail["subject"] == "Grüße ⚓"
    assert [part["type"] for part in mail["content"]] == ["text/plain", "text/html"]
    assert mail["attachments"][1] == {
        "content": "iVBORw==",
        "filename": "logo.png",
        "type": "image/png",
        "disposition": "inline",
        "content_id": "logo",
    }


def test_sandbox_mode(box: Box, run: Run):
    """Sandbox mode validates and sends nothing; that is told apart from an accepted message."""
    sent = run(box.service(SendGrid).send(plain(), sandbox_mode=True))
    assert (sent.id, sent.accepted) == (None, False)
    assert box.state("sendgrid")["messages"] == []


def test_typed_errors(box: Box, run: Run):
    """A wrong key, a missing scope and an unknown field are typed, with SendGrid's words and the field as code."""
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(SendGrid, "SG.wrong").send(plain()))
    with pytest.raises(errors.PermissionDenied):
        run(box.service(SendGrid, "SG.read").check())
    with pytest.raises(errors.InvalidRequest) as caught:
        run(box.service(SendGrid).send(plain(), surprise=1))
    assert (caught.value.code, caught.value.status) == ("surprise", 400)
    assert run(box.service(SendGrid).check()) is True


def test_a_key_makes_another_one_and_revokes_it(box: Box, run: Run):
    """A minted key has the rights of the one that it was asked with, works until it is revoked, and is found by its
    label and by itself.
    """
    service = box.service(SendGrid, "SG.first.0123456789abcdef")
    assert isinstance(service, MintsKeys)
    assert isinstance(service, KnowsKeys)
    minted = run(service.mint_key("moorline r-17"))
    [made] = box.state("sendgrid")["api_keys"]
    assert made["scopes"] == run(service.request("GET", "/v3/scopes"))["scopes"]
    assert service.key_id(minted.secret) == minted.id == made["api_key_id"]
    assert minted.secret.reveal() not in repr(minted)
    other = box.service(SendGrid, minted.secret.reveal())
    assert run(other.check()) is True
    assert run(service.find_keys("moorline r-17")) == [minted.id]
    assert run(service.revoke_key(minted.id)) is True
    assert run(service.revoke_key(minted.id)) is False
    assert run(service.find_keys("moorline r-17")) == []
    with pytest.raises(errors.AuthenticationFailed):
        run(other.check())
    assert service.key_id(Secret("SG.sandbox")) is None


def test_unanswered_send_is_unknown_and_not_repeated(box: Box, run: Run):
    """SendGrid has no keys: a send whose answer was lost is OutcomeUnknown after one attempt, though it was accepted."""
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(SendGrid).send(plain()))
    assert (caught.value.retryable, len(caught.value.attempts)) == (False, 1)
    assert len(box.state("sendgrid")["messages"]) == 1


@pytest.mark.parametrize(
    ("email", "field"),
    [
        (lambda: plain(sender=None), "sender"),
        (lambda: plain(cc="ADA@example.com"), "cc"),
        (lambda: plain(to=[f"a{n}@example.com" for n in range(1001)]), "to"),
        (lambda: plain(tags=[str(n) for n in range(11)]), "tags"),
        (lambda: plain(tags=["a", "a"]), "tags"),
        (lambda: plain(tags=["a" * 256]), "tags"),
        (lambda: plain(metadata={"a": "x" * 10_000}), "metadata"),
        (lambda: plain(metadata={"order": "42", "status": "paid"}), r"metadata\[status\]"),
        (lambda: plain(metadata={"sg_message_id": "1"}), r"metadata\[sg_message_id\]"),
        (lambda: plain(headers={"reply-to": "x"}), "headers"),
        (lambda: plain(send_at=datetime.now(UTC) + timedelta(hours=73)), "send_at"),
        (lambda: plain(attachments=[Attachment("a", b"x" * 24 * 1024 * 1024)]), "attachments"),
        (lambda: plain(attachments=[Attachment("a", b"")]), "attachments"),
    ],
)
def test_limits_are_checked_before_sending(email: Callable[[], Email], field: str):
    """What SendGrid would refuse by a documented limit is InvalidRequest naming field and limit, and nothing is sent."""
    recorder = Recorder(202)
    with pytest.raises(errors.InvalidRequest, match=field) as caught:
        recorder.service(SendGrid).send(email())
    assert caught.value.outcome == "not_sent"
    assert recorder.requests == []


@pytest.mark.parametrize("bad", ["a\r\nBcc: c@example.com", "a\nb", "a\x00b", "a\u2028b", "a\rb"])
@pytest.mark.parametrize(
    "place",
    [
        lambda bad: plain(subject=bad),
        lambda bad: plain(sender=Address("s@example.com", bad)),
        lambda bad: plain(to=bad),
        lambda bad: plain(to=Address(f"{bad}@example.com")),
        lambda bad: plain(to=f"Ada <ada@example.com>{bad}"),
        lambda bad: plain(headers={"X-A": bad}),
        lambda bad: plain(headers={bad: "x"}),
        lambda bad: plain(tags=[bad]),
        lambda bad: plain(attachments=[Attachment(bad, b"x")]),
        lambda bad: plain(attachments=[Attachment("a", b"x", content_id=bad)]),
        lambda bad: plain(attachments=[Attachment("a", b"x", type=bad)]),
    ],
)
def test_header_injection_is_refused(place: Callable[[str], Email], bad: str):
    """No line break or control character gets into anything that becomes a header."""
    with pytest.raises(errors.InvalidRequest):
        place(bad)


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (lambda half: plain(text=half), "text"),
        (lambda half: plain(html=half), "html"),
        (lambda half: plain(subject=half), "subject"),
        (lambda half: plain(template=half), "template"),
        (lambda half: plain(to=Address("ada@example.com", half)), "name"),
        (lambda half: plain(headers={"X-A": half}), r"headers\[X-A\]"),
        (lambda half: plain(metadata={"a": half}), r"metadata\[a\]"),
        (lambda half: plain(attachments=[Attachment(half, b"x")]), "attachments.filename"),
    ],
)
def test_half_a_character_is_refused(place: Callable[[str], Email], field: str):
    """Text that no request can carry is InvalidRequest naming the field, as soon as the message is made."""
    with pytest.raises(errors.InvalidRequest, match=field) as caught:
        place("A\ud800")
    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize("category", [5, {"a": 1}, True])
def test_a_category_of_another_shape(category: Any):
    """Categories of an event are a text or a list; what is neither is BadAnswer."""
    told = {"event": "delivered", "email": "ada@example.com", "category": category}
    event = Event("sendgrid", "e1", "delivered", json.dumps(told).encode(), {"content-type": "application/json"})
    with pytest.raises(errors.BadAnswer, match="category"):
        SendGrid.read_event(event)


@pytest.mark.parametrize("wrong", ["", "ada", "a@", "@b", "a b@c", "a@b@c", "a@b.", "Ada <ada>", "<>", "a@b, c@d"])
def test_what_is_no_address(wrong: str):
    """What is no address is refused by name."""
    with pytest.raises(errors.InvalidRequest, match="e-mail address"):
        plain(to=[wrong])


@pytest.mark.parametrize(
    "changes",
    [{"to": []}, {"subject": ""}, {"text": None}, {"headers": {"a b": "x"}}, {"send_at": datetime(2030, 1, 1)}],  # noqa: DTZ001
)
def test_incomplete_messages(changes: dict[str, Any]):
    """A message without recipient, subject or content, with a bad header name or a time without zone, cannot be made."""
    with pytest.raises(errors.InvalidRequest, match=next(iter(changes))):
        plain(**changes)


def test_template_needs_no_content():
    """A template stands for subject and content, and its data goes with it."""
    recorder = Recorder(202, b"", {"X-Message-Id": "m1"})
    email = Email("ada@example.com", sender="s@example.com", template="d-1", template_data={"name": "Ada", "n": 3})
    assert recorder.service(SendGrid).send(email).result().id == "m1"
    mail = json.loads(recorder.requests[0].content)
    assert mail == {
        "personalizations": [{"to": [{"email": "ada@example.com"}], "dynamic_template_data": {"name": "Ada", "n": 3}}],
        "from": {"email": "s@example.com"},
        "template_id": "d-1",
    }


def test_a_message_survives_a_queue(box: Box):
    """A Call with attachments, zones and names comes out of a queue as it went in."""
    service = box.service(SendGrid)
    call = service.send(FULL)
    stored = json.loads(json.dumps(call.to_payload()))
    again = Call.from_payload(stored, lambda name: service)
    assert [*again.args, *again.kwargs.values()][0] == FULL
    assert again.result().accepted is True


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.send(FULL),
        lambda s: s.send(plain(reply_to=["a@example.com", "b@example.com"])),
        lambda s: s.send(plain(), sandbox_mode=True, asm={"group_id": 1}),
        lambda s: s.send(plain(template="d-1", template_data={"a": [1]})),
        lambda s: s.send_batch(BATCH),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Any], Any]):
    """Every request that we build is valid by sendgrid.json (its top-level custom_args is a string: we use the other place)."""
    recorder = Recorder(202, b"")
    make(recorder.service(SendGrid)).result()
    [request] = recorder.requests
    problems = Contract(contracts_dir, "sendgrid").request_problems(
        "POST", "/v3/mail/send", request.content, request.headers["content-type"]
    )
    assert problems == []
    assert request.headers["accept"] == "application/json"
    assert "idempotency-key" not in request.headers


def test_region():
    """EU subusers have their own host; an unknown region is named."""
    recorder = Recorder(202, b"")
    recorder.service(SendGrid, region="eu").send(plain()).result()
    assert recorder.requests[0].url.host == "api.eu.sendgrid.com"
    with pytest.raises(errors.ConfigurationError, match="region"):
        SendGrid("SG.x", region="mars")


def test_remaining_zero_slows_down_before_a_429():
    """An answer that leaves nothing of the limit closes the gate: the next call is not sent early."""
    reset = str(int(datetime.now(UTC).timestamp()) + 50)
    recorder = Recorder(202, b"", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})
    service = recorder.service(SendGrid, policy=Policy(deadline=5))
    service.send(plain()).result()
    with pytest.raises(errors.RateLimited) as caught:
        service.send(plain()).result()
    assert caught.value.outcome == "not_sent"
    assert len(recorder.requests) == 1


def test_a_batch_is_one_message_for_each(box: Box, run: Run):
    """Each recipient has a message with data of its own, and nobody sees the others."""
    sent = run(box.service(SendGrid).send_batch(BATCH))
    [held] = box.state("sendgrid")["messages"]
    assert [(one.recipient.email, one.id) for one in sent.results] == [
        ("ada@example.com", held["id"]),
        ("bounce@example.com", held["id"]),
    ]
    assert sent.failed == ()
    assert held["message"]["personalizations"] == [
        {
            "to": [{"email": "ada@example.com"}],
            "custom_args": {"order": "42"},
            "dynamic_template_data": {"shop": "Moor", "name": "Ada"},
        },
        {
            "to": [{"email": "bounce@example.com"}],
            "custom_args": {"order": "42"},
            "dynamic_template_data": {"shop": "Moor"},
        },
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cc": "c@example.com"}, "cc"),
        ({"to": ["ada@example.com", "ADA@example.com"]}, "to"),
        ({"to": [f"a{n}@example.com" for n in range(1001)]}, "to"),
    ],
)
def test_what_is_no_batch(changes: dict[str, Any], field: str):
    """Copies of each message, one recipient twice and more than the limit are refused before sending."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:"):
        Recorder().service(SendGrid).send_batch(plain(**changes))


def test_personal_data_is_a_recipients(box: Box):
    """Data for somebody who gets nothing is a mistake, and named."""
    with pytest.raises(errors.InvalidRequest, match="personal"):
        plain(personal={"eve@example.com": {}})


def test_what_becomes_of_a_batch(box: Box):
    """Its events come signed, name the message and the recipient, and tell a dead address from one that is busy."""
    secret = STAND_IN.secret
    assert secret is not None
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    service = SendGrid("SG.1", wire=wire, guards=Guards())
    mails = ["ada@example.com", "bounce@example.com", "block@example.com"]
    sent = service.send_batch(plain(to=mails, metadata={"order": "42"}, tags=["receipt"])).result()
    [emission] = emitted
    signed = stand_in.sign(emission, url="https://x.example", secrets=(secret,), hook_id="1", broken=False)
    events = verify_each(SendGrid, headers=signed.headers, body=emission.body, secrets=secret)
    read = [one for event in events if (one := SendGrid.read_event(event)) is not None]
    told = [(one.recipient, one.kind.value, one.permanent) for one in read if one.kind is not EmailEventKind.ACCEPTED]
    assert told == [
        ("ada@example.com", "delivered", None),
        ("bounce@example.com", "bounced", True),
        ("block@example.com", "bounced", False),
    ]
    assert {(one.message_id, one.tags, tuple(one.metadata.items())) for one in read} == {
        (sent.results[0].id, ("receipt",), (("order", "42"),))
    }
