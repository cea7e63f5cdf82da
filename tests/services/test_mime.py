"""Messages that anybody may have written, read without trusting them."""

from __future__ import annotations

from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.services.email.protocol import Address, Attachment
from moorline.services.inbound import mailboxes
from moorline.services.mime import ReadMime, mime, read_mime


def test_what_the_library_writes_is_read():
    """Python's own writer makes it: bodies, an inline image, a file with a name in another script."""
    message = EmailMessage()
    message["From"], message["To"], message["Cc"] = (
        "Adà <ada@a.example>",
        "b@b.example, Cé <c@c.example>",
        "d@d.example",
    )
    message["Subject"] = "Grüße ⚓ " + "lang " * 30
    message.set_content("Hallo Ö")
    message.add_alternative("<p>Ö</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Überblick.pdf")
    read = read_mime(message.as_bytes())
    assert (read.sender, read.cc) == (Address("ada@a.example", "Adà"), (Address("d@d.example"),))
    assert read.to == (Address("b@b.example"), Address("c@c.example", "Cé"))
    assert read.subject == ("Grüße ⚓ " + "lang " * 30).strip()
    assert ((read.text or "").strip(), (read.html or "").strip()) == ("Hallo Ö", "<p>Ö</p>")
    assert [(one.filename, one.content, one.media_type) for one in read.attachments] == [
        ("Überblick.pdf", b"%PDF", "application/pdf")
    ]


def test_what_we_write_is_read():
    """Our own writer and reader agree."""
    files = (Attachment("a.txt", b"x"), Attachment("l.png", b"\x89PNG", content_id="logo"))
    raw = mime([("From", "s@s.example"), ("To", "a@a.example"), ("Subject", "Grüße")], "text", "<p>h</p>", files)
    read = read_mime(raw)
    assert (read.subject, (read.text or "").strip(), (read.html or "").strip()) == ("Grüße", "text", "<p>h</p>")
    assert {(one.filename, one.content, one.content_id) for one in read.attachments} == {
        ("a.txt", b"x", None),
        ("l.png", b"\x89PNG", "logo"),
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff" * 100,
        b"From: \r\n\r\n",
        b"From: =?utf-8?b?!!!?= <a@b.example>\nSubject: =?nope?q?x?=\n\nx",
        b"Content-Type: text/plain; charset=nope\n\n\xff",
        b"Content-Type: multipart/mixed\n\nno boundary",
        b"Content-Type: application/pdf; name*=nope''%FF\n\nx",
        b'Content-Type: text/plain; name="a\x00b/../c"\nContent-Disposition: attachment\n\nx',
        b"Content-Transfer-Encoding: base64\n\n!!!",
    ],
)
def test_broken_ones(raw: bytes):
    """What is broken is left out; nothing raises."""
    assert isinstance(read_mime(raw), ReadMime)


_lines = st.sampled_from(
    [
        b"From: a@b.example\n", b"To: =?utf-8?q?=C3?= <x@y.example>\n", b"Subject: \xc3\x28\n", b"\n", b"--b\n", b"--b--\n",
        b"Content-Type: multipart/mixed; boundary=b\n", b"Content-Type: text/html; charset=utf-7\n",
        b"Content-Disposition: attachment; filename*=utf-8''%ff\n", b"Content-Transfer-Encoding: base64\n",
        b"Content-Type: message/rfc822\n", b"Content-ID: <\r>\n", b"xx\n",
    ]
)  # fmt: skip


@given(st.lists(_lines | st.binary(max_size=30), max_size=20))
def test_any_bytes(parts: list[bytes]):
    """Any bytes give values: addresses that are some, names without control characters."""
    read = read_mime(b"".join(parts))
    for one in read.attachments:
        assert one.filename.isprintable() or not one.filename.isascii()
        assert "/" not in one.filename


@given(st.text(max_size=80))
def test_any_line_of_addresses(line: str):
    """Only what is an address comes out of a header."""
    assert all("@" in one.email for one in mailboxes(line))
