from __future__ import annotations

import io
import pickle
import socket
import time
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session
import pytest
from botocore.stub import Stubber
from tests.calls import fault_server
from tests.calls.adapters.faulty import HANG_UP, Faulty
from tests.calls.fault_server import FaultServer

from moorline import errors
from moorline.calls.adapters.botocore import install
from moorline.calls.adapters.functions import resilient
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

ONCE: Any = {"total_max_attempts": 1, "mode": "standard"}
QUEUE = "https://sqs.us-east-1.amazonaws.com/1/q"
SENT = (200, {"Content-Type": "application/x-amz-json-1.0"}, b'{"MessageId": "m", "MD5OfMessageBody": ""}')


@pytest.fixture(scope="module")
def aws() -> Any:
    """One session for the module: its models are slow to load."""
    session = botocore.session.Session()
    session.set_credentials("AKIDEXAMPLE", "canary0123456789")
    return session


def client(aws: Any, service: str, url: str, policy: Policy | None = None, retries: Any = ONCE, **options: Any) -> Any:
    config = botocore.config.Config(
        retries=retries, s3={"addressing_style": "path"}, region_name="us-east-1", proxies={}, signature_version="v4"
    )
    made = aws.create_client(service, endpoint_url=url, config=config, region_name="us-east-1")
    return install(made, policy, **options) if retries is ONCE else made


def send(sqs: Any) -> Any:
    return sqs.send_message(QueueUrl=QUEUE, MessageBody="x")


def test_answers_are_botocores_own(aws):
    """A success is parsed by botocore as ever, its body streamed, and its connection used again."""
    with Faulty((200, {"ETag": '"e"'}, b"content")) as server:
        s3 = client(aws, "s3", server.url, guards=server.guards)
        for _ in range(2):
            answer = s3.get_object(Bucket="b", Key="k")
            assert (answer["ETag"], answer["Body"].read()) == ('"e"', b"content")
        assert server.heads[0].startswith(b"GET /b/k ")


def test_reads_and_puts_are_repeated(aws):
    """A GET is asked again after a 503 and a cut connection; a PUT sends its file again from the start, after an error
    that came with 200 as well.
    """
    with Faulty(503, HANG_UP, 200) as server:
        s3 = client(aws, "s3", server.url, guards=server.guards)
        assert s3.get_object(Bucket="b", Key="k")["Body"].read() == b"{}"
        assert len(server.heads) == 3
    with Faulty(500, (200, {}, b"<Error><Code>InternalError</Code></Error>"), (200, {}, b"")) as server:
        s3 = client(aws, "s3", server.url, guards=server.guards)
        s3.put_object(Bucket="b", Key="k", Body=io.BytesIO(b"file"))
        assert len(server.bodies) == 3
        assert len(set(server.bodies)) == 1
        assert b"file" in server.bodies[0]


@pytest.mark.parametrize("first", [503, HANG_UP])
def test_a_message_is_sent_once_unless_told_otherwise(aws, first):
    """SQS knows no key for a message: one that may be there is not sent again, except where the caller says so."""
    kind = botocore.exceptions.ClientError if first == 503 else botocore.exceptions.ConnectionClosedError
    with Faulty(first, SENT) as server:
        sqs = client(aws, "sqs", server.url, guards=server.guards)
        with pytest.raises(kind) as caught:
            send(sqs)
        assert len(server.heads) == 1
        if first is HANG_UP:
            assert isinstance(caught.value, errors.OutcomeUnknown)
            assert (caught.value.service, caught.value.operation) == ("aws.sqs", "SendMessage")
    with Faulty(first, SENT) as server:
        sqs = client(aws, "sqs", server.url, guards=server.guards, safe=["SendMessage"])
        assert send(sqs)["MessageId"] == "m"
        assert len(server.heads) == 2


def test_reads_of_post_protocols_are_repeated(aws):
    """What only reads is repeated, though all of SQS is POST."""
    with Faulty(HANG_UP, (200, {}, b'{"QueueUrls": []}')) as server:
        assert client(aws, "sqs", server.url, guards=server.guards).list_queues()["QueueUrls"] == []
        assert len(server.heads) == 2


def test_tokens_make_a_repeat_safe(aws):
    """An operation for which botocore makes an idempotency token is repeated with the same token, which errors name."""
    with Faulty(HANG_UP) as server:
        athena = client(aws, "athena", server.url, Policy(retry=Retry(retries=1)), guards=server.guards)
        with pytest.raises(botocore.exceptions.ConnectionClosedError) as caught:
            athena.start_query_execution(QueryString="SELECT 1")
        error: Any = caught.value
        assert len(server.bodies) == 2
        assert error.idempotency_key.encode() in server.bodies[0]
        assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize(
    ("service", "answer"),
    [
        ("sqs", (400, {}, b'{"__type": "com.amazonaws.sqs#ThrottlingException", "message": "slow"}')),
        ("sqs", (400, {"x-amzn-query-error": "RequestThrottled;Sender"}, b"{}")),
        ("s3", (503, {}, b"<Error><Code>SlowDown</Code><Message>Reduce</Message></Error>")),
        ("s3", (429, {}, b"")),
    ],
)
def test_throttling_is_a_limit(aws, service, answer):
    """Whatever the protocol, a throttled request is repeated, and the breaker does not hear of it."""
    policy = Policy(retry=Retry(retries=2), breaker=Breaker(failures=1))
    with Faulty(answer) as server:
        made = client(aws, service, server.url, policy, guards=server.guards)
        for count in (3, 6):
            with pytest.raises(botocore.exceptions.ClientError):
                send(made) if service == "sqs" else made.put_object(Bucket="b", Key="k", Body=b"x")
            assert len(server.heads) == count


def test_aws_own_retry_after_is_obeyed(aws):
    """``x-amz-retry-after`` counts milliseconds."""
    busy = (400, {"x-amz-retry-after": "7000"}, b'{"__type": "ThrottlingException"}')
    with Faulty(busy, SENT) as server:
        send(client(aws, "sqs", server.url, guards=server.guards))
        assert sum(server.clock.slept) >= 7 - 1e-6


def test_the_breaker_opens_for_one_service_of_aws(aws):
    """Failures of SQS refuse SQS, and functions under its name, with an error that AWS's users catch; S3 goes on."""
    policy = Policy(retry=None, breaker=Breaker(failures=2))
    with Faulty(500) as server:
        sqs = client(aws, "sqs", server.url, policy, guards=server.guards)
        for _ in range(2):
            with pytest.raises(botocore.exceptions.ClientError):
                send(sqs)
        other = client(aws, "sqs", server.url, policy, guards=server.guards)
        with pytest.raises(botocore.exceptions.BotoCoreError) as caught:
            send(other)
        assert isinstance(caught.value, errors.CircuitOpen)
        assert isinstance(caught.value, botocore.exceptions.HTTPClientError)
        with pytest.raises(errors.CircuitOpen):
            resilient("aws.sqs", policy, guards=server.guards).call(len, "")
        assert len(server.heads) == 2
        with pytest.raises(botocore.exceptions.ClientError):
            client(aws, "s3", server.url, policy, guards=server.guards).get_object(Bucket="b", Key="k")
        assert len(server.heads) == 3


def test_the_deadline_holds_for_dripping_bodies(aws):
    """A body that drips ends at the deadline, be it parsed by botocore or streamed by the user."""
    with FaultServer(fault_server.drip) as server:
        sqs = client(
            aws, "sqs", server.url, Policy(deadline=0.5)
        )  # reads its model from the disk, outside the deadline
        begun = time.monotonic()
        with pytest.raises(botocore.exceptions.ReadTimeoutError) as caught:
            sqs.list_queues()
        assert isinstance(caught.value, errors.DeadlineExceeded)
        assert 0.4 < time.monotonic() - begun < 0.7
        s3 = client(aws, "s3", server.url, Policy(deadline=0.5))
        begun = time.monotonic()
        body = s3.get_object(Bucket="b", Key="k")["Body"]
        with pytest.raises(botocore.exceptions.HTTPClientError) as late:
            body.read()
        assert isinstance(late.value, errors.DeadlineExceeded)
        assert 0.4 < time.monotonic() - begun < 0.7


def test_the_deadline_holds_for_silence(aws):
    """A server that says nothing is left at the deadline; a write's outcome is unknown."""
    with FaultServer(fault_server.silent) as server:
        sqs = client(aws, "sqs", server.url, Policy(deadline=0.4))
        begun = time.monotonic()
        with pytest.raises(botocore.exceptions.ReadTimeoutError) as caught:
            send(sqs)
        assert isinstance(caught.value, errors.OutcomeUnknown)
        assert 0.3 < time.monotonic() - begun < 0.6
        assert b"canary" not in pickle.dumps(caught.value)
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), botocore.exceptions.ReadTimeoutError)


def test_a_refused_connection_was_never_sent(aws):
    """Nobody listens: the error is ours and botocore's, and says that nothing left."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(botocore.exceptions.EndpointConnectionError) as caught:
        send(client(aws, "sqs", f"http://127.0.0.1:{port}", Policy(retry=None), name="nobody", guards=Guards()))
    assert isinstance(caught.value, errors.ConnectFailed)
    assert caught.value.outcome == "not_sent"


def test_a_streamed_object_holds_its_slot(aws):
    """The bulkhead counts a streamed object until it is read or closed."""
    guards, policy = Guards(), Policy(bulkhead=Bulkhead(1))
    bulkhead = guards.guard("aws.s3", policy).bulkhead
    assert bulkhead
    with Faulty((200, {}, b"body" * 50_000)) as server:
        s3 = client(aws, "s3", server.url, policy, guards=guards)
        for end in ("read", "close"):
            body = s3.get_object(Bucket="b", Key="k")["Body"]
            assert bulkhead.busy == 1
            with pytest.raises(errors.BulkheadFull):
                s3.get_object(Bucket="b", Key="k")
            getattr(body, end)()
            assert bulkhead.busy == 0


def test_stubs_go_on_working(aws):
    """A Stubber of botocore's answers before anything is sent."""
    sqs = client(aws, "sqs", "http://127.0.0.1:9", guards=Guards())
    with Stubber(sqs) as stub:
        stub.add_response("list_queues", {"QueueUrls": ["u"]})
        assert sqs.list_queues()["QueueUrls"] == ["u"]


@pytest.mark.parametrize(
    "retries", [None, {"mode": "standard"}, {"mode": "adaptive"}, {"max_attempts": 3}, {"total_max_attempts": 2}]
)
def test_double_retries_are_refused_with_the_line_to_write(aws, retries):
    """A client that retries by itself is refused, and the message has what to write."""
    made = client(aws, "sqs", "http://127.0.0.1:9", retries=retries)
    with pytest.raises(errors.ConfigurationError) as caught:
        install(made)
    assert 'Config(retries={"total_max_attempts": 1, "mode": "standard"})' in str(caught.value)


def test_no_retries_may_be_written_in_either_way(aws):
    """``max_attempts: 0`` counts retries, and means one attempt."""
    install(client(aws, "sqs", "http://127.0.0.1:9", retries={"max_attempts": 0}), guards=Guards())


def test_a_session_equips_its_later_clients():
    """What a session makes after ``install`` has the pipeline, and is refused if it retries by itself."""
    session = botocore.session.Session()
    session.set_credentials("AKIDEXAMPLE", "canary0123456789")
    config = botocore.config.Config(retries=ONCE, proxies={})
    with Faulty(HANG_UP, (200, {}, b'{"QueueUrls": []}')) as server:
        install(session, guards=server.guards)
        options: Any = {"endpoint_url": server.url, "region_name": "us-east-1"}
        session.create_client("sqs", config=config, **options).list_queues()
        assert len(server.heads) == 2
        with pytest.raises(errors.ConfigurationError, match="total_max_attempts"):
            session.create_client("sqs", **options)


@pytest.mark.parametrize(("argument", "value"), [("policy", 5), ("name", ""), ("guards", {}), ("safe", "One")])
def test_wrong_arguments_are_named(aws, argument, value):
    """A wrong argument is refused by name, and so are a second layer and what is no client."""
    with pytest.raises(errors.ConfigurationError, match=argument):
        client(aws, "sqs", "http://127.0.0.1:9", **{argument: value})
    with pytest.raises(errors.ConfigurationError, match="already"):
        install(client(aws, "sqs", "http://127.0.0.1:9", guards=Guards()))
    with pytest.raises(errors.ConfigurationError, match="not int"):
        install(5)
