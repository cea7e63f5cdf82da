from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jwt as pyjwt
import pytest
from clerk_backend_api.security import TokenVerificationError, verify_token
from clerk_backend_api.security.types import VerifyTokenOptions
from fastapi import Depends, FastAPI
from tests.contracts import Contract
from tests.services.auth_suite import EMAIL, PASSWORD, AuthSuite
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.events.event import Event
from moorline.identity.frameworks.fastapi import signed_in
from moorline.services.auth.clerk import Clerk
from moorline.services.auth.protocol import AuthEventKind

Run = Callable[[Any], Any]
SHOP = "https://shop.example"
CALLS: list[Callable[[Clerk], Any]] = [
    lambda s: s.get_user("user_1"),
    lambda s: s.create_user(
        email=EMAIL, password=PASSWORD, phone="+15555550100", name="Ada", email_verified=False,
        app_metadata={"plan": "pro"}, user_metadata={"x": 1}, last_name="Lovelace", external_id="42",
    ),
    lambda s: s.update_user("user_1", name="Ada", username="ada"),
    lambda s: s.update_user("user_1", app_metadata={"plan": None}, private_metadata={"a": 1}),
    lambda s: s.delete_user("user_1"),
    lambda s: s.list_users(query="ada", email=EMAIL, page_size=2).page(),
    lambda s: s.count_users(),
    lambda s: s.ban_user("user_1"),
    lambda s: s.unban_user("user_1"),
    lambda s: s.lock_user("user_1"),
    lambda s: s.unlock_user("user_1"),
    lambda s: s.list_sessions("user_1").page(),
    lambda s: s.revoke_session("sess_1"),
    lambda s: s.check(),
]  # fmt: skip


class TestClerk(AuthSuite):
    """The suite of all services that know users."""

    kind = Clerk


@pytest.fixture
def suite() -> TestClerk:
    return TestClerk()


def test_clerks_own_verifier_agrees(box: Box, suite: TestClerk, monkeypatch: pytest.MonkeyPatch):
    """clerk-backend-api takes the tokens that the stand-in signs, and refuses those that we refuse."""
    user, clerk = suite.user(box), suite.service(box, authorized_parties=SHOP)
    options = VerifyTokenOptions(
        secret_key="sk_test_sandbox", api_url=f"{box.url}/clerk", authorized_parties=[SHOP], audience=None
    )
    good = suite.token(box, user)
    assert verify_token(good, options) == dict(clerk.verify_token(good).result().raw)
    wrong: list[dict[str, Any]] = [
        {"lifetime": -60},
        {"claims": {"azp": "https://evil.example"}},
        {"claims": {"azp": None}},
        {"claims": {"aud": "somebody"}},
        {"claims": {"nbf": 4_000_000_000}},
    ]
    for wanted in wrong:
        token = suite.token(box, user, **wanted)
        with pytest.raises(TokenVerificationError):
            verify_token(token, options)
        with pytest.raises(errors.InvalidToken):
            clerk.verify_token(token).result()


def test_authorized_parties(box: Box, run: Run, suite: TestClerk):
    """``azp`` must be one of them, and be there; without a list it is not looked at."""
    user = suite.user(box)
    both = suite.service(box, authorized_parties=f"{SHOP}, https://www.shop.example")
    for origin in (SHOP, "https://www.shop.example"):
        assert run(both.verify_token(suite.token(box, user, claims={"azp": origin}))).id == user.id
    for wrong in ("https://shop.example.evil.example", None, [SHOP], f"{SHOP}/"):
        token = suite.token(box, user, claims={"azp": wrong})
        with pytest.raises(errors.InvalidToken, match="azp"):
            run(both.verify_token(token))
    assert run(suite.service(box).verify_token(suite.token(box, user, claims={"azp": None}))).id == user.id


def test_what_a_token_tells(box: Box, run: Run, suite: TestClerk):
    """The session, the organization with its role and permissions, and who acts in the user's place."""
    user = suite.user(box)
    claims = {
        "o": {"id": "org_1", "slg": "acme", "rol": "admin", "per": "read,manage", "fpm": "3,2,1"},
        "fea": "o:dashboard,o:teams,u:extra",
        "act": {"sub": "user_support"},
        "email": "ada@example.com",
    }
    found = run(suite.service(box).verify_token(suite.token(box, user, claims=claims)))
    assert found.session_id == box.state("clerk")["sessions"][-1]["id"]
    assert (found.organization, found.roles, found.actor) == ("org_1", frozenset({"admin"}), "user_support")
    assert found.permissions == {"org:dashboard:read", "org:dashboard:manage", "org:teams:manage"}
    strange: list[dict[str, Any]] = [{"o": 5}, {"o": {"per": 5}}, {"fea": "x", "o": {"per": "a", "fpm": "-1,x"}}]
    for odd in [*strange, {"act": []}]:
        assert not run(suite.service(box).verify_token(suite.token(box, user, claims=odd))).permissions


def test_a_sign_in_that_is_not_over(box: Box, run: Run, suite: TestClerk):
    """``sts`` pending is nobody who has signed in."""
    token = suite.token(box, suite.user(box), claims={"sts": "pending"})
    with pytest.raises(errors.InvalidToken, match="sts"):
        run(suite.service(box).verify_token(token))


def test_only_rs256(box: Box, suite: TestClerk):
    """A token of another algorithm is refused before any key is asked for."""
    forged = pyjwt.encode({"sub": "user_1"}, "x" * 40, algorithm="HS256")
    asked = len(box.seen())
    with pytest.raises(errors.InvalidToken) as caught:
        suite.service(box).verify_token(forged).result()
    assert caught.value.reason == "algorithm"
    assert len(box.seen()) == asked


def test_where_the_keys_are():
    """At the Frontend API, which the publishable key names; one that names none is an error, as is none at all."""

    def key(host: bytes) -> str:
        return "pk_live_" + base64.b64encode(host).decode().rstrip("=")

    clerk = Clerk("sk_test_1", publishable_key=key(b"clerk.shop.example$"))
    assert clerk._keys_url() == "https://clerk.shop.example/.well-known/jwks.json"
    assert Clerk("k", frontend_api="https://auth.shop.example/")._issuer() == "https://auth.shop.example"
    for wrong in (b"clerk.shop.example", b"clerk/shop$", b"$", b"\xff\xfe.x$", b"a.b/c$"):
        with pytest.raises(errors.ConfigurationError, match="publishable_key"):
            Clerk("k", publishable_key=key(wrong)).verify_token("a.b.c").result()
    with pytest.raises(errors.ConfigurationError, match="CLERK_PUBLISHABLE_KEY"):
        Clerk("k").verify_token("a.b.c").result()
    with pytest.raises(errors.ConfigurationError, match="leeway"):
        Clerk("k", leeway=-1)


def test_bans_and_locks(box: Box, run: Run, suite: TestClerk):
    """Both keep a user from signing in, and can be taken back."""
    clerk, user = suite.service(box), suite.user(box)
    for on, off in ((clerk.ban_user, clerk.unban_user), (clerk.lock_user, clerk.unlock_user)):
        assert run(on(user.id)).disabled
        assert not run(off(user.id)).disabled


def test_sessions(box: Box, run: Run, suite: TestClerk):
    """Listed by their user and status, and ended, once and again."""
    clerk, user = suite.service(box), suite.user(box)
    for _ in range(3):
        suite.token(box, user)
    suite.token(box, suite.user(box, email="other@example.com"))
    found = list(clerk.list_sessions(user.id, page_size=2))
    assert [(one.user_id, one.active) for one in found] == [(user.id, True)] * 3
    for _ in range(2):
        ended = run(clerk.revoke_session(found[0].id))
        assert (ended.status, ended.active) == ("revoked", False)
    assert len(list(clerk.list_sessions(user.id))) == 2
    assert len(list(clerk.list_sessions(user.id, status=None))) == 3
    with pytest.raises(errors.NotFound):
        run(clerk.revoke_session("sess_0"))


def test_listing_filters(box: Box, run: Run, suite: TestClerk):
    """By address, by words, and by Clerk's further filters; the newest first."""
    clerk = suite.service(box)
    one, two = suite.user(box, external_id="1"), suite.user(box, email="bob@example.com", name="Bob")
    assert [user.id for user in clerk.list_users()] == [two.id, one.id]
    assert [user.id for user in clerk.list_users(email=EMAIL)] == [one.id]
    assert [user.id for user in clerk.list_users(query="bob")] == [two.id]
    assert [user.id for user in clerk.list_users(external_id="1")] == [one.id]
    assert run(clerk.count_users()) == 2


def test_reserved_addresses(box: Box, run: Run, suite: TestClerk):
    """``email_verified=False`` makes an address that has to be verified yet."""
    made = suite.user(box, email_verified=False)
    assert run(suite.service(box).get_user(made.id)).email_verified is False


def test_keys_that_clerk_does_not_take(box: Box, run: Run):
    """Are AuthenticationFailed, with Clerk's code and trace id."""
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Clerk, "sk_test_wrong").check())
    assert (caught.value.code, caught.value.request_id) == ("authentication_invalid", "0123456789abcdef")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_user(email=EMAIL, password="short"), "password"),
        (lambda s: s.create_user(email=EMAIL, password=5), "password"),
        (lambda s: s.update_user("u", password="short"), "password"),
        (lambda s: s.update_user("u", email="x@y.example"), "email"),
        (lambda s: s.update_user("u", phone="+15555550100"), "phone"),
        (lambda s: s.update_user("u", email_verified=True), "email_verified"),
        (lambda s: s.update_user("u", name="x", app_metadata={"a": 1}), "app_metadata"),
        (lambda s: s.list_users(page_size=501), "page_size"),
        (lambda s: s.list_sessions("u", status="away"), "status"),
        (lambda s: s.list_sessions(5), "user_id"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Clerk], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(Clerk))
    assert recorder.requests == []


def test_what_is_wrong_is_named(box: Box, run: Run, suite: TestClerk):
    """Clerk's own words and field come with the error."""
    with pytest.raises(errors.InvalidRequest) as caught:
        run(suite.service(box).create_user(email="no address", password=PASSWORD))
    assert caught.value.status == 422
    assert caught.value.detail["errors"][0]["meta"] == {"param_name": "email_address"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (402, "unsupported_subscription_plan_features", errors.PermissionDenied),
        (409, "conflict", errors.Conflict),
        (422, "form_identifier_exists", errors.Conflict),
        (422, "form_password_pwned", errors.InvalidRequest),
        (429, "too_many_requests", errors.RateLimited),
    ],
)
def test_errors(status: int, code: str, kind: type[errors.CallError]):
    """Each as its own kind, with the code."""
    body = {"errors": [{"code": code, "message": "m", "long_message": "at length"}], "clerk_trace_id": "t"}
    recorder = Recorder(status, json.dumps(body).encode(), {"Retry-After": "7"})
    with pytest.raises(kind, match="at length") as caught:
        recorder.service(Clerk).get_user("u").using(retry=None).result()
    assert caught.value.code == code


def test_every_request_names_its_version():
    """The fields of a request are those of one version of the API."""
    recorder = Recorder(200, b'{"object":"total_count","total_count":1}')
    recorder.service(Clerk).check().result()
    assert recorder.requests[0].headers["clerk-api-version"] == "2026-05-12"


@pytest.mark.parametrize("make", CALLS)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Clerk], Any]):
    """Every request that we build is valid by clerk.json."""
    recorder = Recorder(500)
    with pytest.raises(errors.CallError):
        make(recorder.service(Clerk)).using(retry=None).result()
    [request] = recorder.requests
    kind = request.headers.get("content-type", "")
    path = request.url.raw_path.decode().removeprefix("/v1")
    assert Contract(contracts_dir, "clerk").request_problems(request.method, path, request.content, kind) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path, suite: TestClerk):
    """The stand-in's answers are valid by clerk.json."""
    contract, clerk = Contract(contracts_dir, "clerk"), suite.service(box)
    user = suite.user(box, phone="+15555550100")
    suite.token(box, user)
    [session] = clerk.list_sessions(user.id)
    asked: list[tuple[str, str, Any]] = [
        ("GET", f"/users/{user.id}", clerk.get_user(user.id)),
        ("GET", "/users", clerk.list_users().page()),
        ("GET", "/users/count", clerk.count_users()),
        ("POST", f"/users/{user.id}/ban", clerk.ban_user(user.id)),
        ("PATCH", f"/users/{user.id}", clerk.update_user(user.id, name="x")),
        ("PATCH", f"/users/{user.id}/metadata", clerk.update_user(user.id, app_metadata={"a": {"b": 1}})),
        ("POST", f"/sessions/{session.id}/revoke", clerk.revoke_session(session.id)),
        ("DELETE", f"/users/{user.id}", clerk.delete_user(user.id)),
    ]
    for method, path, call in asked:
        answer = call.response().result()
        assert contract.answer_problems(method, path, answer.status, answer.body) == [], path
    keys = box.client.get("/clerk/v1/jwks", headers={"Authorization": "Bearer sk_test_x"})
    assert contract.answer_problems("GET", "/jwks", 200, keys.content) == []


def test_events_tell_what_happened(box: Box):
    """Users with all that is known of them, sessions with their user; a deleted user by the id alone."""

    def read(kind: str, data: dict[str, Any]) -> Any:
        body = json.dumps({"type": kind, "object": "event", "timestamp": 1_654_012_591_835, "data": data}).encode()
        return Clerk.read_event(Event("clerk", "msg_1", kind, body, {"content-type": "application/json"}))

    user = json.loads(json.dumps(TestClerk().user(box).raw))
    created = read("user.created", user)
    assert (created.kind, created.user_id, created.user.email) == (AuthEventKind.USER_CREATED, user["id"], EMAIL)
    assert created.at.isoformat() == "2022-05-31T15:56:31.835000+00:00"
    gone = read("user.deleted", {"id": "user_1", "object": "user", "deleted": True})
    assert (gone.kind, gone.user_id, gone.user) == (AuthEventKind.USER_DELETED, "user_1", None)
    ended = read("session.revoked", {"id": "sess_1", "user_id": "user_1", "status": "revoked"})
    assert (ended.kind, ended.user_id, ended.session_id) == (AuthEventKind.SIGNED_OUT, "user_1", "sess_1")
    assert read("organization.created", {"id": "org_1"}) is None
    with pytest.raises(errors.BadAnswer):
        read("user.created", {})


def test_a_route_of_fastapi(box: Box, suite: TestClerk):
    """With the service itself as what verifies: 200 for its token or cookie, 401 without one, 503 without its keys."""
    user = suite.user(box)
    token = suite.token(box, user)

    def asked(clerk: Clerk, **headers: str) -> tuple[int, str]:
        app = FastAPI()
        door = Depends(signed_in(clerk, cookie="__session"))

        @app.get("/who")
        async def who(user: Any = door) -> Any:
            return user.id

        async def ask() -> httpx2.Response:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url=SHOP) as client:
                return await client.get("/who", headers=headers)

        answer = asyncio.run(ask())
        return answer.status_code, answer.headers.get("www-authenticate", answer.text)

    clerk = suite.service(box)
    assert asked(clerk, Authorization=f"Bearer {token}") == (200, json.dumps(user.id))
    assert asked(clerk, Cookie=f"__session={token}") == (200, json.dumps(user.id))
    assert asked(clerk) == (401, "Bearer")
    assert asked(clerk, Authorization="Bearer a.b.c") == (401, 'Bearer error="invalid_token"')
    box.arm(service="clerk", path="/.well-known/jwks.json", kind="status", status=500, count=2)
    assert asked(suite.service(box), Authorization=f"Bearer {token}")[0] == 503


def test_it_survives_a_queue(box: Box, suite: TestClerk):
    """A Call comes out of a queue as it went in."""
    clerk, user = suite.service(box), suite.user(box)
    call = clerk.update_user(user.id, app_metadata={"plan": "pro"})
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: clerk)
    assert again.result().app_metadata == {"plan": "pro"}
