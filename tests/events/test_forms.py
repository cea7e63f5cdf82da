"""Forms with files: read as independent readers read them, and refused where they could be read in two ways."""

from __future__ import annotations

import dataclasses
import json
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import parse_form_data
from werkzeug.test import encode_multipart as werkzeug_multipart

from moorline.calls.multipart import File, encode_multipart
from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events import Event, FormFile, Inbox, verify
from moorline.events.body import parsed
from moorline.events.delivery import FORM
from moorline.events.export import exported, imported
from moorline.events.forms import decoded, parts, sealed
from moorline.events.models import Model
from moorline.services import MailgunInbound

NOW = 1_790_000_000.0
letters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='\\%"')
names = st.text(letters, min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
contents = st.one_of(st.binary(max_size=200), st.sampled_from([b"\r\n--b", b"\r\n--", b"--b--\r\n", b"\r\n\r\n"]))
files = st.builds(File, names, contents, st.sampled_from(["image/png", "application/pdf"]))
forms = st.lists(st.tuples(names, st.one_of(texts, files)), max_size=8)


def read(body: bytes, kind: str) -> list[Any]:
    """The fields as pairs."""
    return [(one.name, one.value) for one in parts(body, kind)]


def in_memory(*_: object, **__: object) -> BytesIO:
    """Where werkzeug's reader keeps a file: no temporary ones that somebody must close."""
    return BytesIO()


def ours(fields: list[tuple[str, str | File]]) -> list[Any]:
    """What a reader should find of them."""
    return [
        (name, value if isinstance(value, str) else FormFile(value.filename, value.type, value.content))
        for name, value in fields
    ]


@settings(max_examples=40)
@given(forms)
def test_what_we_write_we_read(fields: list[tuple[str, str | File]]):
    """Names, texts, files and their order, whatever is in them."""
    body, kind = encode_multipart(fields)
    assert read(body, kind) == ours(fields)


@settings(max_examples=40)
@given(forms)
def test_we_read_what_werkzeug_writes(fields: list[tuple[str, str | File]]):
    """An independent writer's bodies, in both kinds of a form."""
    data: MultiDict[str, Any] = MultiDict()
    for name, value in fields:
        data.add(name, value if isinstance(value, str) else FileStorage(
            BytesIO(value.content), value.filename, name, value.type
        ))  # fmt: skip
    boundary, body = werkzeug_multipart(data)
    if fields:
        found = read(body, f"multipart/form-data; boundary={boundary}")
        assert sorted(found, key=repr) == sorted(ours(fields), key=repr)


@settings(max_examples=40)
@given(forms)
def test_werkzeug_reads_what_we_do(fields: list[tuple[str, str | File]]):
    """An independent reader finds the same texts and files in a body as we."""
    body, kind = encode_multipart(fields)
    environ = {
        "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": kind, "REQUEST_METHOD": "POST"
    }  # fmt: skip
    _, form, stored = parse_form_data(environ, stream_factory=in_memory)
    found = read(body, kind)
    assert sorted(form.items(multi=True)) == sorted([one for one in found if isinstance(one[1], str)])
    theirs = [(name, one.filename, one.mimetype, one.read()) for name, one in stored.items(multi=True)]
    mine = [(name, one.filename, one.media, one.content) for name, one in found if isinstance(one, FormFile)]
    assert sorted(theirs) == sorted(mine)


PIECES = [b"\r\n", b"\r\n\r\n", b"--b", b"--", b"--b--\r\n", b'Content-Disposition: form-data; name="a"', b'; filename="',
          b"; filename*=x''%ff", b"Content-Type: text/plain; charset=utf-7", b"+2AA-", b":", b" ", b"\x00", b"\xff", b"%"]  # fmt: skip
hostile = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=9)), max_size=20).map(b"".join)


@given(st.one_of(hostile, hostile.map(lambda one: b"--b\r\n" + one + b"\r\n--b--")), st.sampled_from(
    ["multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"', "multipart/form-data", FORM,
     "multipart/form-data; boundary=\xe9", "multipart/form-data;boundary=" + "b" * 201]
))  # fmt: skip
def test_hostile_forms_are_read_or_refused(body: bytes, kind: str):
    """Whatever stands there: a payload of whole texts and files, or UnusableEvent; a scheme that reads it refuses it."""
    with pytest.raises(InvalidSignature):
        verify(MailgunInbound, headers={"Content-Type": kind}, body=body, secrets="k", now=1.0)
    try:
        found = parsed(body, kind)
    except UnusableEvent:
        return
    for value in found.values():
        for one in value if isinstance(value, list) else [value]:
            assert isinstance(one, FormFile) or one.encode() is not None


GOOD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "cut off"),
        (GOOD[:-2], "cut off"),
        (GOOD.replace(b"form-data;", b"attachment;"), "no name"),
        (GOOD.replace(b"name=", b"nam="), "no name"),
        (GOOD.replace(b"\r\n\r\n", b"\r\n"), "no head"),
        (GOOD.replace(b"\r\n\r\n", b"\r\n" + b"x" * 20_000 + b"\r\n\r\n"), "no head"),
        (GOOD.replace(b"\r\n\r\n", b'\r\nContent-Disposition: form-data; name="b"\r\n\r\n'), "two things"),
        (GOOD.replace(b"\r\n", b"\n"), "cut off"),
        (GOOD[:-4] * 1001 + b"--b--", "more than 1000"),
        (b"--b\r\n" + b"\r\n--bx" * 3000 + b"\r\n--b--", "too much"),
    ],
)
def test_a_form_that_is_none_is_refused(body: bytes, why: str):
    """Cut off, without a name, in other line ends, too much of it: the error says which."""
    assert read(GOOD, "multipart/form-data; boundary=b") == [("a", "1")]
    if body.startswith(b"--b\r\nContent") and why == "more than 1000":
        body = b"".join([GOOD[:-5]] * 1001) + b"--b--"
    with pytest.raises(UnusableEvent, match=why):
        parts(body, "multipart/form-data; boundary=b")


def test_a_form_of_the_address_kind_has_a_bound_too():
    """1000 fields, and few percent signs that mean nothing."""
    with pytest.raises(UnusableEvent, match="more than 1000"):
        parts(b"a=1&" * 1001, FORM)
    with pytest.raises(UnusableEvent, match="written"):
        parts(b"a=" + b"%" * 20_000, FORM)


@given(st.text(st.sampled_from("%=+&aF0\r\n \xe9_."), max_size=40))
def test_a_form_of_the_address_kind_is_read_as_the_standard_library_reads_it(body: str):
    """Whatever is written with a percent sign, or wrongly so."""
    assert read(body.encode(), FORM) == parse_qsl(body, keep_blank_values=True, errors="replace")


def test_character_sets_are_those_that_are_named():
    """The part's own, if it is known and one; else UTF-8, with a mark for what is none."""
    assert decoded("é".encode("latin-1"), "iso-8859-1") == "é"
    assert decoded("é".encode(), "no-such-thing") == decoded("é".encode(), "unicode_escape") == "é"
    assert decoded(b"\xff", "a\x00b") == decoded(b"\xff", "hex") == "�"
    assert decoded(b"+2AA-", "utf-7") == "?"
    body = GOOD.replace(b"\r\n\r\n1", b"\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xe9")
    assert parsed(body, "multipart/form-data; boundary=b") == {"a": "é"}


def test_a_sealed_form_has_the_new_fields_only():
    """Fields of the same names are replaced, in both kinds of a form; what else is there stays."""
    body, kind = encode_multipart([("t", "old"), ("f", File("a", b"\r\n\xff")), ("t", "older")])
    assert read(sealed(body, {"t": "new"}), kind) == [
        ("t", "new"),
        ("f", FormFile("a", "application/octet-stream", b"\r\n\xff")),
    ]
    assert read(sealed(b"t=old&a=1&t=", {"t": "n&w"}), FORM) == [("a", "1"), ("t", "n&w")]


def test_a_token_that_stands_there_twice_is_refused():
    """One reader takes the first, another the last, a third what ``payload=`` holds: only one of them was signed."""
    good = MailgunInbound.webhooks.seal(b"token=t&recipient=r", "k", now=1e9)
    headers = {"Content-Type": FORM}
    assert verify(MailgunInbound, headers=headers, body=good, secrets="k", now=1e9).dedup_key == "once:t"
    plain = MailgunInbound.webhooks.seal(b'{"token":"t2"}', "k", now=1e9)
    assert verify(MailgunInbound, headers={}, body=plain, secrets="k", now=1e9).dedup_key == "once:t2"
    for bad in (good + b"&token=u", b"token=u&" + good, b'payload={"token":"u"}&' + good, good + b"&a=1" * 1000):
        with pytest.raises(InvalidSignature):
            verify(MailgunInbound, headers=headers, body=bad, secrets="k", now=1e9)


def test_a_record_of_forms_reads_their_top():
    """A form has no fields within a field."""
    with pytest.raises(ConfigurationError, match="within"):
        dataclasses.replace(MailgunInbound.webhooks, within="signature", once="signature.token")
    with pytest.raises(ConfigurationError, match="once"):
        dataclasses.replace(MailgunInbound.webhooks, once="signature")


def received(
    token: str, now: float = NOW, *, message_id: str = "<m1@a.example>", to: str = "help@shop.example"
) -> Event:
    """The event of a mail that comes in by Mailgun."""
    mail = {"token": token, "recipient": to, "Message-Id": message_id}
    body = MailgunInbound.webhooks.seal(urlencode(mail).encode(), "k", now=now)
    event = verify(MailgunInbound, headers={"Content-Type": FORM}, body=body, secrets="k", now=now)
    return dataclasses.replace(event, received_at=now)


async def test_the_tries_of_a_mail_are_one_event_and_its_recipients_several(inbox: Inbox):
    """A retry with a new token is a duplicate, and so is a stolen token; a mail to a second address is none."""
    sent = [
        received("t1"),
        received("t2", NOW + 3600),
        received("t1", message_id="<forged@b.example>"),
        received("t3", to="sales@shop.example"),
    ]
    assert [(await inbox.add(event)).duplicate for event in sent] == [False, True, True, False]


def test_files_fit_models_and_exports():
    """A handler's model has the file's content as base64; an exported event is the same form when it is read back."""

    @dataclasses.dataclass
    class Kept:
        filename: str
        content: str

    body, kind = encode_multipart([("a", "1"), ("f", File("x", b"\xff\x00"))])
    event = Event("mailgun_inbound", "1", "received", body, {"content-type": kind})
    found = Model(dict[str, str | Kept]).read(event)
    assert found == {"a": "1", "f": Kept("x", "_wA=")}
    assert imported(json.loads(json.dumps(exported(event)))).payload == event.payload
