"""GitHub as a GitHub App: its JWT, installation tokens, and what is redelivered through its webhook."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.contracts import Contract
from tests.services.conftest import Box

from moorline import errors
from moorline.calls.cache import Cache
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.sandbox.services._github_apps import APP_ID, CLIENT_ID, INSTALLATION, SUSPENDED
from moorline.services.business.github import GitHub, undelivered

Run = Callable[[Any], Any]
SHA = "a" * 40
NOW = 1_785_578_400.0


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """A private key of an app."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def sandbox_pem(box: Box) -> str:
    """The key of the sandbox's app, as GitHub hands it out."""
    made = box.client.post("/github/app-manifests/sandbox/conversions", headers={"User-Agent": "tests"})
    assert made.status_code == 201
    found: str = made.json()["pem"]
    return found


def as_app(box: Box, *, installation: int | None = INSTALLATION, app: object = APP_ID, **options: Any) -> GitHub:
    number = None if installation is None else str(installation)
    return box.service(GitHub, sandbox_pem(box), app_id=str(app), installation_id=number, **options)


class Server:
    """Plays GitHub: gives tokens that are good for *lasts* seconds, and keeps what it was asked."""

    def __init__(self, clock: ManualClock, *, lasts: float = 3600, **answers: Any) -> None:
        self.clock, self.lasts, self.answers = clock, lasts, answers
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if request.url.path.endswith("/access_tokens"):
            if "refuse" in self.answers:
                status, content = self.answers["refuse"]
                return httpx2.Response(status, content=content)
            ends = datetime.fromtimestamp(self.clock.wall() + self.lasts, UTC)
            made = {"token": f"ghs_{len(self.minted):036}", "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
            return httpx2.Response(201, json=made)
        return httpx2.Response(200, json={"rate": {}, "id": 1, **self.answers})

    @property
    def minted(self) -> list[httpx2.Request]:
        return [one for one in self.requests if one.url.path.endswith("/access_tokens")]

    def github(self, key: rsa.RSAPrivateKey, **options: Any) -> GitHub:
        given = {"app_id": "42", "installation_id": "7", **options}
        return GitHub(pem(key), wire=httpx2.MockTransport(self), guards=Guards(self.clock), clock=self.clock, **given)


def test_a_jwt_of_the_app_gets_the_token(key: rsa.RSAPrivateKey, run: Run):
    """RS256, from a minute ago to nine minutes ahead, in the app's name: PyJWT says so; the call carries the token."""
    clock = ManualClock(NOW)
    server = Server(clock)
    assert run(server.github(key).check()) is True
    asked, called = server.requests
    assert str(asked.url) == "https://api.github.com/app/installations/7/access_tokens"
    assert asked.headers["x-github-api-version"] == "2022-11-28"
    proof = asked.headers["authorization"].removeprefix("Bearer ")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(proof, public, algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False})
    now = int(clock.wall())
    assert claims == {"iat": now - 60, "exp": now + 540, "iss": "42"}
    assert called.headers["authorization"] == f"Bearer ghs_{1:036}"


def test_the_token_is_kept_and_renewed_early(key: rsa.RSAPrivateKey, run: Run):
    """One token serves until five minutes before its end; then there is another."""
    clock = ManualClock(NOW)
    server = Server(clock)
    github = server.github(key)
    for _ in range(3):
        run(github.check())
    assert len(server.minted) == 1
    clock.advance(3600 - 301)
    run(github.check())
    assert len(server.minted) == 1
    clock.advance(2)
    run(github.check())
    assert len(server.minted) == 2
    assert server.requests[-1].headers["authorization"] == f"Bearer ghs_{2:036}"


def test_what_is_the_apps_carries_its_jwt(key: rsa.RSAPrivateKey, run: Run):
    """``/app`` gets the JWT, also beside an installation; the same one for seven minutes, then a new one."""
    clock = ManualClock(NOW)
    server = Server(clock)
    github = server.github(key)
    run(github.request("GET", "/app"))
    run(github.request("GET", "/app/hook/config"))
    run(github.request("GET", "/apps/somebody"))
    used = [one.headers["authorization"].removeprefix("Bearer ") for one in server.requests if one not in server.minted]
    assert used[0] == used[1]
    assert used[0].startswith("eyJ")
    assert used[2].startswith("ghs_")
    clock.advance(421)
    run(github.request("GET", "/app"))
    assert server.requests[-1].headers["authorization"] != f"Bearer {used[0]}"


def test_an_app_without_an_installation(key: rsa.RSAPrivateKey, run: Run):
    """It speaks for itself alone, and checks itself by ``/app``."""
    server = Server(ManualClock(NOW))
    assert run(server.github(key, installation_id=None).check()) is True
    assert [one.url.path for one in server.requests] == ["/app"]


def test_which_credential_acts(key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run):
    """The environment may hold an app, with the path of its key; a token that is given counts more."""
    server = Server(ManualClock(NOW))
    path = tmp_path / "key.pem"
    path.write_text(pem(key))
    monkeypatch.setenv("GITHUB_APP_ID", "42")
    monkeypatch.setenv("GITHUB_INSTALLATION_ID", "7")
    monkeypatch.setenv("GITHUB_APP_PRIVATE_KEY", str(path))
    wire: dict[str, Any] = {"wire": httpx2.MockTransport(server), "guards": Guards(), "clock": server.clock}
    run(GitHub(**wire).check())
    assert len(server.minted) == 1
    run(GitHub("ghp_given", **wire).check())
    assert server.requests[-1].headers["authorization"] == "Bearer ghp_given"
    monkeypatch.delenv("GITHUB_APP_PRIVATE_KEY")
    with pytest.raises(errors.ConfigurationError, match="GITHUB_APP_PRIVATE_KEY"):
        run(GitHub(**wire).check())


@pytest.mark.parametrize("bad", ["no key", "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----"])
def test_a_key_that_is_none(bad: str, run: Run):
    """It is told without its content, and nothing is sent."""
    server = Server(ManualClock(NOW))
    github = GitHub(bad, app_id="42", installation_id="7", wire=httpx2.MockTransport(server), guards=Guards())
    with pytest.raises(errors.ConfigurationError, match="private key") as caught:
        run(github.check())
    assert "canary" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((401, b'{"message":"A JSON web token could not be decoded"}'), errors.AuthenticationFailed),
        ((404, b'{"message":"Not Found"}'), errors.NotFound),
        ((201, b'{"token":"","expires_at":"x"}'), errors.BadAnswer),
        ((201, b'{"token":"ghs_1","expires_at":"2001-01-01T00:00:00Z"}'), errors.BadAnswer),
    ],
)
def test_no_token_no_call(key: rsa.RSAPrivateKey, run: Run, answer: tuple[int, bytes], kind: type[errors.CallError]):
    """What keeps the token from being had is the call's error, which was not sent."""
    server = Server(ManualClock(NOW))
    server.answers["refuse"] = answer
    with pytest.raises(kind) as caught:
        run(server.github(key, policy=Policy(retry=None)).create_issue("a", "b", "c"))
    assert (caught.value.outcome, caught.value.service, caught.value.operation) == (
        "not_sent",
        "github",
        "create_issue",
    )
    assert len(server.requests) == 1


def test_nothing_shows_token_or_key(key: rsa.RSAPrivateKey, run: Run):
    """Neither the private key nor what was made of it is in a repr or an error."""
    server = Server(ManualClock(NOW))
    github = server.github(key)
    made = run(github.create_installation_token(7))
    assert made.token.reveal().startswith("ghs_")
    shown = repr(github) + repr(made) + str(made.raw)
    assert "PRIVATE KEY" not in shown
    assert made.token.reveal() not in shown


def test_with_a_cache_and_shared_reads(box: Box, run: Run):
    """An app with a cache fetches its token first, and what did not change costs nothing."""
    github = as_app(box, cache=Cache(), coalesce=True)
    first = run(github.get_repository("quay", "hello"))
    used = box.state("github")["used"]
    assert run(github.get_repository("quay", "hello")) == first
    assert box.state("github")["used"] == used
    assert github.cache is not None
    assert github.cache.validated == 1


def test_the_app_and_its_installations(box: Box, run: Run):
    """The sandbox's app is known by its id and by its client id; a suspended installation gets no token."""
    github = as_app(box)
    assert run(github.check()) is True
    assert run(as_app(box, app=CLIENT_ID).check()) is True
    assert run(as_app(box, installation=None).check()) is True
    found = list(github.list_installations())
    assert [(one.id, one.account, one.app_id, one.suspended) for one in found] == [
        (INSTALLATION, "quay", APP_ID, False),
        (SUSPENDED, "quay", APP_ID, True),
    ]
    assert len(list(github.list_repositories())) == 45
    made = run(github.create_installation_token(INSTALLATION, repositories=["hello"], permissions={"contents": "read"}))
    assert (made.permissions, made.raw["repository_selection"]) == ({"contents": "read"}, "selected")
    assert made.expires_at is not None
    assert made.expires_at > datetime.now(UTC) + timedelta(minutes=55)
    assert run(box.service(GitHub, made.token.reveal()).check()) is True
    with pytest.raises(errors.PermissionDenied):
        run(github.create_installation_token(SUSPENDED))
    with pytest.raises(errors.NotFound):
        run(as_app(box, app=99).check())
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(GitHub).create_installation_token(INSTALLATION))


def test_checks(box: Box, run: Run):
    """An app starts a check, adds what it found, and ends it; who is no app may not."""
    github = as_app(box)
    started = run(github.create_check("quay", "hello", "ci", SHA, status="in_progress", external_id="42"))
    assert (started.status, started.conclusion, started.external_id) == ("in_progress", None, "42")
    note = {"path": "a.py", "start_line": 1, "end_line": 1, "annotation_level": "failure", "message": "adrift"}
    output = {"title": "1 problem", "summary": "It drifts", "annotations": [note]}
    run(github.update_check("quay", "hello", started.id, output=output))
    ended = run(github.update_check("quay", "hello", started.id, conclusion="failure", output=output))
    assert (ended.status, ended.conclusion, ended.app) == ("completed", "failure", "harbour-pilot")
    assert ended.raw["output"]["annotations_count"] == 2
    with pytest.raises(errors.PermissionDenied):
        run(box.service(GitHub).create_check("quay", "hello", "ci", SHA))
    with pytest.raises(errors.InvalidRequest):
        run(github.create_check("quay", "hello", "ci", "main"))
    with pytest.raises(errors.NotFound):
        run(github.update_check("quay", "hello", 1, conclusion="success"))


@pytest.mark.parametrize("where", [{"hook_id": 1, "owner": "quay", "repo": "hello"}, {"hook_id": 2, "org": "quay"}, {}])
def test_what_was_not_delivered_is_redelivered(box: Box, run: Run, where: dict[str, Any]):
    """Of a repository, an organisation and the app: the events that no try delivered are found, and delivered again
    under the same GUID.
    """
    github = as_app(box)
    lost = undelivered(github.list_deliveries(**where, page_size=2))
    assert [(one.event, one.status_code, one.ok) for one in lost] == [("push", 502, False)]
    failed = list(github.list_deliveries(**where, status="failure"))
    assert len(failed) == 2
    run(github.redeliver(lost[0].id, **where))
    newest = next(iter(github.list_deliveries(**where)))
    assert (newest.guid, newest.redelivery, newest.ok) == (lost[0].guid, True, True)
    assert undelivered(github.list_deliveries(**where)) == []
    with pytest.raises(errors.NotFound):
        run(github.redeliver(1, **where))


@pytest.mark.parametrize(
    "where",
    [
        {"hook_id": 1},
        {"hook_id": 1, "owner": "a"},
        {"owner": "a", "repo": "b"},
        {"hook_id": 1, "org": "a", "owner": "b"},
    ],
)
def test_half_an_address_is_refused(box: Box, where: dict[str, Any]):
    """A webhook is found by its number and where it is; without either it is the app's."""
    with pytest.raises(errors.InvalidRequest, match="hook_id"):
        box.service(GitHub).list_deliveries(**where)


def test_answers_and_requests_fit_the_contract(box: Box, contracts_dir: Path):
    """Tokens, the app and deliveries are what github.json describes, and so are our requests for them."""
    contract, github = Contract(contracts_dir, "github"), as_app(box)
    hook: dict[str, Any] = {"hook_id": 1, "owner": "quay", "repo": "hello"}
    lost = undelivered(github.list_deliveries(**hook))[0]
    token = f"/app/installations/{INSTALLATION}/access_tokens"
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/app", github.request("GET", "/app")),
        (
            "POST",
            token,
            github.create_installation_token(INSTALLATION, repositories=["hello"], permissions={"issues": "write"}),
        ),
        ("GET", "/app/hook/deliveries", github.list_deliveries().page()),
        ("GET", "/repos/quay/hello/hooks/1/deliveries", github.list_deliveries(**hook).page()),
        ("POST", f"/repos/quay/hello/hooks/1/deliveries/{lost.id}/attempts", github.redeliver(lost.id, **hook)),
    ]
    for method, path, call in asked:
        answer = call.response().result()
        assert contract.answer_problems(method, path, answer.status, answer.body) == [], path
        body, kind = call.plan.freeze()
        assert contract.request_problems(method, path, body or b"", kind or "application/json") == [], path
        known = contract.document["paths"]
        template = next(
            one
            for one in known
            if method.lower() in known[one] and contract._operation(method, path)[1] == known[one][method.lower()]
        )
        names = {
            one.get("name") or contract.document["components"]["parameters"][one["$ref"].rpartition("/")[2]]["name"]
            for one in known[template][method.lower()].get("parameters", [])
        }
        assert {name for name, value in (call.plan.query or {}).items() if value is not None} <= names
    wrong = github.create_installation_token(INSTALLATION, permissions={"pages": "write"})
    with pytest.raises(errors.InvalidRequest) as caught:
        wrong.result()
    body = json.dumps({**(caught.value.detail or {})}).encode()
    assert contract.answer_problems("POST", token, 422, body) == []
