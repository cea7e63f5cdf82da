"""Contents read through obstore, within the pipeline of the service: its breaker, limits, deadline, retries and logs.

obstore itself repeats nothing (``max_retries=0``), so that there is one policy. What its errors reliably hold is read:
the status and the body of an answer, which the service's own ErrorMap explains as it does for our requests, and the
kind of a failure of the connection. Facts: obstore 0.12.1 (``exceptions``, the texts of object_store's errors, tried).
An answer's headers it does not show, so that no ``Retry-After`` is known here: a 429 or 503 is tried again after the
Retry's own pauses.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.calls.drivers import drive_async
from moorline.calls.effects import CallContext, Effect, Expired, Lease
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import Exchange
from moorline.calls.timer import Timer
from moorline.errors import (
    Attempt,
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
)
from moorline.services.storage.protocol import Head

if TYPE_CHECKING:
    from moorline.policies.policy import Policy
    from moorline.services.objects import Objects

__all__ = ["Wanted", "need_obstore", "read"]

T = TypeVar("T")
Sink = Callable[[bytes], Awaitable[None]]

_CHUNK: Final = 1 << 20  # bytes that a part has at least: less is more work for Python
_PROGRESS: Final = 1 << 16
_STATUS: Final = re.compile(r"Server returned [\w -]*?status code: ([1-5][0-9]{2})[^:\n]*: ?(.*)", re.DOTALL)
_KIND: Final = re.compile(r"HttpError \{\s*kind: (\w+)")
_DEBUG: Final = "\n\nDebug source:"
_NO_NAMES: Final[frozenset[str]] = frozenset()


def need_obstore(service: str) -> Any:
    """The library. Raises ConfigurationError, naming the extra, where it is not installed."""
    try:
        import obstore
    except ImportError as error:
        raise ConfigurationError(f"{service} reads with obstore; pip install 'moorline[storage]'") from error
    return obstore


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bytes of *key* from *start* up to *stop* (None: the end), of the version that *etag* or *version* names,
    which has *size* bytes.
    """

    key: str
    start: int = 0
    stop: int | None = None
    etag: str | None = None
    version: str | None = None
    size: int | None = None


async def read(service: Objects, operation: str, wanted: Wanted, sink: Sink, policy: Policy) -> Head:
    """Give *sink* all bytes that are *wanted*, in their order and each once; what is known of the object.

    A connection that breaks off is a failed attempt as others are, and the next one asks for the rest of the same
    version. Retries count anew as long as something comes. *policy* bounds the whole by its deadline, and each wait in
    which nothing comes by its ``attempt_timeout``. Raises CallError, and what *sink* raises.
    """
    fetch = _Fetch(service, operation, wanted, sink, policy)
    if service.fetched is not None:
        try:
            await service.fetched.ready_async()
        except CallError as error:
            error.service, error.operation, error.outcome = service.name, operation, "not_sent"
            raise
    await drive_async(_Pipeline(fetch).run(), _WIRE, service.clock)
    assert fetch.head is not None
    return fetch.head


class _SinkFailed(Exception):
    """The reader's own code raised *error*, which is no failure of the service."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Fetch(CallContext["_Fetch", "_Fetch"]):
    """One reading; it is its own request and its own answer for the engine."""

    __slots__ = ("_done", "_failure", "_key", "_patience", "_service", "_sink", "_wanted", "head", "status")

    renewable = True
    replayable = True
    names = _NO_NAMES

    def __init__(self, service: Objects, operation: str, wanted: Wanted, sink: Sink, policy: Policy) -> None:
        super().__init__(
            service=service.name,
            operation=operation,
            policy=replace(policy, attempt_timeout=None),
            guard=service._guard(service.base_url, policy),  # noqa: SLF001 (the same as its Calls have)
            limits=service.limits,
            idempotent=True,
            key=None,
            clock=service.clock,
            retried=service.errors.retry,
        )
        self._service = service
        self._wanted = wanted
        self._sink = sink
        self._patience = policy.attempt_timeout
        self._done = 0
        self._failure: CallError | None = None
        self.head: Head | None = None
        self.status = 200

    @property
    def done(self) -> int:
        """The bytes that the sink has."""
        return self._done

    def request(self) -> _Fetch:
        """The same for each attempt, with the key of now."""
        self._key = self._service.key()
        return self

    def header(self, name: str, default: str | None = None) -> str | None:  # noqa: ARG002 (obstore shows none)
        """*default*."""
        return default

    def judge(self, answer: _Fetch) -> CallError | None:
        """The failure, if it is one."""
        return answer._failure

    def request_id_of(self, answer: _Fetch) -> str | None:
        """What the failure says."""
        return None if answer._failure is None else answer._failure.request_id

    def succeeded(self, answer: _Fetch, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> _Fetch:  # noqa: ARG002
        """All is read; a large body is no slow service."""
        lease.settle(worked=True)
        return answer

    async def renew_async(self) -> bool:
        """Whether there is another key than the one that was refused."""
        return await self._service.renewal.newer_async(self._key)

    async def attempt(self) -> None:
        """Read on from where the last one ended. Raises CallError, and _SinkFailed."""
        self._failure, self.status = None, 200
        start = self._wanted.start + self._done
        if self.head is not None and start == self._stop:
            return  # it broke off behind the last byte
        obstore = need_obstore(self.service)
        store = self._service.store(self._key)
        options = self._options(start)
        timer = Timer(self._patience)
        try:
            with timer:
                result = await self._meant(obstore.get_async(store, self._wanted.key, options=options))
        except TimeoutError:
            if timer.expired:
                raise AttemptTimeout(f"nothing came for {self._patience:g} s") from None
            raise
        self._begin(result, start)
        parts = aiter(result.stream(min_chunk_size=_CHUNK))
        while True:
            try:
                part = await self._meant(anext(parts))  # each of its reads is bounded by the store's own read_timeout
            except StopAsyncIteration:
                break
            if len(part) > self._stop - self._wanted.start - self._done:
                raise BadAnswer("more bytes came than were announced")
            if part:
                self._done += len(part)
                try:
                    await self._sink(part)
                except Exception as error:
                    raise _SinkFailed(error) from error
        if self._wanted.start + self._done != self._stop:
            raise ConnectionLost(f"the body broke off after {self._done} bytes")

    def failed(self, failure: CallError) -> None:
        """Remember what became of this attempt."""
        if self._done and isinstance(failure, ConnectionLost):
            failure.message = f"the body broke off after {self._done} bytes"
        self._failure, self.status = failure, failure.status or 0

    @property
    def _stop(self) -> int:
        assert self.head is not None
        stop = self._wanted.stop
        return self.head.size if stop is None else min(stop, self.head.size)

    def _options(self, start: int) -> dict[str, Any]:
        wanted, head = self._wanted, self.head
        found: dict[str, Any] = self._service.same_version(
            wanted.etag or (head.etag if head else None), wanted.version or (head.version if head else None)
        )
        if wanted.stop is not None:
            found["range"] = (start, wanted.stop)
        elif start:
            found["range"] = {"offset": start}
        return found

    def _begin(self, result: Any, start: int) -> None:
        """The head of an answer is here. Raises BadAnswer unless its bytes are those that were asked for."""
        meta, got = result.meta, result.range
        size = int(meta["size"])
        known, wanted = self.head, self._wanted
        match = self._service.match_of(meta["e_tag"], meta["version"])
        expected = self._service.match_of(wanted.etag, wanted.version) if known is None else known.match
        if expected not in (None, match) or (wanted.size if known is None else known.size) not in (None, size):
            raise BadAnswer("what came is of another version than what was asked for")
        if known is None:
            self.head = _head(wanted.key, meta, result.attributes, match)
        if tuple(got) != (start, self._stop):
            raise BadAnswer(f"asked for the bytes {start} to {self._stop}, those from {got[0]} to {got[1]} came")

    async def _meant(self, work: Awaitable[T]) -> T:
        """What *work* of obstore's gives. Raises what its exceptions mean."""
        try:
            return await work
        except StopAsyncIteration:
            raise
        except Exception as error:  # noqa: BLE001 (each is told apart; its own text holds the address)
            raise _meaning(error, self._service, self._patience) from None


class _Pipeline(Pipeline[_Fetch, _Fetch]):
    """The pipeline, in which the retries count anew when a reading got further."""

    _counted = 0

    def _again(self, error: CallError) -> Generator[Effect, Any, bool]:
        done = self._context.done  # type: ignore[attr-defined]
        if done - self._counted >= _PROGRESS:
            self._counted, self._retries = done, 0
        return (yield from super()._again(error))


class _Wire:
    """Makes an attempt of a reading, within *timeout* seconds."""

    @staticmethod
    async def send(fetch: _Fetch, timeout: float | None) -> _Fetch:
        timer = Timer(timeout)
        try:
            with timer:
                await fetch.attempt()
        except _SinkFailed as failed:
            raise failed.error from failed.error.__cause__
        except TimeoutError:
            if timer.expired:
                raise Expired(sent=True) from None
            raise
        except CallError as error:
            fetch.failed(error)
        return fetch

    @staticmethod
    async def discard(_fetch: _Fetch) -> None:
        """Obstore frees what it holds."""


_WIRE: Final = _Wire()


def _head(key: str, meta: Any, attributes: Any, match: str | None) -> Head:
    named = {str(name): str(value) for name, value in attributes.items()}
    content_type = named.pop("Content-Type", None)
    metadata = {name: value for name, value in named.items() if name not in _STANDARD}
    modified: datetime | None = meta["last_modified"]
    return Head(
        key, int(meta["size"]), meta["e_tag"], meta["version"], modified, content_type, metadata, match=match, raw=meta
    )


_STANDARD: Final = frozenset(
    {"Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Storage-Class"}
)


def _meaning(error: Exception, service: Objects, patience: float | None) -> CallError:
    """The typed error of an exception of obstore's. Its own text holds the address, and is not passed on."""
    text = str(error)
    told, _, debug = text.partition(_DEBUG)
    found = _STATUS.search(told)
    if found is not None:
        exchange = Exchange(int(found[1]), {}, found[2].strip().encode(), method="GET")
        exchange.request_id = service.errors.request_id_of(exchange)
        meant = service.errors.error(exchange)
        meant.retryable = False
        return meant
    kind = _KIND.search(debug)
    if (kind is not None and kind[1] == "Timeout") or isinstance(error, TimeoutError):
        return AttemptTimeout("nothing came in time" if patience is None else f"nothing came for {patience:g} s")
    if kind is not None and kind[1] == "Connect":
        return ConnectFailed("no connection")
    if kind is not None or isinstance(error, ConnectionError):
        return ConnectionLost("the connection broke")
    return BadAnswer(
        f"the answer makes no sense to obstore ({_variant(debug) or type(error).__name__})", retryable=True
    )


def _variant(debug: str) -> str:
    """The name of the innermost error that object_store gives: words of its source, nothing of the answer's."""
    found = re.findall(r"source: ([A-Z]\w+)", debug)
    return str(found[0])[:40] if found else ""
