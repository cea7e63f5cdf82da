from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jwt as pyjwt
import pytest
from tests.contracts import Contract
from tests.identity import tokens
from tests.services.auth_suite import EMAIL, PASSWORD, AuthSuite
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.secrets.secret import Secret
from moorline.services.auth.protocol import AuthEventKind
from moorline.services.auth.supabase_auth import SupabaseAuth

Run = Callable[[Any], Any]
NOBODY = "ff7fc9ae-3b1b-4642-9241-64adb9848a03"
SHARED = "the-sandbox-of-moorline-shares-this-jwt-secret"
CALLS: list[Callable[[SupabaseAuth], Any]] = [
    lambda s: s.current_user("a.b.c"),
    lambda s: s.sign_out("a.b.c", scope="local"),
    lambda s: s.get_user(NOBODY),
    lambda s: s.create_user(
        email=EMAIL, password=PASSWORD, phone="+15555550100", name="Ada", email_verified=True,
        app_metadata={"plan": "pro"}, user_metadata={"x": 1}, id=NOBODY,
    ),
    lambda s: s.update_user(NOBODY, name="Ada", app_metadata={"plan": None}),
    lambda s: s.delete_user(NOBODY),
    lambda s: s.delete_user(NOBODY, soft=True),
    lambda s: s.ban_user(NOBODY, hours=24),
    lambda s: s.unban_user(NOBODY),
    lambda s: s.list_users(page_size=2).page(),
    lambda s: s.check(),
]  # fmt: skip


class TestSupabaseAuth(AuthSuite):
    """The suite of all services that know users."""

    kind = SupabaseAuth

    def nobody(self) -> str:
        return NOBODY


@pytest.fixture
def suite() -> TestSupabaseAuth:
    return TestSupabaseAuth()


def test_an_independent_library_agrees(box: Box, suite: TestSupabaseAuth):
    """PyJWT, with the keys that the stand-in publishes, takes what we take and refuses what we refuse."""
    user, supabase = suite.user(box), suite.service(box)
    keys = pyjwt.PyJWKSet.from_dict(box.client.get("/supabase_auth/.well-known/jwks.json").json())

    def theirs(token: str) -> dict[str, Any]:
        key = keys[pyjwt.get_unverified_header(token)["kid"]]
        issuer = f"{box.url}/supabase_auth"
        found: dict[str, Any] = pyjwt.decode(token, key, ["ES256"], audience="authenticated", issuer=issuer)
        return found

    good = suite.token(box, user)
    assert theirs(good) == dict(supabase.verify_token(good).result().raw)
    wrong: list[dict[str, Any]] = [
        {"lifetime": -60}, {"claims": {"aud": "anon"}}, {"claims": {"iss": "supabase"}}, {"claims": {"aud": None}},
    ]  # fmt: skip
    for wanted in wrong:
        token = suite.token(box, user, **wanted)
        with pytest.raises(pyjwt.InvalidTokenError):
            theirs(token)
        with pytest.raises(errors.InvalidToken):
            supabase.verify_token(token).result()


def test_what_a_token_tells(box: Box, run: Run, suite: TestSupabaseAuth):
    """Role, session, the metadata that only our side writes, and who has no account of their own."""
    user = suite.user(box, phone="+15555550100", app_metadata={"plan": "pro"}, user_metadata={"role": "admin"})
    found = run(suite.service(box).verify_token(suite.token(box, user, claims={"is_anonymous": True})))
    assert (found.email, found.phone, found.roles) == (EMAIL, "+15555550100", {"authenticated"})
    assert found.app_metadata["plan"] == "pro"
    assert (found.anonymous, uuid.UUID(found.session_id).version) == (True, 4)


def test_the_shared_secret(box: Box, run: Run, suite: TestSupabaseAuth, monkeypatch: pytest.MonkeyPatch):
    """A project that still has one: accepted where it is given on purpose, and never together with a public key."""
    user = suite.user(box)
    token = suite.token(box, user, kind="legacy")
    with pytest.raises(errors.InvalidToken) as unknown:
        run(suite.service(box).verify_token(token))
    assert unknown.value.reason == "algorithm"
    given = suite.service(box, jwt_secret=SHARED)
    asked = len(box.seen())
    assert run(given.verify_token(token)).id == user.id
    assert len(box.seen()) == asked, "no key is asked for"
    assert run(given.verify_token(suite.token(box, user))).id == user.id
    assert run(suite.service(box, jwt_secret=Secret(SHARED)).verify_token(token)).id == user.id
    monkeypatch.setenv("SUPABASE_JWT_SECRET", f"a-new-secret-that-is-long-enough-for-it {SHARED}")
    assert run(suite.service(box).verify_token(token)).id == user.id
    monkeypatch.setenv("SUPABASE_JWT_SECRET", "another-secret-that-is-long-enough-for-it")
    monkeypatch.setenv("SUPABASE_JWT_SECRET_PREVIOUS", SHARED)
    assert run(suite.service(box).verify_token(token)).id == user.id
    monkeypatch.setenv("SUPABASE_JWT_SECRET_PREVIOUS_UNTIL", "2020-01-01T00:00:00Z")
    with pytest.raises(errors.InvalidToken):
        run(suite.service(box).verify_token(token))
    with pytest.raises(errors.ConfigurationError, match="too short"):
        suite.service(box, jwt_secret="short")
    assert SHARED not in repr(given)


def test_a_published_key_is_no_secret(box: Box, suite: TestSupabaseAuth):
    """HS256 with what the project publishes is refused, whatever form it is in."""
    user = suite.user(box)
    supabase = suite.service(box, jwt_secret=SHARED)
    claims = pyjwt.decode(suite.token(box, user), options={"verify_signature": False})
    published = json.dumps(box.client.get("/supabase_auth/.well-known/jwks.json").json()["keys"][0])
    for secret in (published, json.loads(published)["x"], json.loads(published)["x"] + json.loads(published)["y"]):
        with pytest.raises(errors.InvalidToken):
            supabase.verify_token(tokens.token(claims, alg="HS256", key=secret.encode())).result()


def test_a_projects_keys_are_no_users(box: Box, run: Run, suite: TestSupabaseAuth):
    """``anon`` and ``service_role`` are signed tokens too."""
    user = suite.user(box)
    supabase = suite.service(box, jwt_secret=SHARED)
    with pytest.raises(errors.InvalidToken):
        run(supabase.verify_token(suite.token(box, user, kind="service_role")))
    for role in ("anon", "service_role"):
        with pytest.raises(errors.InvalidToken, match="role"):
            run(supabase.verify_token(suite.token(box, user, claims={"role": role})))


def test_a_project_without_published_keys():
    """An empty set is a project with a shared secret, and no outage."""
    wire = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"keys": []}))
    supabase = SupabaseAuth("sb_secret_1", url="https://ref.supabase.co", wire=wire, guards=Guards())
    token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJ4In0.AAAA"
    with pytest.raises(errors.InvalidToken) as caught:
        supabase.verify_token(token).result()
    assert caught.value.reason == "key"


def test_where_it_is():
    """The project's address with the service's path; a GoTrue of one's own by its own; plain HTTP on this machine alone."""
    assert SupabaseAuth("k", url="https://ref.supabase.co/").base_url == "https://ref.supabase.co/auth/v1"
    assert SupabaseAuth("k", url="http://127.0.0.1:54321").base_url == "http://127.0.0.1:54321/auth/v1"
    assert SupabaseAuth("k", base_url="https://auth.shop.example").base_url == "https://auth.shop.example"
    for wrong in ("http://ref.supabase.co", "ref.supabase.co", "http://localhost.evil.example"):
        with pytest.raises(errors.ConfigurationError, match="url"):
            SupabaseAuth("k", url=wrong)


def test_another_issuer(box: Box, run: Run, suite: TestSupabaseAuth):
    """For a GoTrue whose tokens name another address than the one at which it is asked."""
    issuer = "https://auth.shop.example/auth/v1"
    token = suite.token(box, suite.user(box), claims={"iss": issuer})
    assert run(suite.service(box, issuer=issuer).verify_token(token)).id
    with pytest.raises(errors.InvalidToken):
        run(suite.service(box).verify_token(token))


@pytest.mark.parametrize("kind", ["", "legacy"])
def test_supabase_itself_is_asked(box: Box, run: Run, suite: TestSupabaseAuth, kind: str):
    """``current_user`` takes tokens of both kinds, until their session is over."""
    user, supabase = suite.user(box), suite.service(box)
    one, two = (suite.token(box, user, kind=kind) for _ in range(2))
    assert run(supabase.current_user(one)).id == user.id
    assert run(supabase.sign_out(one, scope="local")) is None
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(supabase.current_user(one))
    assert caught.value.code == "session_not_found"
    assert run(supabase.current_user(two)).id == user.id
    run(supabase.sign_out(two))
    for token in (two, "a.b.c"):
        with pytest.raises(errors.AuthenticationFailed) as caught:
            run(supabase.current_user(token))
        assert token not in str(caught.value)


def test_a_users_own_token_is_what_is_sent(monkeypatch: pytest.MonkeyPatch):
    """Beside the key, of either kind; admin calls have the key alone, the older one in both headers."""
    recorder = Recorder(200, b'{"id":"u"}')
    for key in ("sb_secret_1", "legacy.service.role"):
        recorder.service(SupabaseAuth, key=key).current_user("the.users.token").result()
        recorder.service(SupabaseAuth, key=key).get_user(NOBODY).result()
    sent = [(one.headers["apikey"], one.headers.get("authorization")) for one in recorder.requests]
    assert sent == [
        ("sb_secret_1", "Bearer the.users.token"),
        ("sb_secret_1", None),
        ("legacy.service.role", "Bearer the.users.token"),
        ("legacy.service.role", "Bearer legacy.service.role"),
    ]
    assert {one.headers["x-supabase-api-version"] for one in recorder.requests} == {"2024-01-01"}


def test_both_variables(box: Box, suite: TestSupabaseAuth, monkeypatch: pytest.MonkeyPatch):
    """The older key is read where there is no new one, and works; the new one wins."""
    older = box.client.post("/supabase_auth/sandbox/token", json={"user_id": "", "kind": "service_role"}).json()[
        "token"
    ]
    monkeypatch.delenv("SUPABASE_SECRET_KEY", raising=False)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", older)
    supabase = SupabaseAuth(base_url=f"{box.url}/supabase_auth", guards=Guards())
    assert supabase.check().result() is True
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_wrong")
    with pytest.raises(errors.AuthenticationFailed):
        supabase.check().result()


def test_keys_that_supabase_does_not_take(box: Box, run: Run):
    """A wrong one, one of the public, and none that a header can carry."""
    for key in ("sb_secret_wrong", "sb_publishable_1", "x.y.z"):
        with pytest.raises(errors.AuthenticationFailed):
            run(box.service(SupabaseAuth, key).check())
    with pytest.raises(errors.ConfigurationError, match="header"):
        run(box.service(SupabaseAuth, "sb_secret_ä").check())


def test_bans(box: Box, run: Run, suite: TestSupabaseAuth):
    """For some hours or for ever, and taken back; a ban that is over is none."""
    supabase, user = suite.service(box), suite.user(box)
    assert run(supabase.ban_user(user.id)).disabled
    assert not run(supabase.unban_user(user.id)).disabled
    assert run(supabase.ban_user(user.id, hours=1)).disabled
    over = json.dumps({"id": "u", "banned_until": "2020-01-01T00:00:00Z"}).encode()
    assert not Recorder(200, over).service(SupabaseAuth).get_user("u").result().disabled


def test_soft_deletion(box: Box, run: Run, suite: TestSupabaseAuth):
    """What is known of a user goes, the id stays."""
    supabase, user = suite.service(box), suite.user(box)
    run(supabase.delete_user(user.id, soft=True))
    assert run(supabase.get_user(user.id)).email is None


def test_an_id_of_ones_own(box: Box, run: Run, suite: TestSupabaseAuth):
    """A second try with the same id is a Conflict."""
    supabase = suite.service(box)
    assert run(supabase.create_user(email=EMAIL, password=PASSWORD, id=NOBODY)).id == NOBODY
    with pytest.raises(errors.Conflict):
        run(supabase.create_user(email=EMAIL, password=PASSWORD, id=NOBODY))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_user(name="Ada"), "email"),
        (lambda s: s.create_user(email=EMAIL, password=""), "password"),
        (lambda s: s.ban_user("u", hours=0), "hours"),
        (lambda s: s.sign_out("t", scope="all"), "scope"),
        (lambda s: s.current_user(5), "access_token"),
        (lambda s: s.list_users(page_size=0), "page_size"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[SupabaseAuth], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(SupabaseAuth))
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (422, {"code": "email_exists", "message": "m"}, errors.Conflict, "email_exists"),
        (422, {"code": 422, "error_code": "email_exists", "msg": "m"}, errors.Conflict, "email_exists"),
        (422, {"code": "weak_password", "message": "m"}, errors.InvalidRequest, "weak_password"),
        (403, {"code": "bad_jwt", "message": "m"}, errors.AuthenticationFailed, "bad_jwt"),
        (403, {"code": "not_admin", "message": "m"}, errors.PermissionDenied, "not_admin"),
        (404, {"code": "user_not_found", "message": "m"}, errors.NotFound, "user_not_found"),
        (429, {"code": "over_request_rate_limit", "message": "m"}, errors.RateLimited, "over_request_rate_limit"),
        (400, {"error": "invalid_grant", "error_description": "m"}, errors.InvalidRequest, "invalid_grant"),
        (401, {"message": "m: Invalid API key"}, errors.AuthenticationFailed, None),
        (504, {"code": "request_timeout", "message": "m"}, errors.ServiceUnavailable, "request_timeout"),
    ],
)
def test_errors(status: int, body: dict[str, Any], kind: type[errors.CallError], code: str | None):
    """In both shapes that Supabase has for them, the gateway's, and that of OAuth."""
    recorder = Recorder(status, json.dumps(body).encode())
    with pytest.raises(kind, match="m") as caught:
        recorder.service(SupabaseAuth).get_user("u").using(retry=None).result()
    assert caught.value.code == code


@pytest.mark.parametrize("make", CALLS)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[SupabaseAuth], Any]):
    """Every request that we build is valid by supabase_auth.json, which lacks the creation and the soft deletion of
    users: a new user has the fields of a changed one.
    """
    recorder = Recorder(400)
    with pytest.raises(errors.CallError):
        make(recorder.service(SupabaseAuth)).using(retry=None).result()
    [request] = recorder.requests
    kind = request.headers.get("content-type", "")
    method, path = request.method, request.url.path.removeprefix("/auth/v1")
    if method == "POST" and path == "/admin/users":
        method, path = "PUT", f"/admin/users/{NOBODY}"
    if method == "DELETE" and request.content:
        assert json.loads(request.content) == {"should_soft_delete": True}
        return
    assert Contract(contracts_dir, "supabase_auth").request_problems(method, path, request.content, kind) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path, suite: TestSupabaseAuth):
    """The stand-in's answers are valid by supabase_auth.json."""
    contract, supabase = Contract(contracts_dir, "supabase_auth"), suite.service(box)
    user = suite.user(box, phone="+15555550100", email_verified=True)
    token = suite.token(box, user)
    asked: list[tuple[str, str, Any]] = [
        ("GET", f"/admin/users/{user.id}", supabase.get_user(user.id)),
        ("GET", "/admin/users", supabase.list_users().page()),
        ("PUT", f"/admin/users/{user.id}", supabase.ban_user(user.id)),
        ("GET", "/user", supabase.current_user(token)),
        ("POST", "/logout", supabase.sign_out(token)),
        ("DELETE", f"/admin/users/{user.id}", supabase.delete_user(user.id)),
    ]
    for method, path, call in asked:
        answer = call.response().result()
        assert contract.answer_problems(method, path, answer.status, answer.body) == [], path


def test_hooks_tell_what_happened():
    """A user who was created; a hook that comes before, or does not say what it is, has no common meaning."""

    def read(kind: str) -> Any:
        metadata = {"name": kind, "time": "2026-11-20T10:00:00Z"}
        told = {"metadata": metadata, "user": {"id": NOBODY, "email": EMAIL, "phone": "15555550100"}}
        body = json.dumps(told).encode()
        return SupabaseAuth.read_event(Event("supabase_auth", "1", kind, body, received_at=time.time()))

    found = read("after-user-created")
    assert (found.kind, found.user_id, found.user.email) == (AuthEventKind.USER_CREATED, NOBODY, EMAIL)
    assert (found.user.phone, found.at.year) == ("+15555550100", 2026)
    assert read("before-user-created") is None
    assert read("") is None
    with pytest.raises(errors.BadAnswer):
        SupabaseAuth.read_event(Event("supabase_auth", "1", "after-user-created", b'{"user":{}}'))


def test_answers_to_hooks():
    """As GoTrue reads them; an empty refusal would be a yes, and a token without its claims is refused by Supabase."""
    assert json.loads(SupabaseAuth.hook_refusal("no", http_code=422).body) == {
        "error": {"http_code": 422, "message": "no"}
    }
    assert json.loads(SupabaseAuth.hook_decision(reject=True, message="too often").body) == {
        "decision": "reject",
        "message": "too often",
    }
    assert json.loads(SupabaseAuth.hook_decision(reject=False).body) == {"decision": "continue"}
    names = ["aal", "aud", "email", "exp", "iat", "is_anonymous", "phone", "role", "session_id", "sub"]
    whole = dict.fromkeys(names, "x")
    reply = SupabaseAuth.hook_claims({**whole, "plan": "pro"})
    assert (reply.status, reply.media, json.loads(reply.body)["claims"]["plan"]) == (200, "application/json", "pro")
    with pytest.raises(errors.ConfigurationError, match="session_id, sub"):
        SupabaseAuth.hook_claims(dict.fromkeys(names[:-2], "x"))
    for message, code in (("", 403), ("no", 200)):
        with pytest.raises(errors.ConfigurationError):
            SupabaseAuth.hook_refusal(message, http_code=code)


def test_it_survives_a_queue(box: Box, suite: TestSupabaseAuth):
    """A Call comes out of a queue as it went in."""
    supabase, user = suite.service(box), suite.user(box)
    call = supabase.update_user(user.id, app_metadata={"plan": "pro"})
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: supabase)
    assert again.result().app_metadata["plan"] == "pro"
