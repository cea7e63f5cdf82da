"""Secrets in AWS Secrets Manager: ``aws-sm:prod/stripe`` is the whole of the secret of that name or ARN,
``aws-sm:prod/stripe#api_key`` a key of the JSON object in it.

``AWSCURRENT`` is the current version, ``AWSPREVIOUS`` the previous one, and ``AWSPENDING``, which a rotation is about
to make current, is accepted too. Region, keys and endpoint are found as for all services of AWS (``AWS_REGION``,
``AWS_ENDPOINT_URL_SECRETS_MANAGER``), unless the URL says otherwise (``?region=…&endpoint=…``). It needs the right
``secretsmanager:GetSecretValue``, and ``kms:Decrypt`` where the secret has a key of yours.

Facts: services/secrets/aws_secrets_manager.md; contract: none, it is botocore's model of secretsmanager.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from moorline.calls.aws import AwsErrors, AwsService
from moorline.calls.dialects import Endpoints
from moorline.calls.exchange import Plan
from moorline.calls.operations import operation
from moorline.errors import BadAnswer, CallError, ConfigurationError, InvalidRequest, NotFound, SecretUnavailable
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.secrets.sources.base import Address, Content, Source
from moorline.secrets.versions import Found, Stage

__all__ = ["AwsSecretsManager"]

_STAGES: Final[tuple[tuple[str, Stage], ...]] = (
    ("AWSCURRENT", "current"),
    ("AWSPREVIOUS", "previous"),
    ("AWSPENDING", "pending"),
)
_ARN: Final = re.compile(r"arn:[a-z-]+:secretsmanager:(?P<region>[a-z0-9-]+):[0-9]{12}:secret:.+")
_ID: Final = re.compile(r"[A-Za-z0-9/_+=.@!:-]{1,2048}")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL")


class _Api(AwsService):
    """What is asked for values."""

    name, category = "aws_secrets_manager", "secrets"
    model = "secretsmanager"
    endpoints = Endpoints("https://secretsmanager.us-east-1.amazonaws.com")
    errors = AwsErrors(
        model="secretsmanager",
        kinds={"ResourceNotFoundException": NotFound, "InvalidRequestException": InvalidRequest},
    )
    default_policy = Policy(deadline=15.0, attempt_timeout=5.0, retry=Retry(retries=2, base=0.2), breaker=None)
    in_sandbox = False  # it has no part of this

    @property
    def base_url(self) -> str:
        """The endpoint that was given, or the region's own."""
        return self._base_url or self._endpoint()

    @operation
    def value(self, secret_id: str, stage: str) -> Plan[dict[str, Any]]:
        wanted = {"SecretId": secret_id, "VersionStage": stage}
        return self.ask("GetSecretValue", wanted, dict, reads=True, accept=_absent)


class AwsSecretsManager(Source):
    """One secret of AWS Secrets Manager."""

    scheme: ClassVar[str] = "aws-sm"
    ttl: ClassVar[float] = 300.0

    def __init__(self, address: Address, *, whole: bool = False) -> None:
        super().__init__(address, whole=whole)
        self._id, self._options = address.options("region", "endpoint")
        if not _ID.fullmatch(self._id):
            raise ConfigurationError(f"{self.address}: expected a secret's name or ARN, such as aws-sm:prod/stripe")
        self._api: _Api | None = None

    def unit(self, name: str) -> str:
        """The whole secret."""
        del name
        return ""

    def where(self, name: str) -> str:
        """The secret, and the key in it."""
        return f"aws-sm:{self._id}" + (f"#{name}" if name and not self.whole else "")

    def fetch(self, unit: str) -> Sequence[Content]:  # noqa: ARG002 (there is one)
        """The versions of the three stages, as far as there are any; none of a secret that is to be deleted."""
        found = []
        try:
            for label, stage in _STAGES:
                said = self._opened().value(self._id, label).result()
                if said:
                    found.append(_content(said, stage))
                elif stage == "current":
                    break
        except CallError as error:
            raise SecretUnavailable(f"aws-sm:{self._id}: {error}") from error
        return found

    def picked(self, contents: Sequence[Content], name: str, called: str) -> Found:
        """The whole text, or a key of the object that it is."""
        if self.whole:
            return super().picked([replace(one, fields=None) for one in contents], name, called)
        if contents and contents[0].fields is None:
            problem = ConfigurationError(f"aws-sm:{self._id} is no JSON object, so that it has no {name!r}")
            return Found(problems=[problem], failure=problem)
        return super().picked([one for one in contents if one.fields is not None], name, called)

    def close(self) -> None:
        """Close the connections."""
        if self._api is not None:
            self._api.close()
            self._api = None

    def _opened(self) -> _Api:
        if self._api is None:
            arn = _ARN.fullmatch(self._id)
            region = self._options.get("region") or (arn["region"] if arn is not None else None)
            at = self._options.get("endpoint") or next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
            self._api = _Api(region=region, base_url=at, clock=self.clock)
        return self._api


def _absent(error: CallError) -> dict[str, Any] | None:
    """No such secret or stage; or one that is marked for deletion, whose name stays taken."""
    gone = isinstance(error, InvalidRequest) and "delet" in error.message.lower()
    return {} if gone or isinstance(error, NotFound) else None


def _content(said: Mapping[str, Any], stage: Stage) -> Content:
    text = said.get("SecretString")
    if text is None:
        text = _of_bytes(said.get("SecretBinary"))
    if not isinstance(text, str):
        raise BadAnswer("the answer has neither SecretString nor SecretBinary")
    return Content(str(said.get("VersionId") or ""), stage, text, _fields(text))


def _of_bytes(held: Any) -> str | None:
    """Bytes that are no text are given in base64."""
    if not isinstance(held, bytes):
        return None
    try:
        return held.decode()
    except UnicodeDecodeError:
        return base64.b64encode(held).decode("ascii")


def _fields(text: str) -> dict[str, str] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {name: one if isinstance(one, str) else json.dumps(one) for name, one in found.items() if one is not None}
