"""Services of AWS: botocore shapes, checks and signs their requests, and reads their answers; our transport sends them.

Loaded by the services that need it, and botocore (the extra ``aws``) at their first request. Facts: botocore's service
models, ``serialize.py``, ``parsers.py`` and ``auth.py`` (1.44).
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import urlencode

from moorline.calls.dialects import BearerKey
from moorline.calls.exchange import Exchange, Plan
from moorline.calls.faults import ErrorMap
from moorline.calls.parameters import Parameter
from moorline.calls.service import Service
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    ConfigurationError,
    InvalidRequest,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.calls.renewal import FetchedKey

__all__ = ["AwsErrors", "AwsService"]

T = TypeVar("T")
_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105 (the name of a variable)

# Common to all services (AWS's "Common errors", and the throttling codes of botocore's retries/standard.py).
_KINDS: Final[dict[str, type[CallError]]] = {
    **dict.fromkeys(
        (
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ),
        AuthenticationFailed,
    ),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "AuthorizationError", "OptInRequired"), PermissionDenied),
    **dict.fromkeys(("InternalError", "InternalFailure", "ServiceUnavailable"), ServiceUnavailable),
}
_LIMITED: Final = frozenset(
    {
        "LimitExceededException",
        "RequestLimitExceeded",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


class _Model(NamedTuple):
    service: Any
    serializer: Any
    parser: Any
    validator: Any


def _botocore(service: str) -> None:
    try:
        import botocore  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{service} needs botocore; pip install 'moorline[aws]'") from error


@cache
def _session() -> Any:
    import botocore.session

    return botocore.session.get_session()


@cache
def _model(name: str) -> _Model:
    """A service's model, with what writes and reads its protocol."""
    _botocore(name)
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.parsers import create_parser
    from botocore.serialize import create_serializer
    from botocore.validate import ParamValidator

    service = ServiceModel(Loader().load_service_model(name, "service-2"), name)
    protocol = service.resolved_protocol
    return _Model(service, create_serializer(protocol), create_parser(protocol), ParamValidator())


class _Pair(NamedTuple):
    """Keys that belong together; never shown."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "<AWS keys>"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsErrors(ErrorMap):
    """AWS's errors, XML or JSON, as botocore reads them; *model* is the service's name there."""

    model: str
    code: str = "code"
    message: str = "message"
    request_id: str = "header:x-amzn-RequestId"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", {**_KINDS, **self.kinds})
        object.__setattr__(self, "limited", _LIMITED | frozenset(self.limited))

    def data(self, exchange: Exchange) -> Any:
        """``code`` and ``message``; None for an answer that is not AWS's."""
        try:
            found = _model(self.model).parser.parse(_answer(exchange), None)
        except Exception:  # noqa: BLE001 (whatever a parser says of what is no answer of AWS)
            return None
        said = found.get("Error", {}) if isinstance(found, dict) else {}
        code = str(said.get("Code") or "").rpartition("#")[2]
        return {"code": code, "message": said.get("Message") or said.get("message")} if code else None


def _answer(exchange: Exchange) -> dict[str, Any]:
    return {"status_code": exchange.status, "headers": _Headers(exchange.headers), "body": exchange.body}


class _Headers(dict[str, str]):
    """Headers by their names in any case, as botocore asks for them."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


class AwsService(Service):
    """The base of a service of AWS; *model* is its name in botocore.

    Region: the argument, else ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, else AWS's own configuration. Keys:
    ``access_key_id`` and ``api_key`` (the secret key) with ``session_token`` for temporary ones; else the variables
    ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``; else where AWS's own tools look
    (profiles, containers, instances), whose temporary keys botocore renews.
    """

    model: ClassVar[str]
    credentials = BearerKey(env="AWS_SECRET_ACCESS_KEY", sandbox="sandbox/secret+key")
    access_key_id = Parameter("AWS_ACCESS_KEY_ID", sandbox="AKIASANDBOX000000000", default="")

    def __init__(self, api_key: Any = None, *, session_token: str | Secret | None = None, **options: Any) -> None:
        given = session_token if isinstance(session_token, Secret) or session_token is None else Secret(session_token)
        self._session_token = given
        super().__init__(api_key, **options)
        if api_key is not None and not self.parameters.get("access_key_id"):
            raise ConfigurationError(f"{self.name}: api_key is the secret key, and needs access_key_id beside it")

    def ask(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        parse: Callable[[Mapping[str, Any]], T],
        *,
        reads: bool = False,
    ) -> Plan[T]:
        """The Plan of an operation of the model, with its parameters by the names that it has there.

        *parse* takes the answer as botocore reads it. Raises InvalidRequest, naming the parameter, for what the model
        does not allow.
        """
        model = _model(self.model)
        shape = model.service.operation_model(operation)
        wanted = {name: value for name, value in parameters.items() if value is not None}
        found = model.validator.validate(wanted, shape.input_shape)
        if found.has_errors():
            why = " ".join(found.generate_report().split())
            raise InvalidRequest(f"{operation}: {why}", code=operation, outcome="not_sent")
        request = model.serializer.serialize_to_request(wanted, shape)
        body, query = request["body"], request["query_string"]
        if isinstance(body, dict):
            body = urlencode(body).encode("ascii")
        without_body = request["method"] in ("GET", "HEAD") or not body

        def read(exchange: Exchange) -> T:
            try:
                answer = model.parser.parse(_answer(exchange), shape.output_shape)
            except Exception as error:  # noqa: BLE001 (ElementTree's, json's, base64's, …)
                raise BadAnswer(f"the answer is not of the expected shape ({type(error).__name__})") from None
            if not isinstance(answer, dict) or "Error" in answer:
                raise BadAnswer("the answer is not of the expected shape")
            return parse(answer)

        return Plan(
            request["method"],
            request["url_path"],
            read,
            content=None if without_body else bytes(body),
            query=dict(query) if query else None,
            headers=dict(request["headers"]),
            repeatable=reads or None,
            text=True,
        )

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The headers with a signature of version 4 over the whole request."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        pair = self._pair(key)
        keys = Credentials(pair.access_key, pair.secret_key, pair.token)
        request = AWSRequest(method=method, url=url, data=body or b"", headers=headers)
        metadata = _model(self.model).service.metadata
        name = metadata.get("signingName") or metadata["endpointPrefix"]
        SigV4Auth(keys, name, self.region).add_auth(request)
        return dict(request.headers.items())

    @property
    def region(self) -> str:
        """The region. Raises ConfigurationError where none is known."""
        found = self._region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if found is None:
            _botocore(self.name)
            found = _session().get_config_variable("region")
        if found is None and (self.in_sandbox or self._base_url is not None):
            found = "us-east-1"
        if found is None:
            raise ConfigurationError(
                f"{self.name} has no region: pass region to {type(self).__name__}(), or set AWS_REGION"
            )
        return str(found)

    def _endpoint(self) -> str:
        return _address(self.model, self.region)

    def _checked_region(self, region: str | None) -> str | None:
        if region is not None and not _REGION.fullmatch(region):
            raise ConfigurationError(f"{self.name}.region {region!r} is no region of AWS, such as eu-west-1")
        return region

    def _fetching(self) -> FetchedKey:
        return _Keys(self)

    def _pair(self, key: Secret) -> _Pair:
        fetched = self.fetched
        assert isinstance(fetched, _Keys)
        return fetched.pair(key)

    def own_keys(self) -> _Pair | None:
        """Those that were given or stand in the environment; None where AWS's own tools have to look."""
        name = self.access_key_id
        if not name:
            return None
        if self.parameters.get("access_key_id"):
            token = None if self._session_token is None else self._session_token.reveal()
        else:
            token = os.environ.get(_TOKEN) or None
            if token is not None:
                token = Secret(token, name=_TOKEN).reveal()
        return _Pair(name, self.secret().reveal(), token)


@cache
def _address(model: str, region: str) -> str:
    prefix = _model(model).service.metadata["endpointPrefix"]
    found = _session().get_component("endpoint_resolver").construct_endpoint(prefix, region)
    if not found:
        raise ConfigurationError(f"{model} has no endpoint in {region!r}")
    return f"https://{found['hostname']}"


class _Keys:
    """The keys that requests are signed with, from wherever they are; ``FetchedKey`` for a service of AWS."""

    def __init__(self, owner: AwsService) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._chain: Any = None
        self._known: dict[Secret, _Pair] = {}
        self._last: Secret | None = None

    def pair(self, key: Secret) -> _Pair:
        """The keys that *key* stands for."""
        return self._known[key]

    def current(self) -> Secret:
        """What stands for the keys, in place of a key that is sent."""
        if self._last is None:
            self.ready()
        assert self._last is not None
        return self._last

    def ready(self) -> None:
        """Have keys. Raises ConfigurationError where there are none."""
        own = self._owner.own_keys()
        self._keep(own or self._looked_up())

    async def ready_async(self) -> None:
        """As ``ready``; what asks the network or reads files does it in a thread."""
        own = self._owner.own_keys()
        if own is not None:
            self._keep(own)
        elif self._chain is not None and not _must_refresh(self._chain):
            self.ready()
        else:
            await asyncio.to_thread(self.ready)

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:  # noqa: ARG002
        """Whether other keys are there now."""
        self._chain = None
        self.ready()
        return self._last != refused

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``."""
        self._chain = None
        await self.ready_async()
        return self._last != refused

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def _looked_up(self) -> _Pair:
        _botocore(self._owner.name)
        from botocore.exceptions import BotoCoreError

        name = self._owner.name
        with self._lock:
            try:
                if self._chain is None:
                    self._chain = _fresh_chain()
                frozen = None if self._chain is None else self._chain.get_frozen_credentials()
            except BotoCoreError as error:
                raise ConfigurationError(f"{name}: AWS's keys cannot be had ({type(error).__name__})") from None
        if frozen is None or not frozen.access_key:
            raise ConfigurationError(
                f"{name} has no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, pass access_key_id and api_key "
                f"to {type(self._owner).__name__}(), or give the machine a role"
            )
        return _Pair(frozen.access_key, frozen.secret_key, frozen.token)

    def _keep(self, pair: _Pair) -> None:
        known = self._known
        if self._last is not None and known.get(self._last) == pair:
            return
        secret = Secret(f"{pair.secret_key}", name="AWS_SECRET_ACCESS_KEY")
        if pair.token:
            secret = Secret(pair.token, name=_TOKEN)  # it is what changes when temporary keys are renewed
        self._known = {**dict(list(known.items())[-4:]), secret: pair}  # calls under way may hold an older one
        self._last = secret


def _fresh_chain() -> Any:
    from botocore.session import get_session

    return get_session().get_credentials()


def _must_refresh(chain: Any) -> bool:
    asked = getattr(chain, "refresh_needed", None)
    return bool(asked()) if callable(asked) else False
