"""moorline under the ``twilio`` package: ``twilio.rest.Client(sid, token, http_client=Client())``, and ``AsyncClient``
for its ``…_async`` methods.

Hooks and encoding are those of twilio 9.13.0 (``http/http_client.py``). Twilio knows no idempotency keys
(services/sms/twilio.md): a POST is repeated only when it was never sent, or refused with 429. Answers of 4xx are left
to the SDK, which raises its own errors; all else is raised as one of :mod:`moorline.errors` that is also a
``TwilioRestException`` (429, 5xx) or a ``TwilioException`` (nothing was answered).
"""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx2
from twilio.base.exceptions import TwilioException
from twilio.base.version import Version
from twilio.http import AsyncHttpClient, HttpClient
from twilio.http.response import Response

from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.exchanges import MOST_BODY, Ask, Line
from moorline.calls.exchange import IDEMPOTENT, Exchange
from moorline.calls.guards import Guards
from moorline.calls.sending import ServiceRequest
from moorline.errors import CallError, ConfigurationError
from moorline.policies.policy import Policy

__all__ = ["AsyncClient", "Client"]

_AS_JSON: Final = frozenset({"application/json", "application/scim+json"})
_WITH_FORM: Final = "application/x-www-form-urlencoded"


class _Shared:
    """What both colours share. The SDK's request log is not written: it holds numbers and texts of messages."""

    _line: Line
    timeout: float | None

    def _ask(
        self,
        method: str,
        url: str,
        params: dict[str, Any] | None,
        data: Any,
        headers: dict[str, str] | None,
        auth: tuple[str, str] | None,
        timeout: float | None,
        allow_redirects: bool,  # noqa: FBT001 (the SDK's signature)
    ) -> Ask:
        if allow_redirects:
            raise ConfigurationError(
                "allow_redirects: redirects are not followed with credentials; ask the new address"
            )
        if timeout is not None and timeout <= 0:
            raise ValueError(timeout)  # as the SDK's own client does
        verb = method.upper()
        carried = dict(headers or {})
        if auth is not None:
            carried["Authorization"] = f"Basic {b64encode(':'.join(auth).encode()).decode('ascii')}"
        query = urlencode([pair for pair in _pairs(params) if pair[1] is not None])
        return Ask(
            self._line,
            ServiceRequest(
                verb,
                f"{url}{'&' if '?' in url else '?'}{query}" if query else url,
                carried,
                _body(data, carried),
                MOST_BODY,
            ),
            operation=f"{verb} {_kind(url)}",
            idempotent=verb in IDEMPOTENT,
            timeout=self.timeout if timeout is None else timeout,
        )

    def __repr__(self) -> str:
        return f"<moorline twilio.{type(self).__name__} {self._line.name!r}>"


class Client(_Shared, HttpClient):  # type: ignore[misc]  # the SDK ships no types
    """An ``http_client`` for ``twilio.rest.Client``.

    *name* shares breaker, limits and budget with all that use the same name; *timeout* bounds an attempt, in seconds,
    beside the policy; *wire* is an httpx2 transport to use in place of moorline's own. It replaces the SDK's own
    client, and with it that one's ``max_retries``. Redirects are not followed.

    Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str = "twilio",
        timeout: float | None = None,
        guards: Guards | None = None,
        wire: httpx2.BaseTransport | None = None,
    ) -> None:
        super().__init__(logging.getLogger("twilio.http_client"), False, timeout)
        self._line = Line("twilio.Client", policy, name=name, guards=guards, dress=_dressed, wire=wire)

    def request(
        self,
        method: str,
        uri: str,
        params: dict[str, Any] | None = None,
        data: Any = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,  # noqa: FBT001, FBT002 (the SDK's signature)
    ) -> Response:
        """The SDK's Response. Raises CallError, which is also a TwilioException."""
        return _response(self._line.send(self._ask(method, uri, params, data, headers, auth, timeout, allow_redirects)))

    def close(self) -> None:
        """Close the connections."""
        self._line.close()


class AsyncClient(_Shared, AsyncHttpClient):  # type: ignore[misc]  # the SDK ships no types
    """As ``Client``, for ``await client.messages.create_async(...)``."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str = "twilio",
        timeout: float | None = None,
        guards: Guards | None = None,
        wire: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(logging.getLogger("twilio.async_http_client"), True, timeout)
        self._line = Line("twilio.AsyncClient", policy, name=name, guards=guards, dress=_dressed, wire=wire)

    async def request(
        self,
        method: str,
        uri: str,
        params: dict[str, Any] | None = None,
        data: Any = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,  # noqa: FBT001, FBT002 (the SDK's signature)
    ) -> Response:
        """The SDK's Response. Raises CallError, which is also a TwilioException."""
        ask = self._ask(method, uri, params, data, headers, auth, timeout, allow_redirects)
        return _response(await self._line.send_async(ask))

    async def close(self) -> None:
        """Close the connections of this loop."""
        await self._line.aclose()


def _pairs(given: dict[str, Any] | None) -> list[tuple[str, Any]]:
    """One pair for each value, as forms have them."""
    return [
        (name, value)
        for name, values in (given or {}).items()
        for value in (values if isinstance(values, (list, tuple)) else (values,))
    ]


def _body(data: Any, headers: dict[str, str]) -> bytes | None:
    if not data:
        return None
    if headers.get("Content-Type") in _AS_JSON:
        return json.dumps(data).encode()
    if isinstance(data, (bytes, str)):
        return data.encode() if isinstance(data, str) else data
    headers.setdefault("Content-Type", _WITH_FORM)
    return urlencode([pair for pair in _pairs(data) if pair[1] is not None]).encode("ascii")


def _kind(url: str) -> str:
    """The kind of object that is asked about, such as ``Messages``: paths alternate kinds and ids."""
    parts = urlsplit(url).path.split("/")
    named = [part for part in parts if part.isalpha() and part != "Accounts"]
    last = parts[-1].removesuffix(".json")
    return last if last.isalpha() else named[-1] if named else ""


def _response(exchange: Exchange) -> Response:
    headers = httpx2.Headers(dict(exchange.headers))
    charset = httpx2.Response(exchange.status, headers=headers).charset_encoding or "utf-8"
    try:
        text = exchange.body.decode(charset, "replace")
    except LookupError:
        text = exchange.body.decode("utf-8", "replace")
    return Response(exchange.status, text, headers)


def _dressed(error: CallError, request: ServiceRequest, answer: Exchange | None) -> CallError:
    """*error* as the SDK's own, as it would read the answer if there was one."""
    if answer is None:
        return as_theirs(error, TwilioException)
    theirs = Version.exception(request.method, request.url, _response(answer), error.message)
    return as_theirs(error, type(theirs), **vars(theirs))
