from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import jwt as pyjwt
import pytest
from auth0.authentication.client_authentication import create_client_assertion_jwt
from auth0.authentication.exceptions import TokenValidationError
from auth0.authentication.token_verifier import AsymmetricSignatureVerifier, TokenVerifier
from cryptography.hazmat.primitives import serialization
from tests.contracts import Contract
from tests.identity.tokens import private
from tests.services.auth_suite import EMAIL, PASSWORD, AuthSuite
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.services.auth.auth0 import Auth0
from moorline.services.auth.protocol import AuthEventKind

Run = Callable[[Any], Any]
API = "https://api.shop.example"
CALLS: list[Callable[[Auth0], Any]] = [
    lambda s: s.get_user("auth0|1"),
    lambda s: s.users_by_email("Ada@example.com"),
    lambda s: s.create_user(
        email=EMAIL, password=PASSWORD, phone="+15555550100", name="Ada", email_verified=False, verify_email=False,
        app_metadata={"plan": "pro"}, user_metadata={"x": 1}, given_name="Ada", user_id="42",
    ),
    lambda s: s.update_user("auth0|1", email=EMAIL, name="Ada", app_metadata={}, connection="x"),
    lambda s: s.delete_user("auth0|1"),
    lambda s: s.block_user("auth0|1"),
    lambda s: s.unblock_user("auth0|1"),
    lambda s: s.list_users(query='email:"ada@example.com"', page_size=2).page(),
    lambda s: s.check(),
]  # fmt: skip


class TestAuth0(AuthSuite):
    """The suite of all services that know users."""

    kind = Auth0
    deletes_nobody = True

    def nobody(self) -> str:
        return "auth0|nobody"


@pytest.fixture
def suite() -> TestAuth0:
    return TestAuth0()


def test_auth0s_own_verifier_agrees(box: Box, suite: TestAuth0):
    """auth0-python takes the tokens that the stand-in signs, and refuses those that we refuse."""
    user, auth0 = suite.user(box), suite.service(box)
    keys = AsymmetricSignatureVerifier(f"{box.url}/auth0/.well-known/jwks.json")
    theirs = TokenVerifier(keys, f"{box.url}/auth0/", API)
    good = suite.token(box, user, claims={"aud": API})
    assert theirs.verify(good) == dict(auth0.verify_token(good).result().raw)
    wrong: list[dict[str, Any]] = [
        {"lifetime": -600, "claims": {"aud": API}},
        {"claims": {"aud": "https://other.example"}},
        {"claims": {"aud": API, "iss": f"{box.url}/auth0"}},
        {"claims": {"aud": API, "sub": None}},
    ]
    for wanted in wrong:
        token = suite.token(box, user, **wanted)
        with pytest.raises(TokenValidationError):
            theirs.verify(token)
        with pytest.raises(errors.InvalidToken):
            auth0.verify_token(token).result()


def test_what_a_token_tells(box: Box, run: Run, suite: TestAuth0):
    """Scopes and permissions, for a user; a program with its own credentials is told as one."""
    user, auth0 = suite.user(box), suite.service(box)
    claims = {"permissions": ["read:orders", 5], "org_id": "org_1", "scope": "openid read:orders"}
    found = run(auth0.verify_token(suite.token(box, user, claims=claims)))
    assert (found.permissions, found.scopes) == ({"read:orders"}, {"openid", "read:orders"})
    assert (found.organization, found.machine) == ("org_1", False)
    machine = run(auth0.verify_token(suite.token(box, user, kind="machine")))
    assert (machine.id, machine.machine) == ("sandbox-client@clients", True)


def test_opaque_and_encrypted_tokens(suite: TestAuth0, box: Box):
    """What was asked for without an audience cannot be verified, and is refused without a request."""
    asked = len(box.seen())
    for token in ("fM8bXyz", "a.b.c.d.e"):
        with pytest.raises(errors.InvalidToken, match="verified"):
            suite.service(box).verify_token(token).result()
    assert len(box.seen()) == asked


def test_a_custom_domain_is_an_issuer_as_well(monkeypatch: pytest.MonkeyPatch):
    """Tokens name the domain at which the user signed in; the tenant's own keys are for both."""
    seen: list[str] = []
    key = private("RSA")
    jwk = json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "k"}

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={"keys": [jwk]})

    auth0 = Auth0(
        "secret", domain="shop.eu.auth0.com", custom_domain="login.shop.example", client_id="c", audience=API,
        wire=httpx2.MockTransport(wire), guards=Guards(),
    )  # fmt: skip

    def token(issuer: str) -> str:
        claims = {"iss": issuer, "aud": API, "sub": "auth0|1", "exp": 4_000_000_000}
        return pyjwt.encode(claims, key, "RS256", headers={"kid": "k"})

    for issuer in ("https://shop.eu.auth0.com/", "https://login.shop.example/"):
        assert auth0.verify_token(token(issuer)).result().id == "auth0|1"
    for issuer in ("https://shop.eu.auth0.com", "https://other.eu.auth0.com/"):
        with pytest.raises(errors.InvalidToken):
            auth0.verify_token(token(issuer)).result()
    assert seen == ["https://shop.eu.auth0.com/.well-known/jwks.json"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    """Without a domain or an audience there is nothing to verify a token by."""
    for name in ("AUTH0_DOMAIN", "AUTH0_AUDIENCE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.ConfigurationError, match="AUTH0_DOMAIN"):
        Auth0("s", audience=API).verify_token("a.b.c").result()
    with pytest.raises(errors.ConfigurationError, match="AUTH0_AUDIENCE"):
        Auth0("s", domain="shop.auth0.com").verify_token("a.b.c").result()
    with pytest.raises(errors.ConfigurationError, match="domain"):
        Auth0("s", domain="https://shop.auth0.com/")


def test_the_management_token(box: Box, run: Run, contracts_dir: Path):
    """Got once with the client's secret, by a request that fits the contract; the audience is the tenant's own."""
    asked: list[httpx2.Request] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/oauth/token":
            asked.append(request)
            return httpx2.Response(200, json={"access_token": "t-123456", "expires_in": 86_400})
        return httpx2.Response(200, json=[])

    auth0 = Auth0(
        "the secret", domain="shop.eu.auth0.com", custom_domain="login.shop.example", client_id="c", audience=API,
        wire=httpx2.MockTransport(wire), guards=Guards(),
    )  # fmt: skip
    for _ in range(2):
        assert auth0.check().result() is True
    [request] = asked
    assert str(request.url) == "https://shop.eu.auth0.com/oauth/token"
    form = {name: values[0] for name, values in parse_qs(request.read().decode()).items()}
    assert form["audience"] == "https://shop.eu.auth0.com/api/v2/"
    grant = Contract(contracts_dir, "auth0_authentication")
    assert grant.problems(grant.component("ClientCredentialsGrant"), form) == []


def test_a_client_with_a_private_key(box: Box, run: Run):
    """In place of a secret; the JWT has what auth0-python's has, and the stand-in checks its signature."""
    key = private("RSA")
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    kinds = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    key_id = base64.urlsafe_b64encode(key.public_key().public_bytes(*kinds)).decode()
    assert run(box.service(Auth0, pem, key_id=key_id).check()) is True
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(Auth0, pem, key_id="x").check())
    sent: list[str] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/oauth/token":
            sent.append(parse_qs(request.read().decode())["client_assertion"][0])
            return httpx2.Response(200, json={"access_token": "t-123456", "expires_in": 86_400})
        return httpx2.Response(200, json=[])

    Auth0(
        pem, domain="shop.auth0.com", client_id="c", audience=API, wire=httpx2.MockTransport(wire), guards=Guards()
    ).check().result()
    options: Any = {"algorithms": ["RS256"], "audience": "https://shop.auth0.com/"}
    ours = pyjwt.decode(sent[0], key.public_key(), **options)
    theirs = pyjwt.decode(create_client_assertion_jwt("shop.auth0.com", "c", pem, None), key.public_key(), **options)
    assert ours.keys() == theirs.keys()
    assert {name: ours[name] for name in ("iss", "sub", "aud")} == {
        name: theirs[name] for name in ("iss", "sub", "aud")
    }
    assert ours["exp"] - ours["iat"] == theirs["exp"] - theirs["iat"] == 180


def test_credentials_that_auth0_does_not_take(box: Box, run: Run):
    """Another secret is AuthenticationFailed, and nothing was sent; a client without the scope PermissionDenied."""
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Auth0, "another secret").check())
    assert (caught.value.outcome, caught.value.code) == ("not_sent", "access_denied")
    with pytest.raises(errors.PermissionDenied) as denied:
        run(box.service(Auth0, client_id="readless-client").check())
    assert denied.value.code == "insufficient_scope"


def test_users_of_an_address(box: Box, run: Run, suite: TestAuth0):
    """In whatever case it is written."""
    user = suite.user(box)
    suite.user(box, email="bob@example.com")
    assert [one.id for one in run(suite.service(box).users_by_email("ADA@example.com"))] == [user.id]
    assert run(suite.service(box).users_by_email("nobody@example.com")) == ()


def test_blocks(box: Box, run: Run, suite: TestAuth0):
    """A blocked user is ``disabled``, until that is taken back."""
    auth0, user = suite.service(box), suite.user(box)
    assert run(auth0.block_user(user.id)).disabled
    assert run(auth0.get_user(user.id)).disabled
    assert not run(auth0.unblock_user(user.id)).disabled


def test_searches(box: Box, suite: TestAuth0):
    """By Auth0's language, in the order that is asked for."""
    one, two = suite.user(box), suite.user(box, email="bob@example.com")
    auth0 = suite.service(box)
    assert [user.id for user in auth0.list_users(query='email:"bob@example.com"')] == [two.id]
    assert [user.id for user in auth0.list_users(sort="created_at:-1")] == [two.id, one.id]


def test_deleting_twice_is_no_error(box: Box, run: Run, suite: TestAuth0):
    """Auth0 answers 204 in any case."""
    user = suite.user(box)
    for _ in range(2):
        assert run(suite.service(box).delete_user(user.id)) is None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_user(email=EMAIL, password=""), "password"),
        (lambda s: s.create_user(email=EMAIL, phone="0049 1"), "phone"),
        (lambda s: s.create_user(email=EMAIL, name="x" * 301), "name"),
        (lambda s: s.update_user("u", name=5), "name"),
        (lambda s: s.list_users(page_size=51), "page_size"),
        (lambda s: s.list_users(page_size=0), "page_size"),
        (lambda s: s.users_by_email(5), "email"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Auth0], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(Auth0))
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"errorCode": "invalid_body", "error": "Bad Request", "message": "m"}, errors.InvalidRequest),
        (404, {"errorCode": "inexistent_user", "error": "Not Found", "message": "m"}, errors.NotFound),
        (409, {"errorCode": "auth0_idp_error", "error": "Conflict", "message": "m"}, errors.Conflict),
        (503, {"error": "Service Unavailable", "message": "m"}, errors.ServiceUnavailable),
        (429, {"errorCode": "too_many_requests", "error": "Too Many Requests", "message": "m"}, errors.RateLimited),
    ],
)
def test_errors(status: int, body: dict[str, Any], kind: type[errors.CallError]):
    """Each as its own kind; a limit says when it opens."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + 60), "x-ratelimit-limit": "10"}
    recorder = Recorder(status, json.dumps(body).encode(), headers if status == 429 else {})
    with pytest.raises(kind, match="m") as caught:
        recorder.service(Auth0).get_user("u").using(retry=None).result()
    assert caught.value.code == body.get("errorCode", body["error"])
    assert (caught.value.retry_at is not None) is (status == 429)


def test_ids_with_a_bar():
    """``auth0|…`` is one segment of the path."""
    recorder = Recorder(200, b'{"user_id":"auth0|1"}')
    recorder.service(Auth0).get_user("auth0|1").result()
    assert recorder.requests[0].url.raw_path == b"/api/v2/users/auth0%7C1"


@pytest.mark.parametrize("make", CALLS)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Auth0], Any]):
    """Every request that we build is valid by auth0.json."""
    recorder = Recorder(400)
    with pytest.raises(errors.CallError):
        make(recorder.service(Auth0)).using(retry=None).result()
    [request] = recorder.requests
    kind = request.headers.get("content-type", "")
    path = request.url.raw_path.decode().removeprefix("/api/v2")
    assert Contract(contracts_dir, "auth0").request_problems(request.method, path, request.content, kind) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path, suite: TestAuth0):
    """The stand-in's answers are valid by auth0.json."""
    contract, auth0 = Contract(contracts_dir, "auth0"), suite.service(box)
    user = suite.user(box, phone="+15555550100", app_metadata={"a": 1})
    asked: list[tuple[str, str, Any]] = [
        ("GET", f"/users/{user.id}", auth0.get_user(user.id)),
        ("GET", "/users", auth0.list_users().page()),
        ("GET", "/users", auth0.check()),
        ("GET", "/users-by-email", auth0.users_by_email(EMAIL)),
        ("PATCH", f"/users/{user.id}", auth0.update_user(user.id, name="x")),
        ("POST", "/users", auth0.create_user(email="b@example.com", password=PASSWORD)),
        ("DELETE", f"/users/{user.id}", auth0.delete_user(user.id)),
    ]
    for method, path, call in asked:
        answer = call.response().result()
        assert contract.answer_problems(method, path, answer.status, answer.body) == [], path


def test_events_tell_what_happened():
    """Event streams with the user, log streams with the id; other records have no common meaning."""

    def read(kind: str, told: dict[str, Any]) -> Any:
        return Auth0.read_event(Event("auth0", "1", kind, json.dumps(told).encode()))

    user = {"user_id": "auth0|1", "email": EMAIL}
    stream = {"id": "evt_1", "type": "user.updated", "time": "2026-11-20T10:00:00Z", "data": {"object": user}}
    found = read("user.updated", stream)
    assert (found.kind, found.user_id, found.user.email) == (AuthEventKind.USER_UPDATED, "auth0|1", EMAIL)
    assert found.at.isoformat() == "2026-11-20T10:00:00+00:00"
    gone = read("user.deleted", stream)
    assert (gone.kind, gone.user_id, gone.user) == (AuthEventKind.USER_DELETED, "auth0|1", None)
    log = {"log_id": "9", "data": {"type": "f", "date": "2026-11-20T10:00:00.000Z", "user_id": ""}}
    assert (read("f", log).kind, read("f", log).user_id) == (AuthEventKind.SIGN_IN_FAILED, None)
    assert read("fp", log) is None
    assert read("organization.created", {"data": {}}) is None
    with pytest.raises(errors.BadAnswer):
        read("user.created", {"data": {"object": {}}})


def test_it_survives_a_queue(box: Box, suite: TestAuth0):
    """A Call comes out of a queue as it went in."""
    auth0, user = suite.service(box), suite.user(box)
    call = auth0.update_user(user.id, app_metadata={"plan": "pro"})
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: auth0)
    assert again.result().app_metadata == {"plan": "pro"}
