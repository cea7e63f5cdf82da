"""Our errors that are httpx2's own exceptions of that kind as well, for who uses moorline as a plain httpx2
transport.
"""

from __future__ import annotations

from typing import Any, Final

import httpx2

from moorline import errors
from moorline.calls.effects import POOL

__all__ = ["as_httpx_error"]


class _Dual(errors.CallError):
    """Carries ``.request`` like httpx2's. A pickle leaves the request out: its headers hold credentials."""

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, message, state) = super().__reduce__()[:2]
        return rebuild, (kind, message, {name: value for name, value in state.items() if name != "_request"})


class RateLimited(_Dual, errors.RateLimited, httpx2.TransportError): ...


class BulkheadFull(_Dual, errors.BulkheadFull, httpx2.PoolTimeout): ...


class BadAnswer(_Dual, errors.BadAnswer, httpx2.RemoteProtocolError): ...


class CircuitOpen(_Dual, errors.CircuitOpen, httpx2.TransportError): ...


class InvalidRequest(_Dual, errors.InvalidRequest, httpx2.LocalProtocolError): ...


class ConnectFailed(_Dual, errors.ConnectFailed, httpx2.ConnectError): ...


class ConnectTimedOut(ConnectFailed, httpx2.ConnectTimeout): ...


class PoolTimedOut(ConnectFailed, httpx2.PoolTimeout): ...


class AttemptTimeout(_Dual, errors.AttemptTimeout, httpx2.ReadTimeout): ...


class ConnectionLost(_Dual, errors.ConnectionLost, httpx2.ReadError): ...


class ConnectionCut(ConnectionLost, httpx2.RemoteProtocolError): ...


class DeadlineExceeded(_Dual, errors.DeadlineExceeded, httpx2.TimeoutException): ...


class OutcomeUnknown(_Dual, errors.OutcomeUnknown, httpx2.ReadError): ...


class OutcomeUnknownInTime(_Dual, errors.OutcomeUnknown, httpx2.ReadTimeout): ...


class DeadlineOutcomeUnknown(_Dual, errors.DeadlineOutcomeUnknown, httpx2.TimeoutException): ...


_DUALS: Final[dict[type[errors.CallError], type[_Dual]]] = {
    errors.RateLimited: RateLimited,
    errors.BulkheadFull: BulkheadFull,
    errors.BadAnswer: BadAnswer,
    errors.CircuitOpen: CircuitOpen,
    errors.InvalidRequest: InvalidRequest,
    errors.ConnectFailed: ConnectFailed,
    errors.AttemptTimeout: AttemptTimeout,
    errors.ConnectionLost: ConnectionLost,
    errors.DeadlineExceeded: DeadlineExceeded,
    errors.OutcomeUnknown: OutcomeUnknown,
    errors.DeadlineOutcomeUnknown: DeadlineOutcomeUnknown,
}


def as_httpx_error(error: errors.CallError, request: httpx2.Request) -> errors.CallError:
    """*error* in the class that is also httpx2's, with the request; other errors as they are."""
    kind = _DUALS.get(type(error))
    if kind is None:
        return error
    cause = error.__cause__
    if kind is ConnectFailed:
        if error.code == POOL:
            kind = PoolTimedOut
        elif cause is None or isinstance(cause, httpx2.TimeoutException):
            kind = ConnectTimedOut
    elif kind is ConnectionLost and isinstance(cause, httpx2.RemoteProtocolError):
        kind = ConnectionCut
    elif kind is OutcomeUnknown and isinstance(cause, errors.AttemptTimeout):
        kind = OutcomeUnknownInTime
    dual = kind(error.message)
    vars(dual).update(vars(error))
    dual.request = request  # type: ignore[attr-defined]
    dual.__cause__ = cause
    return dual
