"""Mailgun's Routes: a mail with one file, in the fields of Mailgun's manual."""

from __future__ import annotations

import dataclasses

from tests.events.senders.sample import Sample, Signed

TOKEN = "e0b5477167110d68991efc6b9f89f0a11066af27834600e123"
FIELDS = {
    "token": TOKEN,
    "recipient": "help@mg.shop.example",
    "sender": "ada@customer.example",
    "from": "Ada Lovelace <ada@customer.example>",
    "Message-Id": "<CAF9@mail.customer.example>",
    "subject": "Größe? ✓",
    "body-plain": "Is it blue?\r\n",
    "attachment-count": "1",
}


def multipart(fields: dict[str, str], boundary: str = "d7a1") -> bytes:
    """The fields, and a file that is no text."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in fields.items()
    ]
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="attachment-1"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return "".join([*parts, file]).encode() + b"\x89PNG\r\n\x1a\n\x00\xff" + f"\r\n--{boundary}--\r\n".encode()


def changed(signed: Signed) -> Signed:
    """Another letter in the token: nothing else is signed."""
    return dataclasses.replace(signed, body=signed.body.replace(b"e0b5477167", b"f0b5477167"))


SAMPLE = Sample(
    service="mailgun_inbound",
    body=multipart(FIELDS),
    secret="a signing key",
    other="another signing key",
    headers={"Content-Type": "multipart/form-data; boundary=d7a1"},
    id="help@mg.shop.example:<CAF9@mail.customer.example>",
    type="received",
    timed=True,
    changed=changed,
)
