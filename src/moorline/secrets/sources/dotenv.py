r"""Secrets in a ``.env`` file: ``dotenv:/srv/shop/.env``.

The values mean what they mean in the environment (``NAME_PREVIOUS``, several values in one). The reader is our own and
strict: python-dotenv skips what it cannot read, so that a typing mistake is a missing key, and puts variables in the
place of ``${…}``, which a generated secret may hold. Here a line that is none is an error that names it, and a value
is what is written. What both take they read alike::

    # a comment
    export NAME=value        # a comment, after white space
    NAME='as it is'          # but \' and \\; may go on over lines
    NAME="with \n and \""    # \\ \' \" \a \b \f \n \r \t \v; may go on over lines
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from moorline.errors import ConfigurationError
from moorline.secrets.sources import environment
from moorline.secrets.sources.base import Address, Content, Source
from moorline.secrets.sources.files import read_file
from moorline.secrets.versions import Found

__all__ = ["DotEnv", "parsed"]

_LARGEST: Final = 1_048_576
_SPACE: Final = r"[^\S\r\n]*"
_NAMED: Final = re.compile(rf"(?:export[^\S\r\n]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*){_SPACE}={_SPACE}")
_SINGLE: Final = re.compile(r"'(?P<value>(?:[^'\\]|\\.)*)'", re.DOTALL)
_DOUBLE: Final = re.compile(r'"(?P<value>(?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE: Final = re.compile(r"(?P<value>[^\r\n]*)")
_COMMENT: Final = re.compile(r"\s+#.*")
_REST: Final = re.compile(rf"{_SPACE}(?:#[^\r\n]*)?(?:\r\n|\n|\r|\Z)")
_BLANK: Final = re.compile(rf"{_SPACE}(?:#[^\r\n]*)?(?:\r\n|\n|\r)")
_ESCAPES: Final = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\"", strict=True))
_IN_DOUBLE: Final = re.compile(r"\\([\\'\"abfnrtv])")
_IN_SINGLE: Final = re.compile(r"\\([\\'])")


class DotEnv(Source):
    """A ``.env`` file. It is looked at each second."""

    scheme: ClassVar[str] = "dotenv"
    ttl: ClassVar[float] = 60.0
    look: ClassVar[float | None] = 1.0

    def __init__(self, address: Address, *, whole: bool = False) -> None:
        super().__init__(address, whole=whole)
        self._path = Path(address.path or ".env")

    def unit(self, name: str) -> str:
        """The whole file."""
        del name
        return ""

    def where(self, name: str) -> str:
        """The file, and the name in it."""
        return f"dotenv:{self._path}" + (f"#{name}" if name else "")

    def stamp(self, unit: str) -> object:  # noqa: ARG002 (there is one)
        """Of which time and size it is."""
        try:
            found = self._path.stat()
        except OSError as error:
            return error.errno
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def fetch(self, unit: str) -> Sequence[Content]:  # noqa: ARG002 (likewise)
        """All that is in it."""
        try:
            held = read_file(self._path, _LARGEST, shy=True)
        except FileNotFoundError:
            return ()
        try:
            text = held.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ConfigurationError(f"dotenv:{self._path} is not valid UTF-8") from None
        return (Content(fields=parsed(text, str(self._path))),)

    def picked(self, contents: Sequence[Content], name: str, called: str) -> Found:
        """As the environment would have it."""
        del called
        fields: Mapping[str, str] = (contents[0].fields if contents else None) or {}
        return environment.found(name, fields, f"dotenv:{self._path}#")


def parsed(text: str, path: str = ".env") -> dict[str, str]:
    """The variables of a file; of a name that is there twice the last.

    Raises ConfigurationError, naming *path* and the line, which it does not show.
    """
    found: dict[str, str] = {}
    at, end = 0, len(text)
    while at < end:
        while blank := _BLANK.match(text, at):
            at = blank.end()
        start = _after_space(text, at)
        if start == end or text[start] == "#":
            break
        named = _NAMED.match(text, start)
        if named is None:
            raise _wrong(path, text, start, "expected NAME=value")
        value, at = _value(path, text, named.end())
        found[named["name"]] = value
    return found


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace() and text[at] not in "\r\n":
        at += 1
    return at


def _value(path: str, text: str, at: int) -> tuple[str, int]:
    """The value that begins there, and where the next line begins."""
    first = text[at : at + 1]
    if first in ("'", '"'):
        quoted = (_SINGLE if first == "'" else _DOUBLE).match(text, at)
        if quoted is None:
            raise _wrong(path, text, at, "the quotation mark is not closed")
        rest = _REST.match(text, quoted.end())
        if rest is None:
            raise _wrong(path, text, quoted.end(), "something follows the closing quotation mark")
        inner = _IN_SINGLE if first == "'" else _IN_DOUBLE
        return inner.sub(lambda one: _ESCAPES[one[1]], quoted["value"]), rest.end()
    bare = _BARE.match(text, at)
    assert bare is not None
    rest = _REST.match(text, bare.end())
    assert rest is not None
    return ("" if bare["value"].startswith("#") else _COMMENT.sub("", bare["value"]).rstrip()), rest.end()


def _wrong(path: str, text: str, at: int, why: str) -> ConfigurationError:
    line = len(re.findall(r"\r\n|\n|\r", text[:at])) + 1
    return ConfigurationError(f"dotenv:{path}, line {line}: {why}")
