"""moorline under ``slack_sdk``: ``WebClient`` and ``AsyncWebClient`` that take the place of the SDK's own.

Hooks are those of slack_sdk 3.47.0 (``web/base_client.py``, ``web/async_base_client.py``). Facts of Slack are those of
services/business/slack.md: limits are kept for each method, a 429 names its wait in ``Retry-After``, failures hide in
a 200 with ``ok: false``, and no method knows an idempotency key. So a method that only reads is repeated; one that
writes only when it was refused unread, or never left.

What is answered is left to the SDK, which raises ``SlackApiError`` with the response; limits and failures of Slack are
one of :mod:`moorline.errors` at once. What is not answered is one of those and a ``SlackClientError``, and also what
the SDK would have raised (``URLError``, or ``aiohttp.ClientError``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from email.message import Message
from typing import TYPE_CHECKING, Any, Final
from urllib.error import URLError
from urllib.request import Request

import httpx2
from slack_sdk import WebClient as SlackWebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.file_upload_v2_result import FileUploadV2Result
from slack_sdk.web.slack_response import SlackResponse

from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.exchanges import MOST_BODY, Ask, Line
from moorline.calls.exchange import Exchange
from moorline.calls.faults import kind_of_status
from moorline.calls.guards import Guards
from moorline.calls.sending import ServiceRequest
from moorline.clock import Clock
from moorline.errors import BadAnswer, CallError, ConfigurationError, RateLimited, ServiceUnavailable
from moorline.policies.policy import Policy

if TYPE_CHECKING:
    from moorline.calls.adapters.slack_async import AsyncWebClient

__all__ = ["AsyncWebClient", "WebClient"]

RETRIED: Final = frozenset({200})  # a 200 is an error only where ``failure`` says that Slack failed
_READS: Final = frozenset(
    {"get", "getPermalink", "getPresence", "history", "identity", "info", "list", "lookupByEmail", "members", "replies"}
    | {"teamInfo", "test"}
)
_LIMITED: Final = frozenset({"ratelimited", "rate_limited"})
_FAILED: Final = frozenset({"fatal_error", "internal_error", "request_timeout", "service_unavailable"})


def __getattr__(name: str) -> Any:
    """``AsyncWebClient``, which needs aiohttp."""
    if name == "AsyncWebClient":
        from moorline.calls.adapters.slack_async import AsyncWebClient

        return AsyncWebClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class NotAnswered(SlackClientError, URLError):
    """What the blocking client raises where Slack gave no answer."""


class WebClient(SlackWebClient):
    """``slack_sdk.WebClient`` on the pipeline; its other arguments are the SDK's.

    *name* shares breaker and budget with all that use the same name; *safe* names further methods that may be repeated,
    beside those that only read; *wire* is an httpx2 transport to use in place of moorline's own. A proxy and an SSL
    context are read when the client is made. The SDK's ``retry_handlers`` are left out; to give any is refused, as
    their retries and ours would multiply.

    Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        token: str | None = None,
        *,
        policy: Policy | None = None,
        name: str = "slack",
        safe: Collection[str] = (),
        guards: Guards | None = None,
        wire: httpx2.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        handlers = options.pop("retry_handlers", None)
        super().__init__(token, retry_handlers=[], **options)
        refuse_handlers(handlers)
        self._own = None if wire is not None else _proxied(self)
        self._line = Line(
            "slack.WebClient",
            policy,
            name=name,
            guards=guards,
            dress=self._dressed,
            judge=_judged,
            retried=RETRIED,
            wire=wire or self._own,
            apart=True,
        )
        self._safe = frozenset(safe)

    def close(self) -> None:
        """Close the connections."""
        self._line.close()
        if self._own is not None:
            self._own.close()

    def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:
        """Where the SDK sends a request: through the pipeline instead."""
        refuse_handlers(self.retry_handlers)
        method = method_of(url)
        carried = {name: str(value) for name, value in req.header_items()}
        data = req.data if isinstance(req.data, bytes) else None
        request = ServiceRequest("POST", url, carried, data, MOST_BODY)
        ask = Ask(self._line, request, operation=method, idempotent=is_safe(method, self._safe), timeout=self.timeout)
        answer = self._line.send(ask)
        return {"status": answer.status, "headers": _headers(answer), "body": _read(answer)}

    def _upload_file(self, *, url: str, data: bytes, **_options: Any) -> FileUploadV2Result:
        """Where the SDK sends a file to the address that it was given for it."""
        request = ServiceRequest("POST", url, {}, data, MOST_BODY)
        ask = Ask(self._line, request, operation="files.upload", idempotent=False, timeout=self.timeout)
        answer = self._line.send(ask)
        return FileUploadV2Result(status=answer.status, body=str(_read(answer)))

    def _dressed(self, error: CallError, request: ServiceRequest, answer: Exchange | None) -> CallError:
        if answer is None:
            told = refusal(error, self._line.guards.clock)
            if told is None:
                return as_theirs(error, NotAnswered, reason=error.message)
            status, headers, data = told
        else:
            status, headers, data = answer.status, _headers(answer), _data(answer) or {}
            error.code = data.get("error") or error.code
        response = SlackResponse(
            client=self,
            http_verb="POST",
            api_url=request.url,
            req_args={},
            data=data,
            headers=headers,
            status_code=status,
        )
        return as_theirs(error, SlackApiError, response=response)


def refuse_handlers(handlers: Any) -> None:
    """Raise ConfigurationError if there are retry handlers: their retries and ours would multiply."""
    if handlers:
        names = ", ".join(type(handler).__name__ for handler in handlers)
        raise ConfigurationError(
            f"retry_handlers holds {names}, whose retries would multiply with the pipeline's: "
            "leave retry_handlers out, and set policy=Policy(retry=Retry(...))"
        )


def method_of(url: str) -> str:
    """The API method of an address, such as ``chat.postMessage``."""
    return httpx2.URL(url).path.rsplit("/", 1)[-1]


def is_safe(method: str, more: Collection[str]) -> bool:
    """Whether *method* may be repeated: it only reads, or is one of *more*."""
    return method.rsplit(".", 1)[-1] in _READS or method.startswith("search.") or method in more


def failure(status: int, data: Any) -> CallError | None:
    """The error that an answer is, as far as the pipeline cares: by its status, or by ``ok: false`` in a 200."""
    said = data.get("error") if isinstance(data, dict) and data.get("ok") is False else None
    if said in _LIMITED:
        return RateLimited(f"answered {said}", status=status, code=said)
    if said in _FAILED:  # "fatal_error": "some aspect may have succeeded"
        return ServiceUnavailable(f"answered {said}", status=status, code=said, outcome="unknown")
    return kind_of_status(status)(f"answered {status}", status=status) if status >= 400 else None


def refusal(error: CallError, clock: Clock) -> tuple[int, dict[str, str], dict[str, Any]] | None:
    """What Slack would have answered where our rate gate refused in its place; None for other errors."""
    if not isinstance(error, RateLimited):
        return None
    error.code = "ratelimited"
    left = math.ceil(max((error.retry_at or clock.wall()) - clock.wall(), 1))
    return 429, {"Retry-After": str(left), "retry-after": str(left)}, {"ok": False, "error": error.code}


def _judged(answer: Exchange) -> CallError | None:
    error = failure(answer.status, _data(answer))
    if error is None and (answer.header("content-type") or "").startswith("application/json") and not _data(answer):
        return BadAnswer("the answer is not JSON", status=answer.status, retryable=True)
    return error


def _data(answer: Exchange) -> Any:
    try:
        data = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _read(answer: Exchange) -> str | bytes:
    """The body as the SDK reads it: text, but for an archive."""
    message = Message()
    message["content-type"] = answer.header("content-type") or ""
    if message.get_content_type() == "application/gzip":
        return answer.body
    try:
        return answer.body.decode(message.get_content_charset() or "utf-8", "replace")
    except LookupError:
        return answer.body.decode("utf-8", "replace")


def _headers(answer: Exchange) -> dict[str, str]:
    """The headers under both spellings: the SDK makes a plain dict of them."""
    return {name.title(): value for name, value in answer.headers.items()} | dict(answer.headers)


def _proxied(client: SlackWebClient) -> httpx2.HTTPTransport | None:
    if not client.proxy and client.ssl is None:
        return None
    return httpx2.HTTPTransport(verify=client.ssl or httpx2.create_ssl_context(), proxy=client.proxy or None)
