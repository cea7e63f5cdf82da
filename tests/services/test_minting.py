"""Services that make their own keys, all in one table: each key that they make is good until it is taken back."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors, registry
from moorline.calls.minting import KnowsKeys, MintsKeys
from moorline.calls.service import Service
from moorline.secrets.secret import Secret

Run = Callable[[Any], Any]
MINTS: list[type[Service]] = [one for one in map(registry.service, registry.names()) if hasattr(one, "mint_key")]
# What Google's services have in common is shown by one of them, and what AWS's have by another.
APART = [one for one in MINTS if one.name not in ("firebase_auth", "gcs", "s3", "sns", "sns_push")]
OPTIONS: dict[str, dict[str, Any]] = {"datadog": {"application_key": "5a17d80e5a17d80e5a17d80e5a17d80e"}}
ONLY = {"vonage_sms": "first", "ses": "AKIASANDBOX000000000"}
FIRST = {"sendgrid": "SG.first.0123456789abcdef"}
# Where keys are made, for those who ask for something else before.
BY = {"sendgrid": "/v3/api_keys", **dict.fromkeys(("fcm", "firebase_auth", "gcs"), "/v1/projects/-/*")}
# By the vendors' own examples: what is sent, and what is answered.
WIRE: dict[str, tuple[str, Any, Any]] = {
    "datadog": (
        "https://api.datadoghq.com/api/v2/api_keys",
        {"data": {"type": "api_keys", "attributes": {"name": "moorline"}}},
        {"data": {"type": "api_keys", "id": "id-1", "attributes": {"key": "value-canary-0001", "name": "moorline"}}},
    ),
    "onesignal": (
        "https://api.onesignal.com/apps/8250eaf6-1a58-489e-b136-7c74a864b434/auth/tokens",
        {"name": "moorline"},
        {"token_id": "id-1", "formatted_token": "value-canary-0001"},
    ),
    "resend": (
        "https://api.resend.com/api-keys",
        {"name": "moorline", "permission": "full_access"},
        {"id": "id-1", "token": "value-canary-0001"},
    ),
}


def named(kind: type[Service]) -> str:
    return kind.name


def made(box: Box, kind: type[Service], key: str | None = None) -> Any:
    return box.service(kind, key or FIRST.get(kind.name), **OPTIONS.get(kind.name, {}))


def _knows(service: Any) -> bool:
    return isinstance(service, KnowsKeys)


def test_who_can_is_known():
    """A service that gets the two operations is in this table by that alone."""
    several = {"fcm", "firebase_auth", "gcs", "s3", "ses", "sns", "sns_push"}
    assert {kind.name for kind in MINTS} == {"datadog", "onesignal", "resend", "sendgrid", "vonage_sms", *several}


@pytest.mark.parametrize("kind", MINTS, ids=named)
def test_a_key_is_made_used_and_taken_back(box: Box, run: Run, kind: type[Service], caplog: pytest.LogCaptureFixture):
    """It is good, and another than the one that it was made with, which stays good; it is found by its name; taken back
    it is refused, and taking it back again is harmless. Nobody shows it.
    """
    caplog.set_level(logging.DEBUG)
    service: Any = made(box, kind)
    fulfils = isinstance(service, MintsKeys)
    assert fulfils
    minted = run(service.mint_key("moorline 17"))
    value = minted.secret.reveal()
    assert value != service.secret().reveal()
    assert minted.secret.name == service.credentials.env
    other = made(box, kind, value)
    assert run(other.check())
    assert run(service.check())
    shown = repr(minted) + caplog.text + json.dumps(box.state(kind.name)) + json.dumps(box.seen())
    assert value not in shown
    if _knows(service):
        another = run(service.mint_key("moorline 18"))
        assert list(run(service.find_keys("moorline 17"))) == [minted.id]
        assert list(run(service.find_keys("moorline"))) == []
        assert service.key_id(minted.secret) in (minted.id, None)
        assert run(service.revoke_key(another.id)) is True
    assert run(service.revoke_key(minted.id)) is True
    assert run(service.revoke_key(minted.id)) is False
    with pytest.raises(errors.CredentialFault):
        run(made(box, kind, value).check())  # Google's tokens outlive the key that they were got with
    assert run(service.check())


@pytest.mark.parametrize("kind", APART, ids=named)
def test_a_key_can_take_back_the_one_that_made_it(box: Box, run: Run, kind: type[Service]):
    """As a rotation does: the new one makes the next, and takes back the one before."""
    first = run(made(box, kind).mint_key("first"))
    service = made(box, kind, first.secret.reveal())
    if kind.name in ONLY:  # two at a time are all that there may be
        assert run(service.revoke_key(ONLY[kind.name])) is True
    second = run(service.mint_key("second"))
    last = made(box, kind, second.secret.reveal())
    assert run(last.revoke_key(first.id)) is True
    assert run(last.check())
    with pytest.raises(errors.CredentialFault):
        run(made(box, kind, first.secret.reveal()).check())


@pytest.mark.parametrize("kind", APART, ids=named)
def test_a_lost_answer_is_no_second_key(box: Box, run: Run, kind: type[Service]):
    """None of these vendors honours an idempotency key here: it is not made again by itself, and found by its name."""
    service = made(box, kind)
    box.arm(kind="dropped", processed=True, method="POST", path=BY.get(kind.name, "*"))
    with pytest.raises(errors.OutcomeUnknown):
        run(service.mint_key("lost"))
    if _knows(service):
        assert len(run(service.find_keys("lost"))) == 1


@pytest.mark.parametrize("name", WIRE)
def test_what_is_sent_is_the_vendors_example(name: str, run: Run):
    """Place, body and the key that it is asked with; what is answered is read; a deletion names the id."""
    place, body, answer = WIRE[name]
    recorder = Recorder(201, json.dumps(answer).encode())
    kind = registry.service(name)
    options = {"onesignal": {"organization_key": "the-other-key"}, "datadog": {"application_key": "the-other-key"}}
    service = recorder.service(kind, key="the-key", **options.get(name, {}))
    minted = run(service.mint_key("moorline"))
    assert (minted.id, minted.secret.reveal()) == ("id-1", "value-canary-0001")
    run(service.revoke_key("id/1"))
    asked, deleted = recorder.requests
    assert (asked.method, str(asked.url), json.loads(asked.content)) == ("POST", place, body)
    assert (deleted.method, deleted.url.raw_path.decode()) == ("DELETE", f"{urlsplit(place).path}/id%2F1")
    keys = {value for header, value in asked.headers.items() if header in ("authorization", "dd-api-key")}
    keys |= {value for header, value in asked.headers.items() if header == "dd-application-key"}
    expected: dict[str, set[str]] = {
        "datadog": {"the-key", "the-other-key"},
        "onesignal": {"Key the-other-key"},
        "resend": {"Bearer the-key"},
    }
    assert keys == expected[name]


@pytest.mark.parametrize("name", ["fcm", "firebase_auth", "gcs"])
def test_google_makes_keys_of_the_account_itself(name: str, run: Run):
    """At Google's IAM, with a token for that alone; the answer's key file is the secret, in one line, and tells its id."""
    kind = registry.service(name)
    file = json.loads(kind.credentials.sandbox.replace("{sandbox}", "http://127.0.0.1:1"))
    other = {**file, "private_key_id": "f00", "token_uri": "https://oauth2.googleapis.com/token"}
    data = base64.b64encode(json.dumps(other, indent=2).encode()).decode()
    answer = {"name": f"projects/p/serviceAccounts/{file['client_email']}/keys/f00", "privateKeyData": data}
    recorder = Recorder(200, json.dumps(answer).encode())
    service = recorder.service(kind, key=json.dumps(file))
    minted = run(service.mint_key("moorline"))
    assert run(service.revoke_key("f00")) is True
    asked, deleted = recorder.requests
    place = "https://iam.googleapis.com/v1/projects/-/serviceAccounts/sandbox%40moorline-sandbox.iam.gserviceaccount.com/keys"
    assert (asked.method, str(asked.url), deleted.method, str(deleted.url)) == ("POST", place, "DELETE", f"{place}/f00")
    wanted = {"privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE", "keyAlgorithm": "KEY_ALG_RSA_2048"}
    assert json.loads(asked.content) == wanted
    assert asked.headers["authorization"] == "Bearer token-0123456789"
    assert json.loads(minted.secret.reveal()) == other
    assert "\n" not in minted.secret.reveal()
    assert (minted.id, service.key_id(minted.secret)) == ("f00", "f00")
    assert file["private_key"].splitlines()[1] not in repr(minted)


@pytest.mark.parametrize(
    ("region", "place", "signed"),
    [
        ("eu-west-1", "https://iam.amazonaws.com/", "us-east-1"),
        ("cn-north-1", "https://iam.cn-north-1.amazonaws.com.cn/", "cn-north-1"),
    ],
)
def test_aws_makes_keys_of_the_user_who_asks(run: Run, region: str, place: str, signed: str):
    """At IAM, which signs for a region of its own; both halves are one value, which goes before AWS_ACCESS_KEY_ID."""
    body = (
        '<CreateAccessKeyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><CreateAccessKeyResult><AccessKey>'
        "<UserName>Bob</UserName><AccessKeyId>AKIAIOSFODNN7EXAMPLE</AccessKeyId><Status>Active</Status>"
        "<SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY</SecretAccessKey></AccessKey></CreateAccessKeyResult>"
        "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></CreateAccessKeyResponse>"
    )
    recorder = Recorder(200, body.encode())
    service = recorder.service(registry.service("ses"), key="AKIDEXAMPLE:the/secret", access_key_id=None, region=region)
    minted = run(service.mint_key("moorline"))
    assert minted.secret.reveal() == "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert (minted.id, service.key_id(minted.secret)) == ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE")
    assert service.key_id(Secret("a secret alone")) is None
    [asked] = recorder.requests
    assert str(asked.url) == place
    assert dict(parse_qsl(asked.content.decode())) == {"Action": "CreateAccessKey", "Version": "2010-05-08"}
    assert f"AKIDEXAMPLE/{time.strftime('%Y%m%d', time.gmtime())}/{signed}/iam/" in asked.headers["authorization"]


def test_keys_of_aws_are_one_value_in_the_environment(box: Box, run: Run, monkeypatch: pytest.MonkeyPatch):
    """``AWS_SECRET_ACCESS_KEY=ID:SECRET``: whatever else says which id it is."""
    kind = registry.service("ses")
    minted = run(box.service(kind).mint_key("moorline"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minted.secret.reveal())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASANDBOX000000000")
    assert run(kind(base_url=f"{box.url}/ses").check())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert run(kind(base_url=f"{box.url}/ses").check())


def test_vonage_draws_the_secret_here(run: Run):
    """Vonage has the caller choose it: 25 characters with a capital, a small letter and a figure, another each time."""
    from moorline.services.sms.vonage_sms import VonageSMS

    recorder = Recorder(201, b'{"id": "ad6dc56f-07b5-46e1-a527-85530e625800", "created_at": "2017-03-02T16:34:49Z"}')
    service = recorder.service(VonageSMS, key="the-Secret-0", account_key="abcd1234")
    first, second = run(service.mint_key("a")), run(service.mint_key("a"))
    assert first.id == "ad6dc56f-07b5-46e1-a527-85530e625800"
    assert first.secret != second.secret
    request: httpx2.Request = recorder.requests[0]
    assert str(request.url) == "https://api.nexmo.com/accounts/abcd1234/secrets"
    assert json.loads(request.content) == {"secret": first.secret.reveal()}
    value = first.secret.reveal()
    assert len(value) == 25
    assert all(any(test(one) for one in value) for test in (str.islower, str.isupper, str.isdigit))
    assert value not in repr(service.mint_key("a").plan)
