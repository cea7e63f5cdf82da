"""Two small services of AWS, one that speaks JSON and one that speaks XML, and what they are tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from moorline.calls.aws import AwsErrors, AwsService
from moorline.calls.dialects import Endpoints
from moorline.calls.exchange import Plan
from moorline.calls.guards import Guards
from moorline.calls.operations import operation

__all__ = ["ID", "KEY", "Mail", "Script", "Topics", "nobodys_aws"]

ID, KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


class Mail(AwsService):
    """SES."""

    name, category = "mail", "tests"
    model = "sesv2"
    endpoints = Endpoints("https://email.us-east-1.amazonaws.com")
    errors = AwsErrors(model="sesv2")

    @operation
    def account(self) -> Plan[Any]:
        """A GET."""
        return self.ask("GetAccount", {}, dict, reads=True)

    @operation
    def send(self, to: str, text: str) -> Plan[str]:
        """A POST of JSON."""
        body = {"Simple": {"Subject": {"Data": "Hi"}, "Body": {"Text": {"Data": text}}}}
        parameters = {
            "FromEmailAddress": "shop@example.com", "Destination": {"ToAddresses": [to]}, "Content": body, "EndpointId": None,
        }  # fmt: skip
        return self.ask("SendEmail", parameters, lambda answer: str(answer["MessageId"]))


class Topics(AwsService):
    """SNS."""

    name, category = "topics", "tests"
    model = "sns"
    endpoints = Endpoints("https://sns.us-east-1.amazonaws.com")
    errors = AwsErrors(model="sns")

    @operation
    def publish(self, number: str, text: str) -> Plan[str]:
        """A POST of a form."""
        return self.ask("Publish", {"PhoneNumber": number, "Message": text}, lambda answer: str(answer["MessageId"]))


class Script:
    """A wire that keeps requests, and answers with each of *answers* in turn; the last one for ever."""

    def __init__(self, *answers: tuple[int, bytes] | tuple[int, bytes, dict[str, str]]) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers = list(answers) or [(200, b'{"MessageId": "m1"}')]

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = answer[2] if len(answer) > 2 else {}
        return httpx2.Response(answer[0], content=answer[1], headers=headers)

    def service(self, kind: Callable[..., Any], *key: Any, **options: Any) -> Any:
        """A service that sends through this."""
        options.setdefault("guards", Guards(options["clock"]) if "clock" in options else Guards())
        return kind(*key, wire=httpx2.MockTransport(self), **options)


@contextmanager
def nobodys_aws() -> Iterator[pytest.MonkeyPatch]:
    """No variable, file or metadata service of who runs the tests."""
    import os

    from moorline.calls import aws

    with pytest.MonkeyPatch.context() as patch:
        for name in [one for one in os.environ if one.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/nonexistent")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        aws._session.cache_clear()
        yield patch
    aws._session.cache_clear()
