"""The connection to Amazon SQS: its URL, its clients, and what its failures mean.

botocore makes and signs the requests (the extra ``aws``). Limits and errors are those of its service model
(``botocore/data/sqs/2012-11-05``) and of the SQS Developer Guide (``SQSDeveloperGuide/sqs-limits.html``).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from moorline.errors import ConfigurationError, StoreError, StoreUnavailable

__all__ = ["MISSING", "MOST", "SCHEMES", "Link", "Refused", "SqsWhere", "in_batches"]

R = TypeVar("R")
T = TypeVar("T")

SCHEMES: Final = ("sqs",)
MISSING: Final = "QueueDoesNotExist"
_LONGEST_WAIT: Final = 20  # seconds of a long poll, by the model
MOST: Final = 10
"""Messages of one request, by the model."""

_PARALLEL: Final = 8
_CONNECTIONS: Final = 64  # for those, and for who listens
_CONNECT: Final = 5.0  # seconds
_ANSWER: Final = 10.0  # seconds, besides those that the server was asked to wait
_KINDS: Final = ("standard", "fifo")
_LONGEST_PREFIX: Final = 30
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_OLD_NAMES: Final = {"NonExistentQueue": MISSING, "QueueAlreadyExists": "QueueNameExists"}  # of the query protocol
_DENIED: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthFailure", "IncompleteSignature", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSecurity", "KmsAccessDenied", "KmsDisabled", "KmsNotFound", "KmsOptInRequired",
    "MissingAuthenticationToken", "NoSuchBucket", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
})  # fmt: skip
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
_LATER: Final = _EXPIRED | frozenset({
    "InternalError", "InternalFailure", "KmsThrottled", "OverLimit", "QueueDeletedRecently", "RequestLimitExceeded",
    "RequestThrottled", "RequestTimeout", "RequestTimeTooSkewed", "ServiceUnavailable", "SlowDown", "Throttling",
    "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
_UNUSABLE: Final = frozenset({
    "ConfigNotFound", "ConfigParseError", "EndpointResolutionError", "InvalidConfigError",
    "InvalidEndpointConfigurationError", "InvalidRegionError", "MissingDependencyException", "NoAuthTokenError",
    "NoCredentialsError", "NoRegionError", "PartialCredentialsError", "ProfileNotFound", "SSOTokenLoadError",
    "UnauthorizedSSOTokenError", "UnknownRegionError",
})  # fmt: skip
_NETWORK: Final = frozenset({
    "ConnectTimeoutError", "ConnectionClosedError", "ConnectionError", "CredentialRetrievalError",
    "EndpointConnectionError", "HTTPClientError", "IncompleteReadError", "MetadataRetrievalError",
    "ProxyConnectionError", "ReadTimeoutError", "ResponseStreamingError", "SSLError", "TokenRetrievalError",
})  # fmt: skip


class Refused(StoreError):
    """SQS said no; ``code`` is its word for it."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class SqsWhere:
    """``sqs://`` or ``sqs://REGION``. Region and credentials come from where AWS's own tools look, unless given.

    ``?queues=fifo`` for FIFO queues (they are standard ones otherwise), ``prefix=moorline`` of all queues' names
    (letters, digits, underscores), ``wait=20`` (seconds of a long poll),
    ``bucket=NAME`` in S3 for jobs that are too large for SQS, ``endpoint=URL`` (https, or http on loopback; one on
    loopback is taken for an emulator that is S3 too). Credentials are never part of it. Raises ConfigurationError,
    without the URL.
    """

    def __init__(self, url: str) -> None:
        scheme, separator, _ = url.partition("://")
        if not separator or scheme not in SCHEMES:
            raise ConfigurationError(f"the URL of the queue must begin with {SCHEMES[0]}://")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ConfigurationError("the URL of the queue cannot be read") from None
        if (
            not re.fullmatch(r"([a-z0-9]+(-[a-z0-9]+)*)?", parts.netloc)
            or parts.path not in {"", "/"}
            or parts.fragment
        ):
            raise ConfigurationError("the URL of the queue: only the name of a region may follow sqs://")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.region = parts.netloc or None
        self.kind = options.pop("queues", _KINDS[0])
        if self.kind not in _KINDS:
            raise ConfigurationError(f"the URL of the queue: queues is one of {', '.join(_KINDS)}")
        self.prefix = _fitting(options, "prefix", rf"[A-Za-z0-9_]{{1,{_LONGEST_PREFIX}}}") or "moorline"
        self.bucket = _fitting(options, "bucket", r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
        self.wait = int(_fitting(options, "wait", r"[0-9]{1,2}") or _LONGEST_WAIT)
        if not 1 <= self.wait <= _LONGEST_WAIT:
            raise ConfigurationError(f"the URL of the queue: wait is from 1 to {_LONGEST_WAIT} seconds")
        self.endpoint, self.emulated = _endpoint(options.pop("endpoint", None))
        if options:
            raise ConfigurationError(
                "the URL of the queue: it has queues, prefix, wait, bucket and endpoint, and no others"
            )
        self.shown = f"sqs://{parts.netloc}" + (f"?endpoint={self.endpoint}" if self.endpoint else "")

    @property
    def fifo(self) -> bool:
        """Whether the queues are FIFO queues."""
        return self.kind == "fifo"

    def __repr__(self) -> str:
        return f"<SqsWhere {self.shown}>"


def _fitting(options: dict[str, str], name: str, pattern: str) -> str | None:
    value = options.pop(name, None)
    if value is not None and not re.fullmatch(pattern, value):
        raise ConfigurationError(f"the URL of the queue: {name} is not one")
    return value


def _endpoint(url: str | None) -> tuple[str | None, bool]:
    """It, and whether it is on this machine."""
    if url is None:
        return None, False
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigurationError("the URL of the queue: endpoint cannot be read") from None
    here = host in _LOOPBACK
    if not host or parts.scheme not in {"http", "https"} or (parts.scheme == "http" and not here):
        raise ConfigurationError("the URL of the queue: endpoint is https, or http on loopback")
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path not in {"", "/"}:
        raise ConfigurationError("the URL of the queue: endpoint has a host and a port, and nothing else")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port else ""), here


class Link:
    """botocore's clients, which threads may share, and a few threads for what goes in many requests.

    One client asks twice, as a kept connection may have been closed meanwhile. The other one, which receives, asks
    once: what an answer held that was lost is with nobody.
    """

    def __init__(self, where: SqsWhere) -> None:
        self.where = where
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Disconnect. Used again, it connects again."""
        with self._lock:
            clients, self._clients = self._clients, {}
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        for client in clients.values():
            client.close()

    def client(self, name: str) -> Any:
        """``ask``, ``hear`` or ``s3``. Raises ConfigurationError."""
        with self._lock:
            if name not in self._clients:
                try:
                    self._clients[name] = self._made(name)
                except (ConfigurationError, StoreError):
                    raise
                except Exception as error:  # noqa: BLE001 -- whatever botocore raises, about files and variables
                    raise ConfigurationError(f"SQS at {self.where.shown}: {type(error).__name__}") from None
            return self._clients[name]

    def _made(self, name: str) -> Any:
        try:
            import botocore.session
            from botocore.config import Config
        except ImportError as error:
            raise ConfigurationError("the queue needs botocore; pip install 'moorline[aws]'") from error
        where = self.where
        if self._session is None:
            self._session = botocore.session.get_session()
        region = where.region or self._session.get_config_variable("region") or os.environ.get("AWS_REGION")
        if not region:
            raise ConfigurationError("SQS: no region: name one in the URL (sqs://REGION) or in AWS_DEFAULT_REGION")
        hears = name == "hear"
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_ANSWER + where.wait if hears else _ANSWER,
            max_pool_connections=_CONNECTIONS,
            retries={"total_max_attempts": 1 if hears else 2, "mode": "standard"},
            s3={"addressing_style": "path"} if where.emulated else None,
        )
        endpoint = where.endpoint if name != "s3" or where.emulated else None
        service = "s3" if name == "s3" else "sqs"
        return self._session.create_client(service, region_name=region, endpoint_url=endpoint, config=config)

    def ask(self, operation: str, /, *, by: str = "ask", **parameters: Any) -> dict[str, Any]:
        """What SQS (or S3) answers. Raises StoreUnavailable, ConfigurationError, or Refused."""
        client = self.client(by)
        try:
            answer: dict[str, Any] = getattr(client, operation)(**parameters)
        except Exception as error:  # noqa: BLE001 -- whatever botocore raises
            if _code(_said(error)) in _EXPIRED:
                self._renew(client)
            raise self._translated(error, operation) from None
        return answer

    def _renew(self, client: Any) -> None:
        """Its credentials have expired: who asks next looks for newer ones, where those were found."""
        with self._lock:
            if client in self._clients.values():  # else somebody has done it
                self._clients, self._session = {}, None

    def _translated(self, error: Exception, operation: str) -> Exception:
        """The moorline error for what botocore says. Its own words are left out: they may hold what was sent."""
        shown = f"SQS at {self.where.shown}"
        said = _said(error)
        if said:
            code = _code(said)
            status = said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            words = f"{shown} refused {operation}: {code}"
            if code in _DENIED:
                return ConfigurationError(words)
            if code in _LATER or status >= 500 or status == 429:
                return StoreUnavailable(words)
            return ConfigurationError(words) if status in {401, 403} else Refused(words, code)
        names = {kind.__name__ for kind in type(error).__mro__}
        if "EndpointConnectionError" in names and self._nowhere():
            return ConfigurationError(f"{shown}: there is no such region, or botocore does not know it")
        if names & _UNUSABLE:
            return ConfigurationError(f"{shown}: {type(error).__name__}")
        if names & _NETWORK or isinstance(error, OSError):
            return StoreUnavailable(f"{shown} did not answer {operation}: {type(error).__name__}")
        return StoreError(f"{shown}, {operation}: {type(error).__name__}")

    def _nowhere(self) -> bool:
        region = self.client("ask").meta.region_name
        partitions = self._session.get_available_partitions()
        known = {one for name in partitions for one in self._session.get_available_regions("sqs", name)}
        return self.where.endpoint is None and region not in known

    def tried(self, what: Callable[[T], R], items: Sequence[T]) -> list[R | Exception]:
        """Do it to each, several at a time; an exception stands in the place of its result."""
        if len(items) <= 1:
            return [_outcome(what, one) for one in items]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="moorline-sqs")
            futures = [self._pool.submit(_outcome, what, one) for one in items]
        return [future.result() for future in futures]

    def each(self, what: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """As ``tried``; raises the first exception, after all have ended."""
        results: list[R] = []
        failure: Exception | None = None
        for result in self.tried(what, items):
            if not isinstance(result, Exception):
                results.append(result)
            elif failure is None:
                failure = result
        if failure is not None:
            raise failure
        return results


def _outcome(what: Callable[[T], R], item: T) -> R | Exception:
    try:
        return what(item)
    except Exception as error:  # noqa: BLE001 -- given to who asked
        return error


def _said(error: Exception) -> dict[str, Any]:
    """What AWS answered, if it did."""
    said = getattr(error, "response", None)
    return said if isinstance(said, dict) and "Error" in said else {}


def _code(said: dict[str, Any]) -> str:
    """The newer name of an error, whichever of its two the answer has (``awsQueryCompatible`` in the model)."""
    code = str(said.get("Error", {}).get("Code") or "?").rpartition(".")[2]
    code = re.sub(r"[^A-Za-z0-9_]", "", code)[:80] or "?"
    return _OLD_NAMES.get(code, code)


def in_batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as SQS takes."""
    for start in range(0, len(items), MOST):
        yield items[start : start + MOST]
