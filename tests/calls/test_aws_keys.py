from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from tests.calls.aws import ID, KEY, Mail, Script, nobodys_aws
from tests.calls.ledger import both, run

from moorline import Secret, errors, redaction
from moorline.calls.aws_keys import Pair
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.secrets.locker import secrets
from moorline.secrets.tally import Tally

DENIED = (403, b'{"message": "expired"}', {"x-amzn-ErrorType": "ExpiredTokenException"})


@pytest.fixture(autouse=True)
def environment() -> Iterator[pytest.MonkeyPatch]:
    with nobodys_aws() as patch:
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
        yield patch


class Role:
    """The metadata service of a container, as ECS and EKS have it: temporary keys, another pair at each request."""

    def __init__(self) -> None:
        self.asked = 0
        self.lasts = timedelta(hours=6)
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        role = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                role.asked += 1
                role.begun.set()
                role.open.wait(10)
                body = role.body(role.asked) if role.status == 200 else b"{}"
                self.send_response(role.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/creds"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def body(self, number: int) -> bytes:
        until = (datetime.now(UTC) + self.lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": f"ASIA{number}", "SecretAccessKey": f"temporary-secret-{number}"}
        return json.dumps(keys | {"Token": f"temporary-token-{number}", "Expiration": until}).encode()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def role(environment: pytest.MonkeyPatch) -> Iterator[Role]:
    with Role() as made:
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", made.url)
        yield made


def names(script: Script) -> list[str]:
    """The access keys that requests were signed with."""
    return [one.headers["authorization"].partition("Credential=")[2].partition("/")[0] for one in script.requests]


def ready(script: Script, *key: Any, **options: Any) -> Any:
    options.setdefault("clock", ManualClock())
    return script.service(Mail, *key, **options)


# Given, and of the environment -----------------------------------------------------------------------------------------


@both
def test_keys_of_the_environment(colour: str, environment: pytest.MonkeyPatch):
    """They are read at each send, a token with them: a rotation needs no restart."""
    script = Script((200, b"{}"))
    service = ready(script)
    environment.setenv("AWS_ACCESS_KEY_ID", ID)
    environment.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    run(colour, service.account())
    environment.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "another/secret")
    environment.setenv("AWS_SESSION_TOKEN", "a-session-token")
    run(colour, service.account())
    assert names(script) == [ID, "AKIDNEW"]
    assert [one.headers.get("x-amz-security-token") for one in script.requests] == [None, "a-session-token"]


@both
def test_given_keys_go_before_the_environment(colour: str, environment: pytest.MonkeyPatch):
    """With the token that was given with them, never with that of the environment."""
    for name, value in (
        ("ACCESS_KEY_ID", "AKIDOTHER"),
        ("SECRET_ACCESS_KEY", "other"),
        ("SESSION_TOKEN", "other-token"),
    ):
        environment.setenv(f"AWS_{name}", value)
    script = Script((200, b"{}"))
    run(colour, ready(script, KEY, access_key_id=ID).account())
    run(colour, ready(script, Secret(KEY), access_key_id=ID, session_token=Secret("ours-token")).account())
    assert names(script) == [ID, ID]
    assert [one.headers.get("x-amz-security-token") for one in script.requests] == [None, "ours-token"]


def test_keys_that_do_not_belong_together():
    """A secret key needs its name, a token needs keys."""
    with pytest.raises(errors.ConfigurationError, match="access_key_id"):
        Mail(KEY)
    with pytest.raises(errors.ConfigurationError, match="session_token"):
        Mail(session_token="x")


@both
def test_a_source_of_keys_is_told_to_refresh(colour: str):
    """One that can is, where AWS refuses the key; the call goes on with the newer one, within its deadline."""

    class Source:
        keys = ["old-secret", "new-secret"]  # noqa: RUF012

        def __call__(self) -> str:
            return self.keys[0]

        def refresh(self) -> None:
            self.keys = self.keys[1:]

    script = Script(DENIED, (200, b"{}"))
    run(colour, ready(script, Source(), access_key_id=ID).account())
    first, second = (one.headers["authorization"] for one in script.requests)
    assert first != second
    fixed = Script(DENIED)
    with pytest.raises(errors.AuthenticationFailed):
        run(colour, ready(fixed, KEY, access_key_id=ID).account())
    assert len(fixed.requests) == 1


@both
def test_no_keys_at_all(colour: str):
    """The error says where they were looked for."""
    script = Script()
    with pytest.raises(errors.ConfigurationError, match=r"AWS_ACCESS_KEY_ID.*Mail\(\).*role"):
        run(colour, ready(script).account())
    assert script.requests == []


@both
def test_half_a_pair(colour: str, environment: pytest.MonkeyPatch):
    """A name without its secret is not filled up from elsewhere."""
    environment.setenv("AWS_ACCESS_KEY_ID", ID)
    with pytest.raises(errors.ConfigurationError, match="AWS_SECRET_ACCESS_KEY"):
        run(colour, ready(Script()).account())


# Where AWS's own tools look --------------------------------------------------------------------------------------------


@both
def test_a_profile(colour: str, environment: pytest.MonkeyPatch, tmp_path: Path):
    """The file of shared credentials, by AWS_PROFILE; what was refused is read anew after half a minute."""
    file = tmp_path / "credentials"
    file.write_text(f"[work]\naws_access_key_id = {ID}\naws_secret_access_key = {KEY}\n")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    environment.setenv("AWS_PROFILE", "work")
    script, clock = Script((200, b"{}"), DENIED, (200, b"{}")), ManualClock()
    service = ready(script, clock=clock)
    run(colour, service.account())
    file.write_text("[work]\naws_access_key_id = AKIDNEW\naws_secret_access_key = new-secret\n")
    clock.sleep(31)
    run(colour, service.account())
    assert names(script) == [ID, ID, "AKIDNEW"]


@both
def test_a_broken_profile(colour: str, environment: pytest.MonkeyPatch, tmp_path: Path):
    """What is wrong with a file is told without its content."""
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = secret-thing\n")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(errors.ConfigurationError, match="PartialCredentialsError") as caught:
        run(colour, ready(Script()).account())
    assert "secret-thing" not in str(caught.value)
    assert caught.value.__cause__ is None
    environment.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(errors.ConfigurationError, match="ProfileNotFound"):
        run(colour, ready(Script()).account())


@both
def test_temporary_keys(colour: str, role: Role):
    """They come with a token, and are asked for once."""
    script = Script((200, b"{}"))
    service = ready(script)
    for _ in range(3):
        run(colour, service.account())
    assert names(script) == ["ASIA1"] * 3
    assert script.requests[0].headers["x-amz-security-token"] == "temporary-token-1"
    assert role.asked == 1


@both
def test_temporary_keys_are_renewed_before_their_end(colour: str, role: Role):
    """From a quarter of an hour before their end they are asked for again, twice a minute at most."""
    role.lasts = timedelta(minutes=14)
    script, clock = Script((200, b"{}")), ManualClock()
    service = ready(script, clock=clock)
    for pause in (0, 1, 30, 29, 2):
        clock.sleep(pause)
        run(colour, service.account())
    assert names(script) == ["ASIA2", "ASIA2", "ASIA3", "ASIA3", "ASIA4"]  # the first were as good as over


@both
def test_keys_serve_to_their_end_where_no_others_can_be_had(colour: str, role: Role):
    """A metadata service that is down is endured as long as the keys last; then it is an error that says so."""
    role.lasts = timedelta(minutes=5)
    script, clock = Script((200, b"{}")), ManualClock()
    service = ready(script, clock=clock)
    run(colour, service.account())
    role.status = 500
    clock.sleep(31)
    run(colour, service.account())
    assert names(script) == ["ASIA2", "ASIA2"]
    service.fetched._chain._expiry_time -= timedelta(minutes=6)
    with pytest.raises(errors.ServiceUnavailable, match="CredentialRetrievalError") as caught:
        run(colour, service.account())
    assert (caught.value.service, caught.value.operation, caught.value.outcome) == ("mail", "account", "not_sent")
    asked = role.asked
    with pytest.raises(errors.ServiceUnavailable):  # for a few seconds it is not asked again
        run(colour, service.account())
    assert role.asked == asked
    role.status = 200
    clock.sleep(6)
    run(colour, service.account())
    assert len(script.requests) == 3


@both
def test_expired_keys_are_fetched_anew(colour: str, role: Role):
    """Where AWS calls them expired, others are fetched and the call is sent again; at most once in half a minute."""
    script, clock = Script((200, b"{}"), DENIED, (200, b"{}"), DENIED), ManualClock()
    service = ready(script, clock=clock)
    run(colour, service.account())
    clock.sleep(31)
    run(colour, service.account())
    assert names(script) == ["ASIA1", "ASIA1", "ASIA2"]
    with pytest.raises(errors.AuthenticationFailed):
        run(colour, service.account())
    assert (names(script)[3:], role.asked) == (["ASIA2"], 2)


async def test_the_loop_goes_on_while_keys_are_fetched(role: Role):
    """The metadata service is asked in a thread, once for all calls that wait."""
    role.open.clear()
    script = Script((200, b"{}"))
    service = ready(script)

    async def call() -> Any:
        return await service.account()

    calls = [asyncio.create_task(call()) for _ in range(20)]
    await asyncio.to_thread(role.begun.wait, 10)  # which could not return if the loop stood still
    assert not any(one.done() for one in calls)
    role.open.set()
    await asyncio.gather(*calls)
    assert (role.asked, len(script.requests)) == (1, 20)


async def test_the_deadline_of_a_call_holds_for_its_keys(role: Role):
    """A metadata service that does not answer takes no longer than the call may; nothing was sent."""
    role.open.clear()
    script = Script()
    service = Mail(wire=script.service(Mail).wire, policy=Policy(deadline=0.05))
    with pytest.raises(errors.DeadlineExceeded) as caught:
        await service.account()
    assert (caught.value.outcome, caught.value.operation, script.requests) == ("not_sent", "account", [])
    role.open.set()


def test_many_threads_ask_once(role: Role):
    """Blocking calls wait for one another."""
    role.open.clear()
    script = Script((200, b"{}"))
    service = ready(script)
    threads = [threading.Thread(target=lambda: service.account().result()) for _ in range(8)]
    for one in threads:
        one.start()
    role.begun.wait(10)
    role.open.set()
    for one in threads:
        one.join()
    assert (role.asked, set(names(script))) == (1, {"ASIA1"})


def test_a_role_that_may_not_be_taken(monkeypatch: pytest.MonkeyPatch):
    """What STS refuses is the credential's fault, with STS's code."""
    from botocore.exceptions import ClientError

    def refused(_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole")

    monkeypatch.setattr("botocore.session.Session.get_credentials", refused)
    with pytest.raises(errors.AuthenticationFailed, match="ClientError") as caught:
        ready(Script()).account().result()
    assert (caught.value.code, caught.value.outcome, caught.value.service) == ("AccessDenied", "not_sent", "mail")


# Secrets ---------------------------------------------------------------------------------------------------------------


def test_nothing_shows_a_secret(role: Role):
    """Neither what stands for keys, nor the service, its calls and their errors; and both are masked everywhere."""
    script = Script((400, b'{"message": "temporary-secret-1 and temporary-token-1"}'))
    service = ready(script, policy=Policy(retry=None))
    call = service.account()
    with pytest.raises(errors.InvalidRequest) as caught:
        call.result()
    shown = (
        " ".join(map(repr, (service, call, call.plan, caught.value, service.fetched, service.key()))) + call.explain()
    )
    shown += (
        repr(Pair("AKIA", "temporary-secret-1", "temporary-token-1")) + str(caught.value) + repr(caught.value.detail)
    )
    assert "temporary-" not in shown
    assert "temporary-" not in redaction.text("x temporary-secret-1 temporary-token-1 y")


class Both(Mail):
    """Keys that are one value, so that two versions of both may stand side by side."""

    def own_keys(self) -> Pair | None:
        name, _, secret = self.secret().reveal().partition(":")
        return Pair(name, secret)


@both
def test_another_version_of_both_keys(colour: str, environment: pytest.MonkeyPatch):
    """What AWS refuses is sent with the other accepted version of id and secret, once, and then for a while."""
    environment.setenv("AWS_SECRET_ACCESS_KEY", f"AKIANEW0000000000000:{KEY},{ID}:{KEY}")
    for version in secrets().versions("AWS_SECRET_ACCESS_KEY"):
        version.secret.tally = None
    script = Script((403, b'{"message": "no"}', {"x-amzn-ErrorType": "InvalidClientTokenId"}), (200, b"{}", {}))
    service = Both(wire=httpx2.MockTransport(script), guards=Guards(), policy=Policy(retry=None))
    run(colour, service.invoke("GetAccount"))
    run(colour, service.invoke("GetAccount"))
    assert names(script) == ["AKIANEW0000000000000", ID, ID]


def test_uses_of_keys_that_sign_are_counted(environment: pytest.MonkeyPatch):
    """A signature with a secret key is a use of it, for who follows its versions."""
    environment.setenv("AWS_ACCESS_KEY_ID", ID)
    environment.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    tally = secrets().versions("AWS_SECRET_ACCESS_KEY")[0].secret.tally = Tally("AWS_SECRET_ACCESS_KEY", "1")
    service = Mail(wire=httpx2.MockTransport(Script((200, b"{}", {}))), guards=Guards())
    service.invoke("GetAccount").result()
    assert tally.accepted == 1
