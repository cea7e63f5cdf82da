"""How a wire gathers an answer: its headers, and its body up to a limit, decoded where it is encoded."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final, NoReturn

import httpx2

from moorline.calls.exchange import Exchange
from moorline.calls.sending import ServiceRequest
from moorline.errors import BadAnswer

__all__ = ["Collector", "Sliced", "gathered", "joined"]

_MOST_DIGITS: Final = 64  # of a length; more is no length that anybody means
_SLICE: Final = 4096  # bytes of an encoded body that are decoded at once


def joined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name in lower case; the values of repeated ones are joined by commas. Any byte is a letter."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


class Sliced(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """An encoded body in slices: each is decoded as a whole, and may become a thousand times as large before its size
    is looked at.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            for start in range(0, len(part), _SLICE):
                yield part[start : start + _SLICE]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            for start in range(0, len(part), _SLICE):
                yield part[start : start + _SLICE]

    def close(self) -> None:
        """Close the body."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close the body."""
        await self._stream.aclose()


class Collector:
    """Gathers a body up to the request's limit; *declared* is the length that the service announced.

    Raises BadAnswer at once when that is too much.
    """

    __slots__ = ("_limit", "_parts", "expected", "size", "status")

    def __init__(self, request: ServiceRequest, status: int, declared: str | None) -> None:
        self._limit = request.max_body
        self.status = status
        self._parts: list[bytes] = []
        self.size = 0
        self.expected: int | None = None
        if declared and declared.isdecimal() and request.method != "HEAD":
            self.expected = int(declared) if len(declared) < _MOST_DIGITS else sys.maxsize
            if self.expected > self._limit:
                self._refuse()

    def add(self, part: bytes) -> None:
        """One more part. Raises BadAnswer when it is too much."""
        self.size += len(part)
        if self.size > self._limit:
            self._refuse()
        self._parts.append(part)

    def body(self) -> bytes:
        """All of it."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _refuse(self) -> NoReturn:
        raise BadAnswer(f"the answer is larger than {self._limit} bytes", status=self.status, retryable=False)


class _Whole(httpx2.SyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body


def gathered(request: ServiceRequest, collector: Collector, headers: dict[str, str]) -> Exchange:
    """The answer of a wire that does not decode, its body as it came. Raises BadAnswer when it cannot be decoded, or is
    too large then.
    """
    body = collector.body()
    if body and "content-encoding" in headers:
        body = _decoded(request, collector.status, headers["content-encoding"], body)
    return Exchange(collector.status, headers, body, method=request.method, url=request.url)


def _decoded(request: ServiceRequest, status: int, encoding: str, body: bytes) -> bytes:
    encoded: Any = httpx2.Response(status, headers={"content-encoding": encoding}, stream=Sliced(_Whole(body)))
    collector = Collector(request, status, None)
    try:
        for part in encoded.iter_bytes():
            collector.add(part)
    except httpx2.DecodingError as error:
        raise BadAnswer("the answer cannot be decoded", retryable=True) from error
    return collector.body()
