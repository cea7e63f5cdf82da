from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.auth.transport
import google.oauth2.id_token
import httpx2
import pytest
from tests.contracts import Contract
from tests.identity import tokens
from tests.services.auth_suite import EMAIL, PASSWORD, AuthSuite
from tests.services.conftest import Box, sandbox_key
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.services.auth.firebase_auth import FirebaseAuth
from moorline.services.auth.protocol import User
from moorline.services.blocking import blocking_answer, blocking_refusal

Run = Callable[[Any], Any]
PROJECT = "moorline-sandbox"
KEY = sandbox_key(FirebaseAuth, "https://sandbox.example")
HOOK = "https://europe-west1-moorline-sandbox.cloudfunctions.net/before"
EMULATOR = "FIREBASE_AUTH_EMULATOR_HOST"
CALLS: list[Callable[[FirebaseAuth], Any]] = [
    lambda s: s.create_session_cookie("a.b.c", seconds=3600),
    lambda s: s.get_user("u1"),
    lambda s: s.users_by_email(EMAIL),
    lambda s: s.users_by_phone("+15555550100"),
    lambda s: s.create_user(
        email=EMAIL, password=PASSWORD, phone="+15555550100", name="Ada", email_verified=True, localId="u1",
        photoUrl="https://shop.example/a.png",
    ),
    lambda s: s.update_user("u1", email=EMAIL, name="Ada", app_metadata={"role": "admin"}, disableUser=True),
    lambda s: s.delete_user("u1"),
    lambda s: s.delete_users(["u1", "u2"]),
    lambda s: s.list_users(page_size=2).page(),
    lambda s: s.set_claims("u1", {"role": "admin"}),
    lambda s: s.revoke_sessions("u1"),
    lambda s: s.disable_user("u1"),
    lambda s: s.enable_user("u1"),
    lambda s: s.check(),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EMULATOR, raising=False)


class TestFirebaseAuth(AuthSuite):
    """The suite of all services that know users."""

    kind = FirebaseAuth
    options = {"project_id": PROJECT}  # noqa: RUF012 (never changed)
    keys = "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
    metadata = ()


@pytest.fixture
def suite() -> TestFirebaseAuth:
    return TestFirebaseAuth()


def recorded(answer: bytes = b'{"localId":"u1"}', status: int = 200) -> tuple[Recorder, FirebaseAuth]:
    recorder = Recorder(status, answer)
    return recorder, recorder.service(FirebaseAuth, key=KEY)


def test_googles_own_verifier_agrees(box: Box, suite: TestFirebaseAuth):
    """google-auth takes the tokens that the stand-in signs, by its certificates, and refuses those that we refuse."""
    user, firebase = suite.user(box), suite.service(box)

    class Certificates(google.auth.transport.Request):
        """What is at Google's address, from the stand-in."""

        def __call__(self, url: Any, *_: Any, **__: Any) -> Any:
            assert url == f"https://www.googleapis.com{suite.keys}"
            answer = box.client.get(f"/firebase_auth{suite.keys}")
            return type("Answer", (), {"status": answer.status_code, "data": answer.content})()

    def theirs(token: str) -> Any:
        return google.oauth2.id_token.verify_firebase_token(token, Certificates(), audience=PROJECT)

    good = suite.token(box, user)
    assert theirs(good) == dict(firebase.verify_token(good).result().raw)
    wrong: list[dict[str, Any]] = [{"lifetime": -60}, {"claims": {"aud": "other-project"}}, {"claims": {"exp": None}}]
    for wanted in wrong:
        token = suite.token(box, user, **wanted)
        with pytest.raises((ValueError, google.auth.exceptions.GoogleAuthError)):
            theirs(token)
        with pytest.raises(errors.InvalidToken):
            firebase.verify_token(token).result()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://session.firebase.google.com/moorline-sandbox"}, "issuer"),
        ({"iss": "https://accounts.google.com"}, "issuer"),
        (
            {"aud": "https://identitytoolkit.googleapis.com/google.identity.identitytoolkit.v1.IdentityToolkit"},
            "audience",
        ),
        ({"aud": [PROJECT, "other"]}, "audience"),
        ({"sub": "x" * 129}, "claims"),
        ({"auth_time": None}, "claims"),
        ({"auth_time": 4_000_000_000}, "claims"),
        ({"auth_time": "x"}, "claims"),
    ],
)
def test_what_firebase_asks_besides(box: Box, suite: TestFirebaseAuth, claims: dict[str, Any], reason: str):
    """Session cookies, custom tokens and Google's own tokens are no ID tokens; who has not signed in is nobody."""
    token = suite.token(box, suite.user(box), claims=claims)
    with pytest.raises(errors.InvalidToken) as caught:
        suite.service(box).verify_token(token).result()
    assert caught.value.reason == reason


def test_a_token_without_a_key_id(box: Box, suite: TestFirebaseAuth):
    """Is refused before certificates are fetched, as Firebase's SDKs do."""
    asked = len(box.seen())
    with pytest.raises(errors.InvalidToken, match="kid"):
        suite.service(box).verify_token(tokens.token(header={"kid": None})).result()
    assert len(box.seen()) == asked


def test_what_a_token_tells(box: Box, run: Run, suite: TestFirebaseAuth):
    """Address, number, name; and who has no account."""
    user = suite.user(box, name="Ada", email_verified=True, phone="+15555550100")
    found = run(suite.service(box).verify_token(suite.token(box, user)))
    assert (found.email, found.email_verified, found.name, found.phone) == (EMAIL, True, "Ada", "+15555550100")
    assert not found.anonymous
    nobody = suite.service(box).create_user().result()
    assert run(suite.service(box).verify_token(suite.token(box, nobody))).anonymous


def test_session_cookies(box: Box, run: Run, suite: TestFirebaseAuth):
    """Made of an ID token, verified by their own certificates; neither is taken for the other."""
    user, firebase = suite.user(box), suite.service(box)
    token = suite.token(box, user)
    cookie = run(firebase.create_session_cookie(token, seconds=600))
    assert cookie.reveal() not in repr(cookie)
    found = run(firebase.verify_session(cookie.reveal()))
    assert (found.id, found.raw["iss"]) == (user.id, f"https://session.firebase.google.com/{PROJECT}")
    for wrong in (firebase.verify_token(cookie.reveal()), firebase.verify_session(token)):
        with pytest.raises(errors.InvalidToken):
            run(wrong)
    with pytest.raises(errors.InvalidRequest) as caught:
        run(firebase.create_session_cookie("a.b.c"))
    assert caught.value.code == "INVALID_ID_TOKEN"


def test_tenants(box: Box, run: Run, suite: TestFirebaseAuth):
    """A tenant has users of its own, and only its tokens are believed where one is named."""
    mine, other = (suite.service(box, tenant_id=name) for name in ("tenant-1", "tenant-2"))
    user = run(mine.create_user(email=EMAIL, password=PASSWORD))
    token = suite.token(box, user)
    assert run(mine.verify_token(token)).organization == "tenant-1"
    with pytest.raises(errors.InvalidToken, match="tenant"):
        run(other.verify_token(token))
    assert [one.id for one in mine.list_users()] == [user.id]
    assert list(other.list_users()) == []
    with pytest.raises(errors.NotFound):
        run(other.get_user(user.id))


def test_custom_claims(box: Box, run: Run, suite: TestFirebaseAuth):
    """Set as a whole, read back, in the next token, and taken away."""
    user, firebase = suite.user(box), suite.service(box)
    run(firebase.set_claims(user.id, {"role": "admin", "n": [1, 2]}))
    assert run(firebase.get_user(user.id)).app_metadata == {"role": "admin", "n": [1, 2]}
    assert run(firebase.verify_token(suite.token(box, user))).raw["role"] == "admin"
    run(firebase.update_user(user.id, app_metadata={"role": "guest"}))
    assert run(firebase.get_user(user.id)).app_metadata == {"role": "guest"}
    run(firebase.set_claims(user.id, {}))
    assert run(firebase.get_user(user.id)).app_metadata == {}


def test_revocation(box: Box, run: Run, suite: TestFirebaseAuth):
    """A token of before is over once the sessions are revoked, the user is disabled, or it is another's."""
    user, firebase = suite.user(box), suite.service(box)
    old = run(firebase.verify_token(suite.token(box, user, claims={"auth_time": int(time.time()) - 60})))
    before = User("x", raw={"validSince": str(int(time.time()) - 3600)})
    assert firebase.is_revoked(before, old), "another's"
    run(firebase.revoke_sessions(user.id))
    new = run(firebase.verify_token(suite.token(box, user)))
    now = run(firebase.get_user(user.id))
    assert (firebase.is_revoked(now, old), firebase.is_revoked(now, new)) == (True, False)
    run(firebase.disable_user(user.id))
    assert firebase.is_revoked(run(firebase.get_user(user.id)), new)
    run(firebase.enable_user(user.id))
    assert not firebase.is_revoked(run(firebase.get_user(user.id)), new)


def test_deleting_many(box: Box, run: Run, suite: TestFirebaseAuth):
    """What became of each, also where the answer leaves out the number 0."""
    ids = [
        suite.user(box, email=f"u{number}@example.com", localId=name).id for number, name in enumerate(["stuck", "b"])
    ]
    found = run(suite.service(box).delete_users([*ids, "nobody", "b"]))
    assert found.deleted == ("b", "nobody")
    assert list(found.failed) == ["stuck"]
    assert found.failed["stuck"].startswith("NOT_DISABLED")
    _recorder, firebase = recorded(b'{"errors":[{"index":7}]}')
    with pytest.raises(errors.BadAnswer):
        firebase.delete_users(["a"]).result()


def test_users_by_address_and_number(box: Box, run: Run, suite: TestFirebaseAuth):
    """None is no error."""
    user, firebase = suite.user(box, phone="+15555550100"), suite.service(box)
    assert [one.id for one in run(firebase.users_by_email(EMAIL))] == [user.id]
    assert [one.id for one in run(firebase.users_by_phone("+15555550100"))] == [user.id]
    assert run(firebase.users_by_email("nobody@example.com")) == ()


def test_the_project_comes_from_the_key_file(box: Box, run: Run, suite: TestFirebaseAuth):
    """Unless another is named; one in which the account has no role is PermissionDenied."""
    user = suite.user(box)
    assert run(box.service(FirebaseAuth).verify_token(suite.token(box, user))).id == user.id
    with pytest.raises(errors.PermissionDenied):
        run(box.service(FirebaseAuth, project_id="somebody-elses").check())
    keyless = FirebaseAuth(json.dumps({**json.loads(KEY), "project_id": None}))
    with pytest.raises(errors.ConfigurationError, match="project_id"):
        keyless.verify_token("a.b.c").result()


def test_verifying_needs_no_key():
    """With a project, tokens are verified by Google's certificates, at Google's addresses."""
    seen: list[str] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={"k": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"})

    firebase = FirebaseAuth(project_id="shop-12345", wire=httpx2.MockTransport(wire), guards=Guards())
    for verified in (firebase.verify_token(tokens.token()), firebase.verify_session(tokens.token())):
        with pytest.raises(errors.InvalidToken):
            verified.result()
    assert seen == [
        "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com",
        "https://www.googleapis.com/identitytoolkit/v3/relyingparty/publicKeys",
    ]


# --- the emulator's tokens


def unsigned(**changed: Any) -> str:
    """As the official emulator makes them."""
    now = int(time.time())
    claims = {"iss": f"https://securetoken.google.com/{PROJECT}", "aud": PROJECT, "sub": "u1", "auth_time": now}
    body = {**claims, "iat": now, "exp": now + 3600, **changed}
    return tokens.token(body, alg="none", header={"kid": None})


def test_unsigned_tokens_are_never_believed():
    """Not without the variable, whatever the token says; no request is made for one."""
    recorder, firebase = recorded()
    assert EMULATOR not in __import__("os").environ
    with pytest.raises(errors.InvalidToken) as caught:
        FirebaseAuth(KEY, project_id=PROJECT, guards=Guards()).verify_token(unsigned()).result()
    assert caught.value.reason in ("key", "algorithm")
    with pytest.raises(errors.InvalidToken):
        firebase.verify_token(tokens.token({"sub": "u1"}, alg="none")).result()
    assert recorder.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1:9099", "localhost:9099", "[::1]:9099"])
def test_unsigned_tokens_of_an_emulator_on_this_machine(monkeypatch: pytest.MonkeyPatch, host: str):
    """Are believed while the variable names it: their claims are looked at all the same, and a signature is too much."""
    monkeypatch.setenv(EMULATOR, host)
    firebase = FirebaseAuth(project_id=PROJECT, guards=Guards())
    assert firebase.verify_token(unsigned()).result().id == "u1"
    for wrong in (unsigned(exp=int(time.time()) - 1), unsigned(aud="other"), unsigned(sub=""), unsigned(iss="x")):
        with pytest.raises(errors.InvalidToken):
            firebase.verify_token(wrong).result()
    for signed in (f"{unsigned()}AAAA", tokens.token(), tokens.token(alg="HS256", key=b"x" * 32)):
        with pytest.raises(errors.InvalidToken):
            firebase.verify_token(signed).result()
    monkeypatch.delenv(EMULATOR)
    with pytest.raises(errors.InvalidToken):
        firebase.verify_token(unsigned()).result()


@pytest.mark.parametrize(
    "host", ["emulator.example:9099", "10.0.0.7:9099", "127.0.0.1.evil.example:9099", "localhost", "0.0.0.0:9099", "x"]
)
def test_an_emulator_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, host: str):
    """Whoever is there could say anything, so nothing is sent to it and nothing of it believed."""
    monkeypatch.setenv(EMULATOR, host)
    firebase = FirebaseAuth(KEY, project_id=PROJECT, guards=Guards())
    for use in (lambda: firebase.verify_token(unsigned()).result(), lambda: firebase.check().result()):
        with pytest.raises(errors.ConfigurationError, match=EMULATOR):
            use()


def test_an_address_of_ones_own_is_no_emulator(box: Box, suite: TestFirebaseAuth, monkeypatch: pytest.MonkeyPatch):
    """With a *base_url* the variable counts for nothing: signed tokens are, and unsigned ones are not, believed."""
    user = suite.user(box)
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9099")
    firebase = suite.service(box)
    assert firebase.verify_token(suite.token(box, user)).result().id == user.id
    with pytest.raises(errors.InvalidToken):
        firebase.verify_token(unsigned()).result()
    assert firebase.check().result() is True


def test_the_emulator_wants_no_credential(monkeypatch: pytest.MonkeyPatch):
    """Its key is a word; without the variable the same object wants a real one."""
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9099")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    seen: list[httpx2.Request] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"kind": "x"})

    firebase = FirebaseAuth(project_id="demo-shop", wire=httpx2.MockTransport(wire), guards=Guards())
    assert firebase.check().result() is True
    assert (
        str(seen[0].url) == "http://127.0.0.1:9099/identitytoolkit.googleapis.com/v1/projects/demo-shop/accounts:lookup"
    )
    assert seen[0].headers["authorization"] == "Bearer owner"
    monkeypatch.delenv(EMULATOR)
    with pytest.raises(errors.ConfigurationError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        firebase.check().result()


# --- blocking functions


def blocked(box: Box, suite: TestFirebaseAuth, **claims: Any) -> bytes:
    user = suite.user(box)
    token = suite.token(box, user, kind="blocking", claims={"aud": HOOK, **claims})
    return json.dumps({"data": {"jwt": token}}).encode()


def test_blocking_functions(box: Box, run: Run, suite: TestFirebaseAuth):
    """What is about to happen, verified as an ID token is, for this function's own address alone."""
    firebase = suite.service(box)
    body = blocked(box, suite)
    found = run(firebase.verify_blocking(body, url=HOOK))
    assert (found.type, found.user["email"], found.sign_in_method) == ("beforeSignIn", EMAIL, "password")
    assert found.user_id == box.state("firebase_auth")["users"][0]["localId"]
    with pytest.raises(errors.InvalidToken) as caught:
        run(firebase.verify_blocking(body, url=f"{HOOK}2"))
    assert caught.value.reason == "audience"
    for wrong in (b"", b"{}", b"[]", b'{"data":{"jwt":5}}', b'{"data":[]}', b"{" * 70_000):
        with pytest.raises(errors.InvalidToken):
            run(firebase.verify_blocking(wrong, url=HOOK))


def test_blocking_functions_before_a_mail(box: Box, run: Run, suite: TestFirebaseAuth):
    """Nobody is known yet; a token of another kind is none of a blocking function."""
    firebase = suite.service(box)
    body = blocked(box, suite, event_type="beforeSendEmail", sub=None)
    assert run(firebase.verify_blocking(body, url=HOOK)).user_id is None
    box.client.post("/_sandbox/reset")
    with pytest.raises(errors.InvalidToken, match="blocking"):
        run(firebase.verify_blocking(blocked(box, suite, event_type=None), url=HOOK))


def test_answers_to_blocking_functions():
    """As firebase-functions 7.4 writes them, within the same limits."""
    assert (blocking_answer().status, blocking_answer().body) == (200, b"{}")
    answer = json.loads(blocking_answer(displayName="Ada", custom_claims={"a": 1}, session_claims={"b": 2}).body)
    assert answer["userRecord"] == {
        "customClaims": {"a": 1},
        "sessionClaims": {"b": 2},
        "displayName": "Ada",
        "updateMask": "customClaims,sessionClaims,displayName",
    }
    refusal = blocking_refusal("not you")
    assert (refusal.status, json.loads(refusal.body)) == (
        403,
        {"error": {"status": "PERMISSION_DENIED", "message": "not you"}},
    )
    long = {"a": "x" * 500}
    wrong: list[dict[str, Any]] = [
        {"custom_claims": {"firebase": 1}}, {"session_claims": {"sub": 1}}, {"custom_claims": {"a": "x" * 1000}},
        {"custom_claims": long, "session_claims": {"b": "x" * 500}}, {"custom_claims": {"a": float("nan")}},
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(errors.ConfigurationError):
            blocking_answer(**one)
    with pytest.raises(errors.ConfigurationError):
        blocking_refusal("no", http_status=200)


# --- requests, answers, errors


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.get_user(""), "user_id"),
        (lambda s: s.get_user("x" * 129), "user_id"),
        (lambda s: s.create_user(email=EMAIL, localId="x" * 129), "user_id"),
        (lambda s: s.create_user(email=EMAIL, app_metadata={}), "app_metadata"),
        (lambda s: s.create_user(email=EMAIL, user_metadata={}), "user_metadata"),
        (lambda s: s.update_user("u", user_metadata={}), "user_metadata"),
        (lambda s: s.update_user("u", app_metadata={"a": "x" * 1000}), "app_metadata"),
        (lambda s: s.set_claims("u", {"sub": "x"}), "claims"),
        (lambda s: s.set_claims("u", {"a": "x" * 995}), "claims"),
        (lambda s: s.delete_users([]), "user_ids"),
        (lambda s: s.delete_users([str(number) for number in range(1001)]), "user_ids"),
        (lambda s: s.create_session_cookie("t", seconds=299), "seconds"),
        (lambda s: s.create_session_cookie("t", seconds=1_209_601), "seconds"),
        (lambda s: s.list_users(page_size=1001), "page_size"),
        (lambda s: s.users_by_email(5), "email"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[FirebaseAuth], Any], field: str):
    """By name, and nothing is sent."""
    recorder, firebase = recorded()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(firebase)
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (400, "EMAIL_EXISTS", errors.Conflict, "EMAIL_EXISTS"),
        (400, "WEAK_PASSWORD : Password should be at least 6 characters", errors.InvalidRequest, "WEAK_PASSWORD"),
        (400, "TOO_MANY_ATTEMPTS_TRY_LATER", errors.RateLimited, "TOO_MANY_ATTEMPTS_TRY_LATER"),
        (400, "USER_NOT_FOUND", errors.NotFound, "USER_NOT_FOUND"),
        (403, "INSUFFICIENT_PERMISSION", errors.PermissionDenied, "INSUFFICIENT_PERMISSION"),
        (400, "CONFIGURATION_NOT_FOUND", errors.PermissionDenied, "CONFIGURATION_NOT_FOUND"),
        (500, "Internal error encountered.", errors.ServiceUnavailable, "INTERNAL"),
    ],
)
def test_errors(status: int, message: str, kind: type[errors.CallError], code: str):
    """The code stands in the message, before a colon, or it is Google's general word."""
    body = {"error": {"code": status, "message": message, "status": "INTERNAL"}}
    _recorder, firebase = recorded(json.dumps(body).encode(), status)
    with pytest.raises(kind) as caught:
        firebase.get_user("u").using(retry=None).result()
    assert caught.value.code == code


def test_answers_of_another_shape():
    """Times that are none, and custom claims that are no JSON, are BadAnswer."""
    for wrong in (
        {"createdAt": "soon"},
        {"createdAt": "9" * 15},
        {"customAttributes": "{"},
        {"customAttributes": "[]"},
    ):
        _recorder, firebase = recorded(json.dumps({"users": [{"localId": "u", **wrong}]}).encode())
        with pytest.raises(errors.BadAnswer):
            firebase.get_user("u").result()
    _recorder, firebase = recorded(b'{"users":[{"localId":"u"}],"nextPageToken":"x"}')
    with pytest.raises(errors.BadAnswer, match="advance"):
        list(firebase.list_users())


@pytest.mark.parametrize("make", CALLS)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[FirebaseAuth], Any]):
    """Every request that we build is valid by firebase_auth.json."""
    recorder, firebase = recorded(status=400)
    with pytest.raises(errors.CallError):
        make(firebase).using(retry=None).result()
    [request] = recorder.requests
    kind = request.headers.get("content-type", "")
    path = request.url.raw_path.decode()
    assert Contract(contracts_dir, "firebase_auth").request_problems(request.method, path, request.content, kind) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path, suite: TestFirebaseAuth):
    """The stand-in's answers are valid by firebase_auth.json."""
    contract, firebase = Contract(contracts_dir, "firebase_auth"), suite.service(box)
    user = suite.user(box, phone="+15555550100")
    root = f"/v1/projects/{PROJECT}"
    asked: list[tuple[str, str, Any]] = [
        ("POST", f"{root}/accounts", firebase.create_user(localId="stuck")),
        ("POST", f"{root}/accounts:lookup", firebase.get_user(user.id)),
        ("POST", f"{root}/accounts:update", firebase.update_user(user.id, name="x")),
        ("GET", f"{root}/accounts:batchGet", firebase.list_users().page()),
        ("POST", f"{root}:createSessionCookie", firebase.create_session_cookie(suite.token(box, user))),
        ("POST", f"{root}/accounts:delete", firebase.delete_user(user.id)),
        ("POST", f"{root}/accounts:batchDelete", firebase.delete_users(["x", "stuck"])),
    ]
    for method, path, call in asked:
        answer = call.response().result()
        assert contract.answer_problems(method, path, answer.status, answer.body) == [], path


def test_it_survives_a_queue(box: Box, suite: TestFirebaseAuth):
    """A Call comes out of a queue as it went in."""
    firebase, user = suite.service(box), suite.user(box)
    call = firebase.set_claims(user.id, {"role": "admin"})
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: firebase)
    again.result()
    assert firebase.get_user(user.id).result().app_metadata == {"role": "admin"}
