"""What the stand-ins of AWS have in common: signatures, requests and answers by botocore's model of the service.

Keys: the sandbox's own pair (``AwsService``) and one that was made with it, of which any correct signature is taken;
all else is refused with AWS's common errors (wordings unconfirmed). A model's own limits are told in the words of AWS's
framework ("1 validation error detected: …").
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from moorline.calls.aws import AwsService
from moorline.calls.aws_keys import need_botocore
from moorline.sandbox import signing
from moorline.sandbox.standin import Answer, Ask, Emission, Signed, Surroundings

__all__ = ["ACCOUNT", "REGION", "AccessKeys", "Api", "Refused", "notification", "signed_notification"]

ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_DATE: Final = "%Y%m%dT%H%M%SZ"
_SKEW: Final = 15 * 60
_IAM: Final = b"Version=2010-05-08"
_MOST_KEYS: Final = 2
_WRONG: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
# By what is wrong: the code of APIs that speak XML, and that of those that speak JSON.
_CODES: Final = {
    "missing": ("MissingAuthenticationToken", "MissingAuthenticationTokenException"),
    "incomplete": ("IncompleteSignature", "IncompleteSignatureException"),
    "key": ("InvalidClientTokenId", "UnrecognizedClientException"),
    "wrong": ("SignatureDoesNotMatch", "InvalidSignatureException"),
}


class Refused(Exception):
    """An error of the service."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class AccessKeys:
    """The access keys of one IAM user, by their ids, and what of IAM makes and deletes them."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._secrets = {AwsService.access_key_id.sandbox: AwsService.credentials.sandbox}
        self._iam: Api | None = None

    def secret(self, key: str) -> str | None:
        """The secret of a key that is good."""
        return self._secrets.get(key)

    def managed(self, ask: Ask) -> Answer | None:
        """The answer to a request to IAM; None to all others."""
        if ask.method != "POST" or ask.path != "/" or _IAM not in ask.body:
            return None
        if self._iam is None:
            self._iam = Api("iam", self._around, invalid="ValidationError", keys=self)
        try:
            self._iam.authorise(ask)
            name, given = self._iam.asked(ask)
            return self._iam.answered(name, self._done(name, given))
        except Refused as refused:
            return self._iam.refused(refused)

    def _done(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if name == "DeleteAccessKey":
            if self._secrets.pop(given["AccessKeyId"], None) is None:
                raise Refused(404, "NoSuchEntity", "The Access Key with that id cannot be found.")
            return {}
        if name != "CreateAccessKey":
            raise Refused(403, "AccessDenied", f"The sandbox's user is not authorized to perform: iam:{name}")
        if len(self._secrets) == _MOST_KEYS:
            raise Refused(409, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
        letters = self._around.random
        key = "AKIA" + "".join(letters.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16))
        self._secrets[key] = base64.b64encode(letters.randbytes(30)).decode()
        made = {"UserName": "sandbox", "AccessKeyId": key, "Status": "Active", "SecretAccessKey": self._secrets[key]}
        return {"AccessKey": made}


class Api:
    """One service's API, by the *model* of that name. *invalid* is its code for what the model does not allow, *keys*
    are those that it takes.
    """

    def __init__(self, model: str, around: Surroundings, *, invalid: str, keys: AccessKeys | None = None) -> None:
        self.keys = keys or AccessKeys(around)
        self._model = model
        self._around = around
        self._invalid = invalid

    def authorise(self, ask: Ask) -> None:
        """Raises Refused unless the request is signed with the sandbox's keys, now, for this service."""
        service = _service(self._model)
        header = ask.headers.get("authorization")
        if header is None:
            raise self._denied("missing", "Request is missing Authentication Token")
        found = _AUTHORIZATION.fullmatch(header)
        stamp = ask.headers.get("x-amz-date", "")
        at = _time(stamp)
        if found is None or at is None or "host" not in found[5].split(";"):
            raise self._denied("incomplete", "The Authorization header is not of the form of Signature Version 4.")
        key, date, region, named, signed, signature = found.groups()
        secret = self.keys.secret(key)
        if secret is None or "x-amz-security-token" in ask.headers:
            raise self._denied("key", "The security token included in the request is invalid.")
        expected = service.metadata.get("signingName") or service.metadata["endpointPrefix"]
        if named != expected or date != stamp[:8]:
            raise self._denied("wrong", f"Credential should be scoped to correct service: '{expected}'.")
        if not hmac.compare_digest(signature, _signature(ask, (key, secret), region, named, stamp, signed.split(";"))):
            raise self._denied("wrong", _WRONG)
        self._check_time(stamp, at)

    def asked(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        """The operation's name, and its parameters by the model's names. Raises Refused."""
        service = _service(self._model)
        if service.metadata["protocol"] == "query":
            form = dict(parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True))
            name = form.get("Action", "")
            if name not in service.operation_names or form.get("Version") != service.metadata["apiVersion"]:
                raise Refused(
                    400, "InvalidAction", f"Could not find operation {name} for version {form.get('Version')}"
                )
            shape = service.operation_model(name).input_shape
            given = _from_form(shape, form, "") or {}
        else:
            name, given = _matched(service, ask)
            shape = service.operation_model(name).input_shape
        problem = _problem(shape, given, "")
        if problem is not None:
            raise Refused(400, self._invalid, f"1 validation error detected: {problem}")
        return name, given

    def answered(self, operation: str, result: Mapping[str, Any]) -> Answer:
        """The answer of an operation that went well."""
        service = _service(self._model)
        request_id = self.uuid()
        if service.metadata["protocol"] != "query":
            return Answer(200, dict(result), {"x-amzn-requestid": request_id, "content-type": "application/json"})
        shape = service.operation_model(operation).output_shape
        inner = "" if shape is None else _xml(shape, result, f"{operation}Result")
        meta = f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
        space = service.metadata["xmlNamespace"]
        text = f'<{operation}Response xmlns="{space}">{inner}{meta}</{operation}Response>'
        return Answer(200, text.encode(), {"x-amzn-requestid": request_id, "content-type": "text/xml"})

    def refused(self, error: Refused) -> Answer:
        """The answer for *error*."""
        service = _service(self._model)
        headers = {"x-amzn-requestid": self.uuid()}
        if service.metadata["protocol"] != "query":
            headers |= {"x-amzn-errortype": error.code, "content-type": "application/json"}
            return Answer(error.status, {"message": error.message}, headers)
        kind = "Sender" if error.status < 500 else "Receiver"
        text = (
            f'<ErrorResponse xmlns="{service.metadata["xmlNamespace"]}"><Error><Type>{kind}</Type>'
            f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
            f"<RequestId>{headers['x-amzn-requestid']}</RequestId></ErrorResponse>"
        )
        return Answer(error.status, text.encode(), headers | {"content-type": "text/xml"})

    def uuid(self) -> str:
        """A new id in AWS's manner; the same ones for the same seed."""
        return str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))

    def _denied(self, what: str, message: str) -> Refused:
        codes = _CODES[what]
        return Refused(403, codes[0 if _service(self._model).metadata["protocol"] == "query" else 1], message)

    def _check_time(self, stamp: str, at: float) -> None:
        now = self._around.clock.wall()
        shown = datetime.fromtimestamp(now, UTC).strftime(_DATE)
        if at < now - _SKEW:
            raise self._denied("wrong", f"Signature expired: {stamp} is now earlier than {shown} minus 15 min.")
        if at > now + _SKEW:
            raise self._denied("wrong", f"Signature not yet current: {stamp} is still later than {shown} plus 15 min.")


def notification(api: Api, message: Mapping[str, Any] | str) -> bytes:
    """What a topic of SNS delivers of *message*, but for what is added where it is signed."""
    text = message if isinstance(message, str) else json.dumps(message, separators=(",", ":"))
    unsubscribe = (
        f"https://sns.{REGION}.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:aws:sns:{REGION}:{ACCOUNT}:x"
    )
    found = {"Type": "Notification", "MessageId": api.uuid(), "Message": text, "UnsubscribeURL": unsubscribe}
    return json.dumps(found).encode()


def signed_notification(
    service: str, around: Surroundings, emission: Emission, *, url: str, secrets: tuple[str, ...], broken: bool
) -> Signed:
    """As SNS signs it, by the sandbox's RSA key, of the topic that the receiver takes; plain without one."""
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": "Notification",
        "x-amz-sns-message-id": emission.id,
    }
    key = signing.private_key("rsa", broken=broken) if secrets else None
    now = around.clock.wall()
    return signing.signed(service, emission, url=url, secrets=secrets, broken=broken, now=now, headers=headers, key=key)


@cache
def _service(model: str) -> Any:
    need_botocore("the sandbox's AWS")
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(model, "service-2"), model)


def _time(stamp: str) -> float | None:
    try:
        return datetime.strptime(stamp, _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _signature(ask: Ask, pair: tuple[str, str], region: str, service: str, stamp: str, signed: list[str]) -> str:
    """The signature that this request must have."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    path = urlsplit(ask.base).path + quote(ask.path, safe="/-._~")
    url = f"https://{ask.headers.get('host', '')}{path}" + (f"?{ask.query}" if ask.query else "")
    headers = {name: ask.headers.get(name, "") for name in signed}
    request = AWSRequest(method=ask.method, url=url, data=ask.body, headers=headers)
    request.context["timestamp"] = stamp
    signer = SigV4Auth(Credentials(*pair), service, region)
    found: str = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return found


@cache
def _routes(service: Any) -> list[tuple[str, str, re.Pattern[str], list[str]]]:
    """The operations of a JSON API: name, method, path, and what stands in the path."""
    found = []
    for name in service.operation_names:
        http = service.operation_model(name).http
        pattern = re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(http["requestUri"]))
        found.append((name, http["method"], re.compile(pattern), re.findall(r"\{(\w+)\}", http["requestUri"])))
    return found


def _matched(service: Any, ask: Ask) -> tuple[str, dict[str, Any]]:
    """The operation of a JSON API at that method and path, with what the path and the body say."""
    for name, method, pattern, names in _routes(service):
        found = pattern.fullmatch(ask.path) if method == ask.method else None
        if found is None:
            continue
        try:
            body = json.loads(ask.body) if ask.body else {}
        except ValueError:
            raise Refused(400, "SerializationException", "could not parse the request body as JSON") from None
        if not isinstance(body, dict):
            raise Refused(400, "SerializationException", "the request body is not an object")
        return name, body | dict(zip(names, map(unquote, found.groups()), strict=True))
    raise Refused(404, "UnknownOperationException", "Unable to determine service/operation name to be authorized")


def _from_form(shape: Any, form: Mapping[str, str], prefix: str) -> Any:
    """What a form says of *shape*, with names such as ``MessageAttributes.entry.1.Name``; None for nothing."""
    if shape is None:
        return None
    if shape.type_name == "structure":
        found = {}
        for name, member in shape.members.items():
            wire = member.serialization.get("name", name)
            value = _from_form(member, form, f"{prefix}.{wire}" if prefix else wire)
            if value is not None:
                found[name] = value
        return found or None
    if shape.type_name == "list":
        wire = shape.member.serialization.get("name", "member")
        values = (_from_form(shape.member, form, f"{prefix}.{wire}.{number}") for number in range(1, 1000))
        return _until_none(values)
    if shape.type_name == "map":
        key, value = shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")
        entries = (f"{prefix}.entry.{number}" for number in range(1, 1000))
        pairs = ((form.get(f"{one}.{key}"), _from_form(shape.value, form, f"{one}.{value}")) for one in entries)
        taken = {}
        for name, held in pairs:
            if name is None:
                break
            taken[name] = held
        return taken or None
    text = form.get(prefix)
    if text is not None and shape.type_name == "boolean":
        return text == "true"
    return text


def _until_none(values: Any) -> list[Any] | None:
    found = []
    for value in values:
        if value is None:
            break
        found.append(value)
    return found or None


def _problem(shape: Any, value: Any, where: str) -> str | None:
    """What of the model's limits *value* breaks, if any; a member that the model does not know is passed over."""
    kinds = {"structure": dict, "list": list, "map": dict, "string": str, "blob": str, "boolean": bool}
    kind = kinds.get(shape.type_name)
    if kind is not None and not isinstance(value, kind):
        return _broken(where, f"Member must be a {shape.type_name}")
    problem = None
    if shape.type_name == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                return _broken(_under(where, name), "Member must not be null")
        inner = [(member, value[name], _under(where, name)) for name, member in shape.members.items() if name in value]
    elif shape.type_name == "list":
        inner = [(shape.member, one, f"{where}.{number}.member") for number, one in enumerate(value, 1)]
        problem = _length(shape, len(value), where)
    elif shape.type_name == "map":
        inner = [(shape.value, one, f"{where}.{name}") for name, one in value.items()]
    else:
        return _text_problem(shape, value, where)
    return problem or next((found for each in inner if (found := _problem(*each)) is not None), None)


def _text_problem(shape: Any, value: Any, where: str) -> str | None:
    limits = shape.metadata
    if shape.type_name == "blob":
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return _broken(where, "Member must be base64")
    if shape.type_name != "string":
        return None
    if "enum" in limits and value not in limits["enum"]:
        known = ", ".join(limits["enum"])
        return (
            f"Value '{value}' at '{where}' failed to satisfy constraint: Member must satisfy enum value set: [{known}]"
        )
    if "pattern" in limits and re.fullmatch(limits["pattern"].strip("^$"), value) is None:
        return _broken(where, f"Member must satisfy regular expression pattern: {limits['pattern']}")
    return _length(shape, len(value), where)


def _length(shape: Any, length: int, where: str) -> str | None:
    limits = shape.metadata
    if length < limits.get("min", 0):
        return _broken(where, f"Member must have length greater than or equal to {limits['min']}")
    if length > limits.get("max", length):
        return _broken(where, f"Member must have length less than or equal to {limits['max']}")
    return None


def _broken(where: str, rule: str) -> str:
    return f"Value at '{where}' failed to satisfy constraint: {rule}"


def _under(where: str, name: str) -> str:
    spelled = name[:1].lower() + name[1:]
    return f"{where}.{spelled}" if where else spelled


def _xml(shape: Any, value: Any, tag: str) -> str:
    """*value* as an element named *tag*."""
    if shape.type_name == "structure":
        parts = [
            _xml(member, value[name], member.serialization.get("name", name))
            for name, member in shape.members.items()
            if value.get(name) is not None
        ]
    elif shape.type_name == "list":
        parts = [_xml(shape.member, one, shape.member.serialization.get("name", "member")) for one in value]
    elif shape.type_name == "map":
        key, held = shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")
        parts = [
            f"<entry><{key}>{escape(name)}</{key}>{_xml(shape.value, one, held)}</entry>" for name, one in value.items()
        ]
    else:
        parts = ["true" if value is True else "false" if value is False else escape(str(value))]
    return f"<{tag}>{''.join(parts)}</{tag}>"
