"""The only requests that receiving makes: certificates, and confirmations of subscriptions.

Addresses were checked by the scheme before; no redirects are followed, what comes back is bounded, and it passes
through the same pipeline as every call (named ``webhooks:<host>``: a retry, and a breaker for each host). An address is
asked once at a time, whoever wants it, and not again at once after it failed: anybody may name it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Final
from urllib.parse import urlsplit

from moorline.calls.dialects import base_address
from moorline.clock import SYSTEM, Clock
from moorline.errors import BadAnswer, CallError
from moorline.events.certificates import MAX_PEM
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

__all__ = ["Fetching", "fetch", "fetch_sync"]

_POLICY: Final = Policy(deadline=5.0, attempt_timeout=3.0, retry=Retry(retries=1, base=0.2))
_PATIENCE: Final = 6.0
"""Seconds that one waits for what another one fetches."""
_OK: Final = 200
_NOTHING_THERE: Final = 60.0
_UNREACHED: Final = 10.0
"""Seconds until an address is asked again that the host does not have, or that was not reached. SNS tries three times,
20 s apart (services/sms/sns.md): a fault of the network must be forgotten by then."""
_MOST: Final = 256
_SANDBOX: Final = "MOORLINE_SANDBOX_URL"


class Fetching:
    """Who fetches what at the moment, and what failed a moment ago; threads and loops share it.

    *ask* and *ask_sync* make the request.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[bytes]],
        ask_sync: Callable[[str], bytes],
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self._ask = ask
        self._ask_sync = ask_sync
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[bytes]] = {}
        self._failed: OrderedDict[str, float] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def fetch(self, url: str) -> bytes:
        """The body of a 200 to a GET, at most ``MAX_PEM`` bytes of it. Raises CallError."""
        flight, first = self._joined(url)
        if first:
            # A task of its own: the others wait for it too if this caller is cancelled.
            task = asyncio.ensure_future(self._lead(url, flight))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.wrap_future(flight)
        except TimeoutError as error:
            raise self._given_up(url, flight) from error

    def fetch_sync(self, url: str) -> bytes:
        """As ``fetch``, blocking."""
        flight, first = self._joined(url)
        if first:
            try:
                self._landed(url, flight, self._ask_sync(url))
            except BaseException as error:
                self._landed(url, flight, error)
                raise
        try:
            return flight.result(_PATIENCE)
        except TimeoutError as error:
            raise self._given_up(url, flight) from error

    async def _lead(self, url: str, flight: Future[bytes]) -> None:
        try:
            self._landed(url, flight, await self._ask(url))
        except Exception as error:  # noqa: BLE001 -- it is raised where it is waited for
            self._landed(url, flight, error)
        except BaseException as error:
            self._landed(url, flight, error)
            raise

    def _joined(self, url: str) -> tuple[Future[bytes], bool]:
        """The request for it, and whether the caller has to make it. Raises CallError if it failed a moment ago."""
        with self._lock:
            flight = self._under_way.get(url)
            if flight is not None:
                return flight, False
            if self._clock.monotonic() < self._failed.get(url, 0.0):
                raise CallError(f"{_host(url)} was asked for this a moment ago, in vain", retryable=True)
            flight = self._under_way[url] = Future()
            flight.set_running_or_notify_cancel()  # so that no waiter can cancel it for the others
            return flight, True

    def _landed(self, url: str, flight: Future[bytes], end: bytes | BaseException) -> None:
        with self._lock:
            if self._under_way.get(url) is flight:
                del self._under_way[url]
            self._failed.pop(url, None)
            if isinstance(end, CallError):
                gone = isinstance(end, BadAnswer) and end.status is not None and end.status < 500
                self._failed[url] = self._clock.monotonic() + (_NOTHING_THERE if gone else _UNREACHED)
                while len(self._failed) > _MOST:
                    self._failed.popitem(last=False)
        if isinstance(end, bytes):
            flight.set_result(end)
        elif isinstance(end, Exception):
            flight.set_exception(end)
        else:  # whoever asked was cancelled; those who wait were not
            flight.set_exception(CallError(f"{_host(url)}: the request was given up", retryable=True))

    def _given_up(self, url: str, flight: Future[bytes]) -> CallError:
        with self._lock:
            if self._under_way.get(url) is flight:
                del self._under_way[url]
        return CallError(f"{_host(url)} did not answer within {_PATIENCE:g} s", retryable=True)


def _host(url: str) -> str:
    """The host, and the port where it is written; never the rest, which may hold a token."""
    parts = urlsplit(url)
    return f"{parts.hostname}" if parts.port is None else f"{parts.hostname}:{parts.port}"


def _place(url: str) -> str:
    """Where it is asked: at the sandbox, which has a key of its own, where the environment points services there."""
    sandbox = os.environ.get(_SANDBOX)
    return f"{base_address(sandbox, _SANDBOX)}/_sandbox/certificate" if sandbox else url


async def _asked(url: str) -> bytes:
    import httpx2

    from moorline.calls.transport import AsyncTransport

    transport = AsyncTransport(_POLICY, name=f"webhooks:{_host(url)}")
    client = httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)
    async with client, client.stream("GET", _place(url)) as answer:
        taken = _Taken(answer.status_code)
        async for part in answer.aiter_bytes():
            taken.add(part)
    return taken.body


def _asked_sync(url: str) -> bytes:
    import httpx2

    from moorline.calls.transport import Transport

    transport = Transport(_POLICY, name=f"webhooks:{_host(url)}")
    client = httpx2.Client(transport=transport, follow_redirects=False, trust_env=False)
    with client, client.stream("GET", _place(url)) as answer:
        taken = _Taken(answer.status_code)
        for part in answer.iter_bytes():
            taken.add(part)
    return taken.body


_FETCHING: Final = Fetching(_asked, _asked_sync)
fetch: Final = _FETCHING.fetch
fetch_sync: Final = _FETCHING.fetch_sync


class _Taken:
    """What came of an answer, within its bound."""

    def __init__(self, status: int) -> None:
        if status != _OK:
            raise BadAnswer(f"the answer is {status}", retryable=False, status=status)
        self.body = b""

    def add(self, part: bytes) -> None:
        self.body += part
        if len(self.body) > MAX_PEM:
            raise BadAnswer(f"the answer is larger than {MAX_PEM} bytes", retryable=False, status=_OK)
