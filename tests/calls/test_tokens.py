"""Access tokens: fetched once for all, renewed early, and never a reason to send a call twice."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import google.auth.jwt
import httpx2
import pytest

from moorline import errors, redaction
from moorline.calls.cache import Cache
from moorline.calls.dialects import BearerKey, Endpoints
from moorline.calls.guards import Guards
from moorline.calls.parameters import Parameter
from moorline.calls.service import Plan, operation
from moorline.calls.tokens import (
    ClientCredentials,
    Grant,
    KeyFile,
    RefreshToken,
    ServiceAccount,
    TokenService,
    key_file,
)
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.secrets.secret import Secret


class Bank(TokenService):
    """A service with tokens."""

    name, category = "bank", "payments"
    endpoints = Endpoints("https://bank.example")
    credentials = BearerKey(env="BANK_SECRET")
    client_id = Parameter("BANK_CLIENT")
    tokens: ClassVar[Grant] = ClientCredentials("/oauth/token")

    @operation
    def read(self) -> Plan[Any]:
        """Read."""
        return self.get("/thing", parse=lambda exchange: exchange.data)

    @operation
    def write(self) -> Plan[Any]:
        """Write."""
        return self.post("/thing", json={}, parse=lambda exchange: exchange.data)


class Server:
    """Gives tokens ``t1``, ``t2``, … and takes those that are in ``good``."""

    def __init__(self, *, lasts: float = 3600, delay: float = 0.0) -> None:
        self.lasts, self.delay = lasts, delay
        self.asked: list[httpx2.Request] = []
        self.sent: list[str] = []
        self.good: set[str] | None = None
        self.refuse: Callable[[], httpx2.Response] | None = None
        self._lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        if request.url.path == "/oauth/token":
            with self._lock:
                self.asked.append(request)
                number = len(self.asked)
            time.sleep(self.delay)
            if self.refuse is not None:
                return self.refuse()
            return httpx2.Response(200, json={"access_token": f"token-{number:010}", "expires_in": self.lasts})
        token = request.headers["authorization"].removeprefix("Bearer ")
        self.sent.append(token)
        if self.good is not None and token not in self.good:
            return httpx2.Response(401, json={})
        return httpx2.Response(200, json={"token": token})

    def bank(self, clock: ManualClock | None = None, **options: Any) -> Bank:
        """The service at this server."""
        clock = clock or ManualClock()
        policy = Policy(retry=None, breaker=None)
        options = {"policy": policy, "client_id": "shop", "guards": Guards(clock=clock), "clock": clock, **options}
        return Bank(options.pop("key", "secret-0123456789"), wire=httpx2.MockTransport(self), **options)


def both(make: Callable[[], Any], colour: str) -> Any:
    """The result of a Call, blocking or awaited."""

    async def awaited() -> Any:
        return await make()

    return make().result() if colour == "sync" else asyncio.run(awaited())


COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


@COLOURS
def test_a_token_is_fetched_once_and_sent(colour: str):
    """The first call fetches it with the client's id and secret; the next ones send it."""
    server = Server()
    bank = server.bank()
    assert both(bank.read, colour) == both(bank.read, colour) == {"token": "token-0000000001"}
    [asked] = server.asked
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(b"shop:secret-0123456789").decode()
    assert parse_qs(asked.content.decode()) == {"grant_type": ["client_credentials"]}


@COLOURS
@pytest.mark.parametrize("layer", [{"cache": Cache()}, {"coalesce": True}], ids=["cache", "coalesce"])
def test_it_is_there_before_a_request_is_looked_at(colour: str, layer: dict[str, Any]):
    """A cache and shared reads look at the whole request: with a token that was fetched before, or with its failure."""
    server = Server()
    server.refuse = lambda: httpx2.Response(401, json={"error": "invalid_client"})
    bank = server.bank(**layer)
    with pytest.raises(errors.AuthenticationFailed) as caught:
        both(bank.read, colour)
    assert (caught.value.outcome, caught.value.operation, server.sent) == ("not_sent", "read", [])
    server.refuse = None
    assert both(bank.read, colour) == {"token": f"token-{len(server.asked):010}"}


def test_many_at_once_fetch_one():
    """A hundred calls on a loop, or on threads, that find no token fetch one between them."""
    server = Server(delay=0.05)
    bank = server.bank()

    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*(_awaited(bank.read()) for _ in range(100))))

    async def _awaited(call: Any) -> Any:
        return await call

    assert len(asyncio.run(all_of_them())) == 100
    assert len(server.asked) == 1
    threaded = Server(delay=0.05)
    bank = threaded.bank()
    threads = [threading.Thread(target=lambda: bank.read().result()) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(threaded.asked), len(threaded.sent)) == (1, 10)


@COLOURS
def test_it_is_renewed_before_its_end(colour: str):
    """Five minutes before its end there is a new one, and not before."""
    server, clock = Server(lasts=3600), ManualClock()
    bank = server.bank(clock)
    both(bank.read, colour)
    clock.advance(3299)
    both(bank.read, colour)
    assert len(server.asked) == 1
    clock.advance(2)
    assert both(bank.read, colour) == {"token": f"token-{len(server.asked):010}"}


@COLOURS
def test_an_old_one_serves_while_there_is_no_new_one(colour: str):
    """A token endpoint that is down stops nobody before the old token ends; then the call fails, and was not sent."""
    server, clock = Server(lasts=3600), ManualClock()
    bank = server.bank(clock)
    both(bank.read, colour)
    server.refuse = lambda: httpx2.Response(503)
    clock.advance(3400)
    assert both(bank.read, colour) == {"token": "token-0000000001"}
    asked = len(server.asked)
    both(bank.read, colour)
    assert len(server.asked) == asked, "it is not asked again at once"
    clock.advance(300)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        both(bank.write, colour)
    assert (caught.value.outcome, caught.value.service, caught.value.operation) == ("not_sent", "bank", "write")
    assert len(server.sent) == 3


@COLOURS
def test_a_refused_token_is_replaced_once(colour: str):
    """A token that was revoked is fetched anew, and the call sent again; one that is refused again is an error."""
    server, clock = Server(), ManualClock()
    bank = server.bank(clock)
    both(bank.read, colour)
    clock.advance(60)
    server.good = {"token-0000000002"}
    assert both(bank.read, colour) == {"token": f"token-{len(server.asked):010}"}
    clock.advance(60)
    server.good = set()
    with pytest.raises(errors.AuthenticationFailed):
        both(bank.read, colour)
    assert len(server.asked) == 3
    with pytest.raises(errors.AuthenticationFailed):
        both(bank.read, colour)
    assert len(server.asked) == 3, "a key that is really revoked is no storm at the token endpoint"


@COLOURS
def test_a_new_secret_means_a_new_token(colour: str):
    """What was fetched with a secret that is no longer the configured one is not used."""
    keys = ["old-secret-0123456789"]
    server = Server()
    bank = server.bank(key=lambda: keys[0])
    both(bank.read, colour)
    keys[0] = "new-secret-0123456789"
    assert both(bank.read, colour) == {"token": f"token-{len(server.asked):010}"}


@COLOURS
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx2.Response(400, json={"error": "invalid_grant", "error_description": "no"}), errors.AuthenticationFailed),
        (httpx2.Response(401, json={"error": "invalid_client"}), errors.AuthenticationFailed),
        (httpx2.Response(200, json={"expires_in": 5}), errors.BadAnswer),
        (httpx2.Response(200, json={"access_token": "x" * 20, "expires_in": -1}), errors.BadAnswer),
        (httpx2.Response(200, content=b"<html>"), errors.BadAnswer),
        (httpx2.Response(429, headers={"Retry-After": "9"}), errors.RateLimited),
    ],
    ids=["grant", "client", "none", "over", "html", "limit"],
)
def test_what_the_endpoint_refuses(colour: str, answer: httpx2.Response, kind: type[errors.CallError]):
    """It is typed, named after the call that was not sent, and shows no secret."""
    server = Server()
    server.refuse = lambda: answer
    with pytest.raises(kind) as caught:
        both(server.bank().write, colour)
    assert (caught.value.outcome, caught.value.operation) == ("not_sent", "write")
    assert "secret-0123456789" not in repr(caught.value) + str(caught.value.detail)
    assert server.sent == []


class Diary(Bank):
    """A service that acts for a user."""

    client_secret = Parameter("DIARY_APP_SECRET", secret=True, default="")
    tokens = RefreshToken("/oauth/token")


class Kept:
    """A refresh token that is kept somewhere, and followed by others."""

    def __init__(self, *tokens: str) -> None:
        self.held = list(tokens)

    def __call__(self) -> str:
        return self.held[-1]

    def rotated(self, successor: Secret) -> None:
        self.held.append(successor.reveal())


def rotating(server: Server, *, lasts: float = 100) -> Callable[[], httpx2.Response]:
    """Answers that bring the next refresh token, for the last one alone."""

    def answer() -> httpx2.Response:
        shown = parse_qs(server.asked[-1].content.decode())["refresh_token"]
        number = len(server.asked)
        if shown != [f"refresh-{number - 1:010}"]:
            return httpx2.Response(400, json={"error": "invalid_grant"})
        body = {"access_token": f"token-{number:010}", "refresh_token": f"refresh-{number:010}", "expires_in": lasts}
        return httpx2.Response(200, json=body)

    return answer


@COLOURS
def test_a_refresh_token_is_exchanged(colour: str):
    """It is sent with the app's id and secret; an app without a secret sends none; the secret is masked."""
    server = Server()
    service = Diary(
        "refresh-0000000000", client_id="app", client_secret="app-secret-0123456789",
        wire=httpx2.MockTransport(server), guards=Guards(),
    )  # fmt: skip
    assert both(service.read, colour) == {"token": "token-0000000001"}
    assert parse_qs(server.asked[0].content.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["refresh-0000000000"],
        "client_id": ["app"],
        "client_secret": ["app-secret-0123456789"],
    }
    assert "app-secret-0123456789" not in redaction.text("it is app-secret-0123456789")
    public = Diary("refresh-0000000000", client_id="app", wire=httpx2.MockTransport(server), guards=Guards())
    both(public.read, colour)
    assert "client_secret" not in parse_qs(server.asked[1].content.decode())


@COLOURS
def test_a_refresh_token_that_is_followed_by_another(colour: str):
    """The one that came last is used and handed to its source, which may give it out from then on at no cost."""
    server, clock = Server(), ManualClock()
    server.refuse = rotating(server)
    kept = Kept("refresh-0000000000")
    for key in (kept, "refresh-0000000002"):
        service = Diary(
            key, client_id="app", clock=clock, wire=httpx2.MockTransport(server), guards=Guards(clock=clock)
        )
        both(service.read, colour)
        both(service.read, colour)
        clock.advance(101)
        both(service.read, colour)
    assert kept.held == ["refresh-0000000000", "refresh-0000000001", "refresh-0000000002"]
    assert len(server.asked) == 4
    kept.held.append("refresh-of-somebody-else")
    clock.advance(101)
    service = Diary(kept, client_id="app", wire=httpx2.MockTransport(server), guards=Guards())
    with pytest.raises(errors.AuthenticationFailed) as caught:
        both(service.read, colour)
    assert caught.value.outcome == "not_sent"


class Messages(TokenService):
    """A service with a service account."""

    name, category = "messages", "push"
    endpoints = Endpoints("https://messages.example")
    credentials = KeyFile(env="MESSAGES_KEY", service="messages")
    tokens = ServiceAccount("https://scope.example/send")

    @operation
    def read(self) -> Plan[Any]:
        """Read."""
        return self.get("/thing", parse=lambda exchange: exchange.data)


def test_a_service_account_signs_what_google_reads():
    """The assertion is one that google-auth accepts: by this key, for that audience, an hour long."""
    from cryptography.hazmat.primitives import serialization

    server = Server()
    key = Messages.credentials.sandbox.replace("{sandbox}/messages/token", "https://tokens.example/oauth/token")
    service = Messages(key, wire=httpx2.MockTransport(server), guards=Guards())
    assert service.read().result() == {"token": "token-0000000001"}
    [asked] = server.asked
    assert str(asked.url) == "https://tokens.example/oauth/token"
    form = parse_qs(asked.content.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    public = base64.urlsafe_b64decode(json.loads(key)["private_key_id"])
    loaded = serialization.load_der_public_key(public)
    pem = loaded.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = google.auth.jwt.decode(form["assertion"][0], certs=pem, audience="https://tokens.example/oauth/token")
    assert claims["iss"] == json.loads(key)["client_email"]
    assert (claims["scope"], claims["exp"] - claims["iat"]) == ("https://scope.example/send", 3600)


@pytest.mark.parametrize(
    "key",
    ["{}", "[]", "{", "/nowhere/key.json", '{"client_email":"a","private_key":"b","private_key_id":"c"}'],
)
def test_what_is_no_key_file(key: str):
    """It is named, and not shown."""
    service = Messages(key, wire=httpx2.MockTransport(Server()), guards=Guards())
    with pytest.raises(errors.ConfigurationError, match="key file"):
        service.read().result()


def test_a_key_file_is_checked_before_it_is_used():
    """A private key that is none, and a token_uri that is not https, are refused without showing them."""
    good = json.loads(Messages.credentials.sandbox.replace("{sandbox}", "https://tokens.example"))
    for change in ({"private_key": "-----BEGIN canary-----"}, {"token_uri": "http://tokens.example/x"}):
        service = Messages(json.dumps({**good, **change}), wire=httpx2.MockTransport(Server()), guards=Guards())
        with pytest.raises(errors.ConfigurationError) as caught:
            service.read().result()
        assert "canary" not in str(caught.value)


def test_a_key_file_may_be_a_path(tmp_path: Any):
    """As the customary variable holds one."""
    path = tmp_path / "key.json"
    path.write_text(
        Messages.credentials.sandbox.replace("{sandbox}", "https://tokens.example").replace("/messages/", "/oauth/")
    )
    service = Messages(str(path), wire=httpx2.MockTransport(Server()), guards=Guards())
    assert service.read().result() == {"token": "token-0000000001"}


def test_a_key_file_that_changes_is_read_anew(tmp_path: Path):
    """It is read once for many calls, and again when it was written again."""
    path, key = tmp_path / "key.json", Secret(str(tmp_path / "key.json"))
    for number, client in enumerate(("old@x.example", "new@x.example")):
        fields = {**json.loads(Messages.credentials.sandbox), "client_email": client, "token_uri": "https://t.example"}
        path.write_text(json.dumps(fields))
        os.utime(path, ns=(number, 10**18 + number))
        assert key_file(key, "messages")["client_email"] == client
    assert key_file(key, "messages") is key_file(key, "messages")


def test_nothing_is_shown():
    """Neither the secret nor the token stands in what is printed of the service, its key and its call."""
    server = Server()
    bank = server.bank()
    call = bank.read()
    call.result()
    shown = f"{bank!r} {bank.fetched!r} {bank.key()!r} {call!r} {call.explain()}"
    assert "secret-0123456789" not in shown
    assert "token-0000000001" not in shown
    assert bank.key() == Secret("token-0000000001")
