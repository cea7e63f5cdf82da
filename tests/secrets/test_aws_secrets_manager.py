"""AWS Secrets Manager as moto has it: stages that move, binary secrets, refusals, and secrets that are deleted."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from tests.calls.aws import nobodys_aws
from tests.secrets.places import texts
from tests.sqs_servers import REGION, MotoServer, aws_environment

from moorline.calls.secret_sources.aws_secrets_manager import AwsSecretsManager
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.secrets.locker import Secrets
from moorline.secrets.sources.base import Address


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with aws_environment(), MotoServer() as server:
        yield server


@pytest.fixture
def aws(moto: MotoServer) -> Iterator[Any]:
    """A client of botocore's, and the environment of ours."""
    with nobodys_aws() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", moto.endpoint)
        yield moto.client("secretsmanager")


@pytest.fixture
def name() -> str:
    """A secret that nobody else has."""
    return f"prod/t{uuid4().hex[:8]}"


def keeping(clock: ManualClock | None = None, **names: str) -> Secrets:
    held = Secrets(clock=clock or ManualClock(), background=False)
    held.configure(["env:"], names)
    return held


def told(held: Secrets) -> list[tuple[str, str]]:
    return [(one.secret.reveal(), one.stage) for one in held.versions("KEY")]


def test_a_rotation_moves_the_stages(aws: Any, name: str) -> None:
    """As its Lambda does it: a pending version is put, made current, and the old one is previous; ids are AWS's."""
    first = aws.create_secret(Name=name, SecretString="first-value")["VersionId"]
    held = keeping(KEY=f"aws-sm:{name}")
    assert told(held) == [("first-value", "current")]
    assert (held.versions("KEY")[0].id, held.versions("KEY")[0].origin) == (first, f"aws-sm:{name}@{first}")
    second = aws.put_secret_value(SecretId=name, SecretString="second-value", VersionStages=["AWSPENDING"])["VersionId"]
    held.refresh("KEY")
    assert told(held) == [("first-value", "current"), ("second-value", "pending")]
    move = {"SecretId": name, "VersionStage": "AWSCURRENT"}
    aws.update_secret_version_stage(**move, MoveToVersionId=second, RemoveFromVersionId=first)
    held.refresh("KEY")
    assert told(held) == [("second-value", "current"), ("first-value", "previous")]
    assert texts(held.load_all("KEY")) == ["second-value", "first-value"]
    aws.update_secret_version_stage(**move, MoveToVersionId=first, RemoveFromVersionId=second)
    held.refresh("KEY")
    assert told(held)[0] == ("first-value", "current")


def test_a_key_of_a_json_object_and_a_source_of_all(aws: Any, name: str) -> None:
    """Numbers are as JSON writes them; what is no object has no keys."""
    aws.create_secret(Name=name, SecretString=json.dumps({"KEY": "key-value", "PORT": 5432, "NONE": None}))
    held = Secrets(clock=ManualClock(), background=False)
    held.configure([f"aws-sm:{name}"], {"OTHER": f"aws-sm:{name}#KEY", "ALL": f"aws-sm:{name}"})
    assert [texts(held.load_all(one)) for one in ("KEY", "PORT", "NONE", "OTHER")] == [
        ["key-value"], ["5432"], [], ["key-value"],
    ]  # fmt: skip
    assert json.loads(held.load_all("ALL")[0].reveal())["PORT"] == 5432
    aws.put_secret_value(SecretId=name, SecretString="plain-text-canary")
    with pytest.raises(ConfigurationError, match=f"aws-sm:{name} is no JSON object, so that it has no 'KEY'") as caught:
        keeping(KEY=f"aws-sm:{name}#KEY").load("KEY")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("held", "value"), [(b"text as bytes", "text as bytes"), (b"\xff\x00\x01", "/wAB")])
def test_binary_secrets(aws: Any, name: str, held: bytes, value: str) -> None:
    """Text as it is, other bytes in base64."""
    aws.create_secret(Name=name, SecretBinary=held)
    assert texts(keeping(KEY=f"aws-sm:{name}").load_all("KEY")) == [value]


def test_by_arn_with_its_region(aws: Any, name: str, monkeypatch: pytest.MonkeyPatch, moto: MotoServer) -> None:
    """An ARN says which region; the URL may say region and endpoint too."""
    arn = aws.create_secret(Name=name, SecretString="value-1")["ARN"]
    monkeypatch.delenv("AWS_REGION")
    assert texts(keeping(KEY=f"aws-sm:{arn}").load_all("KEY")) == ["value-1"]
    monkeypatch.delenv("AWS_ENDPOINT_URL_SECRETS_MANAGER")
    url = f"aws-sm:{name}?region={REGION}&endpoint={moto.endpoint}"
    assert texts(keeping(KEY=url).load_all("KEY")) == ["value-1"]


def test_one_that_is_deleted_is_gone_at_the_second_look(aws: Any, name: str) -> None:
    """It answers InvalidRequest, not NotFound, while its name is taken; and what never was is missing."""
    aws.create_secret(Name=name, SecretString="value-1")
    clock = ManualClock()
    held = keeping(clock, KEY=f"aws-sm:{name}")
    assert held.load("KEY")
    aws.delete_secret(SecretId=name, RecoveryWindowInDays=7)
    for seconds, value in ((300, ["value-1"]), (5, [])):
        clock.advance(seconds)
        held.tend()
        assert texts(held.load_all("KEY")) == value
    aws.restore_secret(SecretId=name)
    clock.advance(31)
    held.tend()
    assert texts(held.load_all("KEY")) == ["value-1"]
    assert keeping(KEY=f"aws-sm:{name}-not").load("KEY") is None


def test_without_the_right_the_last_good_value_is_used(moto: MotoServer, aws: Any, name: str) -> None:
    """Moto checks signatures and rights when told, and says in XML that it refuses: there is no code to read."""
    aws.create_secret(Name=name, SecretString="value-1")
    iam = moto.client("iam")
    user = f"u{uuid4().hex[:8]}"
    iam.create_user(UserName=user)
    keys = iam.create_access_key(UserName=user)["AccessKey"]
    clock = ManualClock()
    known = keeping(clock, KEY=f"aws-sm:{name}")
    assert known.load("KEY")
    checks(moto, "0")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
            patch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
            with pytest.raises(SecretUnavailable, match=f"aws-sm:{name}: .*answered 403"):
                keeping(KEY=f"aws-sm:{name}").load("KEY")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-canary-value")
            with pytest.raises(SecretUnavailable, match=f"aws-sm:{name}: ") as caught:
                keeping(KEY=f"aws-sm:{name}").load("KEY")
            assert "canary" not in str(caught.value)
            clock.advance(300)
            known.tend()
            assert texts(known.load_all("KEY")) == ["value-1"]
    finally:
        checks(moto, "Infinity")


def checks(moto: MotoServer, after: str) -> None:
    """From which request on moto checks signatures and rights."""
    url = f"{moto.endpoint}/moto-api/reset-auth"
    urllib.request.urlopen(
        urllib.request.Request(url, after.encode(), {"Content-Type": "text/plain"}, method="POST")
    ).close()


def test_it_is_not_asked_for_its_own_keys(aws: Any, name: str) -> None:
    """As the only source of all secrets it would be: AWS's own are looked for elsewhere then."""
    aws.create_secret(Name=name, SecretString=json.dumps({"KEY": "key-value"}))
    held = Secrets(clock=ManualClock(), background=False)
    held.configure([f"aws-sm:{name}", "env:"])
    assert texts(held.load_all("KEY")) == ["key-value"]
    assert texts(held.load_all("AWS_REGION")) == [REGION]


@pytest.mark.parametrize("url", ["aws-sm:", "aws-sm:a b", "aws-sm:x?zone=1"])
def test_wrong_addresses_are_named(url: str) -> None:
    """When they are used."""
    with pytest.raises(ConfigurationError, match="aws-sm:"):
        AwsSecretsManager(Address.of(url))
