from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from tests.sandbox.test_ses import signed

ARN = "arn:aws:sns:us-east-1:123456789012"
TEXT = {"Action": "Publish", "PhoneNumber": "+447700900000", "Message": "Hello"}


async def ask(box: httpx2.AsyncClient, form: dict[str, str], name: str = "sns", **options: Any) -> httpx2.Response:
    body = urlencode({"Version": "2010-03-31", **form}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    options.setdefault("service", "sns")
    return await box.send(signed(f"http://sandbox/{name}/", body, headers=headers, **options))


def attribute(name: str, value: str, kind: str = "String") -> dict[str, str]:
    prefix = "MessageAttributes.entry.1"
    return {f"{prefix}.Name": name, f"{prefix}.Value.DataType": kind, f"{prefix}.Value.StringValue": value}


async def test_accepted(box: httpx2.AsyncClient):
    """The answer is XML of SNS's namespace; the message is kept as it was read."""
    response = await ask(box, TEXT | attribute("AWS.SNS.SMS.MaxPrice", "0.5", "Number"))
    assert (response.status_code, response.headers["content-type"]) == (200, "text/xml")
    assert response.text.startswith('<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult>')
    [held] = (await box.get("/_sandbox/state", params={"service": "sns"})).json()["sns"]["messages"]
    assert held["message"]["MessageAttributes"] == {
        "AWS.SNS.SMS.MaxPrice": {"DataType": "Number", "StringValue": "0.5"}
    }


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({"Action": "Publish"}, 400, "ValidationError"),
        ({"Action": "Shout"}, 400, "InvalidAction"),
        (TEXT | {"Version": "2009-01-01"}, 400, "InvalidAction"),
        (TEXT | {"Message": ""}, 400, "InvalidParameter"),
        (TEXT | {"Message": "x" * 1601}, 400, "InvalidParameter"),
        (TEXT | {"PhoneNumber": "07700900000"}, 400, "InvalidParameter"),
        (TEXT | {"TopicArn": f"{ARN}:news"}, 400, "InvalidParameter"),
        (TEXT | attribute("AWS.SNS.SMS.MaxPrice", "0.5"), 400, "ParameterValueInvalid"),
        (TEXT | attribute("AWS.SNS.SMS.SMSType", "Urgent"), 400, "InvalidParameter"),
        (TEXT | attribute("AWS.SNS.SMS.SenderID", "A long name."), 400, "InvalidParameter"),
        (TEXT | attribute("a", "b", "Text"), 400, "ParameterValueInvalid"),
        ({"Action": "Publish", "TopicArn": f"{ARN}:missing", "Message": "x"}, 404, "NotFound"),
        ({"Action": "Publish", "TopicArn": "news", "Message": "x"}, 400, "InvalidParameter"),
        ({"Action": "Publish", "TopicArn": f"{ARN}:n.fifo", "Message": "x"}, 400, "InvalidParameter"),
        ({"Action": "CheckIfPhoneNumberIsOptedOut", "phoneNumber": "1"}, 400, "InvalidParameter"),
        ({"Action": "CreateTopic", "Name": "x"}, 501, "NotImplemented"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, form: dict[str, str], status: int, code: str):
    """What SNS refuses is its XML of an error, and nothing is kept."""
    response = await ask(box, form)
    assert (response.status_code, f"<Code>{code}</Code>" in response.text) == (status, True), response.text
    assert "<RequestId>" in response.text
    assert (await box.get("/_sandbox/state")).json()["sns"]["messages"] == []


async def test_signatures(box: httpx2.AsyncClient):
    """APIs that speak XML have other words for the same faults."""
    for options, code in (({"service": "ses"}, "SignatureDoesNotMatch"), ({"keys": _other()}, "InvalidClientTokenId")):
        response = await ask(box, TEXT, **options)
        assert (response.status_code, f"<Code>{code}</Code>" in response.text) == (403, True)
    bare = await box.post("/sns/", data=TEXT)
    assert "<Code>MissingAuthenticationToken</Code>" in bare.text


def _other() -> Any:
    from botocore.credentials import Credentials

    return Credentials("AKIAOTHER", "x")
