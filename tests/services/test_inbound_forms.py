"""Mail that comes in as a form, encoded by independent programs: what it says is found, whoever wrote it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from moorline.errors import BadAnswer, InvalidSignature, UnusableEvent
from moorline.events import Event, verify
from moorline.services import MailgunInbound
from moorline.services.email.protocol import Address, Attachment, InboundEmail

NOW = 1_790_000_000.0
PDF, PNG, NOTE = b"%PDF-1.7\r\n\xff\x00--", b"\x89PNG\r\n\x1a\n\x00", "Grüße".encode()
MIME = b"""\
From: =?utf-8?q?Ad=C3=A9la?= <ada@customer.example>\r
To: help@mg.shop.example\r
Cc: Bob <bob@customer.example>\r
Subject: =?utf-8?b?R3LDtsOfZT8=?=\r
Message-ID: <m1@customer.example>\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=x\r
\r
--x\r
Content-Type: text/plain; charset=iso-8859-1\r
Content-Transfer-Encoding: 8bit\r
\r
Gr\xf6\xdfe & Farbe + 100%?\r
--x\r
Content-Type: application/pdf\r
Content-Disposition: attachment; filename=a.pdf\r
Content-Transfer-Encoding: base64\r
\r
JVBERi0xLjcNCv8ALS0=\r
--x--\r
"""


def read_whole(found: InboundEmail | None) -> None:
    """The mail in ``MIME`` was read, whose text is in another character set than the form's."""
    assert found is not None
    assert (found.sender, found.subject) == (Address("ada@customer.example", "Adéla"), "Größe?")
    assert (found.to, found.cc) == ((Address("help@mg.shop.example"),), (Address("bob@customer.example", "Bob"),))
    assert (found.text or "").strip() == "Größe & Farbe + 100%?"
    assert [(one.filename, one.media_type, one.content) for one in found.attachments] == [
        ("a.pdf", "application/pdf", PDF)
    ]


# --- Mailgun

MAILGUN = {
    "recipient": "help@mg.shop.example",
    "sender": "bounce+1@customer.example",
    "from": "Adéla Łukasz <ada@customer.example>",
    "subject": "Größe 😀 & more",
    "body-plain": "Is it blue? ✓\r\n> no\r\n",
    "stripped-text": "Is it blue? ✓",
    "body-html": '<p>Is it <b>blue</b>? <img src="cid:logo@1"></p>',
    "To": '"Help, Desk" <help@mg.shop.example>, sales@shop.example',
    "Cc": "Bob <bob@customer.example>, not an address",
    "Message-Id": "<m1@customer.example>",
    "Received": ["from a", "from b"],
    "message-headers": json.dumps(
        [["Received", "from a"], ["Received", "from b"], ["Subject", "=?utf-8?q?Gr=C3=B6=C3=9Fe?="], ["X-Ä", "é"]]
    ),
}
FILES = [
    ("attachment-1", ("Rechnung №1.pdf", PDF, "application/pdf")),
    ("attachment-2", ("note.txt", NOTE, "text/plain; charset=utf-8")),
    ("attachment-3", ("logo.png", PNG, "image/png")),
]
WITH_FILES = {**MAILGUN, "attachment-count": "3", "content-id-map": json.dumps({"<logo@1>": "attachment-3"})}


def by_mailgun(fields: Mapping[str, Any], token: str = "t1", now: float = NOW) -> dict[str, Any]:
    """The fields with Mailgun's signature, by a few lines of hmac."""
    stamp = str(int(now))
    signature = hmac.new(b"k", (stamp + token).encode(), hashlib.sha256).hexdigest()
    return {"timestamp": stamp, "token": token, "signature": signature, **fields}


def by_httpx(fields: Mapping[str, Any], files: Any = None) -> tuple[dict[str, str], bytes]:
    """Headers and body as httpx2 writes them."""
    request = httpx2.Request("POST", "https://shop.example/", data=fields, files=files)
    return dict(request.headers), request.read()


def by_requests(fields: Mapping[str, Any], files: Any = None) -> tuple[dict[str, str], bytes]:
    """Headers and body as requests writes them."""
    made = requests.Request("POST", "https://shop.example/", data=fields, files=files).prepare()
    body = made.body or b""
    return dict(made.headers), body.encode() if isinstance(body, str) else body


WRITERS = pytest.mark.parametrize("write", [by_httpx, by_requests])


def mailgun(headers: Mapping[str, str], body: bytes, now: float = NOW) -> Event:
    """The event of a delivery."""
    return verify(MailgunInbound, headers=headers, body=body, secrets="k", now=now)


@WRITERS
@pytest.mark.parametrize("files", [None, FILES])
def test_a_mail_by_mailgun(write: Any, files: Any):
    """Both kinds of a form give the same mail; with files it has them, and knows which of them the HTML shows."""
    event = mailgun(*write(by_mailgun(WITH_FILES if files else MAILGUN), files))
    assert (event.id, event.type, event.dedup_key) == (
        "help@mg.shop.example:<m1@customer.example>",
        "received",
        "once:t1",
    )
    found = MailgunInbound.read_event(event)
    assert found is not None
    assert (found.id, found.sender) == (event.id, Address("ada@customer.example", "Adéla Łukasz"))
    assert found.to == (Address("help@mg.shop.example", "Help, Desk"), Address("sales@shop.example"))
    assert found.cc == (Address("bob@customer.example", "Bob"),)
    assert (found.subject, found.text, found.html) == (
        MAILGUN["subject"], MAILGUN["body-plain"], MAILGUN["body-html"]
    )  # fmt: skip
    assert found.headers == {"Received": "from a", "Subject": "Größe", "X-Ä": "é"}
    assert (found.raw["stripped-text"], found.raw["Received"]) == ("Is it blue? ✓", ["from a", "from b"])
    assert found.raw["sender"] == "bounce+1@customer.example"
    assert found.at is not None
    assert found.at.timestamp() == NOW
    assert found.attachments == (() if files is None else (
        Attachment("Rechnung №1.pdf", PDF, "application/pdf"),
        Attachment("note.txt", NOTE, "text/plain"),
        Attachment("logo.png", PNG, "image/png", content_id="logo@1"),
    ))  # fmt: skip


@pytest.mark.parametrize("files", [False, True])
def test_a_whole_mail_by_mailgun(files: bool):
    """``body-mime`` is read by its own character sets, and not by the form's; the envelope stays in ``raw``."""
    fields = by_mailgun({"recipient": "help@mg.shop.example", "sender": "b@customer.example"})
    sent = by_httpx(fields, {"body-mime": (None, MIME)}) if files else by_requests({**fields, "body-mime": MIME})
    event = mailgun(*sent)
    found = MailgunInbound.read_event(event)
    read_whole(found)
    assert found is not None
    assert (found.raw["recipient"], found.raw["sender"]) == ("help@mg.shop.example", "b@customer.example")
    assert event.id.startswith("sha256:")  # Message-Id is no field of its own there


def test_a_stored_mail_by_mailgun():
    """The files of *store* stay with Mailgun: ``raw`` says where."""
    files = [{"url": "https://se.api.mailgun.net/v3/domains/d/messages/x/attachments/0", "name": "a.pdf", "size": 9}]
    kept = {
        "domain": "mg.shop.example",
        "message-url": "https://se.api.mailgun.net/v3/x",
        "attachments": json.dumps(files),
    }
    found = MailgunInbound.read_event(mailgun(*by_httpx(by_mailgun({**MAILGUN, **kept}))))
    assert found is not None
    assert found.attachments == ()
    assert json.loads(found.raw["attachments"]) == files
    assert found.raw["message-url"] == kept["message-url"]


@pytest.mark.parametrize("message_id", ["<" + "x" * 300 + "@customer.example>", "<a@b>\r\n <c@d>", "", "<a\x00b>"])
def test_a_strange_message_id_keeps_no_mail_out(message_id: str):
    """Anybody writes them: one that cannot be kept is known by a digest, and the mail is taken."""
    event = mailgun(*by_httpx(by_mailgun({**MAILGUN, "Message-Id": message_id})))
    assert event.id.startswith("sha256:")
    assert MailgunInbound.read_event(event) is not None


def test_a_forged_mail_is_refused():
    """Another key's signature, none, a stale one: refused, in both kinds of a form."""
    good = by_mailgun(MAILGUN)
    for files in (None, FILES):
        for changes in ({"token": "t2"}, {"signature": "0" * 64}, {"signature": ""}, {"timestamp": "1"}):
            with pytest.raises(InvalidSignature):
                mailgun(*by_httpx({**good, **changes}, files))
        with pytest.raises(InvalidSignature, match="no timestamp"):
            mailgun(*by_httpx(MAILGUN, files))


def test_what_names_no_sender_is_no_mail():
    """Neither in the head nor in the envelope; and an event of another type is none of ours."""
    event = mailgun(*by_httpx(by_mailgun({**MAILGUN, "from": "nobody", "sender": ""})))
    with pytest.raises(BadAnswer, match="sender"):
        MailgunInbound.read_event(event)
    assert MailgunInbound.read_event(Event("mailgun_inbound", "x", "other", b"")) is None


# --- whatever comes

WORDS = [
    "",
    "\r\n",
    "a@b.example",
    "<>",
    '"',
    "=?utf-8?q?=ff?=",
    "=?x?b?!!?=",
    "{",
    "[[",
    '["a",1]',
    '{"a":',
    "\x00",
    "é",
    "@",
    ",",
]
strange = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=9)), max_size=6).map("".join)
OF_MAILGUN = ["from", "From", "sender", "To", "Cc", "recipient", "subject", "message-headers", "content-id-map",
              "body-plain", "body-html", "body-mime", "attachments", "Message-Id"]  # fmt: skip
names = st.sampled_from(OF_MAILGUN)
fields = st.lists(st.tuples(names, strange), max_size=8)


@settings(max_examples=150)
@given(fields, st.one_of(st.none(), strange), st.one_of(strange.map(str.encode), st.binary(max_size=30)))
def test_whatever_mailgun_posts_is_a_mail_or_an_error_of_ours(
    given_: list[tuple[str, str]], name: str | None, body: bytes
):
    """Any fields in either kind, any bytes: a mail, BadAnswer or UnusableEvent."""
    from moorline.calls.multipart import File, encode_multipart

    sent, kind = urlencode(given_, errors="replace").encode(), "application/x-www-form-urlencoded"
    if name is not None:
        clean = [(key, text.encode("utf-8", "replace").decode()) for key, text in given_]
        file = File(name.encode("utf-8", "replace").decode(), body)
        sent, kind = encode_multipart(
            [*clean, ("attachment-1", file), ("content-id-map", '{"<a>":"attachment-1","b":1}')]
        )
    for content in (sent, body, sent + body):
        try:
            found = MailgunInbound.read_event(
                Event("mailgun_inbound", "x", "received", content, {"content-type": kind})
            )
        except (BadAnswer, UnusableEvent):
            continue
        assert isinstance(found, InboundEmail)
