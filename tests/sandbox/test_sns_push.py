from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.sandbox.test_sns import ARN, ask

APPLICATION = f"{ARN}:app/GCM/sandbox"


async def endpoint(box: httpx2.AsyncClient, token: str = "token-1", **more: str) -> str:
    form = {"Action": "CreatePlatformEndpoint", "PlatformApplicationArn": APPLICATION, "Token": token, **more}
    response = await ask(box, form, "sns_push")
    assert response.status_code == 200, response.text
    return response.text.partition("<EndpointArn>")[2].partition("<")[0]


def message(**parts: Any) -> dict[str, str]:
    return {"Action": "Publish", "MessageStructure": "json", "Message": json.dumps({"default": "x", **parts})}


async def test_endpoints_are_one_for_a_token(box: httpx2.AsyncClient):
    """The same token and attributes give the same endpoint; others are refused, in words that name it."""
    first = await endpoint(box, CustomUserData="u")
    assert await endpoint(box, CustomUserData="u") == first
    form = {"Action": "CreatePlatformEndpoint", "PlatformApplicationArn": APPLICATION, "Token": "token-1"}
    response = await ask(box, form, "sns_push")
    assert response.status_code == 400
    assert f"Endpoint {first} already exists with the same Token, but different attributes." in response.text


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({"Action": "CreatePlatformEndpoint", "Token": "t"}, 400, "ValidationError"),
        ({"Action": "CreatePlatformEndpoint", "Token": "t", "PlatformApplicationArn": "x"}, 400, "InvalidParameter"),
        ({"Action": "CreatePlatformEndpoint", "Token": "", "PlatformApplicationArn": APPLICATION}, 400, "InvalidParameter"),
        ({"Action": "CreatePlatformEndpoint", "Token": "t", "PlatformApplicationArn": f"{ARN}:app/GCM/missing"}, 404, "NotFound"),
        ({"Action": "GetEndpointAttributes", "EndpointArn": f"{ARN}:endpoint/GCM/sandbox/0"}, 404, "NotFound"),
        ({"Action": "GetEndpointAttributes", "EndpointArn": "x"}, 400, "InvalidParameter"),
        ({"Action": "Subscribe", "TopicArn": f"{ARN}:news", "Protocol": "sms", "Endpoint": "+447700900000"}, 400, "InvalidParameter"),
        ({"Action": "Unsubscribe", "SubscriptionArn": f"{ARN}:news:0"}, 404, "NotFound"),
    ],
)  # fmt: skip
async def test_validation(box: httpx2.AsyncClient, form: dict[str, str], status: int, code: str):
    """What SNS refuses is its XML of an error."""
    response = await ask(box, form, "sns_push")
    assert (response.status_code, f"<Code>{code}</Code>" in response.text) == (status, True), response.text


async def test_messages_of_several_parts(box: httpx2.AsyncClient):
    """Each part is a text, the default one is needed, and the part of the endpoint's platform is JSON in it."""
    target = {"TargetArn": await endpoint(box)}
    assert (await ask(box, message(GCM='{"a":1}') | target, "sns_push")).status_code == 200
    for form in (
        message(GCM={"a": 1}),
        message(GCM="{"),
        message() | {"Message": '{"GCM": "{}"}'},
        message() | {"Message": "Hi"},
    ):
        response = await ask(box, form | target, "sns_push")
        assert (response.status_code, "<Code>InvalidParameter</Code>" in response.text) == (400, True)


async def test_attributes_of_endpoints(box: httpx2.AsyncClient):
    """Booleans are texts, and names are known ones."""
    arn = await endpoint(box)
    for name, value, status in (("Enabled", "false", 200), ("Enabled", "no", 400), ("Colour", "red", 400)):
        form = {"Attributes.entry.1.key": name, "Attributes.entry.1.value": value}
        response = await ask(box, {"Action": "SetEndpointAttributes", "EndpointArn": arn, **form}, "sns_push")
        assert response.status_code == status
    response = await ask(box, message() | {"TargetArn": arn}, "sns_push")
    assert (response.status_code, "<Code>EndpointDisabled</Code>" in response.text) == (400, True)
