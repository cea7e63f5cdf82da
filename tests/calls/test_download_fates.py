"""Any sequence of misfortunes: a download gives one version, all of it, or an error and no file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.calls.ledger import CANARY, Ledger, both, run
from tests.calls.shelf import left_in

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

# Each byte tells its version and its place.
VERSIONS = [bytes(at % 60 * 4 + number for at in range(size)) for number, size in enumerate((90, 90, 70, 120))]
KINDS = (
    "honest",
    "honest",
    "no ranges",
    "no conditions",
    "an earlier start",
    "a later start",
    "another total",
    "too much",
    "no range",
    "416",
    "503",
    "lost",
)


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Parts, and then perhaps the end of the connection."""

    def __init__(self, content: bytes, error: Exception | None) -> None:
        self._parts = [content[at : at + 16] for at in range(0, len(content), 16)]
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    async def aclose(self) -> None:
        """There is nothing to close."""


class Fate(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """A service in memory that answers each request as the next step of its script says; honestly when that is over."""

    def __init__(self, names: str, script: list[tuple[str, int | None, bool, bool]]) -> None:
        self._names = names
        self._script = script
        self._version = 0
        self.requests = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return self.handle_request(request)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        kind, cut, abrupt, changes = self._script.pop(0) if self._script else ("honest", None, True, False)
        if changes:
            self._version = (self._version + 1) % len(VERSIONS)
        if kind == "lost":
            raise httpx2.ReadError("gone")
        if kind in ("416", "503"):
            return httpx2.Response(int(kind), json={})
        content, headers = VERSIONS[self._version], self._headers()
        status, body = 200, content
        asked = request.headers.get("range")
        known = request.headers.get("if-range") in (headers.get("ETag"), headers.get("Last-Modified"))
        if asked and kind != "no ranges" and (known or kind == "no conditions"):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            start += (kind == "a later start") - (kind == "an earlier start")
            if start >= len(content):
                return httpx2.Response(416, json={}, headers={"Content-Range": f"bytes */{len(content)}"})
            total = len(content) + (kind == "another total")
            status, body = 206, content[start:]
            if kind != "no range":
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{total}"
        if kind == "too much" and status == 206:
            body += b"x"
        elif self._names != "no length":
            headers["Content-Length"] = str(len(body))
        cut = None if cut is None or cut >= len(body) else cut
        lost = httpx2.RemoteProtocolError("peer closed connection") if cut is not None else None
        if not abrupt and "Content-Length" in headers:
            lost = None  # shorter than announced, without a word
        return httpx2.Response(status, headers=headers, stream=Body(body[:cut], lost))

    def _headers(self) -> dict[str, str]:
        if self._names == "date":
            changed = f"Tue, 02 Jan 2024 03:04:{self._version:02d} GMT"
            return {"Last-Modified": changed, "Date": "Tue, 02 Jan 2024 13:05:05 GMT"}
        weak = "W/" if self._names == "weak" else ""
        return {"ETag": f'{weak}"{self._version}"'} if self._names != "nothing" else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


FATES = st.tuples(st.sampled_from(KINDS), st.none() | st.integers(0, 60), st.booleans(), st.booleans())
BROKEN = st.tuples(st.just("honest"), st.integers(1, 60), st.booleans(), st.just(value=False))


@both
@settings(max_examples=300, deadline=None)
@given(
    names=st.sampled_from(["tag", "tag", "date", "weak", "nothing", "no length"]),
    first=BROKEN,
    then=st.lists(FATES, min_size=1, max_size=8),
    retries=st.sampled_from([0, 2, 12]),
)
def test_any_sequence_of_break_offs(colour, folder, names, first, then, retries):
    """The file is one version, all of it, or there is an error and no file: never a mix, never a part."""
    fate = Fate(names, [first, *then])
    policy = Policy(retry=Retry(retries, base=0.0, budget=None), breaker=None, deadline=None)
    service = Ledger(CANARY, wire=fate, policy=policy, guards=Guards(ManualClock()))
    path, told = folder / "file", [0]
    try:
        size = run(colour, service.read("1").download(path, progress=lambda done, _total: told.append(done)))
    except errors.CallError:
        assert left_in(folder) == []
    else:
        assert path.read_bytes() in VERSIONS
        assert size == path.stat().st_size == told[-1]
        path.unlink()
    assert fate.requests <= retries + 1
