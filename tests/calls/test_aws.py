from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tests.calls.aws import ID, KEY, Mail, Script, Topics, nobodys_aws
from tests.calls.ledger import both, run
from tests.sqs_servers import REGION, MotoServer, aws_environment

from moorline import errors
from moorline.calls.aws import AwsErrors
from moorline.calls.exchange import Exchange
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

NOW = 1_440_938_160.0  # 20150830T123600Z
OF_US = ("user-agent", "accept-encoding", "connection", "content-length")
XML = b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>m1</MessageId></PublishResult></PublishResponse>'


@pytest.fixture(autouse=True)
def environment() -> Iterator[pytest.MonkeyPatch]:
    with nobodys_aws() as patch:
        yield patch


def given(script: Script, kind: Any = Mail, **options: Any) -> Any:
    options = {"region": "us-east-1", "access_key_id": ID, **options}
    return script.service(kind, KEY, **options)


# Signatures and requests -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (Mail, lambda s: s.account()),
        (Mail, lambda s: s.send("zoë@example.com", "Grüße\n")),
        (Mail, lambda s: s.invoke("GetEmailTemplate", {"TemplateName": "größe 1/2 ~"})),
        (Mail, lambda s: s.invoke("ListContacts", {"ContactListName": "a b", "PageSize": 5})),
        (Mail, lambda s: s.request("GET", "/v2/email/x", query={"b": "2 3", "a": "ü", "c": ""})),
        (Topics, lambda s: s.publish("+447700900000", "Your code: 4711 & more +")),
    ],
    ids=["get", "json", "path", "numbers", "query", "form"],
)
def test_signatures_are_botocores(
    colour: Any, kind: Any, call: Any, token: str | None, monkeypatch: pytest.MonkeyPatch
):
    """The same request, signed by botocore itself at the same time, has the same headers, letter for letter."""
    script = Script((200, XML if kind is Topics else b"{}"))
    run(colour, call(given(script, kind, session_token=token, clock=ManualClock(NOW))).response())
    [request] = script.requests
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC))
    ours = {name: value for name, value in request.headers.items() if name.lower() not in OF_US}
    bare = {name: value for name, value in ours.items() if not name.startswith(("x-amz", "authorization", "host"))}
    expected = AWSRequest(method=request.method, url=str(request.url), data=request.content, headers=bare)
    SigV4Auth(Credentials(ID, KEY, token), "ses" if kind is Mail else "sns", "us-east-1").add_auth(expected)
    assert ours["x-amz-date"] == "20150830T123600Z"
    assert {name: value for name, value in ours.items() if name != "host"} == {
        name.lower(): value for name, value in expected.headers.items()
    }
    assert "host;x-amz-date" in ours["authorization"]


@pytest.mark.parametrize(
    ("kind", "model", "operation", "parameters"),
    [
        (Mail, "sesv2", "GetEmailTemplate", {"TemplateName": "größe 1/2"}),
        (Mail, "sesv2", "ListSuppressedDestinations", {"Reasons": ["BOUNCE", "COMPLAINT"], "PageSize": 5}),
        (Mail, "sesv2", "SendEmail", {"Content": {"Raw": {"Data": b"\x00\xff"}}}),
        (Topics, "sns", "Publish", {"TopicArn": "arn:x", "Message": "ü &", "MessageAttributes": {
            "a": {"DataType": "String", "StringValue": "1"}, "b": {"DataType": "Binary", "BinaryValue": b"\x01"}}}),
        (Topics, "sns", "PublishBatch", {"TopicArn": "arn:x", "PublishBatchRequestEntries": [
            {"Id": "1", "Message": "a"}, {"Id": "2", "Message": "b"}]}),
    ],
)  # fmt: skip
def test_requests_are_botocores(kind: Any, model: str, operation: str, parameters: dict[str, Any]):
    """Address, query, type and body are those that botocore's own client sends."""
    client = botocore.session.get_session().create_client(
        model, region_name="us-east-1", aws_access_key_id=ID, aws_secret_access_key=KEY
    )
    theirs: list[Any] = []

    class Seen(Exception):
        pass

    def seen(request: Any, **_: Any) -> None:
        theirs.append(request)
        raise Seen

    client.meta.events.register("before-send", seen)
    with pytest.raises(Seen):
        client._make_api_call(operation, parameters)
    script = Script((200, b"{}" if kind is Mail else b"<X/>"))
    given(script, kind).invoke(operation, parameters).response().result()
    [request], [other] = script.requests, theirs
    assert str(request.url) == other.url
    body = other.body or b""
    assert (request.method, request.content) == (other.method, body.encode() if isinstance(body, str) else body)
    assert request.headers.get("content-type", "") == other.headers.get("Content-Type", b"").decode()
    assert request.headers["accept"] == ("application/json" if kind is Mail else "*/*")


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, str, str]]:
    """The address of moto, which checks signatures, and the keys that it takes."""
    with aws_environment(), MotoServer() as server:
        iam = server.client("iam")
        iam.create_user(UserName="us")
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="us", PolicyName="all", PolicyDocument=json.dumps(document))
        keys = iam.create_access_key(UserName="us")["AccessKey"]
        server.client("sesv2").create_email_identity(EmailIdentity="shop@example.com")
        checking = urllib.request.Request(
            f"{server.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(checking).close()
        yield server.endpoint, keys["AccessKeyId"], keys["SecretAccessKey"]


@both
def test_moto_takes_our_signatures(colour: Any, moto: tuple[str, str, str]):
    """A server that checks them takes what we sign, JSON and forms, and refuses another secret."""
    url, name, secret = moto
    options = {"base_url": url, "region": REGION, "access_key_id": name}
    assert len(run(colour, Mail(secret, **options).send("ada@example.com", "Grüße"))) > 10
    assert len(run(colour, Topics(secret, **options).publish("+447700900000", "Your code is 4711 + ü"))) > 10
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(colour, Topics("another", **options).publish("+447700900000", "x"))
    assert caught.value.code == "SignatureDoesNotMatch"
    with pytest.raises(errors.CredentialFault):  # of which moto tells in XML here too
        run(colour, Mail("another", **options).send("ada@example.com", "x"))


def test_the_pipeline_signs_each_attempt_anew():
    """A retry has a date and a signature of its own."""
    clock = ManualClock(NOW)
    script = Script((500, b"{}"), (200, b"{}"))
    given(script, clock=clock, policy=Policy(retry=Retry(jitter="none"))).account().result()
    first, second = script.requests
    assert first.headers["x-amz-date"] < second.headers["x-amz-date"]
    assert first.headers["authorization"] != second.headers["authorization"]


@both
def test_request_reaches_what_has_no_operation(colour: Any):
    """JSON comes as values, XML as its text, and nothing as None."""
    assert run(colour, given(Script((200, b'{"a": 1}', {"Content-Type": "application/x-amz-json-1.0"}))).request(
        "GET", "/v2/email/x")) == {"a": 1}  # fmt: skip
    topics = given(Script((200, XML, {"Content-Type": "text/xml"})), Topics)
    form = {"Action": "ListTopics", "Version": "2010-03-31"}
    assert run(colour, topics.request("POST", "/", form=form)) == XML.decode()
    assert run(colour, given(Script((200, b""))).request("DELETE", "/v2/email/x")) is None
    listed = b"<ListTopicsResponse><ListTopicsResult><Topics><member><TopicArn>a</TopicArn></member></Topics></ListTopicsResult></ListTopicsResponse>"
    assert run(colour, given(Script((200, listed)), Topics).invoke("ListTopics")) == {"Topics": [{"TopicArn": "a"}]}


def test_what_the_model_does_not_allow():
    """It is named before anything is sent, without what it held."""
    script = Script()
    for parameters, word in (
        ({"Content": {"Raw": {"Data": 5}}}, "Content.Raw.Data"),
        ({"FromEmailAddress": ["private-value"], "Content": {}}, "FromEmailAddress"),
        ({}, "Content"),
        ({"Content": {}, "Contents": "x"}, "Contents"),
        ({"Content": {"Template": {"TemplateName": ""}}}, "TemplateName"),
    ):
        with pytest.raises(errors.InvalidRequest, match=word) as caught:
            given(script).invoke("SendEmail", parameters)
        assert "private-value" not in str(caught.value)
        assert caught.value.outcome == "not_sent"
    with pytest.raises(errors.ConfigurationError, match="no operation"):
        given(script).invoke("SendMail")
    assert script.requests == []


# Answers ---------------------------------------------------------------------------------------------------------------


def error_of(kind: Any, status: int, body: bytes, **headers: str) -> errors.CallError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found: errors.CallError = kind.errors.error(Exchange(status, named, body))
    return found


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "InvalidParameter", errors.InvalidRequest),
        (403, "AuthorizationError", errors.PermissionDenied),
        (404, "NotFound", errors.NotFound),
        (400, "Throttling", errors.RateLimited),
        (429, "Throttled", errors.RateLimited),
        (500, "InternalError", errors.ServiceUnavailable),
        (403, "InvalidClientTokenId", errors.AuthenticationFailed),
        (403, "SignatureDoesNotMatch", errors.AuthenticationFailed),
        (400, "RequestExpired", errors.AuthenticationFailed),
        (403, "ExpiredToken", errors.AuthenticationFailed),
    ],
)
def test_errors_in_xml(status: int, code: str, expected: type[errors.CallError]):
    """Code, message and request id of AWS's ErrorResponse."""
    body = f"""<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>{code}</Code>
        <Message>No &amp; no.</Message></Error><RequestId>d74b8436</RequestId></ErrorResponse>""".encode()
    error = error_of(Topics, status, body)
    assert (type(error), error.code, error.message) == (expected, code, "No & no.")
    assert Topics.errors.request_id_of(Exchange(status, {}, body)) == "d74b8436"
    assert Topics.errors.request_id_of(Exchange(status, {"x-amzn-requestid": "r1"}, body)) == "r1"


@pytest.mark.parametrize("kind", [Mail, Topics])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html><body><b>Http/1.1 Service Unavailable</b></body></html>"),
        (503, b""),
        (403, b"{}"),
        (403, b"Forbidden"),
        (500, b"[" * 100_000),
        (400, b'{"__type": 5, "message": ["x"]}'),
        (400, b"<ErrorResponse><Error/></ErrorResponse>"),
        (400, b"<ErrorResponse><Error><Code><x/></Code></Error></ErrorResponse>"),
    ],
)
def test_what_is_no_error_of_aws(kind: Any, status: int, body: bytes):
    """A proxy's page, an empty body, half an answer: the status says enough, and is not taken for a code."""
    error = error_of(kind, status, body)
    assert error.code is None
    assert error.status == status
    assert kind.errors.request_id_of(Exchange(status, {}, body)) is None


def test_a_services_own_word_goes_before_that_of_all():
    """What a service says of a code that elsewhere is a limit."""
    own = AwsErrors(model="sesv2", kinds={"LimitExceededException": errors.Conflict})
    answer = Exchange(400, {"x-amzn-errortype": "LimitExceededException"}, b"{}")
    assert type(own.error(answer)) is errors.Conflict
    assert type(Mail.errors.error(answer)) is errors.RateLimited


@both
@pytest.mark.parametrize("body", [b"<a", b"{", b"", b"[]", b"<a/>", b'{"MessageId": 5, "x": []}', b"null"])
@pytest.mark.parametrize(("kind", "call"), [
    (Mail, lambda s: s.send("a@b.example", "x")), (Topics, lambda s: s.publish("+447700900000", "x")),
])  # fmt: skip
def test_answers_of_another_shape(colour: Any, kind: Any, call: Any, body: bytes):
    """They are BadAnswer, or what the operation reads from what is there."""
    service = given(Script((200, body)), kind, policy=Policy(retry=None))
    if body.startswith(b'{"M') and kind is Mail:
        assert run(colour, call(service)) == "5"
        return
    with pytest.raises(errors.BadAnswer) as caught:
        run(colour, call(service))
    assert caught.value.service == service.name


# Regions ---------------------------------------------------------------------------------------------------------------


def test_where_the_region_comes_from(environment: pytest.MonkeyPatch, tmp_path: Path):
    """The argument, AWS_REGION, AWS_DEFAULT_REGION, AWS's configuration; at a sandbox there is always one."""
    from moorline.calls import aws

    assert Mail().in_sandbox is False
    with pytest.raises(errors.ConfigurationError, match="AWS_REGION"):
        _ = Mail().region
    assert repr(Mail()) == "<Mail without a region>"
    assert Mail(base_url="http://127.0.0.1:1").region == "us-east-1"
    (tmp_path / "config").write_text("[default]\nregion = ap-south-1\n[profile x]\nregion = sa-east-1\n")
    environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws._session.cache_clear()
    assert repr(Mail()) == "<Mail at https://email.ap-south-1.amazonaws.com>"
    environment.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert Mail().region == "eu-west-1"
    environment.setenv("AWS_REGION", "eu-central-1")
    assert Mail().region == "eu-central-1"
    assert Mail(region="us-gov-west-1").base_url == "https://email.us-gov-west-1.amazonaws.com"
    assert Topics(region="cn-north-1").base_url == "https://sns.cn-north-1.amazonaws.com.cn"
    for wrong in ("mars", "eu-west-1.evil.example", "eu-west-1/", ""):
        with pytest.raises(errors.ConfigurationError, match=r"mail\.region"):
            Mail(region=wrong)
    environment.setenv("AWS_REGION", "eu-west-1.evil.example")
    with pytest.raises(errors.ConfigurationError, match="AWS_REGION"):
        _ = Mail().base_url


def test_fips(environment: pytest.MonkeyPatch):
    """Who asks AWS's tools for validated cryptography gets those hosts here too."""
    from moorline.calls import aws

    environment.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    aws._address.cache_clear()
    try:
        assert Mail(region="us-east-1").base_url == "https://email-fips.us-east-1.amazonaws.com"
    finally:
        aws._address.cache_clear()


def test_regions_fail_by_themselves():
    """Each has a breaker of its own."""
    one, other = Mail(region="us-east-1"), Mail(region="eu-west-1")
    assert one._guard_name(one.base_url) == "mail"
    assert other._guard_name(other.base_url) == "mail at https://email.eu-west-1.amazonaws.com"


def test_botocore_is_loaded_by_the_first_call():
    """Importing a service of AWS, making and showing it costs nothing of botocore's."""
    code = (
        "import sys; from moorline.services import SES, SNS, SNSPush;"
        "SES(region='eu-west-1'); SNS('k', access_key_id='a'); SNSPush(base_url='http://127.0.0.1:1').__repr__();"
        "found = [one for one in sys.modules if one.startswith('boto')]; assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_botocore(monkeypatch: pytest.MonkeyPatch):
    """The error names the extra to install, at the first call and where the address or the region is asked for."""
    service = given(Script())
    monkeypatch.setitem(sys.modules, "botocore", None)
    bare = Mail()
    for ask in (
        service.account,
        lambda: service.invoke("GetAccount"),
        lambda: service.request("GET", "/"),
        lambda: service.base_url,
        lambda: bare.region,
        bare.key,
    ):
        with pytest.raises(errors.ConfigurationError, match=r"mail needs botocore; pip install 'moorline\[aws\]'"):
            ask()


def test_what_is_signed_is_what_is_sent():
    """The host with its port, and the path as it is written."""
    script = Script((200, b"{}"))
    options = {"base_url": "http://localhost:8000/mail", "access_key_id": ID}
    script.service(Mail, KEY, **options).invoke("GetEmailTemplate", {"TemplateName": "a b"}).response().result()
    [request] = script.requests
    assert request.headers["host"] == "localhost:8000"
    assert request.url.raw_path == b"/mail/v2/email/templates/a%20b"
