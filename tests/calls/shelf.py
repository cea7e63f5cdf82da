"""A scripted service on loopback for downloads: it knows ranges, breaks off, and answers wrongly, as told."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger

from moorline.calls import story
from moorline.calls.guards import Guards
from moorline.clock import Clock, ManualClock
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

FIRST = bytes(range(256)) * 4
SECOND = bytes(reversed(FIRST))
PLAIN = Retry(jitter="none")
TAG = {"ETag": '"1"'}
NEW = {"ETag": '"2"'}
OLD = {"Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT", "Date": "Tue, 02 Jan 2024 03:05:05 GMT"}

Reply = Callable[[bytes], tuple[bytes, Any]]


def wire_bytes(status: int, body: bytes, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items() if text)
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body


def asked_from(head: bytes) -> int | None:
    found = re.search(rb"\r\nRange: bytes=(\d+)-\r\n", head)
    return None if found is None else int(found[1])


def asked_version(head: bytes) -> str:
    found = re.search(rb"\r\nIf-Range: (.*?)\r\n", head)
    return "" if found is None else found[1].decode()


def gives(content: bytes, headers: Mapping[str, str] = TAG, *, cut: int | None = None, stall: bool = False) -> Reply:
    """A service that knows ranges; it hangs up, or falls silent, after *cut* bytes of the body."""

    def reply(head: bytes) -> tuple[bytes, Any]:
        start, known = asked_from(head), asked_version(head)
        more: dict[str, str] = {}
        status, body = 200, content
        if start is not None and known in (headers.get("ETag"), headers.get("Last-Modified")):
            status, body = 206, content[start:]
            more = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        more["Content-Length"] = str(len(body))
        return wire_bytes(status, body if cut is None else body[:cut], {**more, **headers}), (
            None if cut is None else "stall" if stall else "hang up"
        )

    return reply


def says(status: int, body: bytes = b"{}", **headers: str) -> Reply:
    """The answer itself, whatever was asked."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda _head: (wire_bytes(status, body, {"Content-Length": str(len(body)), **named}), None)


class Shelf:
    """Replies in turn; the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    async def __call__(self, head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        answer, then = reply(head)
        writer.write(answer)
        await writer.drain()
        if then == "hang up":
            raise ConnectionResetError
        if then == "stall":
            await asyncio.sleep(60)


def service_at(server: FaultServer, clock: Clock | None = None, **policy: Any) -> Ledger:
    given = {"retry": PLAIN, "breaker": None, **policy}
    return Ledger(CANARY, base_url=server.url, policy=Policy(**given), guards=Guards(clock or ManualClock()))


def steps_of(call: Any, kind: type[story.Step]) -> list[Any]:
    return [step for step in call._stories[0] if isinstance(step, kind)]


def left_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


SOME = FIRST[300:]
UNFIT = {
    "416": says(416, Content_Range="bytes */200"),
    "another start": says(206, FIRST[200:], Content_Range="bytes 200-1023/1024", ETag='"1"'),
    "a later start": says(206, FIRST[400:], Content_Range="bytes 400-1023/1024", ETag='"1"'),
    "another total": says(206, SOME, Content_Range="bytes 300-1023/2048", ETag='"1"'),
    "more than all": says(206, SOME + b"x", Content_Range="bytes 300-1024/*", ETag='"1"'),
    "another tag": says(206, SOME, Content_Range="bytes 300-1023/1024", ETag='"2"'),
    "a weak tag": says(206, SOME, Content_Range="bytes 300-1023/1024", ETag='W/"1"'),
    "no tag": says(206, SOME, Content_Range="bytes 300-1023/1024"),
    "no range": says(206, SOME, ETag='"1"'),
    "several ranges": says(206, b"--x--", Content_Type="multipart/byteranges; boundary=x", ETag='"1"'),
    "another length": says(206, SOME[:-1], Content_Range="bytes 300-1023/1024", ETag='"1"'),
    "encoded": says(
        206,
        gzip.compress(SOME),
        Content_Range="bytes 300-1023/1024",
        ETag='"1"',
        Content_Encoding="gzip",
    ),
    "another status": says(203, SOME, ETag='"1"'),
    "too much": lambda _head: (
        wire_bytes(
            206,
            b"400\r\n" + FIRST + b"\r\n0\r\n\r\n",
            {"Transfer-Encoding": "chunked", "Content-Range": "bytes 300-1023/1024", **TAG},
        ),
        None,
    ),
}
