"""``multipart/form-data`` bodies (RFC 7578): fields and files in one request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from moorline.calls.dialects import check_header
from moorline.errors import ConfigurationError

__all__ = ["File", "encode_multipart"]

# As browsers write names (HTML, "multipart/form-data encoding algorithm"): UTF-8, and these three escaped.
_ESCAPES: Final = str.maketrans({"\n": "%0A", "\r": "%0D", '"': "%22"})


@dataclass(frozen=True, slots=True)
class File:
    """The value of a field that is a file."""

    filename: str
    content: bytes = field(repr=False)
    type: str = "application/octet-stream"


def encode_multipart(fields: Iterable[tuple[str, str | File]]) -> tuple[bytes, str]:
    """The body with *fields* in their order, a name as often as it comes, and its content type.

    Equal fields give equal bytes: the boundary is made of their hash, so that no content can hold it on purpose.

    Raises ConfigurationError, naming the field, for a file's type that no header can carry, and text that is no UTF-8.
    """
    pieces: list[bytes] = []
    digest = hashlib.sha256()
    for name, value in fields:
        head, content = _part(name, value)
        pieces += [head, content]
        digest.update(b"%d,%d:%b%b" % (len(head), len(content), head, content))
    boundary = f"moorline-{digest.hexdigest()[:32]}"
    line = f"--{boundary}\r\n".encode()
    body = b"".join(b"%b%b%b\r\n" % (line, *pieces[at : at + 2]) for at in range(0, len(pieces), 2))
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _part(name: str, value: str | File) -> tuple[bytes, bytes]:
    head = f'Content-Disposition: form-data; name="{name.translate(_ESCAPES)}"'
    try:
        if isinstance(value, str):
            return f"{head}\r\n\r\n".encode(), value.encode()
        check_header(f"multipart.{name}", "Content-Type", value.type)
        head += f'; filename="{value.filename.translate(_ESCAPES)}"\r\nContent-Type: {value.type}'
        return f"{head}\r\n\r\n".encode(), value.content
    except UnicodeEncodeError:
        raise ConfigurationError(f"multipart.{name} holds what is no text (half of a surrogate pair)") from None
