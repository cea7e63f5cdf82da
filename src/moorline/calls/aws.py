"""Services of AWS: botocore shapes, checks and signs their requests, and reads their answers; our transport sends them.

Loaded by the services that need it, and botocore (the extra ``aws``) at their first request. Facts: botocore's service
models, ``serialize.py``, ``parsers.py`` and ``auth.py`` (1.44).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import urlencode

from moorline.calls.aws_keys import TOKEN, Keys, Pair, need_botocore
from moorline.calls.dialects import BearerKey
from moorline.calls.exchange import Exchange, Plan
from moorline.calls.faults import ErrorMap
from moorline.calls.operations import operation
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
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.calls.renewal import FetchedKey

__all__ = ["AwsErrors", "AwsService"]

T = TypeVar("T")
_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_REGIONS: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
_READS: Final = re.compile(r"(?:Check|Describe|Get|List)[A-Z].*")
_VALUE: Final = re.compile(r",? value: .*?(?=, (?:type|valid))")  # of a report, which may be private
_DATE: Final = "%Y%m%dT%H%M%SZ"

# Common to all services (AWS's "Common errors", and the throttling codes of botocore's retries/standard.py).
_KINDS: Final[dict[str, type[CallError]]] = {
    **dict.fromkeys(
        (
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ),
        AuthenticationFailed,
    ),
    **dict.fromkeys(
        (
            "AccessDenied",
            "AccessDeniedException",
            "AuthorizationError",
            "NotAuthorized",
            "OptInRequired",
            "UnauthorizedOperation",
        ),
        PermissionDenied,
    ),
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
    json: bool


@cache
def _session() -> Any:
    import botocore.session

    return botocore.session.get_session()


@cache
def _model(name: str) -> _Model:
    """A service's model, with what writes and reads its protocol."""
    need_botocore(name)
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.parsers import create_parser
    from botocore.serialize import create_serializer
    from botocore.validate import ParamValidator

    service = ServiceModel(Loader().load_service_model(name, "service-2"), name)
    protocol = service.resolved_protocol
    return _Model(
        service, create_serializer(protocol), create_parser(protocol), ParamValidator(), protocol.endswith("json")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsErrors(ErrorMap):
    """AWS's errors, XML or JSON, as botocore reads them; *model* is the service's name there. What a service says of a
    code in ``kinds`` goes before what all of AWS mean by it.
    """

    model: str
    code: str = "code"
    message: str = "message"
    request_id: str = "header:x-amzn-RequestId"

    def __post_init__(self) -> None:
        object.__setattr__(self, "limited", (_LIMITED - self.kinds.keys()) | frozenset(self.limited))
        object.__setattr__(self, "kinds", {**_KINDS, **self.kinds})

    def request_id_of(self, exchange: Exchange) -> str | None:
        """From the header, else from the body of an error."""
        found = ErrorMap.request_id_of(self, exchange)
        if found is None and exchange.status > 299:
            said = (self.data(exchange) or {}).get("request_id")
            found = said[:100] if isinstance(said, str) and said.isascii() and said.isprintable() else None
        return found

    def data(self, exchange: Exchange) -> Any:
        """``code``, ``message`` and ``request_id``; None for an answer that is not AWS's."""
        model = _model(self.model)
        if (
            model.json
            and "x-amzn-errortype" not in exchange.names
            and not isinstance(ErrorMap.data(self, exchange), dict)
        ):
            return None  # botocore would take a proxy's page for the message
        try:
            found = model.parser.parse(_answer(exchange), None)
        except Exception:  # noqa: BLE001 (whatever a parser says of what is no answer of AWS)
            return None
        said = found.get("Error") if isinstance(found, dict) else None
        if not isinstance(said, dict):
            return None
        code = said.get("Code")
        if code == str(exchange.status):  # what botocore says where it found none
            code = None
        message = said.get("Message") or said.get("message") or None
        if code is None and message is None:
            return None
        return {"code": code, "message": message, "request_id": found.get("ResponseMetadata", {}).get("RequestId")}


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
    (profiles, containers, instances), whose temporary keys botocore renews. An IAM user can have two keys that work at
    once, so that one can be rotated without a gap.
    """

    model: ClassVar[str]
    credentials = BearerKey(env="AWS_SECRET_ACCESS_KEY", sandbox="sandbox/secret+key")
    access_key_id = Parameter("AWS_ACCESS_KEY_ID", sandbox="AKIASANDBOX000000000", default="")

    def __init__(self, api_key: Any = None, *, session_token: str | Secret | None = None, **options: Any) -> None:
        given = session_token if isinstance(session_token, Secret) or session_token is None else Secret(session_token)
        self._session_token = given
        super().__init__(api_key, **options)
        if api_key is not None and not self.parameters.get("access_key_id") and _both(self._key) is None:
            raise ConfigurationError(f"{self.name}: api_key is the secret key, and needs access_key_id beside it")
        if given is not None and api_key is None:
            raise ConfigurationError(f"{self.name}: session_token belongs to keys: pass access_key_id and api_key too")

    def __repr__(self) -> str:
        try:
            return f"<{type(self).__name__} at {self.base_url}>"
        except ConfigurationError:
            return f"<{type(self).__name__} without a region>"

    def ask(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        parse: Callable[[Mapping[str, Any]], T],
        *,
        reads: bool = False,
        accept: Callable[[CallError], T | None] | None = None,
    ) -> Plan[T]:
        """The Plan of an operation of the model, with its parameters by the names that it has there; None leaves one
        out.

        *parse* takes the answer as botocore reads it; *reads*: that it may be sent again without harm; *accept* is the
        Plan's. Raises InvalidRequest, naming the parameter, for what the model does not allow.
        """
        need_botocore(self.name)
        from botocore.utils import percent_encode_sequence

        model = _model(self.model)
        shape = model.service.operation_model(operation)
        wanted = {name: value for name, value in parameters.items() if value is not None}
        _check(operation, wanted, model.validator.validate(wanted, shape.input_shape) if shape.input_shape else None)
        request = model.serializer.serialize_to_request(wanted, shape)
        path, query, body = request["url_path"], request["query_string"], request["body"]
        if query:
            path += ("&" if "?" in path else "?") + percent_encode_sequence(query)
        if isinstance(body, dict):
            body = urlencode(body).encode("ascii")

        def read(exchange: Exchange) -> T:
            try:
                answer = model.parser.parse(_answer(exchange), shape.output_shape)
            except Exception as error:  # noqa: BLE001 (ElementTree's, json's, base64's, …)
                raise BadAnswer(f"the answer is not of the expected shape ({type(error).__name__})") from None
            if not isinstance(answer, dict):
                raise BadAnswer("the answer is not of the expected shape")
            return parse(answer)

        return Plan(
            request["method"],
            path,
            read,
            content=bytes(body) if body and request["method"] not in ("GET", "HEAD") else None,
            headers={**self._accepts(), **request["headers"]},
            repeatable=reads or None,
            blank=model.json,
            text=not model.json,
            accept=accept,
        )

    @operation
    def invoke(self, operation: str, parameters: dict[str, Any] | None = None) -> Plan[dict[str, Any]]:
        """Any operation of this API that has no method here, by its name and with its parameters as AWS names them
        (``invoke("ListTopics")``): the answer as botocore reads it.

        What only reads by its name (``Get…``, ``List…``) is repeated where that may help. Raises InvalidRequest for
        what the model does not allow, ConfigurationError for an operation that is none.
        """
        need_botocore(self.name)
        if operation not in _model(self.model).service.operation_names:
            raise ConfigurationError(f"{self.name} has no operation {operation!r}")
        reads = _READS.fullmatch(operation) is not None
        return self.ask(operation, parameters or {}, _without_metadata, reads=reads)

    @operation
    def _request(self, /, method: str, path: str, **options: Any) -> Plan[Any]:
        """See ``request``: an answer in XML is given as its text."""
        plan = Service._request(self, method, path, **options).plan  # noqa: SLF001 (the base's own)
        need_botocore(self.name)
        headers = {**self._accepts(), **(plan.headers or {})}
        return replace(plan, headers=headers, parse=_said, text=not _model(self.model).json)

    def _accepts(self) -> dict[str, str]:
        """AWS answers in JSON of another shape to who asks for it where the API speaks XML."""
        return {} if _model(self.model).json else {"Accept": "*/*"}

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The headers with a signature of version 4 over the whole request."""
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method=method, url=url, data=body or b"", headers=headers)
        self.sign(request, self._signer(self.keys_of(key)))
        return dict(request.headers.items())

    def sign(self, request: Any, signer: Any) -> None:
        """Sign *request* in place, as ``add_auth`` of botocore does, by our clock."""
        request.context["timestamp"] = time.strftime(_DATE, time.gmtime(self.clock.wall()))
        signer._modify_request_before_signing(request)  # noqa: SLF001 (botocore has no other way to set the time)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        signer._inject_signature_to_request(request, signer.signature(text, request))  # noqa: SLF001

    def keys_of(self, key: Secret) -> Pair:
        """The keys that *key* stands for."""
        assert isinstance(self.fetched, Keys)
        return self.fetched.pair(key)

    def _signer(self, pair: Pair) -> Any:
        """What signs with *pair*. A service whose signatures differ overrides it."""
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials

        metadata = _model(self.model).service.metadata
        return SigV4Auth(Credentials(*pair), metadata.get("signingName") or metadata["endpointPrefix"], self.region)

    @property
    def region(self) -> str:
        """The region. Raises ConfigurationError where none is known."""
        if self._region is not None:
            return self._region
        for name in _REGIONS:
            if found := os.environ.get(name, "").strip():
                return self._known(found, f"the variable {name}")
        need_botocore(self.name)
        found = _session().get_config_variable("region")
        if found:
            return self._known(str(found), "AWS's configuration")
        if self.in_sandbox or self._base_url is not None:
            return "us-east-1"
        raise ConfigurationError(
            f"{self.name} has no region: pass region to {type(self).__name__}(), or set AWS_REGION"
        )

    def _endpoint(self) -> str:
        need_botocore(self.name)
        return _address(self.model, self.region)

    def _checked_region(self, region: str | None) -> str | None:
        return None if region is None else self._known(region, "the argument")

    def _known(self, region: object, where: str) -> str:
        if not isinstance(region, str) or not _REGION.fullmatch(region):
            raise ConfigurationError(f"{self.name}.region: {where} is no region of AWS, such as eu-west-1: {region!r}")
        return region

    def _fetching(self) -> FetchedKey:
        return Keys(self, self._key)

    @property
    def needed_variable(self) -> None:
        """AWS's own tools may find keys elsewhere."""
        return

    def own_keys(self) -> Pair | None:
        """Those that were given or stand in the environment; None where AWS's own tools have to look."""
        name = self.access_key_id
        held = self.secret() if name or self._key is not None else secrets().load(self._key_variable())
        if held is None:
            return None
        both = _both(held)
        if both is not None and self._session_token is None:
            return both
        if not name:
            return None
        token = None if self._session_token is None else self._session_token.reveal()
        # A token in the environment belongs to the keys there.
        if self._key is None and not self.parameters.get("access_key_id") and os.environ.get("AWS_ACCESS_KEY_ID"):
            token = os.environ.get(TOKEN, "").strip() or None
        return Pair(name, held.reveal(), token)


def _both(held: Any) -> Pair | None:
    """Keys that are one value, ``ID:SECRET``, so that both change together: see ``AccessKeys``."""
    name, colon, secret = (held.reveal() if isinstance(held, Secret) else "").partition(":")
    return Pair(name, secret) if colon else None


def _check(operation: str, wanted: Mapping[str, Any], found: Any) -> None:
    """Raise InvalidRequest for what botocore's validator found, or parameters of an operation that has none."""
    if found is None and wanted:
        raise InvalidRequest(f"{operation}: takes no parameters", code=operation, outcome="not_sent")
    if found is not None and found.has_errors():
        why = _VALUE.sub("", " ".join(found.generate_report().split()))
        raise InvalidRequest(f"{operation}: {why}", code=operation, outcome="not_sent")


def _without_metadata(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def _said(exchange: Exchange) -> Any:
    """JSON where it is, else the text."""
    if (exchange.header("content-type") or "").partition(";")[0].strip().endswith(("json", "json-1.0", "json-1.1")):
        return exchange.data
    return exchange.body.decode("utf-8", "replace") or None


@cache
def _address(model: str, region: str) -> str:
    """By the rules that come with the model, and what AWS's configuration says of FIPS and of IPv6."""
    from botocore.endpoint_provider import EndpointProvider
    from botocore.exceptions import BotoCoreError
    from botocore.loaders import Loader

    rules, partitions = Loader().load_service_model(model, "endpoint-rule-set-1"), Loader().load_data("partitions")
    wanted = {
        name: bool(_session().get_config_variable(variable))
        for name, variable in (("UseFIPS", "use_fips_endpoint"), ("UseDualStack", "use_dualstack_endpoint"))
    }
    try:
        found: str = EndpointProvider(rules, partitions).resolve_endpoint(Region=region, **wanted).url
    except BotoCoreError as error:
        raise ConfigurationError(f"{model} has no endpoint in {region}: {error}") from None
    return found
