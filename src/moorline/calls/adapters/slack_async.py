"""moorline under ``slack_sdk``'s client for the event loop. The wire is the SDK's own (aiohttp), each request read
whole within its attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from ssl import SSLContext
from typing import Any, Final

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient as SlackAsyncWebClient
from slack_sdk.web.async_internal_utils import _request_with_session
from slack_sdk.web.async_slack_response import AsyncSlackResponse
from slack_sdk.web.file_upload_v2_result import FileUploadV2Result

from moorline.calls.adapters.aiohttp import is_ours, meaning
from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.doubles import refuse_doubles
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.foreign import Foreign, Reply
from moorline.calls.adapters.slack import RETRIED, failure, is_safe, method_of, refusal, refuse_handlers
from moorline.calls.drivers import drive_async
from moorline.calls.effects import Expired
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.calls.timer import Timer
from moorline.errors import (
    BadAnswer,
    CallError,
    ConfigurationError,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["AsyncWebClient"]

_WIRE_ERRORS: Final = (aiohttp.ClientError, OSError, SlackApiError)


class NotAnswered(SlackClientError, aiohttp.ClientError):
    """What the client raises where Slack gave no answer."""


class AsyncWebClient(SlackAsyncWebClient):
    """``slack_sdk.web.async_client.AsyncWebClient`` on the pipeline; its other arguments are the SDK's.

    *name* shares breaker and budget with all that use the same name; *safe* names further methods that may be repeated,
    beside those that only read. The SDK's ``retry_handlers`` are left out; to give any is refused, as their retries and
    ours would multiply.

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
        **options: Any,
    ) -> None:
        handlers = options.pop("retry_handlers", None)
        super().__init__(token, retry_handlers=[], **options)
        refuse_handlers(handlers)
        self._policy, self._guards = checked("slack.AsyncWebClient", policy, name, guards)
        self._named = name
        self._guard = self._guards.guard(name, self._policy, apart=True)
        self._safe = frozenset(safe)

    async def _request(self, *, http_verb: str, api_url: str, req_args: dict[str, Any]) -> dict[str, Any]:
        """Where the SDK sends a request: through the pipeline instead."""
        method = method_of(api_url)
        return await self._through(http_verb, api_url, req_args, method, safe=is_safe(method, self._safe))

    async def _upload_file(
        self,
        *,
        url: str,
        data: bytes,
        logger: logging.Logger,  # noqa: ARG002 (the SDK's signature)
        timeout: int,  # noqa: ARG002
        proxy: str | None,
        ssl: SSLContext | None,
    ) -> FileUploadV2Result:
        """Where the SDK sends a file to the address that it was given for it."""
        given = {"data": data, "proxy": proxy, "ssl": ssl}
        answer = await self._through("POST", url, given, "files.upload", safe=False)
        return FileUploadV2Result(status=answer["status_code"], body=answer.get("body"))  # type: ignore[arg-type]

    async def _through(self, verb: str, url: str, given: dict[str, Any], method: str, *, safe: bool) -> dict[str, Any]:
        refuse_handlers(self.retry_handlers)
        if self.session is not None:
            _refuse_session(self.session)
        call = _Call(self, verb, url, given, operation=method, safe=safe)
        answer = await drive_async(Pipeline(call).run(), _Wire(), call.clock)
        response: dict[str, Any] = answer.response
        return response


def _refuse_session(session: Any) -> None:
    """Raise ConfigurationError for a session that repeats requests by itself, or through us."""
    refuse_doubles(session)
    if is_ours(session):
        raise ConfigurationError(
            "session has moorline's middleware, and retries would multiply: give AsyncWebClient a plain session"
        )


class _Call(Foreign):
    """One request of the SDK."""

    __slots__ = ("_answer", "client", "given", "url", "verb")

    def __init__(
        self, client: AsyncWebClient, verb: str, url: str, given: dict[str, Any], *, operation: str, safe: bool
    ) -> None:
        super().__init__(
            name=client._named,  # noqa: SLF001 (one adapter in two classes)
            operation=operation,
            policy=client._policy,  # noqa: SLF001
            guards=client._guards,  # noqa: SLF001
            idempotent=safe,
            key=None,
            timeout=client.timeout,
            retried=RETRIED,
            guard=client._guard,  # noqa: SLF001
        )
        self.client = client
        self.verb = verb
        self.url = url
        self.given = given
        self._answer: dict[str, Any] | None = None

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: files are read once."""
        data = self.given.get("data")
        parts = data.values() if isinstance(data, dict) else (data,)
        return not any(hasattr(part, "read") or isinstance(part, aiohttp.FormData) for part in parts)

    def judge(self, answer: Reply) -> CallError | None:
        """By the status, or by ``ok: false`` in a 200."""
        return failure(answer.status, answer.response["data"])

    def unsuccessful(self, answer: Reply, error: CallError, deadline: float) -> Reply | None:  # noqa: ARG002
        """What is the caller's affair goes back to the SDK, which has its own error for it."""
        if isinstance(error, (RateLimited, ServiceUnavailable)):
            self._answer = answer.response
            return None
        return answer

    def dressed(self, error: CallError) -> CallError:
        """The error as the SDK's own."""
        if self._answer is not None:
            data = self._answer["data"] if isinstance(self._answer["data"], dict) else {}
            error.code = data.get("error") or error.code
            status, headers = self._answer["status_code"], self._answer["headers"]
        elif (told := refusal(error, self.clock)) is not None:
            status, headers, data = told
        elif isinstance(error.__cause__, SlackApiError):
            return as_theirs(error, SlackApiError, response=error.__cause__.response)
        else:
            return as_theirs(error, NotAnswered)
        response = AsyncSlackResponse(
            client=self.client,
            http_verb=self.verb,
            api_url=self.url,
            req_args={},
            data=data,
            headers=headers,
            status_code=status,
        )
        return as_theirs(error, SlackApiError, response=response)

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:  # noqa: ARG002 (its kind says so)
        """What a failure of aiohttp means, or an answer that the SDK could not read."""
        if not isinstance(error, SlackApiError):
            return meaning(error)
        made = BadAnswer("the answer is not JSON", retryable=True)
        made.__cause__ = error
        return made


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Raise broken connections as our own errors: for its own ones the session would send a GET once more, and with
    GET the SDK also writes (``admin.emoji.add``).
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectionError as error:
        raise meaning(error) from error


class _Wire:
    """The SDK's own way to send, without its retries."""

    __slots__ = ()

    async def send(self, call: _Call, timeout: float | None) -> Reply:
        """The answer, read whole."""
        client = call.client
        try:
            with Timer(timeout) as timer:
                answer = await _request_with_session(
                    current_session=client.session,
                    timeout=client.timeout,
                    logger=client.logger,
                    http_verb=call.verb,
                    api_url=call.url,
                    req_args={**call.given, "middlewares": (*getattr(client.session, "_middlewares", ()), _once)},
                    retry_handlers=[],
                )
        except _WIRE_ERRORS as error:
            if isinstance(error, TimeoutError) and timer.expired:
                raise Expired(sent=True) from None
            raise call.translated(error) from error
        return Reply(answer, answer["status_code"], answer["headers"])

    async def discard(self, answer: Reply) -> None:
        """Nothing to free: the answer was read."""
