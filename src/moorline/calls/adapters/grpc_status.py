"""What a gRPC status means: its error, its HTTP equivalent, and the wait that the server asks for.

The equivalents are those of google/rpc/code.proto. A server asks for a wait by the trailer ``grpc-retry-pushback-ms``
(gRFC A6: milliseconds; anything that is no number from 0 means "do not try again"), or by a ``google.rpc.RetryInfo``
in ``grpc-status-details-bin`` (google/rpc/error_details.proto). Texts of the core are those of grpcio 1.85.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import grpc

from moorline import redaction
from moorline.calls.limits import RateLimitHeaders
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    ConnectFailed,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
)

__all__ = ["LIMITS", "Ended", "error_of", "pushback", "retry_delay"]

Code = grpc.StatusCode
Metadata = Iterable[tuple[str, str | bytes]]

LIMITS: Final = RateLimitHeaders(should_retry="grpc-should-retry")
_MEANINGS: Final[dict[grpc.StatusCode, tuple[type[CallError], int]]] = {
    Code.UNKNOWN: (ServiceUnavailable, 500),
    Code.INVALID_ARGUMENT: (InvalidRequest, 400),
    Code.DEADLINE_EXCEEDED: (ServiceUnavailable, 504),  # the server's own, for what is behind it
    Code.NOT_FOUND: (NotFound, 404),
    Code.ALREADY_EXISTS: (Conflict, 409),
    Code.PERMISSION_DENIED: (PermissionDenied, 403),
    Code.RESOURCE_EXHAUSTED: (RateLimited, 429),
    Code.FAILED_PRECONDITION: (Conflict, 400),
    Code.ABORTED: (Conflict, 409),
    Code.OUT_OF_RANGE: (InvalidRequest, 400),
    Code.UNIMPLEMENTED: (InvalidRequest, 501),
    Code.INTERNAL: (ServiceUnavailable, 500),
    Code.UNAVAILABLE: (ServiceUnavailable, 503),
    Code.DATA_LOSS: (BadAnswer, 500),
    Code.UNAUTHENTICATED: (AuthenticationFailed, 401),
}
_NOT_CONNECTED: Final = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
_RETRY_INFO: Final = "google.rpc.RetryInfo"
_TIMES: Final = frozenset({"retry-after", "retry-after-ms"})
_MOST_DETAILS: Final = 65_536
_LONGEST: Final = 31_536_000.0


class Ended:
    """How a call ended, as the engine sees it. *call* is what gRPC hands out; *code* None means that it goes on.

    *connected* tells whether the channel stands, as far as that is known; *safe* whether the call may be repeated.
    """

    __slots__ = ("call", "code", "connected", "details", "safe", "status", "trailers")

    def __init__(
        self,
        call: Any,
        code: grpc.StatusCode | None,
        details: str | None = None,
        trailers: Metadata | None = None,
        *,
        connected: bool = True,
        safe: bool = False,
    ) -> None:
        self.call = call
        self.code = code
        self.details = details or ""
        self.trailers: dict[str, str | bytes] = {key.lower(): value for key, value in trailers} if trailers else {}
        self.connected = connected
        self.safe = safe
        self.status = 200 if code is None or code is Code.OK else _MEANINGS.get(code, (CallError, 500))[1]

    def header(self, name: str, default: str | None = None) -> str | None:
        """What the trailers say, in the words of HTTP."""
        if name == "retry-after-ms":
            wait = self._wait()
            if isinstance(wait, float):
                return f"{wait * 1000:.3f}"
        elif name == "grpc-should-retry":
            wait = self._wait()
            # Exhausted may be a disk as well as a rate; without a time, nobody says that it was turned away unread.
            told = wait is not None or bool(_TIMES.intersection(self.trailers))
            hopeless = wait is False or (self.code is Code.RESOURCE_EXHAUSTED and not told and not self.safe)
            return "false" if hopeless else default
        value = self.trailers.get(name)
        return value if isinstance(value, str) else default

    def _wait(self) -> float | bool | None:
        wait = pushback(self.trailers.get("grpc-retry-pushback-ms"))
        return retry_delay(self.trailers.get("grpc-status-details-bin")) if wait is None else wait


def error_of(ended: Ended) -> CallError | None:
    """The error that a status is; None for OK and for what goes on."""
    code = ended.code
    if code is None or code is Code.OK:
        return None
    said = redaction.text(" ".join(ended.details.split()))[:200]
    message = f"answered {code.name}" + (f": {said}" if said else "")
    facts: dict[str, Any] = {"status": ended.status, "code": code.name}
    if code is Code.RESOURCE_EXHAUSTED and "message larger than max" in said:  # this side's own limit
        if "Sent message" in said:
            return InvalidRequest(f"the request is too large: {said}", outcome="not_sent", code=code.name)
        return BadAnswer(f"the answer is too large: {said}", code=code.name)
    if code is Code.INTERNAL and said == "Exception serializing request!":
        return InvalidRequest("the request cannot be serialised", outcome="not_sent", code=code.name)
    if code is Code.INTERNAL and said.startswith("Exception deserializing response"):
        return BadAnswer("the answer cannot be read", code=code.name)
    if code is Code.UNAVAILABLE:
        if not ended.connected and said.startswith(_NOT_CONNECTED):
            return ConnectFailed(f"could not connect: {said}", code=code.name)
        return ServiceUnavailable(message, outcome="unknown", **facts)  # a broken connection looks the same
    return _MEANINGS.get(code, (ServiceUnavailable, 500))[0](message, **facts)


def pushback(value: str | bytes | None) -> float | bool | None:
    """The seconds that ``grpc-retry-pushback-ms`` asks for; False where it forbids another try, None without one."""
    if value is None:
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        return False
    return int(text) / 1000


def retry_delay(value: str | bytes | None) -> float | None:
    """The seconds of a ``google.rpc.RetryInfo`` in a serialised ``google.rpc.Status``; None without one."""
    if not isinstance(value, bytes) or len(value) > _MOST_DETAILS:
        return None
    try:
        for detail in _messages(value, 3):
            kinds, contents = list(_messages(detail, 1)), list(_messages(detail, 2))
            if kinds and contents and kinds[-1].decode("utf-8", "replace").rpartition("/")[2] == _RETRY_INFO:
                return next((_duration(delay) for delay in _messages(contents[-1], 1)), None)
    except ValueError:
        pass  # a hint that cannot be read is none
    return None


def _duration(message: bytes) -> float | None:
    parts = {number: part for number, part in _fields(message) if isinstance(part, int)}
    seconds = parts.get(1, 0) + parts.get(2, 0) / 1e9
    return seconds if seconds <= _LONGEST else None  # negative ones are huge as unsigned numbers


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    return (part for field, part in _fields(message) if field == number and isinstance(part, bytes))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in the wire format of protocol buffers. Raises ValueError where it is malformed."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a field of an unknown kind")
        if at + size > len(message):
            raise ValueError("a field longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= len(message):
            break
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number without an end")
