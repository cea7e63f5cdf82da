"""Answers to errors: ``ErrorMap`` says where a service puts its code and message, and what its codes mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from moorline import redaction
from moorline.calls.dialects import Headed
from moorline.calls.exchange import Exchange
from moorline.calls.limits import moment
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    IdempotencyConflict,
    InvalidRequest,
    LimitFault,
    NotFound,
    PaymentDeclined,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
)

__all__ = ["ErrorMap", "kind_of_status", "one_line", "usual_request_id"]

_BY_STATUS: Final[dict[int, type[CallError]]] = {
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    408: ServiceUnavailable,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    425: ServiceUnavailable,
    429: RateLimited,
}
_MESSAGE_LIMIT: Final = 500
_CODE_LIMIT: Final = 100
_NOTHING: Final[Collection[str]] = frozenset()
_REQUEST_IDS: Final = ("x-request-id", "request-id", "x-amzn-requestid")


def kind_of_status(status: int) -> type[CallError]:
    """The class of error that a status means when the service's code says no more."""
    if 500 <= status <= 599:
        return _BY_STATUS.get(status, ServiceUnavailable)
    if 400 <= status <= 499:
        return _BY_STATUS.get(status, InvalidRequest)
    return BadAnswer


@dataclass(frozen=True, slots=True)
class ErrorMap:
    """Where the facts of an error stand, and what they mean.

    *code*, *message*, *decline_code* and *error_type* are paths into the JSON body (``"error.code"``,
    ``"errors.0.message"``), or several of them, of which the first that leads somewhere counts
    (``"details.0.description|message"``);
    *request_id* is ``"header:Name"`` or a path. *declined*, *limited*, *key_reused* are codes or types that mean
    PaymentDeclined, RateLimited and IdempotencyConflict; *kinds* maps further codes or types to classes, *statuses*
    statuses. Of code and type the code, which is the finer one, is believed where *kinds* has it.
    *is_limit* recognises a limit by the whole answer (GitHub's 403). *failed* is asked about 2xx answers and returns
    the code when one says that it failed. *retry* are statuses, and codes, beyond the usual that are worth repeating;
    *undone* codes that say that nothing was done, so that a write may be repeated as well.
    *may_retry* are the decline codes after which another try may help. *until* is a pattern whose group 1 is, in the
    message of a limit, the time when it opens again (an RFC 1123 date, or ISO 8601), for services that say it nowhere
    else.
    """

    code: str = ""
    message: str = ""
    request_id: str = ""
    error_type: str = ""
    decline_code: str = ""
    declined: Collection[str] = _NOTHING
    limited: Collection[str] = _NOTHING
    key_reused: Collection[str] = _NOTHING
    may_retry: Collection[str] = _NOTHING
    kinds: Mapping[str, type[CallError]] = field(default_factory=lambda: MappingProxyType({}))
    statuses: Mapping[int, type[CallError]] = field(default_factory=lambda: MappingProxyType({}))
    retry: Collection[int | str] = frozenset()
    undone: Collection[str] = _NOTHING
    until: re.Pattern[str] | None = None
    is_limit: Callable[[Exchange], bool] | None = None
    failed: Callable[[Exchange], str | None] | None = None

    def request_id_of(self, exchange: Exchange) -> str | None:
        """The service's own id of this request, if it gave one."""
        if not self.request_id:
            return None
        if self.request_id.startswith("header:"):
            return one_line(exchange.header(self.request_id.removeprefix("header:")), _CODE_LIMIT)
        return one_line(at_path(self.data(exchange), self.request_id), _CODE_LIMIT)

    def error(self, exchange: Exchange) -> CallError:
        """The typed error of an answer that is not a success."""
        data = self.data(exchange)
        code = one_line(at_path(data, self.code), _CODE_LIMIT)
        kind_name = one_line(at_path(data, self.error_type), _CODE_LIMIT)
        return self._made(self._kind(exchange, code, kind_name), exchange, data, code or kind_name)

    def failure(self, exchange: Exchange) -> CallError | None:
        """The error that hides in a 2xx answer, if this service hides any."""
        code = None if self.failed is None else self.failed(exchange)
        if code is None:
            return None
        kind = self._kind(exchange, code, one_line(at_path(self.data(exchange), self.error_type), _CODE_LIMIT))
        return self._made(
            InvalidRequest if kind is BadAnswer else kind, exchange, self.data(exchange), one_line(code, _CODE_LIMIT)
        )

    def data(self, exchange: Exchange) -> Any:
        """What the paths lead into: the answer's JSON, None for what is none (an error page of some proxy: the status
        says enough). A service with other bodies overrides it.
        """
        try:
            return exchange.data
        except BadAnswer:
            return None

    def _made(self, kind: type[CallError], exchange: Exchange, data: Any, code: str | None) -> CallError:
        message = one_line(at_path(data, self.message), _MESSAGE_LIMIT) or _plainly(exchange.status, code)
        context: dict[str, Any] = {
            "status": exchange.status,
            "code": redaction.text(code or "") or None,
            "request_id": exchange.request_id,
            "detail": redaction.data(data) if data is not None else None,
        }
        if issubclass(kind, PaymentDeclined):
            finer = one_line(at_path(data, self.decline_code), _CODE_LIMIT)
            context |= {
                "decline_code": finer,
                "may_retry": (finer or code) in self.may_retry if self.may_retry else None,
            }
        if self.until is not None and issubclass(kind, LimitFault) and (said := self.until.search(message)):
            context["retry_at"] = moment(said[1])
        return kind(redaction.text(message), **context)

    def _kind(self, exchange: Exchange, code: str | None, type_: str | None) -> type[CallError]:
        said = {word for word in (code, type_) if word}
        if said.intersection(self.limited) or (self.is_limit is not None and self.is_limit(exchange)):
            return RateLimited
        if said.intersection(self.key_reused):
            return IdempotencyConflict
        if code and code in self.kinds:
            return self.kinds[code]
        if said.intersection(self.declined):
            return PaymentDeclined
        if type_ and type_ in self.kinds:
            return self.kinds[type_]
        return self.statuses.get(exchange.status) or kind_of_status(exchange.status)


def _plainly(status: int, code: str | None) -> str:
    return f"answered {status}, which says {code}" if status <= 299 and code else f"answered {status}"


def usual_request_id(answer: Headed) -> str | None:
    """The service's own id of a request, by the customary headers, where nothing is known of the service."""
    return next((said for name in _REQUEST_IDS if (said := one_line(answer.header(name), _CODE_LIMIT))), None)


def at_path(data: Any, path: str) -> Any:
    """What stands at ``"a.0.b"`` in *data*, or None; of several paths (``"a.b|c"``) at the first that leads there."""
    if not path:
        return None
    if "|" in path:
        return next((found for one in path.split("|") if (found := at_path(data, one)) is not None), None)
    for step in path.split("."):
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and step.isdigit() and int(step) < len(data):
            data = data[int(step)]
        else:
            return None
    return data


def one_line(value: Any, limit: int = _MESSAGE_LIMIT) -> str | None:
    """What a service says, as one printable line of at most *limit* characters; None for what is no text or number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    try:
        text = " ".join(str(value).split())
    except ValueError:  # an integer of thousands of digits
        return None
    shown = text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown[:limit] or None
