"""Reading forms whose fields may be files (``multipart/form-data``, RFC 7578): mail that comes in is sent so.

A reader of our own, because the standard library's is for mail: it takes line ends of every kind and repairs what is
broken, so that two readers of one body could see different fields. Here what is not as the RFC says is refused.
"""

from __future__ import annotations

import codecs
import re
from binascii import a2b_qp
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlencode

from moorline.errors import UnusableEvent
from moorline.events.delivery import FORM, MAX_FIELDS, MULTIPART, pairs

__all__ = ["FormFile", "Part", "decoded", "parts", "sealed", "texts", "values"]

_ALONE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MOST_ALONE: Final = 10_000
_MOST_PARAMETERS: Final = 16
_LONGEST_HEAD: Final = 16 * 1024  # bytes of what stands before a part's content
_LONGEST_BOUNDARY: Final = 200  # the RFC says 70
_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*([!#$&*+.^_`|~a-z0-9-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.IGNORECASE)
_CHARSET: Final = re.compile(r';\s*charset="?([^\s;"]+)', re.IGNORECASE)
_ESCAPED: Final = re.compile(r'\\(["\\])|%(22|0A|0D)', re.IGNORECASE)
# No character sets but transformations, slow or with warnings of their own.
_NO_CHARSETS: Final = {"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"}


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file in a form, as its sender describes it: nothing of that is checked, the *filename* may be any text."""

    filename: str
    media: str
    content: bytes = field(repr=False)


class Part(NamedTuple):
    """One field as it came: *content* are its bytes; *filename* is None where it is no file; *charset* as named."""

    name: str
    content: bytes
    filename: str | None = None
    media: str = "text/plain"
    charset: str = ""

    @property
    def value(self) -> str | FormFile:
        """The field's text, or the file."""
        if self.filename is None:
            return decoded(self.content, self.charset)
        return FormFile(self.filename, self.media, self.content)


class _Span(NamedTuple):
    """Where a part lies in the body: its content goes from *at* to *end*, its delimiter begins at *start*."""

    start: int
    head: bytes
    at: int
    end: int


def decoded(content: bytes, charset: str = "") -> str:
    """The text of those bytes, in UTF-8 unless another character set is named that is known; never an error."""
    text = None
    try:
        if charset and codecs.lookup(charset).name not in _NO_CHARSETS:
            text = content.decode(charset, "replace")
    except (LookupError, ValueError):
        pass
    if text is None:
        text = content.decode("utf-8", "replace")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()  # UTF-7 can write half a surrogate pair


def parts(body: bytes, content_type: str) -> list[Part]:
    """The fields of a form of either kind, in their order.

    Raises UnusableEvent for what is none, is cut off, or has more than ``MAX_FIELDS`` fields.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == MULTIPART:
        return [_part(body, span) for span in _spans(body, _boundary(content_type))]
    if media != FORM:
        raise UnusableEvent("the body is not a form")
    return [Part(name, _unquoted(content)) for name, content in _written(body)]


def texts(body: bytes, content_type: str, names: Collection[str]) -> list[tuple[str, str]]:
    """Those fields of a form that are texts of these *names*, in their order. Raises as ``parts``.

    The others are not decoded: a form may hold a mail of many megabytes, and nobody proved it yet.
    """
    if content_type.partition(";")[0].strip().lower() == FORM:
        return [(name, decoded(_unquoted(content))) for name, content in _written(body) if name in names]
    wanted = [one for one in parts(body, content_type) if one.filename is None and one.name in names]
    return [(one.name, decoded(one.content, one.charset)) for one in wanted]


def values(fields: list[Part]) -> dict[str, str | FormFile | list[str | FormFile]]:
    """Texts and files by their names; of a name that comes several times the list."""
    found: dict[str, str | FormFile | list[str | FormFile]] = {}
    for one in fields:
        known = found.get(one.name)
        if known is None:
            found[one.name] = one.value
        elif isinstance(known, list):
            known.append(one.value)
        else:
            found[one.name] = [known, one.value]
    return found


def sealed(body: bytes, fields: Mapping[str, str]) -> bytes:
    """The form with those *fields* in place of its own of the same names; for tests and the sandbox.

    Raises UnusableEvent for what begins as ``multipart/form-data`` and is none.
    """
    if not body.startswith(b"--"):
        kept = [(name, value) for name, value in pairs(body.decode("utf-8", "replace")) if name not in fields]
        return urlencode([*kept, *fields.items()]).encode()
    boundary = body[2:].partition(b"\r\n")[0]
    spans = _spans(body, boundary)
    kept_bytes = [body[span.start : span.end] + b"\r\n" for span in spans if _part(body, span).name not in fields]
    head = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="'
    added = [head + name.encode() + b'"\r\n\r\n' + value.encode() + b"\r\n" for name, value in fields.items()]
    return b"".join([*added, *kept_bytes, b"--", boundary, b"--\r\n"])


def _written(body: bytes) -> list[tuple[str, bytes]]:
    """The fields of a form in an address's writing: the names, and the contents as they stand there."""
    pieces = body.split(b"&", MAX_FIELDS)
    if len(pieces) > MAX_FIELDS:
        raise UnusableEvent(f"the form has more than {MAX_FIELDS} fields")
    found = [piece.partition(b"=") for piece in pieces if piece]
    return [(decoded(_unquoted(name)), content) for name, _, content in found]


def _unquoted(content: bytes) -> bytes:
    """What a form's ``%`` and ``+`` stand for.

    By the decoder of quoted-printable, which is the same but for the sign: the standard library's own for ``%`` takes
    seconds for a mail in Cyrillic, and 15 times its memory.
    """
    content = content.replace(b"+", b" ")
    if b"%" not in content:
        return content
    content, alone = _ALONE.subn(b"%25", content, count=_MOST_ALONE)
    if alone == _MOST_ALONE:
        raise UnusableEvent("the form is not written as forms are")
    return a2b_qp(content.replace(b"=", b"%3D").replace(b"%", b"="))


def _boundary(content_type: str) -> bytes:
    found = _BOUNDARY.search(content_type)
    boundary = (found[1] or found[2]) if found else ""
    if not boundary or not boundary.isascii() or len(boundary) > _LONGEST_BOUNDARY:
        raise UnusableEvent("the form names no usable boundary")
    return boundary.encode()


def _spans(body: bytes, boundary: bytes) -> list[_Span]:
    """Where the parts lie."""
    delimiter = b"--" + boundary
    found: list[_Span] = []
    ends = _delimiters(body, delimiter)
    start, after = next(ends)
    while after >= 0:
        if len(found) == MAX_FIELDS:
            raise UnusableEvent(f"the form has more than {MAX_FIELDS} fields")
        head_end = body.find(b"\r\n\r\n", after, after + _LONGEST_HEAD)
        next_start, next_after = next(ends)
        at = head_end + 4
        if head_end < 0 or at > next_start:
            raise UnusableEvent("a part of the form has no head, or a very long one")
        # Of a part without content some write one line end for both: behind the head, and before the delimiter.
        found.append(_Span(start, body[after:head_end], at, max(at, next_start - 2)))
        start, after = next_start, next_after
    return found


def _delimiters(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Where each delimiter begins, and the part behind it; -1 behind the last. Raises UnusableEvent without a last."""
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    for _ in range(2 * MAX_FIELDS):
        if at == 1:  # find's -1
            break
        after = at + len(delimiter)
        if body.startswith(b"--", after):
            yield at, -1
        line = body[after : body.find(b"\r\n", after, after + 80) + 2]
        if line.endswith(b"\r\n") and not line.strip(b" \t\r\n"):
            yield at, after + len(line)
        at = body.find(b"\r\n" + delimiter, after) + 2
    raise UnusableEvent("the form is cut off, or holds too much")


def _part(body: bytes, span: _Span) -> Part:
    head: dict[str, str] = {}
    for line in span.head.decode("utf-8", "replace").replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n"):
        name, _, value = line.partition(":")
        if head.setdefault(name.strip().lower(), value.strip()) != value.strip():
            raise UnusableEvent("a part of the form says two things of itself")
    said = head.get("content-disposition", "")
    told = islice(_PARAMETER.finditer(said), _MOST_PARAMETERS)
    given = {one[1].lower(): _plain(one[2]) if one[2] is not None else one[3] for one in told}
    if said.partition(";")[0].strip().lower() != "form-data" or "name" not in given:
        raise UnusableEvent("a part of the form has no name")
    filename = _extended(given["filename*"]) if "filename*" in given else given.get("filename")
    kind = head.get("content-type", "")
    media = kind.partition(";")[0].strip().lower() or ("text/plain" if filename is None else "application/octet-stream")
    charset = _CHARSET.search(kind)
    return Part(given["name"], body[span.at : span.end], filename, media, charset[1] if charset else "")


def _plain(quoted: str) -> str:
    """A quoted text: by backslashes, or as browsers write a quotation mark and line ends."""
    return _ESCAPED.sub(lambda found: found[1] or chr(int(found[2], 16)), quoted)


def _extended(value: str) -> str:
    """A text as RFC 5987 writes it: ``utf-8''na%C3%AFve.txt``."""
    charset, _, rest = value.partition("'")
    return decoded(unquote_to_bytes(rest.partition("'")[2]), charset)
