"""moorline under the ``stripe`` package: ``stripe.StripeClient(key, http_client=Client())``, blocking and async.

Hooks and rules are those of stripe 16.1.0 (``_http_client.py``, ``_api_requestor.py``): every POST carries an
``Idempotency-Key``, so a repeat is safe; ``Stripe-Should-Retry`` says true or false; 409 means that the same key is
still at work. What is answered with 4xx is left to the SDK, which raises its own errors; all else is raised as one of
:mod:`moorline.errors` that is also stripe's ``RateLimitError`` (429), ``APIError`` (5xx) or ``APIConnectionError``.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import httpx2
import stripe

from moorline import telemetry
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.exchanges import MOST_BODY, Ask, Line
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.exchange import IDEMPOTENT, Exchange
from moorline.calls.faults import at_path
from moorline.calls.guards import Guards
from moorline.calls.sending import ServiceRequest
from moorline.errors import CallError, RateLimited, ServiceUnavailable
from moorline.policies.policy import Policy

__all__ = ["Client"]

_LIMITS: Final = RateLimitHeaders(should_retry="Stripe-Should-Retry")
_RETRIED: Final = frozenset({409})

Answer = tuple[Any, int, Mapping[str, str]]


class Client(stripe.HTTPClient):
    """An ``http_client`` for ``stripe.StripeClient``, or for ``stripe.default_http_client``.

    *name* shares breaker, limits and budget with all that use the same name; *wire* is an httpx2 transport to use in
    place of moorline's own. The SDK's own retries (``max_network_retries``, 2 by default for the module-wide client)
    are switched off, with a line in the log: two layers of retries multiply. Answers are read whole, files too, up to
    64 MiB.

    Raises ConfigurationError naming the argument.
    """

    name: ClassVar[str] = "moorline"  # the SDK tells Stripe which HTTP library it runs on

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str = "stripe",
        guards: Guards | None = None,
        wire: httpx2.BaseTransport | httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__()
        self._line = Line(
            "stripe.Client",
            policy,
            name=name,
            guards=guards,
            dress=_dressed,
            limits=_LIMITS,
            retried=_RETRIED,
            wire=wire,
        )
        self._told = False

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> Answer:
        """The body, the status and the headers of the answer. Raises CallError, which is also a StripeError."""
        return _answer(self._line.send(self._ask(method, url, headers, post_data)))

    async def request_async(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None) -> Answer:
        """As ``request``, on the event loop."""
        return _answer(await self._line.send_async(self._ask(method, url, headers, post_data)))

    def request_stream(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> Answer:
        """As ``request``; the body is a file in memory."""
        body, status, answered = self.request(method, url, headers, post_data)
        return io.BytesIO(body), status, answered

    async def request_stream_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> Answer:
        """As ``request_async``; the body is an asynchronous iterator."""
        body, status, answered = await self.request_async(method, url, headers, post_data)
        return _parts(body), status, answered

    def close(self) -> None:
        """Close the connections of blocking calls."""
        self._line.close()

    async def close_async(self) -> None:
        """Close all connections of this loop."""
        await self._line.aclose()

    def _request_with_retries_internal(self, *args: Any, **given: Any) -> Any:
        """The SDK's loop, told not to repeat: what is worth it was repeated underneath."""
        return super()._request_with_retries_internal(*args, **self._once(given))

    async def _request_with_retries_internal_async(self, *args: Any, **given: Any) -> Any:
        """As ``_request_with_retries_internal``, on the event loop."""
        return await super()._request_with_retries_internal_async(*args, **self._once(given))

    def _once(self, given: dict[str, Any]) -> dict[str, Any]:
        retries = given.get("max_network_retries")
        if retries and not self._told:
            self._told = True
            telemetry.logger("calls").warning(
                "double_retries_off",
                service=self._line.name,
                setting="stripe max_network_retries",
                value=retries,
                instead="Policy(retry=Retry(...))",
            )
        return given | {"max_network_retries": 0}

    def _ask(self, method: str, url: str, headers: Mapping[str, str] | None, body: Any) -> Ask:
        verb = method.upper()
        carried = dict(headers or {})
        content = body.encode() if isinstance(body, str) else body
        return Ask(
            self._line,
            ServiceRequest(verb, url, carried, content, MOST_BODY),
            operation=_operation(verb, url),
            idempotent=verb in IDEMPOTENT,
            key=httpx2.Headers(carried).get("idempotency-key"),
        )

    def __repr__(self) -> str:
        return f"<moorline stripe.Client {self._line.name!r}>"


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _answer(exchange: Exchange) -> Answer:
    return exchange.body, exchange.status, httpx2.Headers(dict(exchange.headers))


def _operation(verb: str, url: str) -> str:
    """The kind of object that is asked about, such as ``POST /v1/customers``; ids are left out."""
    return f"{verb} /{'/'.join(urlsplit(url).path.split('/')[1:3])}"


def _dressed(error: CallError, _request: ServiceRequest, answer: Exchange | None) -> CallError:
    """*error* as stripe's own of that kind, with the fields that its users read."""
    facts: dict[str, Any] = {
        "_message": error.message,
        "http_body": None,
        "http_status": error.status,
        "json_body": None,
        "headers": {},
        "error": None,
        "should_retry": False,
    }
    if answer is not None:
        facts["headers"] = httpx2.Headers(dict(answer.headers))
        facts["http_body"] = answer.body.decode("utf-8", "replace")
        error.request_id = answer.header("request-id")
        facts["json_body"] = _json(answer.body)
    theirs = (
        stripe.RateLimitError
        if isinstance(error, RateLimited)
        else stripe.APIError
        if isinstance(error, ServiceUnavailable)
        else stripe.APIConnectionError
    )
    error.code = at_path(facts["json_body"], "error.code") or error.code
    made = as_theirs(error, theirs, **facts)
    vars(made)["error"] = made._construct_error_object()  # type: ignore[attr-defined]  # noqa: SLF001 (as the SDK does)
    return made


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
