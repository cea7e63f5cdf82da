"""urllib3 under a deadline: every wait on a socket is clamped to what remains, without a thread.

urllib3 2.8 times each read by itself (``util/timeout.py``), so that a peer which drips a byte now and then holds it
for ever. Here connections look at the ``Span`` of the request at hand before each connect, handshake, write and read,
those of the head and of the body included; whoever sends sets it with ``within``. Names are resolved by the
threads that all calls share (see ``resolving.py``), as the system's resolver cannot be told when to stop.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

from moorline.calls.resolving import RESOLVER
from moorline.calls.watching import Watch

__all__ = ["Span", "clamp_pools", "watched", "within"]


class Span:
    """Until when (``time.monotonic``) the request at hand may take, and how far it came: *sent* tells that something
    of it may have reached the service.
    """

    __slots__ = ("at", "sent")

    def __init__(self, seconds: float | None) -> None:
        self.at = math.inf if seconds is None else time.monotonic() + seconds
        self.sent = False

    def left(self, most: Any = None) -> float | None:
        """Seconds that the next wait may take, *most* at the most; None for ever. Raises TimeoutError at the end."""
        if math.isinf(self.at):
            return most if isinstance(most, (int, float)) else None
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, most) if isinstance(most, (int, float)) else left

    @property
    def over(self) -> bool:
        """Whether nothing remains."""
        return time.monotonic() >= self.at - 0.002  # a socket's timeout is counted in milliseconds


_current: ContextVar[Span | None] = ContextVar("moorline_span", default=None)


@contextlib.contextmanager
def within(span: Span) -> Iterator[None]:
    """Clamp what urllib3 does in this block, on connections that ``clamp_pools`` prepared, to *span*."""
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


def clamp_pools(manager: Any) -> None:
    """Have *manager* (urllib3's PoolManager) make pools whose connections keep to the span."""
    manager.pool_classes_by_scheme = {scheme: _clamped(kind) for scheme, kind in manager.pool_classes_by_scheme.items()}


@functools.cache
def _clamped(kind: Any) -> Any:
    if issubclass(kind, _Pool):
        return kind
    connection = type(f"Clamped{kind.ConnectionCls.__name__}", (_Connection, kind.ConnectionCls), {})
    return type(f"Clamped{kind.__name__}", (_Pool, kind), {"ConnectionCls": connection})


class _Pool:
    """A pool whose queue for a connection ends with the span, too."""

    def urlopen(self, *args: Any, **options: Any) -> Any:
        span = _current.get()
        if span is not None:
            options["pool_timeout"] = span.left(options.get("pool_timeout"))
        return super().urlopen(*args, **options)  # type: ignore[misc]


def _ask(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says, of the families that urllib3 would try; raises OSError."""
    found = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class _Connection:
    """A connection that looks at the span before each wait."""

    sock: Any
    timeout: Any
    port: int
    _dns_host: str
    response_class: Any
    connect: Callable[[], None]
    _in_tunnel = False

    def _new_conn(self) -> Any:
        span = _current.get()
        if span is None:
            return super()._new_conn()  # type: ignore[misc]
        given, host = self.timeout, self._dns_host
        try:
            host.encode("idna")
        except UnicodeError:
            return super()._new_conn()  # type: ignore[misc]  # which says so, and asks nobody
        try:
            addresses = RESOLVER.resolve(host.strip("[]"), self.port, span.left(given), _ask)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"{host} was not resolved in time") from error
        except OSError as error:
            raise NameResolutionError(host, self, error) from error  # type: ignore[arg-type]  # it is only shown
        try:
            sock = self._first_of(addresses, span, given)
            sock.settimeout(span.left(given))  # for the handshake that may follow
        finally:
            self.timeout, self._dns_host = given, host
        return sock

    def _first_of(self, addresses: Sequence[str], span: Span, given: Any) -> Any:
        """A socket to the first address that answers; all of them together have what remains."""
        for number, address in enumerate(addresses, 1):
            self._dns_host = address
            self.timeout = span.left(given)
            try:
                return super()._new_conn()  # type: ignore[misc]
            except (NewConnectionError, ConnectTimeoutError):
                if number == len(addresses) or span.over:
                    raise
        raise OSError("the name has no address")

    def _tunnel(self) -> None:
        self._in_tunnel = True
        try:
            with self._clamped_answers():
                super()._tunnel()  # type: ignore[misc]
        finally:
            self._in_tunnel = False

    def send(self, data: Any) -> Any:
        span = _current.get()
        if span is not None:
            if self.sock is None:
                self.connect()  # as http.client would, but so that the wait for it is not taken for one of the request
            self.sock.settimeout(span.left(self.timeout))
            span.sent = span.sent or not self._in_tunnel
        return super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        with self._clamped_answers():
            return super().getresponse()  # type: ignore[misc]

    @contextlib.contextmanager
    def _clamped_answers(self) -> Iterator[None]:
        """Answers that are begun in this block are read within the span, for as long as they are read."""
        span, made = _current.get(), self.response_class
        if span is None:
            yield
            return
        self.response_class = functools.partial(_answer, made, span, self.timeout)
        try:
            yield
        finally:
            self.response_class = made


def _answer(make: Callable[..., Any], span: Span, most: Any, sock: Any, *args: Any, **options: Any) -> Any:
    answer = make(sock, *args, **options)
    answer.fp = io.BufferedReader(_Reads(answer.fp.detach(), sock, span, most))  # nothing is read yet
    return answer


class _Reads(io.RawIOBase):
    """The reading end of a socket; each read waits for what remains of the span, and no longer than *most*."""

    def __init__(self, raw: Any, sock: Any, span: Span, most: Any) -> None:
        self._raw = raw
        self._sock = sock
        self._span = span
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._span.left(self._most))
        return self._raw.readinto(buffer)  # type: ignore[no-any-return]

    def fileno(self) -> int:
        return self._raw.fileno()  # type: ignore[no-any-return]

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def watched(response: Any, watch: Watch, span: Span) -> bool:
    """Have *watch* told when the body of *response* (urllib3's) ends, and read it until the deadline; False when it is
    over, or is no body from a socket, as that of a stub.
    """
    original = getattr(response, "_original_response", None)  # the stream below; there is no public way to it
    if original is None or original.isclosed() or type(response) is not urllib3.HTTPResponse:
        return False
    left = watch.left()
    span.at = math.inf if left is None else time.monotonic() + left
    response.__class__ = _Watched  # the response is urllib3's, so that all its users know it, and reads are ours
    response._watch = watch  # type: ignore[attr-defined]  # noqa: SLF001
    return True


class _Watched(urllib3.HTTPResponse):
    """A response that tells how its body ended, and whose failures are in the dress that its watch gives them."""

    _watch: Watch

    @contextlib.contextmanager
    def _error_catcher(self) -> Iterator[None]:
        try:
            with super()._error_catcher():
                yield
        except HTTPError as error:
            raise self._watch.failed(error) from error
        except GeneratorExit:
            self._watch.settle(worked=True)
            raise
        except BaseException:
            self._watch.settle(worked=None)
            raise
        if self._original_response is None or self._original_response.isclosed():
            self._watch.settle(worked=True)

    def close(self) -> None:
        super().close()
        self._watch.settle(worked=True)

    def release_conn(self) -> None:
        super().release_conn()
        if self._original_response is not None and self._original_response.isclosed():
            return  # ``_error_catcher`` is at work, and knows how it ended
        self._watch.settle(worked=True)
