"""Mail that comes in as a form, encoded by independent programs: what it says is found, whoever wrote it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from sendgrid.helpers.inbound.parse import Parse  # type: ignore[import-untyped]
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart as werkzeug_multipart
from werkzeug.wrappers import Request

from moorline.calls.multipart import File, encode_multipart
from moorline.errors import BadAnswer, InvalidSignature, UnusableEvent
from moorline.events import Event, verify
from moorline.services import MailgunInbound, SendGridInbound
from moorline.services.email.protocol import Address, Attachment, InboundEmail
from moorline.services.inbound import mailboxes

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


# --- SendGrid

HEADERS = (
    "Received: by mx0001 with SMTP\nReceived: from b\nDKIM-Signature: v=1; a=rsa-sha256;\n        d=customer.example\n"
    "Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?=\nMessage-ID: <m1@customer.example>\n"
)
SENDGRID = {
    "headers": HEADERS,
    "dkim": "{@customer.example : pass}",
    "to": '"Help, Desk" <help@in.shop.example>, Sales <sales@shop.example>',
    "cc": "Bob <bob@customer.example>",
    "from": "Adéla Łukasz <ada@customer.example>",
    "subject": "Größe 😀 & more",
    "text": "Is it blue? ✓\n",
    "html": '<p>Blue? <img src="cid:logo@1"></p>',
    "sender_ip": "192.0.2.1",
    "envelope": '{"to":["help@in.shop.example"],"from":"bounce@customer.example"}',
    "attachments": "3",
    "attachment-info": json.dumps(
        {
            "attachment1": {"filename": "Rechnung №1.pdf", "name": "Rechnung №1.pdf", "type": "application/pdf"},
            "attachment2": {"filename": "note.txt", "name": "note.txt", "type": "text/plain"},
            "attachment3": {"filename": "logo.png", "name": "logo.png", "type": "image/png", "content-id": "<logo@1>"},
        }
    ),
    "charsets": '{"to":"UTF-8","cc":"UTF-8","from":"UTF-8","subject":"UTF-8","text":"utf-8","html":"utf-8"}',
    "SPF": "pass",
}
SENT_FILES = [(name.replace("-", ""), file) for name, file in FILES]


def sendgrid(headers: Mapping[str, str], body: bytes) -> Event:
    """The event of a delivery that shows the secret."""
    given = {**headers, "Authorization": "Basic " + base64.b64encode(b"sendgrid:s").decode()}
    return verify(SendGridInbound, headers=given, body=body, secrets="s", now=NOW)


def by_werkzeug(fields: Mapping[str, Any], files: Any = ()) -> tuple[dict[str, str], bytes]:
    """Headers and body as werkzeug writes them."""
    stored = {name: FileStorage(BytesIO(content), filename, name, kind) for name, (filename, content, kind) in files}
    boundary, body = werkzeug_multipart({**fields, **stored})
    return {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}, body


class InMemory(Request):
    """A request as Flask has it, without temporary files that somebody must close."""

    def _get_file_stream(self, *_: object, **__: object) -> BytesIO:
        return BytesIO()


def by_their_helper(headers: Mapping[str, str], body: bytes, keys: list[str]) -> tuple[dict[str, str], list[Any]]:
    """What SendGrid's own package reads in that body."""
    environ = {
        "REQUEST_METHOD": "POST", "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": next(value for name, value in headers.items() if name.lower() == "content-type"),
    }  # fmt: skip
    parse = Parse(SimpleNamespace(keys=keys), InMemory(environ))
    return parse.key_values(), parse.attachments() or []


@pytest.mark.parametrize("write", [by_httpx, by_requests, by_werkzeug])
def test_a_mail_by_sendgrid(write: Any):
    """Names and a subject in any letters, two files and an image that the HTML shows; SendGrid's package agrees."""
    sent = write(SENDGRID, SENT_FILES)
    event = sendgrid(*sent)
    assert (event.type, event.id) == ("received", "sha256:" + hashlib.sha256(sent[1]).hexdigest())
    found = SendGridInbound.read_event(event)
    assert found is not None
    assert (found.id, found.sender) == (event.id, Address("ada@customer.example", "Adéla Łukasz"))
    assert found.to == (Address("help@in.shop.example", "Help, Desk"), Address("sales@shop.example", "Sales"))
    assert found.cc == (Address("bob@customer.example", "Bob"),)
    assert (found.subject, found.text, found.html) == (SENDGRID["subject"], SENDGRID["text"], SENDGRID["html"])
    assert found.headers == {
        "Received": "by mx0001 with SMTP", "DKIM-Signature": "v=1; a=rsa-sha256; d=customer.example",
        "Subject": "Größe", "Message-ID": "<m1@customer.example>",
    }  # fmt: skip
    assert found.attachments == (
        Attachment("Rechnung №1.pdf", PDF, "application/pdf"),
        Attachment("note.txt", NOTE, "text/plain"),
        Attachment("logo.png", PNG, "image/png", content_id="logo@1"),
    )
    keys = ["from", "to", "cc", "subject", "text", "html", "envelope", "SPF", "charsets"]
    values, attachments = by_their_helper(sent[0], sent[1], keys)
    assert values == {name: found.raw[name] for name in keys}
    theirs = [(base64.b64decode(one["contents"]), one["type"].partition(";")[0]) for one in attachments]
    assert theirs == [(one.content, one.media_type) for one in found.attachments]


@pytest.mark.parametrize("write", [by_requests, by_werkzeug])
def test_a_whole_mail_by_sendgrid(write: Any):
    """The raw option: ``email`` holds the MIME, which has its own character sets; SendGrid's package finds its file."""
    fields = {name: SENDGRID[name] for name in ("to", "from", "subject", "envelope", "charsets", "SPF")}
    sent = by_werkzeug({**fields, "email": MIME.decode("latin-1")}) if write is by_werkzeug else by_requests(
        fields, {"email": (None, MIME)}
    )  # fmt: skip
    body = sent[1] if write is by_requests else sent[1].replace(MIME.decode("latin-1").encode(), MIME)
    found = SendGridInbound.read_event(sendgrid(sent[0], body))
    read_whole(found)
    assert found is not None
    assert json.loads(found.raw["envelope"])["to"] == ["help@in.shop.example"]
    _, attachments = by_their_helper(sent[0], body, [])
    contents = [base64.b64decode(one["contents"]) for one in attachments if one["type"] == "application/pdf"]
    assert contents == [one.content for one in found.attachments]


def test_sendgrids_fields_have_character_sets_of_their_own():
    """Each is read by what ``charsets`` says of it; one that nobody knows gives marks in place of what is no UTF-8."""
    charsets = {"subject": "iso-8859-2", "text": "shift_jis", "html": "x-unknown", "from": 1}
    fields = {
        "from": b"ada@customer.example", "subject": "Łódź".encode("iso-8859-2"), "text": "日本".encode("shift_jis"),
        "html": "é".encode() + b"\xff", "charsets": json.dumps(charsets).encode(),
    }  # fmt: skip
    sent = by_requests({}, {name: (None, content) for name, content in fields.items()})
    found = SendGridInbound.read_event(sendgrid(*sent))
    assert found is not None
    assert (found.subject, found.text, found.html) == ("Łódź", "日本", "é\ufffd")
    assert found.to == ()


def test_a_mail_that_plays_a_field_is_refused():
    """SendGrid's boundary is known to everybody: a text that holds it brings a field that is there already."""
    forged = 'Hi\r\n--xYzZY\r\nContent-Disposition: form-data; name="from"\r\n\r\nboss@shop.example'
    fields = {"text": forged, "from": "eve@customer.example", "to": "help@in.shop.example"}
    parts = [
        f'--xYzZY\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()
    ]
    body = "".join([*parts, "--xYzZY--\r\n"]).encode()
    with pytest.raises(BadAnswer, match="twice"):
        SendGridInbound.read_event(sendgrid({"Content-Type": "multipart/form-data; boundary=xYzZY"}, body))


@pytest.mark.parametrize("secret", ["Basic c2VuZGdyaWQ6dA==", "Bearer t", ""])
def test_who_does_not_know_the_secret_sends_no_mail(secret: str):
    """Another secret, or none: refused; and an event of another type is none of ours."""
    headers, body = by_werkzeug(SENDGRID)
    with pytest.raises(InvalidSignature):
        verify(SendGridInbound, headers={**headers, "Authorization": secret}, body=body, secrets="s", now=NOW)
    assert SendGridInbound.read_event(Event("sendgrid_inbound", "x", "other", b"")) is None


# --- whatever comes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b.example", [("a@b.example", None)]),
        ('"Lee, Bob \\"B\\"" <a@b.example>,c@d.example', [("a@b.example", 'Lee, Bob "B"'), ("c@d.example", None)]),
        ("boss@shop.example <eve@c.example>", [("eve@c.example", "boss@shop.example")]),
        ('"boss@shop.example" <eve@c.example>', [("eve@c.example", "boss@shop.example")]),
        ('"a <boss@shop.example>" <eve@c.example>', [("eve@c.example", "a <boss@shop.example>")]),
        ("<boss@shop.example> <eve@c.example>", []),
        ("=?utf-8?q?Lee=2C_=C3=89?= <a@b.example> (Bob)", [("a@b.example", "Lee, É")]),
        ("Team: a@b.example, c@d.example; e@f.example (E)",
         [("a@b.example", None), ("c@d.example", None), ("e@f.example", None)]),
        ("undisclosed-recipients:;", []),
        ("a@b.example, nobody, <>, \r\nBcc: <c@d.example>", [("a@b.example", None), ("c@d.example", "Bcc:")]),
        ('"\\"' * 5000 + "<a@b.example>", []),
    ],
)  # fmt: skip
def test_the_addresses_of_a_header(text: str, found: list[tuple[str, str | None]]):
    """Quoted commas, groups, remarks, encoded names; nothing is taken for an address that is a name, nor two for one."""
    assert [(one.email, one.name) for one in mailboxes(text)] == found


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
strange = st.lists(
    st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs"]), max_size=9)), max_size=6
).map("".join)
NAMES = ["from", "From", "sender", "To", "Cc", "recipient", "subject", "message-headers", "content-id-map", "charsets",
         "body-plain", "body-mime", "to", "cc", "headers", "text", "html", "envelope", "attachment-info", "email"]  # fmt: skip
fields = st.lists(st.tuples(st.sampled_from(NAMES), strange), max_size=8, unique_by=lambda one: one[0])


@settings(max_examples=100)
@given(
    st.sampled_from([MailgunInbound, SendGridInbound]),
    fields,
    st.one_of(st.none(), strange),
    st.one_of(strange.map(str.encode), st.binary(max_size=30)),
)
def test_whatever_is_posted_is_a_mail_or_an_error_of_ours(
    sender: Any, given_: list[tuple[str, str]], name: str | None, body: bytes
):
    """Any fields in either kind, any bytes: a mail, BadAnswer or UnusableEvent."""
    sent, kind = urlencode(given_, errors="replace").encode(), "application/x-www-form-urlencoded"
    if name is not None:
        about = '{"attachment-1":{"filename":1,"content-id":"<\\n"},"<a>":"attachment-1","b":1}'
        file = File(name, body)
        more: list[tuple[str, str | File]] = [
            ("attachment-1", file),
            ("content-id-map", about),
            ("attachment-info", about),
        ]
        sent, kind = encode_multipart([*(one for one in given_ if one[0] not in dict(more)), *more])
    for content in (sent, body, sent + body):
        try:
            found = sender.read_event(Event(sender.name, "x", "received", content, {"content-type": kind}))
        except (BadAnswer, UnusableEvent):
            continue
        assert isinstance(found, InboundEmail)
