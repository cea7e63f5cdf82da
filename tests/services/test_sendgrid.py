from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.policies.policy import Policy
from moorline.services.email.protocol import Address, Attachment, Email
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


def plain(**changes: Any) -> Email:
    return Email(**{"to": "ada@example.com", "subject": "Hi", "text": "x", "sender": "s@example.com", **changes})


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
