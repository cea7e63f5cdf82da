"""moorline under ``botocore`` and ``boto3``: ``install(client)``, or ``install(session)`` for all clients made later.

Hooks and lists are those of botocore 1.44.5: the client's HTTP session is wrapped (``endpoint.py``,
``httpsession.py``), so that stubs and mocks, which answer ``before-send``, go on working; throttling and transient
codes are those of ``retries/standard.py``, which also names the header ``x-amz-retry-after`` (milliseconds).

Every answer goes back to botocore, which raises its own ``ClientError``; what gives no answer raises one of
:mod:`moorline.errors` that is also botocore's exception of that kind. The deadline includes the body, that of a
``StreamingBody`` too. An operation is repeated if that is safe: by its method (S3's PUT), by its name (``Get…``,
``List…``, ``Describe…``), or because botocore sends an idempotency token with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Final

import botocore.exceptions as theirs
from botocore.httpsession import URLLib3Session
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.doubles import refuse_doubles
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.foreign import Foreign, Reply, is_idempotent, said
from moorline.calls.adapters.urllib3_sockets import Span, clamp_pools, watched, within
from moorline.calls.drivers import drive
from moorline.calls.effects import Expired
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.calls.watching import Watch
from moorline.errors import (
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["install"]

_THROTTLED: Final = frozenset(ThrottledRetryableChecker._THROTTLED_ERROR_CODES)  # noqa: SLF001 (botocore's own list)
_TRANSIENT: Final = frozenset(TransientRetryableChecker._TRANSIENT_ERROR_CODES)  # noqa: SLF001
_READS: Final = re.compile(r"(?:BatchGet|Describe|Get|Head|List|Lookup|Query|Scan|Search)(?:[A-Z]|$)")
_CODE: Final = re.compile(rb'<Code>\s*([\w.]+)\s*</Code>|"(?:__type|[cC]ode)"\s*:\s*"(?:[^"]*#)?([\w.]+)')
_SIGNED: Final = 240.0  # seconds; AWS believes a signature for five minutes
_WIRE_ERRORS: Final = (theirs.HTTPClientError, theirs.ConnectionError, TimeoutError)
_OPERATION: Final = "moorline_operation"
_TOKEN: Final = "moorline_token"  # noqa: S105 (a key of a dictionary)


def install(
    target: Any,
    policy: Policy | None = None,
    *,
    name: str | None = None,
    safe: Collection[str] = (),
    guards: Guards | None = None,
) -> Any:
    """Run the requests of a botocore or boto3 client through the pipeline; of a session, those of its later clients.

    *name* shares breaker, limits and budget with all that use the same name; by default each service of AWS has its
    own: ``aws.s3``, ``aws.sqs``. *safe* names operations, such as ``"DeleteMessage"``, that may be repeated beside
    those known to be. Returns *target*.

    Raises ConfigurationError naming the argument, and for a client that retries by itself: it must be made with
    ``Config(retries={"total_max_attempts": 1, "mode": "standard"})``.
    """
    chosen, _ = checked("botocore.install", policy, name, guards)
    if isinstance(safe, str) or not all(isinstance(each, str) for each in safe):
        raise ConfigurationError('botocore.install.safe must be names of operations, such as ["DeleteMessage"]')

    def equip(client: Any) -> None:
        service = client.meta.service_model.service_name
        _equip(client, _Line(chosen, name or f"aws.{service}", frozenset(safe), guards))

    if hasattr(target, "meta") and hasattr(target, "_endpoint"):
        equip(target)
    else:
        _equip_later(target, equip)
    return target


class _Line:
    """What all requests of one client share."""

    def __init__(self, policy: Policy, name: str, safe: frozenset[str], guards: Guards | None) -> None:
        self.policy, self.guards = checked("botocore.install", policy, name, guards)
        self.name = name
        self.safe = safe


def _equip(client: Any, line: _Line) -> None:
    refuse_doubles(client)
    endpoint = client._endpoint  # noqa: SLF001 (there is no public way to the HTTP session)
    session = endpoint.http_session
    if isinstance(session, _Session):
        raise ConfigurationError("botocore.install: moorline is under this client already, and retries would multiply")
    if not isinstance(session, URLLib3Session):
        raise ConfigurationError(
            f"botocore.install: the client's HTTP session must be botocore's own, not {type(session).__name__}"
        )
    clamp_pools(session._manager)  # noqa: SLF001
    session._pool_classes_by_scheme = session._manager.pool_classes_by_scheme  # noqa: SLF001 (for proxies)
    endpoint.http_session = _Session(session, line)
    client.meta.events.register_last("before-parameter-build", _remember, unique_id="moorline")


def _equip_later(target: Any, equip: Callable[[Any], None]) -> None:
    session = getattr(target, "_session", target)  # boto3's has botocore's inside
    create = getattr(session, "create_client", None)
    if create is None:
        raise ConfigurationError(
            f"botocore.install takes a client or session of botocore or boto3, not {type(target).__name__}"
        )

    def create_client(*args: Any, **options: Any) -> Any:
        client = create(*args, **options)
        equip(client)
        return client

    session.create_client = create_client


def _remember(params: Any, model: Any, context: Any, **_rest: Any) -> None:
    """Leave with the request what is known before it is serialised: the operation, and its token."""
    context[_OPERATION] = model.name
    token = next((params[member] for member in model.idempotent_members if params.get(member)), None)
    if token is not None:
        context[_TOKEN] = str(token)


class _Session:
    """botocore's HTTP session, with the pipeline around ``send``."""

    def __init__(self, session: Any, line: _Line) -> None:
        self._session = session
        self._line = line

    def send(self, request: Any) -> Any:
        """The AWSResponse. Raises CallError, which is also a BotoCoreError."""
        context = _Context(request, self._line)
        return drive(Pipeline(context).run(), _Wire(self._session), context.clock).response

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __getattr__(self, name: str) -> Any:
        if name == "_session":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._session, name)


class _AwsReply(Reply):
    """An answer of AWS, which names its milliseconds in a header of its own."""

    __slots__ = ()

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header."""
        return super().header("x-amz-retry-after" if name == "retry-after-ms" else name, default)


class _Context(Foreign):
    """One request of a client, signed already."""

    __slots__ = ("_begun", "_sends", "_streams", "sent", "span")

    def __init__(self, request: Any, line: _Line) -> None:
        told = request.context or {}
        operation = told.get(_OPERATION) or request.method
        super().__init__(
            name=line.name,
            operation=operation,
            policy=line.policy,
            guards=line.guards,
            idempotent=is_idempotent(request.method) or bool(_READS.match(operation)) or operation in line.safe,
            key=told.get(_TOKEN),
            statuses=True,
        )
        self.sent = request
        self.span = Span(None)
        self._begun = self.clock.monotonic()
        self._sends = 0
        self._streams = False

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again, with a signature that AWS still believes."""
        if self.clock.monotonic() - self._begun > _SIGNED:
            return False
        body = self.sent.body
        return body is None or isinstance(body, (bytes, bytearray, str)) or hasattr(body, "seek")

    def rewound(self) -> Any:
        """The request with its body at the beginning."""
        if self._sends:
            self.sent.reset_stream()
        self._sends += 1
        return self.sent

    def judge(self, answer: Reply) -> CallError | None:
        """As all do; AWS also throttles with 400 and 503, and says so with a code."""
        status = answer.status
        if status == 200 and self._hides_an_error(answer):
            status = 500  # as botocore takes it
        if status < 400:
            return None
        code = _code(answer)
        if code in _THROTTLED:
            return RateLimited(f"answered {code}", status=status, code=code)
        if code in _TRANSIENT:
            return AttemptTimeout(f"answered {code}", status=status, code=code)
        if status != answer.status:
            return ServiceUnavailable(f"answered 200 with {code}", status=status, code=code)
        return super().judge(answer)

    def _hides_an_error(self, answer: Reply) -> bool:
        """S3 begins some answers before it knows how they end (``handlers.py``, ``_handle_200_error``)."""
        return not self.sent.stream_output and b"<Error>" in answer.response.content[:256]

    def held(self, answer: Reply, watch: Watch) -> bool:
        """A streamed body is the user's to read."""
        if not self.sent.stream_output or answer.status >= 300:
            return False  # read already
        self._streams = watched(answer.response.raw, watch, self.span)
        return self._streams

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:
        """What an exception of botocore, or of urllib3 underneath, means."""
        if not self.span.sent:
            made: CallError = ConnectFailed(f"could not connect ({said(error)})")
        elif in_body:
            made = BadAnswer(f"the answer is truncated ({said(error)})", retryable=True)
        elif isinstance(error, (theirs.ReadTimeoutError, TimeoutError)):
            made = AttemptTimeout(f"no complete answer in time ({said(error)})")
        else:
            made = ConnectionLost(f"the connection broke ({said(error)})")
        made.__cause__ = error
        return made

    def dressed(self, error: CallError) -> CallError:
        """The error as botocore's own."""
        if self._streams:  # StreamingBody would take one of the finer kinds for urllib3's, and make its own of it
            kind: type[Exception] = theirs.ResponseStreamingError
        else:
            kind = _kind(error)
        return as_theirs(error, kind, kwargs={"error": error.message, "endpoint_url": self.sent.url.partition("?")[0]})


def _kind(error: CallError) -> type[Exception]:
    cause = error.__cause__
    if isinstance(error, ConnectFailed):
        for kind in (theirs.SSLError, theirs.ProxyConnectionError, theirs.ConnectTimeoutError):
            if isinstance(cause, kind):
                return kind  # type: ignore[no-any-return]
        return theirs.ConnectTimeoutError if cause is None else theirs.EndpointConnectionError  # type: ignore[no-any-return]
    if isinstance(error, (DeadlineExceeded, AttemptTimeout)) or isinstance(cause, AttemptTimeout):
        return theirs.ReadTimeoutError  # type: ignore[no-any-return]
    if isinstance(error, ConnectionLost) or isinstance(cause, ConnectionLost):
        return theirs.ConnectionClosedError  # type: ignore[no-any-return]
    return theirs.HTTPClientError  # type: ignore[no-any-return]


def _code(answer: Reply) -> str:
    """The code of an error, in whichever of AWS's protocols."""
    named = answer.header("x-amzn-errortype") or answer.header("x-amzn-query-error")
    if named:
        return named.partition(";")[0].partition(":")[0]
    found = _CODE.search(answer.response.content[:4096])
    return (found[1] or found[2]).decode("ascii") if found else ""


class _Wire:
    """Sends through botocore's own HTTP session."""

    __slots__ = ("_session",)

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, context: _Context, timeout: float | None) -> _AwsReply:
        span = context.span = Span(timeout)
        try:
            with within(span):
                response = self._session.send(context.rewound())
                if response.status_code >= 300:
                    _ = response.content  # it says what went wrong
        except (*_WIRE_ERRORS, theirs.UnseekableStreamError) as error:
            if isinstance(error, theirs.UnseekableStreamError):
                raise
            if span.over:
                raise Expired(sent=span.sent) from error
            raise context.translated(error) from error
        return _AwsReply(response, response.status_code, response.headers)

    def discard(self, reply: _AwsReply) -> None:
        """What is discarded was read; this is for one that was not."""
        reply.response.raw.close()
