"""Firebase's own emulator as the other side: what it does with our requests, and we with its tokens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from tests.firebase_emulator import PROJECT

from moorline import errors
from moorline.calls.guards import Guards
from moorline.services.auth.firebase_auth import FirebaseAuth

EMULATOR = "FIREBASE_AUTH_EMULATOR_HOST"
PASSWORD = "correct-horse-9"
Run = Callable[[Any], Any]


@pytest.fixture
def firebase(firebase_host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FirebaseAuth]:
    """The service, pointed at the emulator as Firebase's own packages are; without users."""
    monkeypatch.setenv(EMULATOR, firebase_host)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    httpx2.delete(f"http://{firebase_host}/emulator/v1/projects/{PROJECT}/accounts").raise_for_status()
    service = FirebaseAuth(project_id=PROJECT, guards=Guards())
    yield service
    service.close()


def signed_in(host: str, email: str) -> str:
    """The ID token that the emulator gives to who signs in with the password."""
    address = f"http://{host}/identitytoolkit.googleapis.com/v1/accounts:signInWithPassword?key=any"
    answer = httpx2.post(address, json={"email": email, "password": PASSWORD, "returnSecureToken": True})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["idToken"]
    return token


def test_users(firebase: FirebaseAuth):
    """Created, read by id, address and number, changed, listed in pages, disabled, deleted."""
    assert firebase.check().result() is True
    made = firebase.create_user(
        email="ada@example.com", password=PASSWORD, name="Ada", email_verified=True, phone="+15555550100"
    ).result()
    found = firebase.get_user(made.id).result()
    assert (found.email, found.email_verified, found.name, found.phone) == (
        "ada@example.com",
        True,
        "Ada",
        "+15555550100",
    )
    assert found.created_at is not None
    own = firebase.create_user(email="bob@example.com", localId="bob").result()
    assert own.id == "bob"
    assert [one.id for one in firebase.users_by_email("bob@example.com").result()] == ["bob"]
    assert [one.id for one in firebase.users_by_phone("+15555550100").result()] == [made.id]
    assert firebase.update_user("bob", name="Bob", app_metadata={"role": "admin"}).result().name == "Bob"
    assert firebase.get_user("bob").result().app_metadata == {"role": "admin"}
    firebase.disable_user("bob").result()
    assert firebase.get_user("bob").result().disabled
    firebase.enable_user("bob").result()
    for size in (1, 2, 1000):
        assert sorted(one.id for one in firebase.list_users(page_size=size)) == sorted([made.id, "bob"])
    firebase.delete_user("bob").result()
    assert firebase.delete_users([made.id]).result().deleted == (made.id,)
    assert list(firebase.list_users()) == []


def test_refusals(firebase: FirebaseAuth):
    """The emulator's words are mapped as Firebase's."""
    firebase.create_user(email="ada@example.com", password=PASSWORD, localId="ada").result()
    wrong: list[tuple[Any, type[errors.CallError], str]] = [
        (firebase.create_user(email="ada@example.com", password=PASSWORD), errors.Conflict, "EMAIL_EXISTS"),
        (firebase.create_user(localId="ada"), errors.Conflict, "DUPLICATE_LOCAL_ID"),
        (firebase.create_user(email="no address"), errors.InvalidRequest, "INVALID_EMAIL"),
        (firebase.create_user(email="b@example.com", password="x"), errors.InvalidRequest, "WEAK_PASSWORD"),
        (firebase.get_user("nobody"), errors.NotFound, "USER_NOT_FOUND"),
        (firebase.update_user("nobody", name="x"), errors.NotFound, "USER_NOT_FOUND"),
        (firebase.delete_user("nobody"), errors.NotFound, "USER_NOT_FOUND"),
        (firebase.create_session_cookie("a.b.c"), errors.InvalidRequest, "INVALID_ID_TOKEN"),
    ]
    for call, kind, code in wrong:
        with pytest.raises(kind) as caught:
            call.result()
        assert caught.value.code == code


def test_its_tokens_are_believed_here_and_nowhere_else(
    firebase: FirebaseAuth, firebase_host: str, monkeypatch: pytest.MonkeyPatch
):
    """Tokens and cookies of the emulator, in both colours; without the variable they are unsigned, and refused."""
    email = f"{uuid.uuid4()}@example.com"
    user = firebase.create_user(email=email, password=PASSWORD, name="Ada").result()
    token = signed_in(firebase_host, email)
    cookie = firebase.create_session_cookie(token, seconds=600).result().reveal()

    async def both() -> list[str]:
        return [(await firebase.verify_token(token)).id, (await firebase.verify_session(cookie)).id]

    assert asyncio.run(both()) == [user.id, user.id]
    verified = firebase.verify_token(token).result()
    assert (verified.id, verified.email, verified.name) == (user.id, email, "Ada")
    for swapped in (firebase.verify_token(cookie), firebase.verify_session(token)):
        with pytest.raises(errors.InvalidToken):
            swapped.result()
    with pytest.raises(errors.InvalidToken):
        FirebaseAuth(project_id="demo-another", guards=Guards()).verify_token(token).result()
    monkeypatch.delenv(EMULATOR)
    for unsigned in (firebase.verify_token(token), firebase.verify_session(cookie)):
        with pytest.raises(errors.InvalidToken):
            unsigned.result()


def test_claims_and_revocation(firebase: FirebaseAuth, firebase_host: str):
    """Custom claims come with the next token; a token of before is over when the sessions are revoked."""
    email = f"{uuid.uuid4()}@example.com"
    user = firebase.create_user(email=email, password=PASSWORD).result()
    firebase.set_claims(user.id, {"role": "admin"}).result()
    verified = firebase.verify_token(signed_in(firebase_host, email)).result()
    assert verified.raw["role"] == "admin"
    assert not firebase.is_revoked(firebase.get_user(user.id).result(), verified)
    firebase.clock = _Later(firebase.clock)
    firebase.revoke_sessions(user.id).result()
    assert firebase.is_revoked(firebase.get_user(user.id).result(), verified)


class _Later:
    """A clock that is ahead by some seconds: Firebase counts whole ones."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)

    def wall(self) -> float:
        return float(self._clock.wall()) + 2
