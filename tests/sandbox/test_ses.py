from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from moorline.calls.aws import AwsService

KEYS = Credentials(AwsService.access_key_id.sandbox, AwsService.credentials.sandbox)
SEND, BULK = "/ses/v2/email/outbound-emails", "/ses/v2/email/outbound-bulk-emails"
SIMPLE = {"Subject": {"Data": "Receipt"}, "Body": {"Text": {"Data": "Thanks"}}}
MAIL: dict[str, Any] = {
    "FromEmailAddress": "Shop <shop@example.com>",
    "Destination": {"ToAddresses": ["ada@example.com"]},
    "Content": {"Simple": SIMPLE},
    "EmailTags": [{"Name": "order", "Value": "42"}],
}


def signed(
    url: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    keys: Any = KEYS,
    service: str = "ses",
    region: str = "eu-west-1",
    headers: Mapping[str, str] | None = None,
) -> httpx2.Request:
    """A request as an SDK of AWS would sign it."""
    request = AWSRequest(method=method, url=url, data=body, headers=dict(headers or {}))
    SigV4Auth(keys, service, region).add_auth(request)
    return httpx2.Request(method, url, content=body, headers=dict(request.headers.items()))


async def send(box: httpx2.AsyncClient, mail: Any, path: str = SEND, **options: Any) -> httpx2.Response:
    built = httpx2.Request("POST", "http://x", json=mail)
    headers = {"Content-Type": "application/json"}
    return await box.send(signed(f"http://sandbox{path}", built.content, headers=headers, **options))


def changed(path: str, value: Any) -> dict[str, Any]:
    mail = copy.deepcopy(MAIL)
    place: Any = mail
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    return mail


async def test_accepted(box: httpx2.AsyncClient):
    """A good mail has an id, and lies in the state as it was sent; a request for the account is signed without body."""
    response = await send(box, MAIL)
    assert (response.status_code, list(response.json())) == (200, ["MessageId"])
    held = (await box.get("/_sandbox/state", params={"service": "ses"})).json()["ses"]["messages"]
    assert held == [{"id": response.json()["MessageId"], "message": MAIL}]
    account = await box.send(signed("http://sandbox/ses/v2/email/account", method="GET"))
    assert account.json()["SendQuota"]["SentLast24Hours"] == 1.0


@pytest.mark.parametrize(
    ("mail", "status", "code"),
    [
        (changed("Content", {}), 400, "BadRequestException"),
        (changed("Content", {"Simple": SIMPLE, "Raw": {"Data": "eA=="}}), 400, "BadRequestException"),
        (changed("Content.Simple", {"Subject": {"Data": "x"}}), 400, "BadRequestException"),
        (changed("Content.Simple.Body", {}), 400, "BadRequestException"),
        (changed("Content.Simple.Headers", [{"Name": "X", "Value": "é"}]), 400, "BadRequestException"),
        (changed("Content.Simple.Headers", [{"Name": "X", "Value": "1"}] * 16), 400, "BadRequestException"),
        (changed("Content.Simple.Attachments", [{"FileName": "a", "RawContent": "%"}]), 400, "BadRequestException"),
        (changed("Content", {"Raw": {"Data": "eA=="}}), 400, "BadRequestException"),
        (changed("Content", {"Template": {"TemplateName": "a", "TemplateData": "[]"}}), 404, "NotFoundException"),
        (changed("Content", {"Template": {}}), 400, "BadRequestException"),
        (changed("Destination", {}), 400, "BadRequestException"),
        (changed("Destination.ToAddresses", [f"a{n}@example.com" for n in range(51)]), 400, "BadRequestException"),
        (changed("Destination.ToAddresses", ["nobody"]), 400, "BadRequestException"),
        (changed("Destination.ToAddresses", ["zoë@example.com"]), 400, "BadRequestException"),
        (changed("EmailTags", [{"Name": "order", "Value": "a:b"}]), 400, "BadRequestException"),
        (changed("FromEmailAddress", "shop@unverified.example"), 400, "MessageRejected"),
        (changed("ConfigurationSetName", "missing-set"), 404, "NotFoundException"),
        (changed("FromEmailAddress", 5), 400, "BadRequestException"),
        ([], 400, "SerializationException"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, mail: Any, status: int, code: str):
    """What SES refuses is an error of its own shape, and nothing is kept."""
    response = await send(box, mail)
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (status, code)
    assert list(response.json()) == ["message"]
    assert response.headers["x-amzn-requestid"]
    assert (await box.get("/_sandbox/state")).json()["ses"]["messages"] == []


async def test_signatures(box: httpx2.AsyncClient):
    """Only a request that is signed by the sandbox's keys, for SES, as it came, and just now is taken."""

    async def code(request: httpx2.Request) -> tuple[int, str]:
        response = await box.send(request)
        return response.status_code, response.headers.get("x-amzn-errortype", "")

    url = f"http://sandbox{SEND}"
    good = signed(url, b"{}")
    assert await code(httpx2.Request("POST", url)) == (403, "MissingAuthenticationTokenException")
    bearer = httpx2.Request("POST", url, headers={"Authorization": "Bearer x"})
    assert await code(bearer) == (403, "IncompleteSignatureException")
    assert await code(signed(url, keys=Credentials("AKIAOTHER", "x"))) == (403, "UnrecognizedClientException")
    token = Credentials(KEYS.access_key, KEYS.secret_key, "token")
    assert await code(signed(url, keys=token)) == (403, "UnrecognizedClientException")
    wrong = Credentials(KEYS.access_key, "another")
    for request in (
        signed(url, keys=wrong),
        signed(url, service="sesv2"),
        httpx2.Request("POST", url, content=b"{ }", headers=good.headers),
        httpx2.Request("POST", f"{url}?a=1", content=b"{}", headers=good.headers),
    ):
        assert await code(request) == (403, "InvalidSignatureException")


@pytest.mark.parametrize(("minutes", "words"), [(-16, "Signature expired"), (16, "Signature not yet current")])
async def test_clocks(box: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, minutes: int, words: str):
    """A signature is good for a quarter of an hour, before and after."""
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: at)
    response = await send(box, MAIL)
    assert response.status_code == 403
    assert response.json()["message"].startswith(words)


async def test_a_path_with_escapes(box: httpx2.AsyncClient):
    """Names in a path are escaped once on the wire, and once more in what is signed."""
    made = {"TemplateName": "größe 1", "TemplateContent": {"Subject": "x", "Text": "y"}}
    assert (await send(box, made, "/ses/v2/email/templates")).status_code == 200
    assert (await send(box, made, "/ses/v2/email/templates")).headers["x-amzn-errortype"] == "AlreadyExistsException"
    path = "/ses/v2/email/templates/gr%C3%B6%C3%9Fe%201"
    response = await box.send(signed(f"http://sandbox{path}", method="GET"))
    assert response.json() == made


async def test_batches(box: httpx2.AsyncClient):
    """A batch is of templates, has 1 to 50 entries, and tells of each by itself."""
    content = {"TemplateContent": {"Subject": "x", "Text": "y"}}
    batch = {"FromEmailAddress": "shop@example.com", "DefaultContent": {"Template": content}}
    good, bad = {"Destination": {"ToAddresses": ["ada@example.com"]}}, {"Destination": {"ToAddresses": ["nobody"]}}
    response = await send(box, batch | {"BulkEmailEntries": [good, bad]}, BULK)
    results = response.json()["BulkEmailEntryResults"]
    assert [one["Status"] for one in results] == ["SUCCESS", "INVALID_PARAMETER"]
    for entries in ([], [good] * 51):
        assert (await send(box, batch | {"BulkEmailEntries": entries}, BULK)).status_code == 400
    simple = {"Content": {"Simple": SIMPLE}, "DefaultContent": {}, "BulkEmailEntries": [good]}
    assert (await send(box, batch | simple, BULK)).status_code == 400


async def test_what_it_has_not(box: httpx2.AsyncClient):
    """An operation that the stand-in lacks is told apart from one that SES lacks."""
    known = await box.send(signed("http://sandbox/ses/v2/email/templates/x", method="DELETE"))
    assert (known.status_code, known.headers["x-amzn-errortype"]) == (501, "NotImplementedException")
    unknown = await box.send(signed("http://sandbox/ses/v2/email/nothing", method="GET"))
    assert (unknown.status_code, unknown.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
