"""Whose fault an exception of any code is: what ``@resilient`` and ``app.guard`` learn from it.

Exceptions of the usual clients are known by the names of their classes, so that none of those libraries is loaded:
httpx 0.28 and httpx2 2.16 (``_exceptions.py``), requests 2.34 (``exceptions.py``), urllib3 2.8 (``exceptions.py``),
aiohttp 3.14 (``client_exceptions.py``), botocore 1.44 (``exceptions.py``), grpc 1.85 (``_channel.py``); the
standard library's by their classes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from moorline.calls.adapters.foreign import said
from moorline.errors import AttemptTimeout, CallError, ConnectFailed, ConnectionLost, RateLimited, ServiceUnavailable

__all__ = ["Failure", "failure_of"]

_SERVER_FAULTS: Final = frozenset({408, 425})
_LOCAL: Final = (  # OSErrors that speak of this machine's files and processes, not of a service
    ChildProcessError,
    FileExistsError,
    FileNotFoundError,
    InterruptedError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ProcessLookupError,
)
_HTTPX: Final[dict[str, type[CallError] | None]] = {
    "ConnectError": ConnectFailed,
    "ConnectTimeout": ConnectFailed,
    "PoolTimeout": ConnectFailed,
    "ProxyError": ConnectFailed,
    "UnsupportedProtocol": None,
    "LocalProtocolError": None,
    "TimeoutException": AttemptTimeout,
    "TransportError": ConnectionLost,
}
_KNOWN: Final[dict[str, dict[str, type[CallError] | None]]] = {
    "httpx": _HTTPX,
    "httpx2": _HTTPX,
    "asyncio": {"IncompleteReadError": ConnectionLost},
    "http": {"IncompleteRead": ConnectionLost},
    "aiohttp": {
        "ClientConnectorError": ConnectFailed,
        "ConnectionTimeoutError": ConnectFailed,
        "ServerTimeoutError": AttemptTimeout,
        "ClientConnectionError": ConnectionLost,
        "ClientPayloadError": ConnectionLost,
        "InvalidURL": None,
    },
    "requests": {
        "ConnectTimeout": ConnectFailed,
        "Timeout": AttemptTimeout,
        "ConnectionError": ConnectionLost,
        "ChunkedEncodingError": ConnectionLost,
        "RequestException": None,
    },
    "urllib3": {
        "NewConnectionError": ConnectFailed,
        "ConnectTimeoutError": ConnectFailed,
        "TimeoutError": AttemptTimeout,
        "ProtocolError": ConnectionLost,
        "MaxRetryError": ConnectionLost,
    },
    "botocore": {
        "EndpointConnectionError": ConnectFailed,
        "ConnectTimeoutError": ConnectFailed,
        "ReadTimeoutError": AttemptTimeout,
        "HTTPClientError": ConnectionLost,
    },
}
_GRPC: Final[dict[str, type[CallError]]] = {
    "UNAVAILABLE": ServiceUnavailable,
    "RESOURCE_EXHAUSTED": RateLimited,
    "DEADLINE_EXCEEDED": AttemptTimeout,
    "INTERNAL": ServiceUnavailable,
    "UNKNOWN": ServiceUnavailable,
    "DATA_LOSS": ServiceUnavailable,
}


class Failure:
    """What an exception says: the error that it means, and the headers of the answer behind it, if there was one."""

    __slots__ = ("_headers", "error", "status")

    def __init__(self, error: CallError, headers: Any = None) -> None:
        self.error = error
        self.status = error.status or 0
        self._headers = headers if isinstance(headers, Mapping) else {}

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header, its name in lower case; the mapping may spell it otherwise."""
        found = self._headers.get(name)
        if found is None:
            found = next((value for known, value in self._headers.items() if str(known).lower() == name), None)
        return default if found is None else str(found)


def failure_of(error: Exception) -> Failure | None:
    """The failure of a service that *error* is; None when it is the caller's own affair, such as a bug or a 404."""
    status, headers = _status(error)
    if status is not None:
        if status == 429:
            return Failure(RateLimited(f"answered {status}", status=status), headers)
        if status >= 500 or status in _SERVER_FAULTS:
            return Failure(ServiceUnavailable(f"answered {status}", status=status), headers)
        return None
    kind = _kind(error)
    return None if kind is None else Failure(kind(said(error)))


def _status(error: Exception) -> tuple[int | None, Any]:
    """The HTTP status that the exception of a client speaks of, and the headers of that answer."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        told = response.get("ResponseMetadata", {})
        return _as_status(told.get("HTTPStatusCode")), told.get("HTTPHeaders")
    for holder in (error, response):
        for name in ("status_code", "status", "http_status"):
            status = _as_status(getattr(holder, name, None))
            if status is not None:
                return status, getattr(holder, "headers", None) or getattr(response, "headers", None)
    return None, None


def _as_status(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599 else None


def _kind(error: Exception) -> type[CallError] | None:
    for each in type(error).__mro__:
        names = _KNOWN.get(each.__module__.partition(".")[0])
        if names is not None and each.__name__ in names:
            return names[each.__name__]
        if each.__module__.partition(".")[0] == "grpc" and callable(getattr(error, "code", None)):
            return _GRPC.get(getattr(error.code(), "name", ""))  # type: ignore[attr-defined]
    if isinstance(error, _LOCAL):
        return None
    if isinstance(error, (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)):
        return ConnectFailed
    if isinstance(error, TimeoutError):
        return AttemptTimeout
    return ConnectionLost if isinstance(error, OSError) else None
