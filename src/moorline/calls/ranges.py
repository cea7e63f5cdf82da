"""What a download may ask for after its body broke off, and whether what comes then fits: decisions, and no I/O.

By RFC 9110: ranges in section 14, 206 in 15.3.7, If-Range in 13.1.5, strong validators in 8.8.1 and 8.8.2.2. Stricter
than it must be where that keeps two versions of a file apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from moorline.errors import BadAnswer

__all__ = ["CONDITIONS", "ContentRange", "Transfer", "content_range", "is_encoded", "length_of", "validator"]

Headers = Mapping[str, str]

CONDITIONS: Final = frozenset(
    {"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"}
)
"""Headers of a request (in lower case) that say which bytes are wanted, or when."""

_CONTENT_RANGE: Final = re.compile(r"bytes +(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)
_STRONG: Final = re.compile(r'"[!#-~]*"')  # without what no request header of ours can carry
_DATE: Final = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)
_MOST_DIGITS: Final = 18
# Section 8.8.2.2 is content with one second between Last-Modified and Date where one clock made both. We cannot know
# that; 60 s is what the earlier RFC 7232 asks for where two clocks may have.
_APART: Final = 60.0
_PROGRESS: Final = 1 << 16  # less than that many bytes are not worth another round of retries


class ContentRange(NamedTuple):
    """The bytes from ``first`` to ``last``, both included, of ``total`` (None: the service does not know)."""

    first: int
    last: int
    total: int | None


def content_range(text: str | None) -> ContentRange | None:
    """What a ``Content-Range`` says; None for one that is missing, of another unit, unsatisfied or makes no sense."""
    match = _CONTENT_RANGE.fullmatch(text or "")
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if first > last or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def validator(headers: Headers) -> str | None:
    """What ``If-Range`` can say of the answer with these *headers*: its ETag if that is strong; without any ETag its
    ``Last-Modified`` if that is old enough to be strong. None where it has neither.
    """
    tag = headers.get("etag")
    if tag is not None:  # section 13.1.5: a date only where there is no tag, so a weak one rules out both
        return tag if _STRONG.fullmatch(tag) else None
    changed, told = headers.get("last-modified"), headers.get("date")
    at, now = _seconds(changed), _seconds(told)
    return changed if at is not None and now is not None and now - at >= _APART else None


def is_encoded(headers: Headers) -> bool:
    """Whether the body is encoded, so that its bytes are not those of the file."""
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def length_of(headers: Headers) -> int | None:
    """How many bytes the body has, if ``Content-Length`` tells that of the file."""
    said = headers.get("content-length", "")
    plain = said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS and not is_encoded(headers)
    return int(said) if plain else None


def _seconds(text: str | None) -> float | None:
    if text is None or not _DATE.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):  # the 99th of Foo
        return None


class Transfer:
    """The bytes of one download, over as many answers as that takes: ``size`` are here, of ``total`` (None: unknown).

    *barred* says why nothing may be asked for again, whatever comes; empty where that depends on the answers. *ranged*
    tells that the caller's own headers ask for a part. Use it in turns: ``ask``, ``begin``, ``took`` for each part, and
    ``end`` if the body did not break off.
    """

    __slots__ = (
        "_barred",
        "_begun",
        "_counted",
        "_end",
        "_hopeless",
        "_ranged",
        "_restarted",
        "_source",
        "_validator",
        "_why_not",
        "anew",
        "offset",
        "size",
        "total",
    )

    def __init__(self, *, barred: str = "", ranged: bool = False) -> None:
        self.size = 0
        self.total: int | None = None
        self.offset = 0
        """The first byte that the last request asked for; 0: all."""
        self._barred = barred
        self._ranged = ranged
        self._begun = False  # whether a body came, if only its beginning
        self._end: int | None = None  # the bytes that are here when the body of this answer is complete
        self._validator: str | None = None
        self._source = ""
        self._why_not = ""  # why the rest of this version cannot be asked for
        self.anew = False
        """Whether the next request is for all bytes again, as the rest did not fit."""
        self._restarted = False  # whether there was such a request before
        self._hopeless = ""  # why another one would not help
        self._counted = 0

    def ask(self) -> dict[str, str]:
        """The headers of the next request: for the rest, where there is something that it can be the rest of."""
        self.offset = 0
        if self._validator is None or self._why_not or self.anew or not self.size:
            return {}
        self.offset = self.size
        return {"Range": f"bytes={self.offset}-", "If-Range": self._validator}

    def begin(self, status: int, headers: Headers, url: str) -> bool:
        """A good answer came: whether its bytes go on where those before end (else they are the first ones).

        Raises BadAnswer where they do neither.
        """
        if self.offset and status == 206:
            self._end = self._fitting(headers, url).last + 1
            return True
        if self.offset and status != 200:
            raise self.unfit(f"asked for the rest, the service answered {status}")
        if status == 206 and not self._ranged:
            raise self.unfit("asked for all bytes, the service answered with a part")
        self.size, self.offset, self.anew, self._begun = 0, 0, False, True
        self.total = self._end = length_of(headers)
        self._source = url
        self._validator = validator(headers)
        self._why_not = self._obstacle(status, headers)
        return False

    def took(self, count: int) -> None:
        """So many bytes came. Raises BadAnswer where these are more than there can be."""
        self.size += count
        if self._end is not None and self.size > self._end:
            raise self.unfit(f"more than the {self._end} bytes came that were announced")

    def end(self) -> None:
        """The body is over. Raises BadAnswer where that is not all."""
        if self.total is not None and not self.complete:
            raise BadAnswer(f"the answer has {self.size} bytes of {self.total}", retryable=True)

    def unfit(self, why: str) -> BadAnswer:
        """The error for what is not the rest. Once all is asked for again; a second time that is the end."""
        if self._restarted or self._barred:
            self._hopeless = why
        self.anew = self._restarted = self._begun = True
        return BadAnswer(why, retryable=True)

    @property
    def complete(self) -> bool:
        """Whether all bytes are here, as far as the service said how many these are."""
        return self.size == self.total

    @property
    def stuck(self) -> str:
        """Why no other request may follow; empty where one may, and while no body came at all."""
        if self._hopeless:
            return self._hopeless
        if self._begun and self._barred:
            return self._barred
        return "" if self.anew or not self.size else self._why_not

    def progressed(self) -> bool:
        """Whether enough came since this last said so, beyond all that was here before, to count retries anew."""
        if self.size - self._counted < _PROGRESS:
            return False
        self._counted = self.size
        return True

    def __str__(self) -> str:
        return f"{self.size} bytes" if self.total is None else f"{self.size} of {self.total} bytes"

    def _obstacle(self, status: int, headers: Headers) -> str:
        if status != 200:
            return f"the rest of an answer with status {status} cannot be asked for"
        if is_encoded(headers):
            return "the body came encoded, so its bytes are not those of the file"
        if headers.get("accept-ranges", "").strip().lower() == "none":
            return "the service takes no ranges"
        if self._validator is None:
            return "the service gave no strong validator (an ETag, or a Last-Modified that is old enough)"
        return ""

    def _fitting(self, headers: Headers, url: str) -> ContentRange:
        """What a 206 brings. Raises BadAnswer unless that is from the byte that was asked for, of the same version."""
        part = content_range(headers.get("content-range"))
        if part is None:
            several = headers.get("content-type", "").lower().startswith("multipart/byteranges")
            raise self.unfit(
                "the service answered with several ranges" if several else "the service does not say which bytes came"
            )
        if part.first != self.offset:
            raise self.unfit(f"asked for the bytes from {self.offset} on, the service sent those from {part.first} on")
        total = part.total if self.total is None else self.total
        if total is None:
            raise self.unfit("the service does not say how many bytes there are")
        if part.total not in (None, total) or part.last >= total:
            raise self.unfit(f"of {total} bytes before, there are now {part.total or f'at least {part.last + 1}'}")
        if is_encoded(headers):
            raise self.unfit("the rest came encoded")
        if length_of(headers) not in (None, part.last + 1 - part.first):
            raise self.unfit("the length of the rest is not that of its range")
        if not self._same_version(headers, url):
            raise self.unfit("the rest is of another version")
        self.total = total
        return part

    def _same_version(self, headers: Headers, url: str) -> bool:
        """Whether the validator still is the one that was asked with. A tag has to be repeated (section 15.3.7), a date
        need not be. Where redirects ended elsewhere, a tag speaks of the same path with another query (as of a signed
        URL), a date of the same URL only.
        """
        assert self._validator is not None
        if self._validator.startswith('"'):
            same_place = url.partition("?")[0] == self._source.partition("?")[0]
            return same_place and headers.get("etag") == self._validator
        return url == self._source and headers.get("last-modified") in (None, self._validator)
